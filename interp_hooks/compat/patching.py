"""Activation patching as tutorials call it: `get_act_patch_<what>(model, corrupted_tokens, clean_cache, metric)`.

The run reads the corrupted tokens, one activation at a time comes from `clean_cache`, and `patching_metric`, a function
of full logits [batch, pos, d_vocab], gives a number. The result is a tensor whose axes are listed below. Under grouped
attention keys and values have as many heads as they have groups. `generic_activation_patch` does the same with a setter
of one's own; `experiments.patching.patch` is the modern form, with labels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.experiments.sweeps import labels_of
from interp_hooks.hooks.names import get_act_name
from interp_hooks.hooks.root_module import HookPoint
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.runs import Intervention, Run
from interp_hooks.interventions.sites import at
from interp_hooks.model.cache.activation_cache import ActivationCache
from interp_hooks.model.transformer import HookedTransformer

if TYPE_CHECKING:
    import pandas as pd

PatchingMetric = Callable[[Float[Tensor, "batch pos d_vocab"]], Tensor]

__all__ = [
    "generic_activation_patch",
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
    "get_act_patch_direct_path",
    "get_act_patch_direct_path_all_sources",
    "get_act_patch_mlp_out",
    "get_act_patch_resid_mid",
    "get_act_patch_resid_pre",
    "layer_head_dest_src_pos_pattern_patch_setter",
    "layer_head_pattern_patch_setter",
    "layer_head_pos_pattern_patch_setter",
    "layer_head_vector_patch_setter",
    "layer_pos_head_vector_patch_setter",
    "layer_pos_patch_setter",
    "make_df_from_ranges",
]


ActPatch = Callable[..., Tensor]


def _act_patch(hook: str, *axes: str) -> ActPatch:
    """Patch `hook` at every index of `axes`, which are also the axes of the result."""

    @checked
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

    @checked
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


# -------------------------------------------------------------------------------------------- from a head to a head

Component = Literal["q", "k", "v"]


@checked
def get_act_patch_direct_path(
    model: HookedTransformer,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: ActivationCache,
    corrupted_cache: ActivationCache,
    patching_metric: PatchingMetric,
    src_layer: int,
    src_head: int,
    component: Component = "q",
    verbose: bool = True,
) -> Tensor:
    """Patch what one head writes for one later head's queries, keys or values alone: [layer, head].

    Layers up to the head's own are 0. The receiver's norm is computed anew from its changed input, so that nothing of
    `corrupted_cache` is needed.
    """
    sources = [(src_layer, src_head)]
    return _direct_paths(model, corrupted_tokens, clean_cache, patching_metric, sources, component, verbose)[0]


@checked
def get_act_patch_direct_path_all_sources(
    model: HookedTransformer,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: ActivationCache,
    corrupted_cache: ActivationCache,
    patching_metric: PatchingMetric,
    component: Component = "q",
    verbose: bool = True,
) -> Tensor:
    """The same for every head: [source's layer, source's head, layer, head]."""
    sources = list(itertools.product(range(model.cfg.n_layers), range(model.cfg.n_heads)))
    found = _direct_paths(model, corrupted_tokens, clean_cache, patching_metric, sources, component, verbose)
    return found.unflatten(0, (model.cfg.n_layers, model.cfg.n_heads))


def _direct_paths(
    model: HookedTransformer,
    tokens: Int[Tensor, "batch pos"],
    clean_cache: ActivationCache,
    metric: PatchingMetric,
    sources: Sequence[tuple[int, int]],
    component: Component,
    progress: bool,
) -> Float[Tensor, "source layer head ..."]:
    """The metric for every later head that reads a source's clean output."""
    n_layers, reader = model.cfg.n_layers, f"{component}_input"
    n_heads = model.points(get_act_name(reader, 0))[0].sizes["head"]
    cells, runs = [], []
    for place, (src_layer, src_head) in enumerate(sources):
        sender = at("z", src_layer, head=src_head)
        for layer, head in itertools.product(range(src_layer + 1, n_layers), range(n_heads)):
            cells.append((place, layer, head))
            runs.append(Run(tokens, [Intervention(sender, clean_cache, into=at(reader, layer, head=head))]))
    if not runs:
        raise BadInput(f"no layer of this model comes after layer {max(layer for layer, _ in sources)}")
    scores = evaluate(model, runs, metric, progress=progress)
    found = scores.new_zeros(len(sources), n_layers, n_heads, *scores.shape[1:])
    found[tuple(torch.tensor(cells).T)] = scores
    return found


# ------------------------------------------------------------------------------------------------- with a setter

