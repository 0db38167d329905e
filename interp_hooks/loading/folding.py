"""Weight processing: the same probabilities from weights that are easier to read.

    fold_ln                  a norm's gain and bias move into the weights that read it
    center_writing_weights   what is written to the stream has mean zero (LayerNorm ignores the mean anyway)
    center_unembed           logits have mean zero over the vocabulary (softmax ignores the mean anyway)
    fold_value_biases        rows of a pattern sum to one, so value biases are a constant: they move into b_O
    refactor_factored_...    W_Q, W_K (and W_V, W_O) become an even SVD split of their product

Everything happens in place, one tensor at a time, and in float32 where the weights are half precision.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from interp_hooks.components.attention import Attention
from interp_hooks.components.latent import LatentAttention
from interp_hooks.components.mlp import MLP, GatedMLP
from interp_hooks.components.moe import MoE
from interp_hooks.components.norm import NoNorm, Norm
from interp_hooks.config import FOLDED
from interp_hooks.errors import ConfigError
from interp_hooks.model import HookedTransformer


@dataclass(frozen=True, kw_only=True)
class Processing:
    """Which steps to apply; see the module docstring."""

    fold_ln: bool = True
    center_writing_weights: bool = True
    center_unembed: bool = True
    fold_value_biases: bool = True
    refactor_factored_attn_matrices: bool = False


@torch.no_grad()
def process(model: HookedTransformer, processing: Processing) -> list[str]:
    """Apply the steps and tell, a line each, which were applied and which could not be.

    Raises:
        ConfigError: `refactor_factored_attn_matrices` for rotary or grouped heads, whose products are not one matrix.
    """
    report = []
    for step, run in STEPS.items():
        if getattr(processing, step):
            skipped = run(model)
            report.append(f"{step}: skipped, {skipped}" if skipped else f"{step}: applied")
        else:
            report.append(f"{step}: not asked for")
    return report


def fold_ln(model: HookedTransformer) -> str | None:
    """Fold the gain and bias of every norm that is only read into the weights that read its output."""
    if model.cfg.norm_is_folded:
        return f"normalization_type={model.cfg.normalization_type} has no gain to fold"
    if model.cfg.norm_placement == "post":
        return "a post-norm's output is the stream itself, not only what the next weights read"
    if model.cfg.reads_normalized:
        for block in model.blocks:
            attention = _readers_of_attention(block.attn)
            mlp = [] if model.cfg.attn_only else _readers_of_mlp(block.mlp)
            if model.cfg.parallel_shared_norm:
                _fold(block.ln1, attention + mlp)
            else:
                _fold(block.ln1, attention)
                if mlp:
                    _fold(block.ln2, mlp)
    if model.cfg.final_norm:
        _fold(model.ln_final, [(model.W_U, model.b_U, 0)])
    model.cfg = model.cfg.replace(normalization_type=FOLDED[str(model.cfg.normalization_type)])
    return None


Reader = tuple[Tensor, Tensor, int]
"""A weight that reads the stream, its bias, and its axis of d_model."""


def _readers_of_attention(attn: Attention | LatentAttention) -> list[Reader]:
    if isinstance(attn, Attention):
        return [(attn.W_Q, attn.b_Q, 1), (attn.W_K, attn.b_K, 1), (attn.W_V, attn.b_V, 1)]
    query = (attn.W_DQ, attn.b_DQ, 0) if attn.q_latent else (attn.W_Q, attn.b_Q, 1)
    return [query, (attn.W_DKV, attn.b_DKV, 0), (attn.W_KR, attn.b_KR, 0)]


def _readers_of_mlp(mlp: MLP | GatedMLP | MoE) -> list[Reader]:
    if isinstance(mlp, MLP):
        return [(mlp.W_in, mlp.b_in, 0)]
    if isinstance(mlp, GatedMLP):
        return [(mlp.W_gate, mlp.b_gate, 0), (mlp.W_in, mlp.b_in, 0)]
    experts = mlp.experts
    gate = [(experts.W_gate, experts.b_gate, 1)] if experts.gated else []
    shared = [] if mlp.shared is None else _readers_of_mlp(mlp.shared)
    shared_gate = [(mlp.W_shared_gate, mlp.b_shared_gate, 0)] if mlp.has_shared_gate else []
    return [(mlp.W_router, mlp.b_router, 0), *gate, (experts.W_in, experts.b_in, 1), *shared, *shared_gate]


def _fold(norm: Norm | NoNorm, readers: list[Reader]) -> None:
    """Move a norm's gain and bias into its readers; then it has neither."""
    assert isinstance(norm, Norm)
    precise = torch.promote_types(readers[0][0].dtype, torch.float32)
    gain = None if norm.w is None else norm.w.to(precise) + norm.gain_offset
    for weight, bias, axis in readers:
        along = 1 if axis == 0 else 0  # bias and weight are cut alike, across the other axis
        for part, part_bias in zip(_parts(weight, along), _parts(bias, 0, like=weight), strict=True):
            if norm.b is not None:
                added = part.movedim(axis, -1).to(precise) @ norm.b.to(precise)
                _edit(part_bias, lambda b, added=added: b.add_(added))

            def scale(w: Tensor, axis: int = axis) -> Tensor:
                if gain is not None:
                    w.mul_(gain.view([-1 if dim == axis else 1 for dim in range(w.ndim)]))
                return w.sub_(w.mean(axis, keepdim=True)) if norm.kind == "LN" else w

            _edit(part, scale)
    norm.kind, norm.w, norm.b = FOLDED[norm.kind], None, None


