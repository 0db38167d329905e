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

from interp_hooks.components.mlp import GatedMLP
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
    """Fold every norm's gain and bias into the weights that read its output."""
    if model.cfg.norm_is_folded:
        return f"normalization_type={model.cfg.normalization_type} has no gain to fold"
    for block in model.blocks:
        attn = block.attn
        _fold(block.ln1, [(attn.W_Q, attn.b_Q, 1), (attn.W_K, attn.b_K, 1), (attn.W_V, attn.b_V, 1)])
        if not model.cfg.attn_only:
            mlp = block.mlp
            gate = [(mlp.W_gate, mlp.b_gate, 0)] if isinstance(mlp, GatedMLP) else []
            _fold(block.ln2, [(mlp.W_in, mlp.b_in, 0), *gate])
    _fold(model.ln_final, [(model.W_U, model.b_U, 0)])
    model.cfg = model.cfg.replace(normalization_type=FOLDED[str(model.cfg.normalization_type)])
    return None


def _fold(norm: Norm | NoNorm, readers: list[tuple[Tensor, Tensor, int]]) -> None:
    """Move gain and bias into (weight, bias, axis of d_model) of each reader; then the norm has neither."""
    assert isinstance(norm, Norm)
    assert norm.w is not None
    for weight, bias, axis in readers:
        gain = norm.w.view([-1 if dim == axis else 1 for dim in range(weight.ndim)])
        if norm.b is not None:
            added = weight.movedim(axis, -1).to(_precise(weight)) @ norm.b.to(_precise(weight))
            _edit(bias, lambda b, added=added: b.add_(added))

        def scale(w: Tensor, gain: Tensor = gain, axis: int = axis) -> Tensor:
            w.mul_(gain)
            return w.sub_(w.mean(axis, keepdim=True)) if norm.kind == "LN" else w

        _edit(weight, scale)
    norm.kind, norm.w, norm.b = FOLDED[norm.kind], None, None


def center_writing_weights(model: HookedTransformer) -> str | None:
    """Subtract from every writer of the residual stream its mean over d_model."""
    if not model.cfg.centres_residual:
        return "only LayerNorm ignores the mean of the residual stream"
    writers = [model.W_E] + ([model.W_pos] if model.cfg.positional_embedding_type == "standard" else [])
    for block in model.blocks:
        writers += [block.attn.W_O, block.attn.b_O]
        if not model.cfg.attn_only:
            writers += [block.mlp.W_out, block.mlp.b_out]
    for writer in writers:
        _edit(writer, lambda w: w.sub_(w.mean(-1, keepdim=True)))
    return None


def center_unembed(model: HookedTransformer) -> str | None:
    """Subtract from W_U and b_U their mean over the vocabulary."""
    for weight in (model.W_U, model.b_U):
        _edit(weight, lambda w: w.sub_(w.mean(-1, keepdim=True)))
    return None


def fold_value_biases(model: HookedTransformer) -> str | None:
    """Move what b_V adds to every head's output into b_O."""
    for block in model.blocks:
        attn = block.attn
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
    if model.cfg.n_key_value_heads != model.cfg.n_heads:
        raise ConfigError("refactor_factored_attn_matrices: query heads share keys, so that W_K cannot follow each W_Q")
    for block in model.blocks:
        attn = block.attn
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


def _edit(weight: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    """Run an in-place change on a weight, in float32 if it is half precision."""
    precise = weight.to(_precise(weight))  # the weight itself, unless it is half precision
    change(precise)
    if precise is not weight:
        weight.copy_(precise)
