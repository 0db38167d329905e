"""Activation patching as tutorials call it: `get_act_patch_<what>(model, corrupted_tokens, clean_cache, metric)`.

The model reads the corrupted tokens, one activation at a time comes from `clean_cache`, and `patching_metric`, a
function of full logits [batch, pos, d_vocab], gives a number. The result is a tensor; each function's docstring has its
axes. Under grouped attention keys and values have as many heads as there are groups. `generic_activation_patch` does
the same with your own setter. `interp_hooks.patch` is the modern form, whose results have labels.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.experiments.patching import labels_of
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.names import get_act_name
from interp_hooks.hooks.root_module import HookPoint
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.runs import Intervention, Run
from interp_hooks.interventions.sites import at
from interp_hooks.model.cache.activation_cache import ActivationCache
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.stream import Stream
from interp_hooks.model.transformer import HookedTransformer

PatchingMetric = Callable[[Float[Tensor, "batch pos d_vocab"]], Tensor]

ActPatch = Callable[..., Tensor]


def _act_patch(does: str, grid: ActPatch) -> ActPatch:
    """`grid` under the names and defaults that its arguments have in tutorials."""

    @checked
    def get_act_patch(
        model: HookedTransformer,
        corrupted_tokens: Int[Tensor, "batch pos"],
        clean_cache: ActivationCache,
        patching_metric: PatchingMetric,
        progress: bool = True,
    ) -> Tensor:
        return grid(model, corrupted_tokens, clean_cache, patching_metric, progress)

    get_act_patch.__doc__ = does
    return get_act_patch


def _each(hook: str, *axes: str) -> ActPatch:
    """Patch `hook` at every index of `axes`, which are also the axes of the result."""

    def grid(
        model: HookedTransformer, tokens: Tensor, cache: ActivationCache, metric: PatchingMetric, progress: bool
    ) -> Tensor:
        labels = labels_of(model, hook, axes, tokens.shape[1])
        cells = [dict(zip(labels, cell, strict=True)) for cell in itertools.product(*labels.values())]
        runs = [Run(tokens, [Intervention(at(hook, **cell), cache)]) for cell in cells]
        scores = evaluate(model, runs, metric, progress=progress)
        return scores.reshape(*map(len, labels.values()), *scores.shape[1:])

    return _act_patch(f"Patch `{hook}` at every [{', '.join(axes)}].", grid)


def _every(does: str, *patches: ActPatch) -> ActPatch:
    """Stack patches of the same axes along a first axis; key and value heads that there are not are 0."""

    def stack(*given: Any) -> Tensor:
        grids = [patch(*given) for patch in patches]
        heads = max(grid.shape[-1] for grid in grids)
        return torch.stack([torch.nn.functional.pad(grid, (0, heads - grid.shape[-1])) for grid in grids])

    return _act_patch(does, stack)


get_act_patch_resid_pre = _each("resid_pre", "layer", "pos")
get_act_patch_resid_mid = _each("resid_mid", "layer", "pos")
get_act_patch_attn_out = _each("attn_out", "layer", "pos")
get_act_patch_mlp_out = _each("mlp_out", "layer", "pos")
get_act_patch_attn_head_out_by_pos = _each("z", "layer", "pos", "head")
get_act_patch_attn_head_q_by_pos = _each("q", "layer", "pos", "head")
get_act_patch_attn_head_k_by_pos = _each("k", "layer", "pos", "head")
get_act_patch_attn_head_v_by_pos = _each("v", "layer", "pos", "head")
get_act_patch_attn_head_pattern_by_pos = _each("pattern", "layer", "head", "query")
get_act_patch_attn_head_pattern_dest_src_pos = _each("pattern", "layer", "head", "query", "key")
get_act_patch_attn_head_out_all_pos = _each("z", "layer", "head")
get_act_patch_attn_head_q_all_pos = _each("q", "layer", "head")
get_act_patch_attn_head_k_all_pos = _each("k", "layer", "head")
get_act_patch_attn_head_v_all_pos = _each("v", "layer", "head")
get_act_patch_attn_head_pattern_all_pos = _each("pattern", "layer", "head")


def _pattern_pos_head(*given: Any) -> Tensor:
    """Patterns by destination, with axes in the order of the other activations: [layer, pos, head]."""
    return get_act_patch_attn_head_pattern_by_pos(*given).transpose(1, 2)


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


def _check_fold_ln(model: Any) -> None:
    """Warn where the gains of norms are not folded into weights: q, k and v inputs are then read through them."""
    gain = getattr(model.blocks[0].ln1, "w", None) if isinstance(model, HookedTransformer) else None
    if gain is not None and not torch.allclose(gain, torch.ones_like(gain), atol=1e-3):
        warnings.warn("gains of norms are not folded into the weights (model.process_weights_())", stacklevel=2)


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
    """Patch what one head writes, but only as one later head's queries, keys or values see it: [layer, head].

    Entries of layers up to the head's own are 0. The receiver's norm is computed anew from its changed input, so that
    `corrupted_cache` is not needed.
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
    """`get_act_patch_direct_path` of every head: [source's layer, source's head, layer, head]."""
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
    """The metric where each later head in turn reads the clean output of each source."""
    n_layers, reader = model.cfg.n_layers, f"{component}_input"
    n_heads = model.points(get_act_name(reader, 0))[0].sizes["head"]
    cells, runs = [], []
    for place, (src_layer, src_head) in enumerate(sources):
        sender = at("z", src_layer, head=src_head)
        for layer, head in itertools.product(range(src_layer + 1, n_layers), range(n_heads)):
            cells.append((place, layer, head))
            runs.append(Run(tokens, [Intervention(sender, clean_cache, into=at(reader, layer, head=head))]))
    if not runs:
        return torch.zeros(len(sources), n_layers, n_heads)
    scores = evaluate(model, runs, metric, progress=progress)
    found = scores.new_zeros(len(sources), n_layers, n_heads, *scores.shape[1:])
    found[tuple(torch.tensor(cells).T)] = scores
    return found


