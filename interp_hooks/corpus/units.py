"""Units: what a scan measures at every token, a number each: the neurons of all layers, heads, coordinates, features.

    Units("neuron", hooks=("post",))                 what the hook shows, whose last axes are the units
    Units("head", hooks=("pattern", "v"), of=...)    a function of several activations of one layer

Only the hooks that some units name exist during a scan, and a pass ends after the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput, UnknownHook
from interp_hooks.errors.arguments import checked, told
from interp_hooks.hooks.names import LAYER, get_act_name
from interp_hooks.model.transformer import HookedTransformer

Measure = Callable[[Mapping[str, Tensor], HookedTransformer, int | None], Tensor]


@dataclass(frozen=True)
class Units:
    """Units of a kind, in every layer that has them or in some `layers`.

    `hooks` are short names of activations of a layer ("post"), full names with `{layer}` in place of its number
    ("blocks.{layer}.mlp.shared.hook_post"), or full names, for units outside of layers ("hook_embed"), or that read
    what is elsewhere, too.
    `of(values, model, layer)` makes [row, pos, unit] of the activations, by those names; without it there is one hook,
    [row, pos, ...], whose last axes are the units. `select` keeps some units of every layer. Units are known by their
    `name`: two of one name, in one scan, measure the same.
    """

    name: str
    hooks: tuple[str, ...]
    of: Measure | None = None
    layers: tuple[int, ...] | None = None
    select: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        named = isinstance(self.hooks, tuple | list) and all(isinstance(hook, str) for hook in self.hooks)
        if not (isinstance(self.name, str) and named):
            raise BadInput(
                f"units have a name and a tuple of names of hooks, got {told(self.name)}, {told(self.hooks)}"
            )
        if not self.hooks or (self.of is None and len(self.hooks) > 1):
            raise BadInput(f"{self.name!r} needs one hook, or several and of= to make units of them, got {self.hooks}")

    def places(self, model: HookedTransformer) -> dict[int | None, tuple[str, ...]]:
        """The full names of the hooks, by layer.

        Raises:
            UnknownHook: there is none of that name.
            BadInput: a layer that the model does not have.
        """
        if not any(LAYER in hook for hook in self.hooks) and any(
            "." in hook or get_act_name(hook) in model.hook_dict for hook in self.hooks
        ):
            return {None: tuple(model.points(hook)[0].name for hook in self.hooks)}
        n_layers = model.cfg.n_layers
        if self.layers is not None and (wrong := [one for one in self.layers if not 0 <= one < n_layers]):
            raise BadInput(f"{self.name!r} names layer {wrong[0]}; this model has layers 0..{n_layers - 1}")
        found: dict[int | None, tuple[str, ...]] = {}
        for layer in range(n_layers) if self.layers is None else self.layers:
            names = tuple(hook if _is_full(hook) else get_act_name(hook, layer) for hook in self.hooks)
            if self.layers is not None or all(name in model.hook_dict for name in names):
                found[layer] = tuple(model.points(name)[0].name for name in names)
        if not found:
            model.points(get_act_name(self.hooks[0], 0))  # which says what there is
            raise BadInput(f"no layer of this model has all of {', '.join(self.hooks)}")
        return found

    def exist(self, model: HookedTransformer) -> bool:
        """Whether a model has them."""
        try:
            return bool(self.places(model))
        except (BadInput, UnknownHook):
            return False

    def values(
        self, found: Mapping[str, Tensor], model: HookedTransformer, layer: int | None
    ) -> Float[Tensor, "row pos unit"]:
        """The units of one layer, from activations by the names in `hooks`.

        Raises:
            BadInput: `of` gives something else, or a selected unit does not exist.
        """
        value = found[self.hooks[0]].flatten(2) if self.of is None else self.of(found, model, layer)
        rows = next(iter(found.values())).shape[0]
        if not isinstance(value, Tensor) or value.ndim != 3 or len(value) != rows:
            came = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise BadInput(f"the units {self.name!r} must be [row, pos, unit], got {came}")
        if self.select is None:
            return value
        if not all(0 <= unit < value.shape[2] for unit in self.select):
            raise BadInput(f"{self.name!r} selects units {self.select}; there are 0..{value.shape[2] - 1}")
        return value[..., list(self.select)]

    def told(self) -> dict[str, Any]:
        """What a record keeps of them: all but the function, for which the name stands."""
        return {"name": self.name, "hooks": self.hooks, "layers": self.layers, "select": self.select}


def _is_full(hook: str) -> bool:
    return "." in hook and LAYER not in hook


Part = Literal["mlp", "experts", "shared"]


@checked
def neurons(layers: Sequence[int] | None = None, hook: str = "post", part: Part = "mlp") -> Units:
    """The neurons of all MLPs: what they give on to the output weights ("post"), or another activation of theirs.

    Layers with experts have no neurons of the part "mlp"; `part` chooses their "experts" (all neurons of one expert
    after the other, "post" times the router's weight of the expert, so that it is 0 at tokens that do not pass it) or
    "shared" (the MLP that all pass).
    """
    if part not in get_args(Part):
        raise BadInput(f"part must be one of {', '.join(get_args(Part))}, got {told(part)}")
    of_experts = part == "experts" and hook == "post"
    name = "_".join(["neuron", *([part] if part != "mlp" else []), *([hook] if hook != "post" else [])])
    module = f"blocks.{LAYER}.mlp"
    hooks = {
        "mlp": (hook,),
        "experts": (f"{module}.experts.hook_{hook}", *([f"{module}.hook_expert_weights"] if of_experts else [])),
        "shared": (f"{module}.shared.hook_{hook}",),
    }
    return Units(name, hooks[part], of=_times_weight if of_experts else None, layers=_tuple(layers))


def _times_weight(
    found: Mapping[str, Tensor], model: HookedTransformer, layer: int | None
) -> Float[Tensor, "row pos neuron"]:
    post, weights = found.values()
    return (post * weights[..., None].to(post)).flatten(2)


@checked
def coordinates(hook: str, layers: Sequence[int] | None = None) -> Units:
    """The coordinates of an activation: of "resid_pre", say, or of the outputs of heads in "z", one after the other."""
    return Units(hook, (hook,), layers=_tuple(layers))


def _tuple(layers: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if layers is None else tuple(int(layer) for layer in layers)


class PerPiece(NamedTuple):
    """The largest (or smallest) value of every unit in each piece, where it is, and where the piece begins."""

    values: Float[Tensor, "piece unit"]
    documents: Int[Tensor, " piece"]
    positions: Int[Tensor, "piece unit"]
    starts: Int[Tensor, " piece"]


@dataclass(frozen=True)
class Seen:
    """What a reducer is given of one pass: the values [token, unit] of some units in one layer, at counted tokens.

    Tokens of a piece of a document stand together, in order; `pieces` numbers the pieces. `tokens` are ids,
    `documents` and `positions` say where in the corpus they are.
    """

    values: Float[Tensor, "token unit"]
    tokens: Int[Tensor, " token"]
    documents: Int[Tensor, " token"]
    positions: Int[Tensor, " token"]
    pieces: Int[Tensor, " token"]
    layer: int | None

    def per_piece(self, sign: int = 1) -> PerPiece:
        """The largest value of every unit in each piece (with sign -1, the smallest), and where it is.

        Of equal values the first counts.
        """
        if sign not in self._found:
            self._found[sign] = self._per_piece(sign)
        return self._found[sign]

    @cached_property
    def _found(self) -> dict[int, PerPiece]:
        return {}

    def _per_piece(self, sign: int) -> PerPiece:
        _, sizes = self.pieces.unique_consecutive(return_counts=True)
        starts = sizes.cumsum(0) - sizes
        values, places = [], []
        for start, part in zip(starts.tolist(), self.values.split(sizes.tolist()), strict=True):
            found = part.max(0) if sign > 0 else part.min(0)
            values.append(found.values)
            places.append(found.indices + start)
        at = torch.stack(places)
        return PerPiece(torch.stack(values), self.documents[starts], self.positions[at], self.positions[starts])