PatchSetter = Callable[[Tensor, Sequence[int], Tensor], Tensor]
"""(corrupted activation, index of the cell, clean activation) -> the activation to go on with."""


@torch.no_grad()
@checked
def generic_activation_patch(
    model: HookedTransformer,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: ActivationCache,
    patching_metric: PatchingMetric,
    patch_setter: PatchSetter,
    activation_name: str,
    index_axis_names: Sequence[str] | None = None,
    index_df: pd.DataFrame | None = None,
    return_index_df: bool = False,
    progress: bool = True,
) -> Any:
    """Patch `activation_name` at every cell by a function of one's own; a pass for each cell, from its layer on.

    Cells are all combinations of `index_axis_names` ("layer", "pos", "head" or "head_index", "dest_pos", "src_pos"),
    and the result has these axes; or the rows of `index_df`, whose first column is the layer, and the result is [row].
    With `return_index_df` the table of cells comes too.

    Raises:
        BadInput: both or neither of the two, an unknown axis, or a first axis that is not the layer.
    """
    if (index_axis_names is None) == (index_df is None):
        raise BadInput("give the cells either by index_axis_names or by index_df")
    shape: list[int] | None = None
    if index_df is None:
        shape = _ranges(model, activation_name, corrupted_tokens, list(index_axis_names or ()))
        index_df = make_df_from_ranges(shape, list(index_axis_names or ()))
    if list(index_df.columns)[:1] != ["layer"]:
        raise BadInput(f"the first axis of a cell must be 'layer', got {list(index_df.columns)}")
    streams = model.run_with_cache(corrupted_tokens, return_type=None, names_filter=_is_resid_pre)[1]
    scores = []
    for index in tqdm(index_df.to_numpy().tolist(), disable=not progress):
        name = get_act_name(activation_name, index[0])

        def patched(value: Tensor, hook: HookPoint, index: list[int] = index) -> Tensor:
            return patch_setter(value, index, clean_cache[hook.name])

        stream = streams["resid_pre", index[0]]
        scores.append(
            patching_metric(model.run_with_hooks(stream, start_at_layer=index[0], fwd_hooks=[(name, patched)]))
        )
    found = torch.stack(scores)
    found = found if shape is None else found.reshape(*shape, *found.shape[1:])
    return (found, index_df) if return_index_df else found


def _is_resid_pre(name: str) -> bool:
    return name.endswith("hook_resid_pre")


def _ranges(model: HookedTransformer, activation: str, tokens: Tensor, axes: list[str]) -> list[int]:
    heads = model.points(get_act_name(activation, 0))[0].sizes.get("head", model.cfg.n_heads)
    length = tokens.shape[-1]
    sizes = {"layer": model.cfg.n_layers, "head": heads, "head_index": heads}
    sizes |= {"pos": length, "dest_pos": length, "src_pos": length}
    if unknown := [axis for axis in axes if axis not in sizes]:
        raise BadInput(f"there is no axis {unknown[0]!r} to patch along; there are {', '.join(sizes)}")
    return [sizes[axis] for axis in axes]


@checked
def make_df_from_ranges(column_max_ranges: Sequence[int], column_names: Sequence[str]) -> pd.DataFrame:
    """A row for every combination of 0..n-1 of each column."""
    import pandas as pd

    rows = list(itertools.product(*map(range, column_max_ranges)))
    return pd.DataFrame(rows, columns=list(column_names))


def _setter(cell: str, *dims: int) -> PatchSetter:
    """Put the clean value where a cell points, whose indices after the layer are along `dims` of the activation."""

    def patch_setter(corrupted_activation: Tensor, index: Sequence[int], clean_activation: Tensor) -> Tensor:
        place: list[Any] = [slice(None)] * corrupted_activation.ndim
        for dim, wanted in zip(dims, index[1:], strict=True):
            place[dim] = wanted
        corrupted_activation[tuple(place)] = clean_activation[tuple(place)]
        return corrupted_activation

    patch_setter.__doc__ = f"Patch the activation at a cell [{cell}]."
    return patch_setter


layer_pos_patch_setter = _setter("layer, pos", 1)
layer_pos_head_vector_patch_setter = _setter("layer, pos, head", 1, 2)
layer_head_vector_patch_setter = _setter("layer, head", 2)
layer_head_pattern_patch_setter = _setter("layer, head", 1)
layer_head_pos_pattern_patch_setter = _setter("layer, head, dest_pos", 1, 2)
layer_head_dest_src_pos_pattern_patch_setter = _setter("layer, head, dest_pos, src_pos", 1, 2, 3)
