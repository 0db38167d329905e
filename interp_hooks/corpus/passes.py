"""The passes of a scan: rows go through the model once, and what hooks show is reduced as soon as it is complete.

These passes are made here and not by the engine: nothing is changed in them, and values are let go as they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.corpus.packing import Rows
from interp_hooks.corpus.reducers.base import Merges, Reducer, States
from interp_hooks.corpus.units import Seen, Units
from interp_hooks.errors import BadInput
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.points import HookPoint, Watcher
from interp_hooks.model.transformer import HookedTransformer


class _Ended(Exception):
    """The pass has come to the last hook that somebody reads."""


@runtime_checkable
class Reads(Protocol):
    """What a scan does with some rows: passes of some kind, which give states that merge, and maybe values to keep."""

    @property
    def reducers(self) -> Mapping[str, Merges]:
        """How its states merge, by name."""
        ...

    @property
    def keep(self) -> Sequence[Units]:
        """The units whose values are kept."""
        ...

    def read(self, rows: Rows) -> tuple[States, dict[str, Tensor]]:
        """The states that some rows give, and the values that are kept of them."""
        ...


@dataclass
class Reading:
    """The passes of a scan: which hooks are read, and what becomes of their values."""

    model: HookedTransformer
    reducers: Mapping[str, Reducer]
    keep: Sequence[Units]

    def __post_init__(self) -> None:
        kinds: dict[str, Units] = {}
        for units in [*(reducer.units for reducer in self.reducers.values()), *self.keep]:
            same = kinds.setdefault(units.name, units)
            if same != units:
                raise BadInput(f"two kinds of units are named {units.name!r}; give one of them another name")
        self.groups = [
            _Group(units, layer, hooks) for units in kinds.values() for layer, hooks in units.places(self.model).items()
        ]
        self.hooks = list(dict.fromkeys(hook for group in self.groups for hook in group.hooks))

    def read(self, rows: Rows) -> tuple[States, dict[str, Tensor]]:
        """One pass over some rows: the states of all reducers, and the values of units that are kept."""
        if not bool(rows.counted.any()):
            return {}, {}
        device = self.model.device
        flat = rows.counted.flatten().nonzero()[:, 0]
        where = {name: getattr(rows, name).flatten()[flat] for name in ("tokens", "documents", "positions", "pieces")}
        order = where["pieces"].argsort(stable=True)
        watcher = _Watch(self, flat[order].to(device), {name: one[order].to(device) for name, one in where.items()})
        with torch.no_grad(), suppress(_Ended):
            self.model.run_with_hooks(
                rows.tokens.to(device),
                return_type="logits" if any(hook.startswith("unembed.") for hook in self.hooks) else None,
                **rows.told_apart(device),
                fwd_hooks=[(hook, watcher) for hook in self.hooks],
            )
        return watcher.states, watcher.kept


@no_gradients
def counted_values(
    model: HookedTransformer, rows: Rows, hooks: Iterable[str], stop_at_layer: int | None
) -> dict[str, Float[Tensor, "token ..."]]:
    """What hooks show in a pass over some rows, at the tokens that count; up to a layer, or with the logits."""
    found, counted = dict[str, Tensor](), rows.counted.to(model.device)

    def keep(value: Tensor, hook: HookPoint) -> None:
        found[hook.name] = value[counted.to(value.device)]

    model.run_with_hooks(
        rows.tokens.to(model.device),
        **rows.told_apart(model.device),
        stop_at_layer=stop_at_layer,
        return_type=None if stop_at_layer is not None else "logits",
        fwd_hooks=[(hook, keep) for hook in hooks],
    )
    return found


@dataclass
class _Group:
    """Units of one layer, and the full names of the hooks that they are made of."""

    units: Units
    layer: int | None
    hooks: tuple[str, ...]


class _Watch(Watcher):
    """What looks at one pass: as soon as all hooks of a group have been shown, its units are reduced and let go."""

    def __init__(self, reading: Reading, flat: Tensor, where: Mapping[str, Tensor]) -> None:
        self.reading, self.flat, self.where = reading, flat, where
        self.waiting = list(reading.groups)
        self.values: dict[str, Tensor] = {}
        self.states: States = {name: {} for name in reading.reducers}
        self.kept: dict[str, Tensor] = {}

    def __call__(self, value: Tensor, hook: HookPoint) -> None:
        self.values[hook.name] = value
        for group in [one for one in self.waiting if all(name in self.values for name in one.hooks)]:
            self.waiting.remove(group)
            self._reduce(group)
        needed = {name for group in self.waiting for name in group.hooks}
        self.values = {name: one for name, one in self.values.items() if name in needed}
        if not self.waiting:
            raise _Ended

    def _reduce(self, group: _Group) -> None:
        units = group.units
        found = {short: self.values[full] for short, full in zip(units.hooks, group.hooks, strict=True)}
        values = units.values(found, self.reading.model, group.layer).flatten(0, 1)
        values = values[self.flat.to(values.device)]
        if not bool(values.sum(dtype=torch.float32).isfinite()):
            raise BadInput(
                f"{' and '.join(group.hooks)} give values of {units.name!r} that are not finite; look for infinite or "
                "nan weights and activations"
            )
        if units in self.reading.keep:
            where = {name: self.where[name].cpu() for name in ("documents", "positions")}
            name = units.name if group.layer is None else f"{units.name}.{group.layer}"
            self.kept |= {name: values.cpu(), **where}
        precise = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
        seen = Seen(precise, **{name: one.to(values.device) for name, one in self.where.items()}, layer=group.layer)
        for name, reducer in self.reading.reducers.items():
            if reducer.units == units:
                self.states[name][group.layer] = reducer.reduce(seen)
