"""Steering: add a direction to the stream while the model reads and writes, or take one away for good.

    steer               activation + coefficient * vector, at some positions or at every token that is read or written
    ablate_directions   every write to the stream loses its component along the directions, by hooks
    orthogonalize       the same by weights: W (1 - V V^T) for every matrix and bias that writes to the stream

The first two also do it to any other activation that is one vector for each position, such as a head's
`at("z", 5, head=1)`. Vectors are differences of means over contrasting prompts (Turner et al. 2023,
arxiv.org/abs/2308.10248; Rimsky et al. 2024, arxiv.org/abs/2312.06681), of single heads in Li et al. 2023
(arxiv.org/abs/2306.03341). Directional ablation is that of Arditi et al. 2024 (arxiv.org/abs/2406.11717).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput, HookDidNotFire
from interp_hooks.errors.arguments import about, checked
from interp_hooks.experiments.patching import labels_of
from interp_hooks.experiments.results.record import experiment, on_data
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.scopes import Block, Scope
from interp_hooks.interventions.readout import LAST, Readout, said
from interp_hooks.interventions.runs import PromptsLike, Run, as_run, orthonormal
from interp_hooks.interventions.sites import Site, as_index, at
from interp_hooks.interventions.subspaces import Pointwise
from interp_hooks.interventions.vectors import VectorPlace, recorded_vectors, vector_place
from interp_hooks.model.generate import PROMPT
from interp_hooks.model.network import PASS, Pass
from interp_hooks.model.padding import counted_back
from interp_hooks.model.stream import INPUT, Stream
from interp_hooks.model.transformer import HookedTransformer

# -------------------------------------------------------------------------------------------------------------- vectors


@no_gradients
@checked
def steering_vector(
    model: HookedTransformer,
    positive: PromptsLike,
    negative: PromptsLike,
    hook: str | Site,
    *,
    pos: int | Tensor | None = LAST,
) -> Float[Tensor, "*pos width"]:
    """The mean activation on the `positive` prompts minus that on the `negative` ones, at one position of each.

    `hook` is a name ("resid_pre6"), or a site with one vector for each position (`at("z", 5, head=1)`). A negative
    `pos` counts from the last real token; a tensor [batch] has one for each prompt. With `pos=None` all positions are
    kept, [pos, width], and all prompts need as many tokens. Means are taken in float64.

    Raises:
        UnknownHook: no such hook.
        BadInput: a site other than [batch, pos, width], or prompts without that position.

    >>> direction = steering_vector(model, clean, corrupt, "resid_pre1")
    """
    place = vector_place(model, hook)
    means = []
    for name, prompts in (("positive", positive), ("negative", negative)):
        with about(name):
            means.append(_mean(model, as_run(model, prompts), place, said(model, pos)))
    if means[0].shape != means[1].shape:
        lengths = " and ".join(str(len(mean)) for mean in means)
        raise BadInput(f"the prompts have {lengths} tokens; to subtract position by position make them equally long")
    difference = means[0] - means[1]
    if not bool(difference.isfinite().all()):
        raise BadInput(f"the prompts give activations at {place.point.name} that are nan or infinite")
    return difference.to(model.dtype)


def _mean(model: HookedTransformer, run: Run, place: VectorPlace, pos: int | Tensor | None) -> Tensor:
    value = recorded_vectors(model, run, [place])[0].double()
    if pos is not None:
        rows = Readout(pos=pos).positions(run).to(value.device)
        return value[torch.arange(len(value), device=value.device), rows[:, 0]].mean(0)
    if run.attention_mask is not None and not bool(run.attention_mask.all()):
        raise BadInput("prompts of unequal length have no common positions; pass pos=, or make them equally long")
    return value.mean(0)


@experiment
@no_gradients
def relative_norm(
    model: HookedTransformer,
    prompts: PromptsLike,
    vector: Float[Tensor, " width"],
    site: str = "resid_pre",
    *,
    select: Mapping[str, int] | None = None,
    layers: Sequence[int] | None = None,
) -> Result:
    """The vector's length over that of the activation it is added to, for each layer and prompt.

    The latter is the median over real positions, since the first token's is often a hundred times that of others.
    `select` says which head (`{"head": 1}` of "z"), where there are several. Streams grow from layer to layer, so one
    coefficient does not mean the same in all of them.
    """
    run = as_run(model, prompts)
    labels = labels_of(model, site, ["layer"], run.tokens.shape[1], layers)
    sites = [at(site, layer, **(select or {})) for layer in labels["layer"]]
    return relative_norms(model, run, vector, sites, axes={axis: list(one) for axis, one in labels.items()})


@on_data
@no_gradients
def relative_norms(
    model: HookedTransformer,
    run: Run,
    vector: Float[Tensor, " width"],
    sites: Sequence[Site],
    *,
    axes: Mapping[str, Sequence[int]],
) -> Result:
    """The same at each of some sites."""
    places = [vector_place(model, site) for site in sites]
    _check_finite(vector=vector)
    if len(vector) != places[0].width:
        raise BadInput(f"the vector has {len(vector)} numbers; {places[0].point.name} has {places[0].width}")
    norms = torch.stack([value.norm(dim=-1) for value in recorded_vectors(model, run, places)])
    if run.attention_mask is not None:
        norms = norms.masked_fill(~run.attention_mask.bool(), torch.nan)
    return Result(metric="relative_norm", axes=axes, values=vector.to(norms).norm() / norms.nanmedian(-1).values)


def _check_finite(**numbers: Tensor | float) -> None:
    """Raises BadInput for the first argument with numbers that are nan or infinite."""
    for name, value in numbers.items():
        wrong = ~torch.as_tensor(value if isinstance(value, Tensor) else float(value)).isfinite()
        if bool(wrong.any()):
            raise BadInput(f"{name} must be finite, got {int(wrong.sum())} of {wrong.numel()} numbers nan or infinite")


# ------------------------------------------------------------------------------------------------------------- steering

Positions = int | Sequence[int] | slice | Tensor


@checked
def steer(
    model: HookedTransformer,
    vector: Float[Tensor, "*pos width"] | Pointwise,
    hook: str | Site,
    *,
    coefficient: float = 1.0,
    positions: Positions | None = None,
) -> AbstractContextManager[HookedTransformer]:
    """Within the `with` block, add `coefficient * vector` to the activation at `hook`.

    In place of a vector, an eraser (`studies.leace`), or another source that changes vectors one by one: `coefficient`
    is then how much of its change is made.

    `hook` is a name ("resid_pre6", "mlp_out3"), or a site with one vector for each position (`at("z", 5, head=1)`).
    `positions` are counted from the start of each row, padding included, also while `model.generate` reads on with or
    without its cache: an index, a list, a tensor [batch] of one for each prompt, or a slice. Negative ones count back
    from the last real token of each prompt, also while `model.generate` reads on after it. None is every token that is
    read; `slice(n, None)` every one after the first n. A vector [pos, width] is added row i at position i.

    Raises:
        UnknownHook: no such hook.
        BadInput: a site other than [batch, pos, width], a vector of another width, numbers that are nan or infinite, a
            position outside a prompt, or a negative one in a pass that reads on outside of `generate`.
        HookDidNotFire: when the block ends, if no position was steered.

    >>> with steer(model, steering_vector(model, clean, corrupt, "resid_pre1"), "resid_pre1", coefficient=2.0):
    ...     steered = model(clean)
    """
    place = vector_place(model, hook)
    if isinstance(vector, Pointwise):
        return _steered_by(model, vector, place, coefficient, positions)
    _check_finite(vector=vector, coefficient=coefficient)
    if vector.ndim not in (1, 2) or vector.shape[-1] != place.width:
        came = list(vector.shape)
        raise BadInput(f"{place.point.name} needs a vector of {place.width} numbers ({place.axis}), got {came}")
    if vector.ndim == 2 and positions is not None:
        raise BadInput("a vector [pos, width] says by itself where it is added; positions= is for one vector [width]")

    def add(value: Tensor, places: Tensor) -> Tensor:
        rows = vector.to(value)
        rows = rows if rows.ndim == 1 else rows[places.clamp(max=len(rows) - 1)]
        return value + float(coefficient) * rows

    return _changing(model, [place], slice(len(vector)) if vector.ndim == 2 else positions, add)


def _steered_by(
    model: HookedTransformer, source: Pointwise, place: VectorPlace, coefficient: float, positions: Positions | None
) -> AbstractContextManager[HookedTransformer]:
    """Within the block, `coefficient` of the change that a source makes of each vector of the place."""
    _check_finite(coefficient=coefficient)
    name, width = place.point.name, source.width_at(place.point.name)
    if width != place.width:
        raise BadInput(
            f"{name} has vectors of {place.width} numbers ({place.axis}), the source changes ones of {width}"
        )

    def change(value: Tensor, _: Tensor) -> Tensor:
        return value + float(coefficient) * (source.made_of(value, name) - value)

    return _changing(model, [place], positions, change)


def _changing(
    model: HookedTransformer,
    places: Sequence[VectorPlace],
    positions: Positions | None,
    change: Callable[[Tensor, Tensor], Tensor],
) -> AbstractContextManager[HookedTransformer]:
    """A block within which what is at some positions of the places is what `change` makes of it.

    `change` is given vectors [batch, pos, width] and their positions [pos], counted as in `steer`.
    """
    wanted = _wanted(positions)
    changed, back = False, _counts_back(wanted)

    def write(place: VectorPlace, value: Tensor) -> None:
        nonlocal changed
        this = PASS.get()
        seen = torch.arange(this.past, this.past + value.shape[1], device=value.device)
        chosen = _from_first(wanted, _prompt(model, this), value) if back else wanted
        here = _here(chosen, seen, len(value))
        changed = changed or bool(here.any())
        index = place.index(value)
        value[index] = torch.where(here[..., None], change(value[index], seen), value[index])

    def writer(place: VectorPlace) -> Callable[..., None]:
        return lambda value, hook: write(place, value)

    def begun() -> Scope:
        nonlocal changed
        changed = False
        return model.scope_of([(place.point.name, writer(place)) for place in places])[0]

    def ended(scope: Scope, raised: bool) -> None:
        if not (raised or changed):
            names = ", ".join(place.point.name for place in places[:3])
            raise HookDidNotFire(f"nothing was changed: no pass came by {names} at positions {positions}")

    return Block(model, begun, ended)


def _wanted(positions: Positions | None) -> slice | Int[Tensor, "rows n"]:
    """A slice, or a tensor: [1, n] of positions for all prompts, [batch, n] of each prompt's own."""
    if positions is None:
        return slice(None)
    if isinstance(positions, slice):
        if positions.step not in (None, 1):
            raise BadInput(f"positions must be a slice without a step, got {positions}")
        return positions
    index = as_index("positions", positions)
    return index.reshape(len(index), -1) if isinstance(index, Tensor) else torch.tensor(index).reshape(1, -1)