def center_writing_weights(model: HookedTransformer) -> str | None:
    """Subtract from every writer of the residual stream its mean over d_model."""
    cfg = model.cfg
    if not cfg.centres_residual:
        return "only a stream that every reader sees through a LayerNorm can lose its mean"
    if cfg.embed_norm_type is not None:
        return "the embeddings pass a norm of their own, whose gain and bias are not centred"
    if cfg.positional_embedding_type == "sinusoidal":
        return "sinusoidal positions are no weights that could be centred"
    writers = [model.W_E] + ([model.W_pos] if cfg.positional_embedding_type == "standard" else [])
    if cfg.n_token_types:
        writers.append(model.token_type_embed.W_token_type)
    for block in model.blocks:
        writers += [block.attn.W_O, block.attn.b_O]
        if not cfg.attn_only:
            writers += _writers_of_mlp(block.mlp)
    for writer in writers:
        for part in _parts(writer):
            _edit(part, lambda w: w.sub_(w.mean(-1, keepdim=True)))
    return None


def _writers_of_mlp(mlp: MLP | GatedMLP | MoE) -> list[Tensor]:
    if not isinstance(mlp, MoE):
        return [mlp.W_out, mlp.b_out]
    shared = [] if mlp.shared is None else _writers_of_mlp(mlp.shared)
    return [mlp.experts.W_out, mlp.experts.b_out, *shared]


def center_unembed(model: HookedTransformer) -> str | None:
    """Subtract from W_U and b_U their mean over the vocabulary."""
    if model.cfg.output_logits_soft_cap:
        return "a soft cap on the logits does not ignore their mean"
    for part in _parts(model.W_U):
        _edit(part, lambda w: w.sub_(w.mean(-1, keepdim=True)))
    _edit(model.b_U, lambda b: b.sub_(b.mean()))
    return None


def fold_value_biases(model: HookedTransformer) -> str | None:
    """Move what b_V adds to every head's output into b_O."""
    if model.cfg.attn_sinks:
        return "with attention sinks the rows of a pattern do not sum to one"
    if model.cfg.qkv_clip:
        return "values are clipped after their bias is added"
    if model.cfg.kv_latent:
        return "latent attention has no value biases"
    for block in model.blocks:
        attn = block.attn
        assert isinstance(attn, Attention)
        b_V = attn.b_V.repeat_interleave(attn.queries_per_key, dim=0)
        precise = _precise(b_V)
        added = torch.einsum("hk,hkd->d", b_V.to(precise), attn.W_O.to(precise))
        _edit(attn.b_O, lambda b, added=added: b.add_(added))
        attn.b_V.zero_()
    return None


def refactor_factored_attn_matrices(model: HookedTransformer) -> str | None:
    """Split W_Q W_K^T (biases included) evenly between W_Q and W_K, and make the rows of W_O orthonormal."""
    if model.cfg.positional_embedding_type == "rotary":
        raise ConfigError("refactor_factored_attn_matrices: rotary models have no single matrix W_Q W_K^T per head")
    if model.cfg.qk_norm or model.cfg.qkv_clip or model.cfg.kv_latent:
        raise ConfigError(
            "refactor_factored_attn_matrices: queries and keys that are normalized, clipped or read from a latent have "
            "no product W_Q W_K^T"
        )
    if model.cfg.n_key_value_heads != model.cfg.n_heads:
        raise ConfigError("refactor_factored_attn_matrices: query heads share keys, so that W_K cannot follow each W_Q")
    for block in model.blocks:
        attn = block.attn
        assert isinstance(attn, Attention)
        query = torch.cat((attn.W_Q, attn.b_Q[:, None]), dim=1).double()  # head d_model+1 d_head
        key = torch.cat((attn.W_K, attn.b_K[:, None]), dim=1).double()
        left, root, right = _svd_of_product(query, key.mT)
        query, key = left * root.sqrt()[:, None], right * root.sqrt()[:, None]
        for weight, bias, split in ((attn.W_Q, attn.b_Q, query), (attn.W_K, attn.b_K, key)):
            weight.copy_(split[:, :-1])
            bias.copy_(split[:, -1])
        value = torch.cat((attn.W_V, attn.b_V[:, None]), dim=1).double()
        left, root, right = _svd_of_product(value, attn.W_O.double())
        value = left * root[:, None]
        attn.W_V.copy_(value[:, :-1])
        attn.b_V.copy_(value[:, -1])
        attn.W_O.copy_(right.mT)
    return None


def _svd_of_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, V of a @ b for tall a and wide b, without forming the product."""
    q_a, r_a = torch.linalg.qr(a)
    q_b, r_b = torch.linalg.qr(b.mT)
    u, s, vh = torch.linalg.svd(r_a @ r_b.mT)
    return q_a @ u, s, q_b @ vh.mT


STEPS: dict[str, Callable[[HookedTransformer], str | None]] = {
    "fold_ln": fold_ln,
    "center_writing_weights": center_writing_weights,
    "center_unembed": center_unembed,
    "fold_value_biases": fold_value_biases,
    "refactor_factored_attn_matrices": refactor_factored_attn_matrices,
}


def _precise(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)


SLICE = 2**22  # elements that are upcast at once


def _parts(weight: Tensor, axis: int = 0, like: Tensor | None = None) -> list[Tensor]:
    """A weight as views along an axis, small enough to be upcast one after the other; as many as for `like`."""
    whole = weight if like is None else like
    if whole.dtype == _precise(whole) or whole.numel() <= SLICE:
        return [weight]
    count = min(weight.shape[axis], -(-whole.numel() // SLICE))
    return list(weight.tensor_split(count, dim=axis))


def _edit(weight: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    """Run an in-place change on a weight, in float32 if it is half precision."""
    precise = weight.to(_precise(weight))  # the weight itself, unless it is half precision
    change(precise)
    if precise is not weight:
        weight.copy_(precise)
