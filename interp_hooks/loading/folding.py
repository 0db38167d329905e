"""Weight processing: the same probabilities from weights that are easier to read.

    fold_ln                  a norm's gain and bias move into the weights that read it
    center_writing_weights   what is written to the stream has mean zero (LayerNorm ignores the mean anyway)
    center_unembed           logits have mean zero over the vocabulary (softmax ignores the mean anyway)
    fold_value_biases        rows of a pattern sum to one, so value biases are a constant: they move into b_O
    refactor_factored_...    W_Q, W_K (and W_V, W_O) become an even SVD split of their product

Everything happens in place, one tensor at a time, and in float32 where the weights are half precision. Whether a step
suits a model is known before any weight is changed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from interp_hooks.errors import ConfigError
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.model.components.attention import Attention
from interp_hooks.model.components.mixer import Reader
from interp_hooks.model.components.mlp import MLP, GatedMLP
from interp_hooks.model.components.moe import MoE
from interp_hooks.model.components.norm import NoNorm, Norm
from interp_hooks.model.components.nothing import NoMLP
from interp_hooks.model.config import FOLDED
from interp_hooks.model.factored import FactoredMatrix
from interp_hooks.model.transformer import HookedTransformer


@dataclass(frozen=True, kw_only=True)
class Processing:
    """Which steps to apply; see the module docstring."""

    fold_ln: bool = True
    center_writing_weights: bool = True
    center_unembed: bool = True
    fold_value_biases: bool = True
    refactor_factored_attn_matrices: bool = False


@no_gradients
def process(model: HookedTransformer, processing: Processing) -> list[str]:
    """Apply the steps that are asked for; return a line for each step: applied (now or before), skipped and why, ...

    Raises:
        ConfigError: `refactor_factored_attn_matrices` of heads whose products are not one matrix; nothing is changed.
    """
    asked = [name for name in STEPS if getattr(processing, name)]
    spliced = "the module that is spliced in would read other numbers" if model.splices else None
    obstacles = {name: spliced or STEPS[name].obstacle(model) for name in asked}
    for name in asked:
        if obstacles[name] is None:
            STEPS[name].run(model)
    told = {name: f"skipped, {why}" if why else "applied" for name, why in obstacles.items()}
    told |= {name: "applied" for name in STEPS if f"{name}: applied" in model.processing_report()}  # before
    return [f"{name}: {told.get(name, 'not asked for')}" for name in STEPS]


def _nothing_to_fold(model: HookedTransformer) -> str | None:
    if model.cfg.norm_is_folded:
        return f"normalization_type={model.cfg.normalization_type} has no gain to fold"
    if model.cfg.norm_placement == "post":
        return "a post-norm's output is the stream itself, not only what the next weights read"
    if model.cfg.positional_embedding_type == "shortformer":
        return "positions are added to what queries and keys read between the norm and the weights"
    if model.cfg.laurel_rank:
        return "what the norm gives is added to the stream too (LAuReL), not only read by the next weights"
    return None


def fold_ln(model: HookedTransformer, centre: bool = True) -> None:
    """Fold the gain and bias of every norm that is only read into the weights that read its output.

    Weights that read a LayerNorm also lose their mean over d_model, which never matters, unless `centre` is False.
    """
    for layer, block in enumerate(model.blocks):
        if not model.cfg.reads_normalized_at(layer):
            continue
        attention = [reader for mixer in block.mixers for reader in mixer.readers()]
        mlp = [] if model.cfg.attn_only else _readers_of_mlp(block.mlp)
        if model.cfg.parallel_shared_norm:
            _fold(block.ln1, attention + mlp, centre)
        else:
            if attention:
                _fold(block.ln1, attention, centre)
            if mlp:
                _fold(block.ln2, mlp, centre)
    for block in [] if model.cfg.attn_only else model.blocks:
        _fold_neurons(block.mlp, centre)
    reader, head = (model.W_U, model.b_U, 0), model.mlm_head
    if head is not None:
        _fold(head.ln, [reader], centre)
        reader = (head.W, head.b, 0)
    if model.cfg.final_norm:
        _fold(model.ln_final, [reader], centre)
    model._reconfigure(normalization_type=FOLDED[str(model.cfg.normalization_type)])


def _readers_of_mlp(mlp: MLP | GatedMLP | MoE | NoMLP) -> list[Reader]:
    if isinstance(mlp, NoMLP):
        return []
    if isinstance(mlp, MLP):
        return [(mlp.W_in, mlp.b_in, 0)]
    if isinstance(mlp, GatedMLP):
        return [(mlp.W_gate, mlp.b_gate, 0), (mlp.W_in, mlp.b_in, 0)]
    experts = mlp.experts
    gate = [(experts.W_gate, experts.b_gate, 1)] if experts.gated else []
    shared = [] if mlp.shared is None else _readers_of_mlp(mlp.shared)
    shared_gate = [(mlp.W_shared_gate, mlp.b_shared_gate, 0)] if mlp.has_shared_gate else []
    return [(mlp.W_router, mlp.b_router, 0), *gate, (experts.W_in, experts.b_in, 1), *shared, *shared_gate]


def _fold(norm: Norm | NoNorm, readers: list[Reader], centre: bool) -> None:
    """Move a norm's gain and bias into its readers; then it has neither."""
    if isinstance(norm, NoNorm):
        return
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
                return w.sub_(w.mean(axis, keepdim=True)) if norm.kind == "LN" and centre else w

            _edit(part, scale)
    norm.kind, norm.w, norm.b = FOLDED[norm.kind], None, None