def _counts_back(wanted: slice | Tensor) -> bool:
    """Whether a position, or an end of the slice, is negative."""
    if isinstance(wanted, slice):
        return any(bound is not None and bound < 0 for bound in (wanted.start, wanted.stop))
    return bool((wanted < 0).any())


def _prompt(model: HookedTransformer, this: Pass) -> Bool[Tensor, "batch pos"] | None:
    """Which tokens are real of the prompts that a pass reads, or that are being continued; None: all of a pass's.

    Raises:
        BadInput: a pass that reads on, of which nobody knows where its prompts ended.
    """
    prompt = PROMPT.get()
    if prompt is None and this.past:
        raise BadInput(
            f"positions that count back do so from the end of a prompt, and this pass reads on after {this.past} "
            "tokens: count from the start, or let model.generate read on"
        )
    return model.padding_of(*this.args, **this.kwargs).real if prompt is None else prompt


def _from_first(
    wanted: slice | Tensor, real: Bool[Tensor, "batch pos"] | None, value: Tensor
) -> slice | Int[Tensor, "rows n"]:
    """Positions [batch, n] that count from the first column, in prompts with these real tokens; a slice as such too."""
    real = torch.ones(value.shape[:2], dtype=torch.bool) if real is None else real.cpu()
    if not isinstance(wanted, slice):
        return torch.where(wanted < 0, counted_back(wanted.clamp(max=-1), real), wanted)
    bounds = (wanted.start, wanted.stop)
    return slice(*(counted_back(torch.tensor([[one]]), real) if one is not None and one < 0 else one for one in bounds))


