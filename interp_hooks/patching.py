"""Activation patching as tutorials call it: `get_act_patch_<what>(model, corrupted_tokens, clean_cache, metric)`.

The run reads the corrupted tokens, one activation at a time comes from `clean_cache`, and `patching_metric`, a function
of full logits [batch, pos, d_vocab], gives a number. The result is a tensor whose axes are listed below. Under grouped
attention keys and values have as many heads as they have groups. `experiments.patching.patch` is the same with labels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.cache import ActivationCache
from interp_hooks.experiments.sweep import labels_of
from interp_hooks.interpreter import evaluate
from interp_hooks.interventions import Intervention, Run, at
from interp_hooks.model import HookedTransformer

PatchingMetric = Callable[[Float[Tensor, "batch pos d_vocab"]], Tensor]

__all__ = [
    "get_act_patch_attn_head_all_pos_every",
    "get_act_patch_attn_head_by_pos_every",
    "get_act_patch_attn_head_k_all_pos",
    "get_act_patch_attn_head_k_by_pos",
    "get_act_patch_attn_head_out_all_pos",
    "get_act_patch_attn_head_out_by_pos",
    "get_act_patch_attn_head_pattern_all_pos",
    "get_act_patch_attn_head_pattern_by_pos",
    "get_act_patch_attn_head_pattern_dest_src_pos",
    "get_act_patch_attn_head_q_all_pos",
    "get_act_patch_attn_head_q_by_pos",
    "get_act_patch_attn_head_v_all_pos",
    "get_act_patch_attn_head_v_by_pos",
    "get_act_patch_attn_out",
    "get_act_patch_block_every",
    "get_act_patch_mlp_out",
    "get_act_patch_resid_mid",
    "get_act_patch_resid_pre",
]


ActPatch = Callable[..., Tensor]


def _act_patch(hook: str, *axes: str) -> ActPatch:
    """Patch `hook` at every index of `axes`, which are also the axes of the result."""

    def get_act_patch(
        model: HookedTransformer,
        corrupted_tokens: Int[Tensor, "batch pos"],
        clean_cache: ActivationCache,
        patching_metric: PatchingMetric,
        progress: bool = True,
    ) -> Tensor:
        labels = labels_of(model, hook, axes, corrupted_tokens.shape[1])
        cells = [dict(zip(labels, cell, strict=True)) for cell in itertools.product(*labels.values())]
        runs = [Run(corrupted_tokens, [Intervention(at(hook, **cell), clean_cache)]) for cell in cells]
        scores = evaluate(model, runs, patching_metric, progress=progress)
        return scores.reshape(*map(len, labels.values()), *scores.shape[1:])

    get_act_patch.__doc__ = f"Patch `{hook}` at every [{', '.join(axes)}]."
    return get_act_patch


get_act_patch_resid_pre = _act_patch("resid_pre", "layer", "pos")
get_act_patch_resid_mid = _act_patch("resid_mid", "layer", "pos")
get_act_patch_attn_out = _act_patch("attn_out", "layer", "pos")
get_act_patch_mlp_out = _act_patch("mlp_out", "layer", "pos")
get_act_patch_attn_head_out_by_pos = _act_patch("z", "layer", "pos", "head")
get_act_patch_attn_head_q_by_pos = _act_patch("q", "layer", "pos", "head")
get_act_patch_attn_head_k_by_pos = _act_patch("k", "layer", "pos", "head")
get_act_patch_attn_head_v_by_pos = _act_patch("v", "layer", "pos", "head")
get_act_patch_attn_head_pattern_by_pos = _act_patch("pattern", "layer", "head", "query")
get_act_patch_attn_head_pattern_dest_src_pos = _act_patch("pattern", "layer", "head", "query", "key")
get_act_patch_attn_head_out_all_pos = _act_patch("z", "layer", "head")
get_act_patch_attn_head_q_all_pos = _act_patch("q", "layer", "head")
get_act_patch_attn_head_k_all_pos = _act_patch("k", "layer", "head")
get_act_patch_attn_head_v_all_pos = _act_patch("v", "layer", "head")
get_act_patch_attn_head_pattern_all_pos = _act_patch("pattern", "layer", "head")


def _every(doc: str, *patches: ActPatch) -> ActPatch:
    """Several patches of the same axes, stacked along a first axis."""

    def get_act_patch_every(
        model: HookedTransformer,
        corrupted_tokens: Int[Tensor, "batch pos"],
        clean_cache: ActivationCache,
        patching_metric: PatchingMetric,
        progress: bool = True,
    ) -> Tensor:
        grids = [patch(model, corrupted_tokens, clean_cache, patching_metric, progress) for patch in patches]
        heads = max(grid.shape[-1] for grid in grids)
        return torch.stack([torch.nn.functional.pad(grid, (0, heads - grid.shape[-1])) for grid in grids])

    get_act_patch_every.__doc__ = doc
    return get_act_patch_every


def _pattern_pos_head(*arguments: object, **options: object) -> Tensor:
    """Patterns by destination, with the axes in the order of the others: [layer, pos, head]."""
    return get_act_patch_attn_head_pattern_by_pos(*arguments, **options).transpose(1, 2)


get_act_patch_attn_head_all_pos_every = _every(
    "z, q, k, v and pattern of every head: [5, layer, head] (missing key and value heads are 0).",
    get_act_patch_attn_head_out_all_pos,
    get_act_patch_attn_head_q_all_pos,
    get_act_patch_attn_head_k_all_pos,
    get_act_patch_attn_head_v_all_pos,
    get_act_patch_attn_head_pattern_all_pos,
)
get_act_patch_attn_head_by_pos_every = _every(
    "z, q, k, v and pattern of every head at every position: [5, layer, pos, head].",
    get_act_patch_attn_head_out_by_pos,
    get_act_patch_attn_head_q_by_pos,
    get_act_patch_attn_head_k_by_pos,
    get_act_patch_attn_head_v_by_pos,
    _pattern_pos_head,
)
get_act_patch_block_every = _every(
    "resid_pre, attn_out and mlp_out at every position: [3, layer, pos].",
    get_act_patch_resid_pre,
    get_act_patch_attn_out,
    get_act_patch_mlp_out,
)
