"""When a training changed abruptly: what moved within one doubling of its steps, and neither before nor after it.

A curve y is read against u = log2(1 + step), straight between checkpoints. Its move in the doubling from u to u + 1 is
a phase change if

    1   it is `sharpness` (2) times as large as what y moved the same way in the doubling before, and in that after;
    2   it is `z` (7) times as large as its noise;
    3   it is at least `least` (5%) of the range of all that the measure gave.

Where learning just slows down, there is none: of exp(-step / t) a doubling moves at most 1/4 of all, and at most 1.25
times as much as the larger of its neighbours, and of power laws (1 + step / t) ** -a less; sharpness 2 is a logistic
curve in u whose move from 10% to 90% takes 2.4 doublings. Olsson et al. 2022 (In-context Learning and Induction Heads,
arxiv.org/abs/2209.11895) found induction heads to form between 2.5 and 5 billion tokens, which is one doubling; the
thresholds are ours. The noise is that of two checkpoints, whose variance is the median one of pseudo-residuals, what a
checkpoint is above the line between its neighbours (Gasser, Sroka and Jennen-Steinmetz 1986, Biometrika 73), and that
of the mean over rows of tokens, where there are several.

Between checkpoints more than a doubling apart a curve may have moved at any time, so that neighbours count with all
that it moved there. A change between such checkpoints, or at either end, where one of the neighbouring doublings was
not seen by half, cannot be told from a slow one, and is not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.experiments.results.kept import Kept
from interp_hooks.hooks.tables import pd
from interp_hooks.studies.training_runs.watching import WatchedTraining, curves_of

FEWEST = 6  # checkpoints
NORMAL = 1.4826  # times the median absolute deviation is the standard deviation of a normal distribution
AT_ONCE = 0.5  # doublings; changes whose middles lie no further apart are one event
SEEN = 0.5  # doublings that there must be on either side
APART = 1 / 8  # doublings between those that are tried
ROUNDING = 1e-6  # of a measure's range, below which nothing counts as noise or as a move


@dataclass(frozen=True, kw_only=True)
class PhaseChange:
    """A move of one cell of a measure between two steps, `begin` and `end`, checkpoints around one doubling.

    `at` is the step by which half of the move was done, `before` and `after` the curve at the ends of the doubling,
    `share` the move as a part of the measure's range, `sharpness` the move over the larger of those of the doublings
    before and after it (infinite where these go nowhere or back), `z` the move over its noise. Changes with the same
    `event`, which are counted from 1 in the order of time, came together.
    """

    measure: str
    cell: str
    begin: int
    at: float
    end: int
    before: float
    after: float
    share: float
    sharpness: float
    z: float
    event: int = 1

    @property
    def move(self) -> float:
        """How much the curve moved, up or down."""
        return self.after - self.before

    def to_json(self) -> dict[str, Any]:
        """The fields, to be saved."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PhaseChanges(Kept):
    """The phase changes of a training, those that moved most of their measure's range first; prints as its table."""

    found: Sequence[PhaseChange]
    checkpoints: int

    def table(self) -> pd.DataFrame:
        """A row for each: the event it belongs to, where and when, from what to what, and how sharp and sure it is."""
        columns = ["event", "measure", "cell", "begin", "at", "end", "before", "after", "share", "sharpness", "z"]
        return pd.DataFrame([[getattr(one, name) for name in columns] for one in self.found], columns=columns)

    def events(self) -> list[list[PhaseChange]]:
        """The changes by event, the earliest event first; in each, those that moved most first."""
        return [[one for one in self.found if one.event == event] for event in range(1, 1 + self._events)]

    @classmethod
    def _read(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {"found": [PhaseChange(**one) for one in fields["found"]]}

    @property
    def _events(self) -> int:
        return max((one.event for one in self.found), default=0)

    def __repr__(self) -> str:
        return super().__repr__() if self.found else f"no phase change in {self.checkpoints} checkpoints"


@checked
def phase_changes(
    watched: WatchedTraining,
    measures: Sequence[str] | None = None,
    *,
    sharpness: float = 2.0,
    z: float = 7.0,
    least: float = 0.05,
) -> PhaseChanges:
    """The moves within one doubling of steps that are much larger than those before and after, by the rule above.

    Of 12,000 noisy curves that were drawn without such a change (exponential, power laws, wide logistic, logarithmic,
    nothing but noise; 18 or 29 checkpoints), 0.3% had one by these thresholds: of a measure with hundreds of cells,
    expect one in error. A change whose doubling overlaps with that of a larger one of its curve is left out.
    Sizes are parts of a measure's own range: where that is small in the end, so are changes that are most of it.

    Raises:
        BadInput: fewer than 6 checkpoints, thresholds out of range, or a measure that there is not.

    >>> from interp_hooks.studies import phase_changes, usual_measures, watch_training
    >>> from interp_hooks import HookedTransformer
    >>> trained = HookedTransformer.from_pretrained("induction-steps", device="cpu")
    >>> watched = watch_training("induction-steps", usual_measures(trained, n=4))
    >>> {"repetition_loss", "induction"} <= {change.measure for change in phase_changes(watched).found}
    True
    """
    refuse_few(len(watched.steps))
    if sharpness < 1 or z <= 0 or not 0 <= least <= 1:
        raise BadInput(
            f"sharpness must be at least 1, z above 0 and least within 0..1, got {sharpness}, {z} and {least}"
        )
    steps = np.asarray(watched.steps, dtype=np.float64)
    u = np.log2(1 + steps)
    found = []
    for name in watched.results if measures is None else measures:
        result = watched[name]
        labels, curves = curves_of(result)
        whole = float(curves.max() - curves.min())
        rows = result.values.double().reshape(len(steps), len(labels), -1)
        for cell, label in enumerate(labels):
            moves = _moves(u, rows[:, cell], max(least, ROUNDING) * whole, ROUNDING * whole)
            kept = _apart([one for one in moves if one.sharpness >= sharpness and one.z >= z])
            found += [_change(name, label, watched.steps, curves[:, cell].numpy(), one, whole) for one in kept]
    return PhaseChanges(found=_in_events(found), checkpoints=len(steps))


def refuse_few(checkpoints: int) -> None:
    """Raises BadInput if changes cannot be told from so few checkpoints."""
    if checkpoints < FEWEST:
        raise BadInput(f"phase changes need at least {FEWEST} checkpoints, got {checkpoints}")


class _Move(NamedTuple):
    """What a curve moves in the doubling from `start` on, in u, and how that compares."""

    start: float
    size: float
    sharpness: float
    z: float


def _moves(u: np.ndarray, rows: Float[Tensor, "step row"], least: float, rounding: float) -> list[_Move]:
    """The moves of more than `least` in all doublings that begin or end at a checkpoint, between which none is larger,
    and in others, which may lie better between their neighbours; noise below `rounding` counts as that."""
    each, n = rows.numpy(), rows.shape[1]
    y, noise = each.mean(1), _noise(u, each.mean(1))
    starts = np.unique(np.concatenate((u, u - 1, np.arange(u[0], u[-1], APART))))
    starts = starts[(starts - u[0] >= SEEN) & (u[-1] - starts - 1 >= SEEN)]
    sizes = np.interp(starts + 1, u, y) - np.interp(starts, u, y)
    found = []
    for start, size in zip(starts, sizes, strict=True):
        if not abs(size) > least:
            continue
        seen = min(1.0, start - u[0]), min(1.0, u[-1] - start - 1)
        way = np.sign(size) * y
        beside = max(
            _most(u, way, start - seen[0], start) / seen[0], _most(u, way, start + 1, start + 1 + seen[1]) / seen[1]
        )
        of_rows = _between(u, each, start + 1) - _between(u, each, start)
        error = of_rows.std(ddof=1) / n**0.5 if n > 1 else 0.0
        spread = max((2 * noise**2 + error**2) ** 0.5, rounding)
        sharp = abs(size) / beside if beside > 0 else float("inf")
        found.append(_Move(float(start), float(size), float(sharp), float(abs(size) / spread)))
    return found


def _noise(u: np.ndarray, y: np.ndarray) -> float:
    """The standard deviation of a checkpoint, from its distance to the line between its neighbours."""
    left = (u[2:] - u[1:-1]) / (u[2:] - u[:-2])
    apart = left * y[:-2] + (1 - left) * y[2:] - y[1:-1]
    return NORMAL * float(np.median(np.abs(apart) / np.sqrt(left**2 + (1 - left) ** 2 + 1)))


def _most(u: np.ndarray, y: np.ndarray, start: float, end: float) -> float:
    """The most that a curve can have gone up from a place to another: between checkpoints more than a doubling apart it
    may have done so anywhere, between others it goes straight."""
    width, step = np.diff(u), np.diff(y)
    shared = np.clip(np.minimum(u[1:], end) - np.maximum(u[:-1], start), 0, None)
    parts = np.where(width > 1, shared > 0, shared / width)
    anywhere = np.where(width > 1, np.maximum(step, 0), step)
    return max(0.0, float((parts * anywhere).sum()))


def _between(u: np.ndarray, rows: np.ndarray, at: float) -> np.ndarray:
    """The values of all rows [step, row] at a place between checkpoints."""
    right = int(np.clip(np.searchsorted(u, at), 1, len(u) - 1))
    part = (at - u[right - 1]) / (u[right] - u[right - 1])
    return (1 - part) * rows[right - 1] + part * rows[right]


def _change(measure: str, cell: str, steps: Sequence[int], y: np.ndarray, move: _Move, whole: float) -> PhaseChange:
    """A move as a change between checkpoints: where a tenth, a half and nine tenths of it were done."""
    u = np.log2(1 + np.asarray(steps, dtype=np.float64))
    places = np.linspace(move.start, move.start + 1, 513)
    values = np.interp(places, u, y)
    part = (values - values[0]) / (values[-1] - values[0])
    half = int(np.argmax(part >= 0.5))
    begin = places[np.flatnonzero(part[: half + 1] <= 0.1)[-1]]
    end = places[half + int(np.argmax(part[half:] >= 0.9))]
    return PhaseChange(
        measure=measure,
        cell=cell,
        begin=steps[int(np.searchsorted(u, begin, side="right")) - 1],
        at=float(2 ** places[half] - 1),
        end=steps[int(np.searchsorted(u, end, side="left"))],
        before=float(values[0]),
        after=float(values[-1]),
        share=abs(move.size) / whole,
        sharpness=move.sharpness,
        z=move.z,
    )


def _apart(moves: Sequence[_Move]) -> list[_Move]:
    """The largest moves of a curve whose doublings do not overlap."""
    kept: list[_Move] = []
    for move in sorted(moves, key=lambda one: -abs(one.size)):
        if all(abs(move.start - other.start) >= 1 for other in kept):
            kept.append(move)
    return kept


def _in_events(found: Sequence[PhaseChange]) -> list[PhaseChange]:
    """The changes, largest share first, with the numbers of their events in the order of time."""
    ordered = sorted(found, key=lambda one: -one.share)
    middles: list[float] = []
    member: list[int] = []
    for one in ordered:
        u = float(np.log2(1 + one.at))
        near = [event for event, middle in enumerate(middles) if abs(u - middle) <= AT_ONCE]
        member.append(near[0] if near else len(middles))
        middles += [] if near else [u]
    rank = {event: place for place, event in enumerate(sorted(range(len(middles)), key=middles.__getitem__), start=1)}
    return [replace(one, event=rank[event]) for one, event in zip(ordered, member, strict=True)]