def _here(wanted: slice | Tensor, places: Int[Tensor, " pos"], batch: int) -> Bool[Tensor, "rows pos"]:
    """Whether each place is one of the positions wanted."""
    if isinstance(wanted, slice):
        bounds = (wanted.start, wanted.stop)
        start, stop = (bound.to(places.device) if isinstance(bound, Tensor) else bound for bound in bounds)
        after = (places >= (0 if start is None else start)).reshape(-1, len(places))
        return after if stop is None else after & (places < stop)
    if len(wanted) not in (1, batch):
        raise BadInput(f"positions= needs one index for each of {batch} prompts; got {len(wanted)}")
    return (wanted.to(places.device)[..., None] == places).any(1)


# ------------------------------------------------------------------------------------------------- directional ablation

WRITERS = frozenset({"W_E", "W_pos", "W_token_type", "W_O", "b_O", "W_out", "b_out"})  # their last axis is d_model


@checked
def ablate_directions(
    model: HookedTransformer,
    directions: Float[Tensor, "*n width"],
    hook: str | Site | None = None,
    *,
    positions: Positions | None = None,
) -> AbstractContextManager[HookedTransformer]:
    """Within the `with` block, no write to the stream has a component along the directions [n, d_model].

    Writes are the embeddings and every attn_out and mlp_out, so that the stream has none at any place either. With
    `hook`, the activation there [batch, pos, width] loses its component along directions [n, width], and nothing else
    does: a name, or a site such as `at("z", 5, head=1)`. `positions` as in `steer`.

    Raises:
        UnknownHook: no such hook.
        BadInput: other directions or sites than these, positions as in `steer`, or, without `hook`, a model whose norms
            write to the stream (norm_placement="post").
        HookDidNotFire: when the block ends, if no pass came by.

    >>> with ablate_directions(model, steering_vector(model, clean, corrupt, "resid_pre1")):
    ...     logits = model(clean)
    """
    if hook is None and model.cfg.norm_placement == "post":
        raise BadInput("in this model the stream passes a norm after every addition, which writes all directions again")
    stream = Stream(model)
    written = [INPUT, *(hook for layer in range(stream.n_layers) for hook in stream.sublayers(layer).values())]
    places = [vector_place(model, one) for one in (written if hook is None else [hook])]
    basis = _basis(directions, places[0].width, places[0].axis)
    return _changing(model, places, positions, lambda value, _: _without(value, basis.to(value)))


