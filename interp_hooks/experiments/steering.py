"""Steering: add a direction to the stream while the model reads and writes, or take one away for good.

    steer               activation + coefficient * vector, at some positions or at every token that is read or written
    ablate_directions   every write to the stream loses its component along the directions, by hooks
    orthogonalize       the same by weights: W (1 - V V^T) for every matrix and bias that writes to the stream

Vectors are differences of means over contrasting prompts (Turner et al. 2023, arxiv.org/abs/2308.10248; Rimsky et al.
2024, arxiv.org/abs/2312.06681). Directional ablation is that of Arditi et al. 2024 (arxiv.org/abs/2406.11717).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput, HookDidNotFire
from interp_hooks.experiments.sweep import labels_of
from interp_hooks.hooks import HookPoint
from interp_hooks.interventions import Prompts, Run, Site, as_run, at, orthonormal
from interp_hooks.model import HookedTransformer
from interp_hooks.readout import Readout
from interp_hooks.results import Result

# -------------------------------------------------------------------------------------------------------------- vectors


@torch.no_grad()
def steering_vector(
    model: HookedTransformer, positive: Prompts, negative: Prompts, hook: str, *, pos: int | Tensor | None = -1
) -> Float[Tensor, "*pos width"]:
    """The mean activation on the `positive` prompts minus that on the `negative` ones, at one position of each.

    A negative `pos` counts from the last real token; a tensor [batch] has one for each prompt. With `pos=None` all
    positions are kept, [pos, width], and all prompts need as many tokens. Means are taken in float64.

    Raises:
        UnknownHook: no such hook.
        BadInput: a hook other than [batch, pos, width], or prompts without that position.
    """
    name = _stream_like(model, hook).name
    means = [_mean(model, as_run(model, prompts), name, pos) for prompts in (positive, negative)]
    if means[0].shape != means[1].shape:
        lengths = " and ".join(str(len(mean)) for mean in means)
        raise BadInput(f"the prompts have {lengths} tokens; to subtract position by position make them equally long")
    return (means[0] - means[1]).to(model.dtype)


def _mean(model: HookedTransformer, run: Run, name: str, pos: int | Tensor | None) -> Tensor:
    value = _activations(model, run, [name])[0].double()
    if pos is not None:
        rows = Readout(pos=pos).positions(run).to(value.device)
        return value[torch.arange(len(value), device=value.device), rows[:, 0]].mean(0)
    if run.attention_mask is not None and not bool(run.attention_mask.all()):
        raise BadInput("prompts of unequal length have no common positions; pass pos=, or make them equally long")
    return value.mean(0)


def _activations(model: HookedTransformer, run: Run, names: Sequence[str]) -> list[Tensor]:
    _, seen = model.run_with_cache(
        run.tokens,
        attention_mask=run.attention_mask,
        names_filter=list(names),
        return_type=None,
        return_cache_object=False,
    )
    return [seen[name] for name in names]


@torch.no_grad()
def relative_norm(
    model: HookedTransformer,
    prompts: Prompts,
    vector: Float[Tensor, " width"],
    site: str = "resid_pre",
    *,
    layers: Sequence[int] | None = None,
) -> Result:
    """The vector's length over that of the activation it is added to, for each layer and prompt.

    The latter is the median over real positions, since the first token's is often a hundred times that of others.
    Streams grow from layer to layer, so one coefficient does not mean the same in all of them.
    """
    run = as_run(model, prompts)
    labels = labels_of(model, site, ["layer"], run.tokens.shape[1], layers)
    points = [_stream_like(model, at(site, layer).hook) for layer in labels["layer"]]
    size = points[0].sizes[points[0].axes[-1]]
    if len(vector) != size:
        raise BadInput(f"the vector has {len(vector)} numbers; {points[0].name} has {size}")
    norms = torch.stack([value.norm(dim=-1) for value in _activations(model, run, [point.name for point in points])])
    if run.attention_mask is not None:
        norms = norms.masked_fill(~run.attention_mask.bool(), torch.nan)
    return Result(metric="relative_norm", axes=labels, values=vector.to(norms).norm() / norms.nanmedian(-1).values)


# ------------------------------------------------------------------------------------------------------------- steering

Positions = int | Sequence[int] | slice | Tensor


@contextmanager
def steer(
    model: HookedTransformer,
    vector: Float[Tensor, "*pos width"],
    hook: str,
    *,
    coefficient: float = 1.0,
    positions: Positions | None = None,
) -> Iterator[HookedTransformer]:
    """Within the `with` block, add `coefficient * vector` to the activation at `hook` ("resid_pre6", "mlp_out3", ...).

    `positions` are counted from the start of each row, padding included, also while `model.generate` reads on with or
    without its cache: an index, a list, a tensor [batch] of one for each prompt, or a slice. None is every token that
    is read; `slice(n, None)` every one after the first n. A vector [pos, width] is added row i at position i.

    Raises:
        UnknownHook: no such hook.
        BadInput: a hook other than [batch, pos, width], a vector of another width, a negative position.
        HookDidNotFire: when the block ends, if no position was steered.
    """
    point = _stream_like(model, hook)
    wanted = _wanted(point, vector, positions)
    past, steered = 0, False

    def count(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal past
        cache = kwargs.get("past_kv_cache")
        past = 0 if cache is None else cache.length

    def add(value: Tensor, hook: HookPoint) -> Tensor:
        nonlocal steered
        places = torch.arange(past, past + value.shape[1], device=value.device)
        here = _here(wanted, places, len(value))
        steered = steered or bool(here.any())
        rows = vector.to(value)
        rows = rows if rows.ndim == 1 else rows[places.clamp(max=len(rows) - 1)]
        return value + coefficient * rows * here[..., None]

    counting = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        with model.hooks(fwd_hooks=[(point.name, add)]):
            yield model
    finally:
        counting.remove()
    if not steered:
        raise HookDidNotFire(f"nothing was steered: no pass came by {point.name} at positions {positions}")


def _stream_like(model: HookedTransformer, hook: str) -> HookPoint:
    """The hook point [batch, pos, width] of that name."""
    (point,) = model.points(hook)
    if len(point.axes) != 3 or point.axes[1] != "pos":
        raise BadInput(f"a vector for each position needs a hook [batch, pos, width]; {point.name} is {point.axes}")
    return point


def _wanted(point: HookPoint, vector: Tensor, positions: Positions | None) -> slice | Int[Tensor, "rows n"]:
    """A slice, or a tensor: [1, n] of positions for all prompts, [batch, 1] of one for each."""
    size = point.sizes[point.axes[-1]]
    if vector.ndim not in (1, 2) or vector.shape[-1] != size:
        raise BadInput(f"{point.name} needs a vector of {size} numbers ({point.axes[-1]}), got {list(vector.shape)}")
    if vector.ndim == 2 and positions is not None:
        raise BadInput("a vector [pos, width] says by itself where it is added; positions= is for one vector [width]")
    if positions is None:
        return slice(0, len(vector) if vector.ndim == 2 else None)
    if isinstance(positions, slice):
        bounds = [bound for bound in (positions.start, positions.stop) if bound is not None]
        listed = torch.tensor(bounds, dtype=torch.long)
        if positions.step not in (None, 1):
            raise BadInput(f"positions must be a slice without a step, got {positions}")
    else:
        index = Site(hook="", select={"pos": positions}).select["pos"]
        listed = index[:, None] if isinstance(index, Tensor) else torch.tensor(index).reshape(1, -1)
    if bool((listed < 0).any()):
        raise BadInput("positions are counted from the start: what is generated moves the end of the row")
    return positions if isinstance(positions, slice) else listed


def _here(wanted: slice | Tensor, places: Int[Tensor, " pos"], batch: int) -> Bool[Tensor, "rows pos"]:
    """Whether each place is one of the positions wanted."""
    if isinstance(wanted, slice):
        after = places >= (wanted.start or 0)
        return (after if wanted.stop is None else after & (places < wanted.stop))[None]
    if len(wanted) not in (1, batch):
        raise BadInput(f"positions= needs one index for each of {batch} prompts; got {len(wanted)}")
    return (wanted.to(places.device)[..., None] == places).any(1)


# ------------------------------------------------------------------------------------------------- directional ablation

WRITERS = frozenset({"W_E", "W_pos", "W_token_type", "W_O", "b_O", "W_out", "b_out"})  # their last axis is d_model


@contextmanager
def ablate_directions(model: HookedTransformer, directions: Float[Tensor, "*n d_model"]) -> Iterator[HookedTransformer]:
    """Within the `with` block, no write to the stream has a component along the directions [n, d_model].

    Writes are the embeddings and every attn_out and mlp_out, so that the stream has none at any place either.

    Raises:
        BadInput: other directions than these, or a model whose norms write to the stream (norm_placement="post").
    """
    basis = _of_stream(model, directions)
    if model.cfg.norm_placement == "post":
        raise BadInput("in this model the stream passes a norm after every addition, which writes all directions again")

    def project(value: Tensor, hook: HookPoint) -> Tensor:
        return _without(value, basis.to(value))

    written = ("hook_attn_out", "hook_mlp_out", "blocks.0.hook_resid_pre")
    with model.hooks(fwd_hooks=[(lambda name: name.endswith(written), project)]):
        yield model


@torch.no_grad()
def orthogonalize(model: HookedTransformer, directions: Float[Tensor, "*n d_model"]) -> HookedTransformer:
    """A copy of the model that cannot write the directions [n, d_model]: exactly `ablate_directions`, by weights.

    Every row of W_E, W_pos, W_O and W_out and every b_O and b_out, experts' included, loses its component along them,
    in at least float32. W_U stays as it is, also where the checkpoint tied it to W_E.

    Raises:
        BadInput: other directions than these, or a model in which something between these weights and the stream could
            write them again; the message says what.
    """
    basis = _of_stream(model, directions)
    between = {
        "a norm after every addition": model.cfg.norm_placement == "post",
        "a norm after attention and MLP": model.cfg.writes_normalized,
        "a norm after the embeddings": model.cfg.embed_norm_type is not None,
        "sinusoidal positions": model.cfg.positional_embedding_type == "sinusoidal",
    }
    if found := [what for what, there in between.items() if there]:
        raise BadInput(f"this model has {found[0]}, so that no weights keep a direction from the stream")
    edited = copy.deepcopy(model)
    for name, weight in edited.named_parameters():
        if name.rpartition(".")[2] in WRITERS:
            precise = weight.to(torch.promote_types(weight.dtype, torch.float32))
            weight.copy_(_without(precise, basis.to(precise)))
    return edited


def _of_stream(model: HookedTransformer, directions: Tensor) -> Float[Tensor, "n d_model"]:
    """An orthonormal basis of directions of the stream."""
    if directions.shape[-1] != model.cfg.d_model:
        raise BadInput(f"directions must be [n, d_model={model.cfg.d_model}], got {list(directions.shape)}")
    return orthonormal(directions)


def _without(value: Tensor, basis: Float[Tensor, "n d_model"]) -> Tensor:
    return value - value @ basis.T @ basis