def _fold_neurons(mlp: MLP | GatedMLP | MoE | NoMLP, centre: bool) -> None:
    """Fold the norm that some MLPs have after their activation function."""
    if isinstance(mlp, MoE) and mlp.shared is not None:
        _fold_neurons(mlp.shared, centre)
    if isinstance(mlp, MLP) and mlp.ln is not None:
        _fold(mlp.ln, [(mlp.W_out, mlp.b_out, 0)], centre)


def _cannot_centre(model: HookedTransformer) -> str | None:
    if not model.cfg.centres_residual:
        return "only a stream that every reader sees through a LayerNorm can lose its mean"
    if model.cfg.embed_norm_type is not None:
        return "the embeddings pass a norm of their own, whose gain and bias are not centred"
    if model.cfg.positional_embedding_type == "sinusoidal":
        return "sinusoidal positions are no weights that could be centred"
    return None


def center_writing_weights(model: HookedTransformer) -> None:
    """Subtract from every writer of the residual stream its mean over d_model."""
    cfg = model.cfg
    writers = [model.W_E] + ([model.W_pos] if cfg.positional_embedding_type == "standard" else [])
    if cfg.n_token_types:
        writers.append(model.token_type_embed.W_token_type)
    for block in model.blocks:
        writers += [weight for mixer in block.mixers for weight in (mixer.W_O, mixer.b_O)]
        if not cfg.attn_only:
            writers += _writers_of_mlp(block.mlp)
    for writer in writers:
        for part in _parts(writer):
            _edit(part, lambda w: w.sub_(w.mean(-1, keepdim=True)))


def _writers_of_mlp(mlp: MLP | GatedMLP | MoE | NoMLP) -> list[Tensor]:
    if not isinstance(mlp, MoE):
        return [mlp.W_out, mlp.b_out]
    shared = [] if mlp.shared is None else _writers_of_mlp(mlp.shared)
    own = [] if mlp.b_out is None else [mlp.b_out]
    return [mlp.experts.W_out, mlp.experts.b_out, *shared, *own]


def _logits_have_a_mean(model: HookedTransformer) -> str | None:
    return "a soft cap on the logits does not ignore their mean" if model.cfg.output_logits_soft_cap else None


def center_unembed(model: HookedTransformer) -> None:
    """Subtract from W_U and b_U their mean over the vocabulary."""
    for part in _parts(model.W_U):
        _edit(part, lambda w: w.sub_(w.mean(-1, keepdim=True)))
    _edit(model.b_U, lambda b: b.sub_(b.mean()))


def _values_are_no_constant(model: HookedTransformer) -> str | None:
    if model.cfg.attn_sinks:
        return "with attention sinks the rows of a pattern do not sum to one"
    if model.cfg.qkv_clip:
        return "values are clipped after their bias is added"
    mixers = model.cfg.mixers
    if mixers is not None and mixers.has("differential"):
        return "what heads of differential attention mix from values is normalized"
    if model.cfg.gated_attn or (mixers is not None and mixers.has("mixture_of_heads")):
        return "gates come between values and what heads write"
    if model.cfg.v_norm_type is not None:
        return "values are normalized after their bias is added"
    if any(model.cfg.values_from_keys):
        return "the biases of values are those of keys"
    if model.cfg.kv_latent:
        return "latent attention has no value biases"
    return None