@no_gradients
@checked
def orthogonalize(model: HookedTransformer, directions: Float[Tensor, "*n d_model"]) -> HookedTransformer:
    """A copy of the model that cannot write the directions [n, d_model]: exactly `ablate_directions`, by weights.

    Every row of W_E, W_pos (where it is added to the stream), W_O and W_out and every b_O and b_out, experts' included,
    loses its component along them, in at least float32. W_U stays as it is, also where the checkpoint tied it to W_E.

    Raises:
        BadInput: other directions than these, or a model in which something between these weights and the stream could
            write them again; the message says what.

    >>> edited = orthogonalize(model, steering_vector(model, clean, corrupt, "resid_pre1"))
    """
    basis = _basis(directions, model.cfg.d_model, "d_model")
    between = {
        "a norm after every addition": model.cfg.norm_placement == "post",
        "a norm after attention and MLP": model.cfg.writes_normalized,
        "a norm after the embeddings": model.cfg.embed_norm_type is not None,
        "several streams, which are mixed after each layer": model.cfg.n_streams > 1,
        "sinusoidal positions": model.cfg.positional_embedding_type == "sinusoidal",
    }
    if found := [what for what, there in between.items() if there]:
        raise BadInput(f"this model has {found[0]}, so that no weights keep a direction from the stream")
    edited, writers = copy.deepcopy(model), WRITERS if model.cfg.adds_positions else WRITERS - {"W_pos"}
    for name, weight in edited.named_parameters():
        if name.rpartition(".")[2] in writers:
            precise = weight.to(torch.promote_types(weight.dtype, torch.float32))
            weight.copy_(_without(precise, basis.to(precise)))
    return edited


def _basis(directions: Tensor, width: int, axis: str) -> Float[Tensor, "n width"]:
    """An orthonormal basis of what the directions span, which are as wide as an axis."""
    if directions.shape[-1] != width:
        raise BadInput(f"directions must be [n, {axis}={width}], got {list(directions.shape)}")
    return orthonormal(directions)


def _without(value: Tensor, basis: Float[Tensor, "n width"]) -> Tensor:
    return value - value @ basis.T @ basis