# ------------------------------------------------------------------------------------------------- with a setter

PatchSetter = Callable[[Tensor, Sequence[int], Tensor], Tensor]
"""(corrupted activation, index of the cell, clean activation) -> the activation to go on with."""


@study
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
    """Patch `activation_name` with your own setter, once for each cell, in a forward pass from the cell's layer on.

    Cells are all combinations of `index_axis_names` ("layer", "pos", "head" or "head_index", "dest_pos", "src_pos"),
    which are then the axes of the result; or they are the rows of `index_df`, whose first column is the layer, and the
    result is [row]. With `return_index_df` the table of cells is returned too.

    Raises:
        BadInput: both or neither of the two, an unknown axis, or a first axis that is not the layer.
    """
    if (index_axis_names is None) == (index_df is None):
        raise BadInput("give the cells either by index_axis_names or by index_df")
    shape = None if index_axis_names is None else _sizes(model, activation_name, corrupted_tokens, index_axis_names)
    if index_df is None:
        index_df = make_df_from_ranges(shape or (), index_axis_names or ())
    if list(index_df.columns)[:1] != ["layer"]:
        raise BadInput(f"the first axis of a cell must be 'layer', got {list(index_df.columns)}")
    stream = Stream(model)
    before = [stream.entering(layer) for layer in range(model.cfg.n_layers)]
    streams = model.run_with_cache(corrupted_tokens, return_type=None, names_filter=before)[1]
    scores = []
    for index in progress_bar(index_df.to_numpy().tolist(), progress=progress):
        name = get_act_name(activation_name, index[0])

        def patched(value: Tensor, hook: HookPoint, index: list[int] = index) -> Tensor:
            return patch_setter(value, index, clean_cache[hook.name])

        entering, resumed = stream.resumed(index[0], streams, corrupted_tokens)
        logits = model.run_with_hooks(entering, **resumed, fwd_hooks=[(name, patched)])
        scores.append(patching_metric(logits))
    found = torch.stack(scores)
    found = found if shape is None else found.reshape(*shape, *found.shape[1:])
    return (found, index_df) if return_index_df else found


def _sizes(model: HookedTransformer, activation: str, tokens: Tensor, axes: Sequence[str]) -> list[int]:
    heads = model.points(get_act_name(activation, 0))[0].sizes.get("head", model.cfg.n_heads)
    sizes = dict(layer=model.cfg.n_layers, head=heads, head_index=heads)
    sizes |= dict.fromkeys(("pos", "dest_pos", "src_pos"), tokens.shape[-1])
    if unknown := [axis for axis in axes if axis not in sizes]:
        raise BadInput(f"there is no axis {unknown[0]!r} to patch along; there are {', '.join(sizes)}")
    return [sizes[axis] for axis in axes]


@checked
def make_df_from_ranges(column_max_ranges: Sequence[int], column_names: Sequence[str]) -> pd.DataFrame:
    """A table with a row for every combination of indices; `column_max_ranges` are the sizes of the columns."""
    return pd.DataFrame(list(itertools.product(*map(range, column_max_ranges))), columns=list(column_names))


def _setter(cell: str, *dims: int) -> PatchSetter:
    """A setter that takes the clean value at one cell; a cell's indices after the layer are along `dims`."""

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

__all__ = [name for name in dir() if name.startswith(("get_act_patch_", "layer_", "generic_", "make_df_"))]  # pyright: ignore