def fold_value_biases(model: HookedTransformer) -> None:
    """Move what b_V adds to every head's output into b_O."""
    attending = {layer: block.attn for layer, block in enumerate(model.blocks) if isinstance(block.attn, Attention)}
    for attn in attending.values():  # a recurrence has no such biases
        b_V = (attn if attn.source is None else attending[attn.source]).b_V
        b_V = b_V.repeat_interleave(attn.queries_per_key, dim=0) * model.cfg.value_scale
        precise = _precise(b_V)
        added = torch.einsum("hk,hkd->d", b_V.to(precise), attn.W_O.to(precise))
        _edit(attn.b_O, lambda b, added=added: b.add_(added))
    for attn in attending.values():
        if attn.source is None:
            attn.b_V.zero_()


def _refuse_what_has_no_single_matrix(model: HookedTransformer) -> None:
    cfg = model.cfg
    weights = (weight for block in model.blocks for weight in block.attn.parameters())
    obstacles = {
        "rotary models have no single matrix W_Q W_K^T per head": cfg.positional_embedding_type == "rotary",
        "queries and keys that are normalized, clipped or read from a latent have no product W_Q W_K^T": (
            cfg.qk_norm or cfg.qkv_clip or cfg.kv_latent
        ),
        "some layers use the keys and values of others, or have keys for values": (
            any(cfg.values_from_keys) or any(source is not None for source in cfg.keys_values_from)
        ),
        "some layers have no attention, and so no W_Q": cfg.mixers is not None,
        "query heads share keys, so that W_K cannot follow each W_Q": cfg.n_key_value_heads != cfg.n_heads,
        f"heads (d_head={cfg.d_head}, d_value={cfg.d_value}) that are wider than d_model={cfg.d_model} have no such "
        "split": max(cfg.d_head, cfg.d_value) > cfg.d_model,
        "attention has weights that are not finite, and so no singular values": not all(
            bool(weight.isfinite().all()) for weight in weights
        ),
    }
    for why, is_so in obstacles.items():
        if is_so:
            raise ConfigError(f"refactor_factored_attn_matrices: {why}")


def refactor_factored_attn_matrices(model: HookedTransformer) -> None:
    """Split W_Q W_K^T (biases included) evenly between W_Q and W_K, and make the rows of W_O orthonormal.

    Biases of values are folded before, if they can be.
    """
    if _values_are_no_constant(model) is None:
        fold_value_biases(model)
    for block in model.blocks:
        attn = block.attn
        assert isinstance(attn, Attention)
        query = torch.cat((attn.W_Q, attn.b_Q[:, None]), dim=1).double()  # head d_model+1 d_head
        key = torch.cat((attn.W_K, attn.b_K[:, None]), dim=1).double()
        query, even_key = FactoredMatrix(query, key.mT).make_even().pair
        for weight, bias, split in ((attn.W_Q, attn.b_Q, query), (attn.W_K, attn.b_K, even_key.mT)):
            weight.copy_(split[:, :-1])
            bias.copy_(split[:, -1])
        value = torch.cat((attn.W_V, attn.b_V[:, None]), dim=1).double()
        U, S, V = FactoredMatrix(value, attn.W_O.double()).svd()
        value = U * S[:, None]
        attn.W_V.copy_(value[:, :-1])
        attn.b_V.copy_(value[:, -1])
        attn.W_O.copy_(V.mT)


@dataclass(frozen=True)
class Step:
    """One kind of processing: `run` changes weights in place, `obstacle` says why a model cannot have it (or None)."""

    run: Callable[[HookedTransformer], None]
    obstacle: Callable[[HookedTransformer], str | None]


STEPS = {
    "fold_ln": Step(fold_ln, _nothing_to_fold),
    "center_writing_weights": Step(center_writing_weights, _cannot_centre),
    "center_unembed": Step(center_unembed, _logits_have_a_mean),
    "fold_value_biases": Step(fold_value_biases, _values_are_no_constant),
    "refactor_factored_attn_matrices": Step(refactor_factored_attn_matrices, _refuse_what_has_no_single_matrix),
}


def _precise(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)


SLICE = 2**22  # elements that are upcast at once


def _parts(weight: Tensor, axis: int = 0, like: Tensor | None = None) -> list[Tensor]:
    """Views of a weight along an axis, each small enough to be upcast by itself; as many as `like` is cut into."""
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
