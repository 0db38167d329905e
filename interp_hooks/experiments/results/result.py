"""What experiments and analyses return: a number for each cell of a labelled grid and each prompt.

result.values [layer, pos, prompt]   result.mean [layer, pos]   result.table(): a row for each cell
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput, nearest
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.experiments.results.archive import Json, Packing, Unpacking
from interp_hooks.experiments.results.folders import CALL, RESULT, read, replacing, whole, write
from interp_hooks.experiments.results.intervals import Interval, bootstrapped
from interp_hooks.experiments.results.record import Record, record_in
from interp_hooks.experiments.results.shown import ROWS, as_html, made_by
from interp_hooks.model.tensor_files import holds
from interp_hooks.model.transformer import HookedTransformer

if TYPE_CHECKING:
    import pandas as pd

    from interp_hooks.interventions.readout import MetricLike

AGREE = 1e-6  # relative difference below which two baselines count as equal
PARTS_IN_0_1 = ".direct_logit_attribution"  # whose saved results did not say yet that their rows are parts


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result:
    """Values [*axes, prompt] of a metric, with the labels of every axis.

    `baselines` are the metric's values [prompt] without the experiment, by name. `scale`, if given, names the two
    baselines that count as 0 and as 1 in `recovered_fraction`. `parts_of` names the baseline of which the cells are
    parts, instead of being values of the metric themselves. `changed` tells, for each cell in the table's order, which
    of its interventions made a difference where they were made. `record` is how all this came about. A result prints
    as its table.

    >>> result = patch(model, clean, corrupt, metric, "mlp_out", over=("layer",), progress=False)
    >>> result.save("mlps")
    >>> Result.load("mlps").table().columns.tolist()
    ['layer', 'logit_diff', 'standard_error', 'change', 'recovered_fraction', 'changed']
    """

    metric: str
    axes: Mapping[str, Sequence[Any]]
    values: Float[Tensor, "*grid prompt"]
    baselines: Mapping[str, Float[Tensor, " prompt"]] = field(default_factory=dict)
    scale: tuple[str, str] | None = None
    parts_of: str | None = None
    changed: Sequence[Sequence[bool]] | None = field(default=None, repr=False)
    record: Record | None = field(default=None, repr=False)

    @property
    def mean(self) -> Float[Tensor, "*grid"]:
        """The mean over prompts."""
        return self.values.mean(-1)

    @property
    def standard_error(self) -> Float[Tensor, "*grid"]:
        """The standard error of that mean; nan for a single prompt."""
        n = self.values.shape[-1]
        return self.values.std(-1) / n**0.5 if n > 1 else self.values[..., 0] * float("nan")

    @property
    def reference(self) -> str | None:
        """The name of the baseline that cells are a change of: the one that counts as 0, or else the only one, if any.

        None if cells are parts of something.
        """
        if self.scale is not None:
            return self.scale[0]
        return next(iter(self.baselines)) if len(self.baselines) == 1 and self.parts_of is None else None

    @property
    def change(self) -> Float[Tensor, "*grid"]:
        """The mean of each cell minus that of the baseline `reference`: what the cell's intervention does.

        Raises:
            BadInput: there is no such baseline.
        """
        if self.reference is None:
            names = f"{', '.join(self.baselines) or 'none'}" + (", of which its cells are parts" * bool(self.parts_of))
            raise BadInput(f"a change needs one baseline, this result has {names}")
        return self.mean - self.baselines[self.reference].mean()

    @property
    def recovered_fraction(self) -> Float[Tensor, "*grid"]:
        """Where each cell lies between the two baselines of `scale`: (mean - zero) / (one - zero), of means.

        All nan with `nothing_to_recover`: if the baselines agree; `note` says so.
        """
        zero, one = (float(baseline.mean()) for baseline in self._scale())
        if self.nothing_to_recover:
            return self.mean * float("nan")
        return (self.mean - zero) / (one - zero)

    @property
    def recovered_by_prompt(self) -> Float[Tensor, "*grid prompt"]:
        """The same for every prompt between its own two baselines; nan for prompts whose baselines agree.

        Their mean is not `recovered_fraction`: prompts with a small difference between the baselines weigh as much
        here as the others, and are as noisy as it is small.
        """
        zero, one = self._scale()
        fraction = (self.values - zero) / (one - zero)
        return fraction.masked_fill(_agree(zero, one), float("nan"))

    @property
    def nothing_to_recover(self) -> bool:
        """Whether there is a scale whose two baselines agree."""
        return self.scale is not None and bool(_agree(*(baseline.mean() for baseline in self._scale())))

    @property
    def note(self) -> str:
        """What may be misread, or ''.

        Equal baselines; interventions that all changed nothing; parts of something that is not the model's own value.
        """
        notes = []
        if self.parts_of not in (None, "model") and "model" in self.baselines:
            whole, own = (float(self.baselines[name].mean()) for name in (self.parts_of, "model"))
            notes.append(f"cells are parts of {self.parts_of} ({whole:.4g}), and do not sum to model ({own:.4g})")
        if self.scale is not None and self.nothing_to_recover:
            names, same = " and ".join(self.scale), float(self._scale()[0].mean())
            notes.append(f"{names} give the same mean {self.metric} ({same:.4g}), so there is no difference to recover")
        did = list(itertools.chain.from_iterable(self.changed or []))
        if did and not any(did):
            notes.append("no intervention changed anything: everywhere, what was put there was there already")
        return "; ".join(notes)

    @checked
    def interval(
        self,
        level: float = 0.95,
        samples: Count = 1000,
        generator: torch.Generator | None = None,
        *,
        recovered: bool = False,
    ) -> Interval:
        """A bootstrap percentile interval of each cell's mean, or of its recovered fraction.

        Prompts are drawn with replacement `samples` times, the same ones for all cells and baselines, so that the
        uncertainty of the baselines is part of that of the fraction. All nan for a single prompt; with few prompts such
        intervals are too narrow (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13).

        Raises:
            BadInput: a level outside 0..1, no samples, or a fraction without a scale.
        """
        if not 0 < level < 1:
            raise BadInput(f"level must lie between 0 and 1, got {level}")
        if samples < 1:
            raise BadInput(f"samples must be at least 1, got {samples}")
        scale = torch.stack(self._scale()) if recovered else None
        if self.values.shape[-1] == 1 or (recovered and self.nothing_to_recover):
            ends = self.mean * float("nan"), self.mean * float("nan")
        else:
            ends = bootstrapped(self.values, scale, level, samples, generator)
        return Interval(*ends, self.axes)

    def _scale(self) -> tuple[Tensor, Tensor]:
        """The two baselines [prompt] that count as 0 and as 1."""
        if self.scale is None:
            raise BadInput("this result has no two baselines to compare with")
        zero, one = (self.baselines[name] for name in self.scale)
        return zero, one

    @checked
    def table(
        self, interval: float | None = None, samples: Count = 1000, generator: torch.Generator | None = None
    ) -> pd.DataFrame:
        """A row for each cell: its labels, the mean over prompts, its standard error, the change, and the fraction.

        The change is that of the mean, from the baseline `reference`; the fraction is the recovered one. With
        `interval` (a level such as 0.95) also the ends of the bootstrap intervals: `lower` and `upper` of the mean,
        `recovered_lower` and `recovered_upper` of the fraction. Where it is known, `changed` tells whether any of the
        cell's interventions made a difference.
        """
        import pandas as pd

        cells = self._cells
        columns: dict[str, Any] = {axis: [cell[i] for cell in cells] for i, axis in enumerate(self.axes)}
        columns[self.metric] = self.mean.flatten().tolist()
        columns["standard_error"] = self.standard_error.flatten().tolist()
        if interval is not None:
            ends = self.interval(interval, samples, generator)
            columns |= {"lower": ends.lower.flatten().tolist(), "upper": ends.upper.flatten().tolist()}
        if self.reference is not None:
            columns["change"] = self.change.flatten().tolist()
        if self.scale is not None:
            columns["recovered_fraction"] = self.recovered_fraction.flatten().tolist()
            if interval is not None:
                ends = self.interval(interval, samples, generator, recovered=True)
                columns["recovered_lower"] = ends.lower.flatten().tolist()
                columns["recovered_upper"] = ends.upper.flatten().tolist()
        if self.changed is not None:
            columns["changed"] = [any(did) for did in self.changed]
        return pd.DataFrame(columns)

    @property
    def _cells(self) -> list[tuple[Any, ...]]:
        """The labels of every cell, in the table's order."""
        return list(itertools.product(*self.axes.values()))

    @checked
    def select(self, **chosen: Any) -> Result:
        """The part of the result at chosen labels: of an axis a label, which takes the axis away, or a list of some.

        It has the same baselines and scale, and no record.

        >>> result = patch(model, clean, corrupt, metric, "z", over=("layer", "head"), progress=False)
        >>> result.select(layer=1).axes, result.select(head=[0, 2]).values.shape
        ({'head': [0, 1, 2, 3]}, torch.Size([3, 2, 4]))

        Raises:
            BadInput: an axis or a label that the result does not have.
        """
        cells, axes = torch.arange(self.mean.numel()).reshape(self.mean.shape), dict[str, Sequence[Any]]()
        for axis, labels in self._chosen(chosen).items():
            places = torch.tensor([list(self.axes[axis]).index(label) for label in labels], dtype=torch.long)
            cells = cells.index_select(len(axes), places)
            if isinstance(chosen.get(axis, labels), list | range):
                axes[axis] = labels
            else:
                cells = cells.squeeze(len(axes))
        flat = cells.flatten()
        return Result(
            metric=self.metric,
            axes=axes,
            values=self.values.flatten(0, -2)[flat.to(self.values.device)].reshape(*cells.shape, -1),
            baselines=self.baselines,
            scale=self.scale,
            parts_of=self.parts_of,
            changed=None if self.changed is None else [self.changed[cell] for cell in flat.tolist()],
        )

    def _chosen(self, chosen: Mapping[str, Any]) -> dict[str, list[Any]]:
        """For every axis the labels that are asked for, all of an axis that is not named."""
        asked = {axis: list(labels) for axis, labels in self.axes.items()}
        for axis, label in chosen.items():
            if axis not in asked:
                raise BadInput(f"this result has the axes {', '.join(asked)}, got {axis!r}.{nearest(axis, self.axes)}")
            labels = list(label) if isinstance(label, list | range) else [label]
            if missing := [one for one in labels if one not in asked[axis]]:
                raise BadInput(f"{axis} must be of {', '.join(map(repr, asked[axis]))}, got {missing[0]!r}")
            asked[axis] = labels
        return asked

    def interventions(self) -> pd.DataFrame:
        """A row for each cell and each intervention made in it: where, what was put there, whether it changed anything.

        `fired` is true in all rows, since what does not fire is an error.

        Raises:
            BadInput: a result of something else than interventions, an estimate by gradients, say.
        """
        import pandas as pd

        if self.record is None or self.changed is None:
            raise BadInput("this result does not come from interventions in runs, so there are none to list")
        made = made_by(self.record.calls[0].arguments)
        rows = [
            dict(zip(self.axes, labels, strict=True)) | place | {"fired": True, "changed": did}
            for labels, places, changed in zip(self._cells, made, self.changed, strict=False)
            for place, did in zip(places, changed, strict=True)
        ]
        return pd.DataFrame(rows)

    @checked
    def top(self, k: int = 10, by: str | None = None) -> pd.DataFrame:
        """The k rows of the table that are largest in size: by default those whose `change` is.

        Where cells are no change of a baseline, the metric itself counts. `by` is another column.

        Raises:
            BadInput: a `k` below 1, or no such column.
        """
        if k < 1:
            raise BadInput(f"k must be at least 1, got {k}")
        table = self.table()
        numbers = [column for column in table.columns if column not in (*self.axes, "changed")]
        by = by or ("change" if self.reference is not None else self.metric)
        if by not in numbers:
            raise BadInput(f"by must be one of {', '.join(numbers)}, got {by!r}")
        return table.loc[table[by].abs().sort_values(ascending=False, kind="stable").index[:k]].reset_index(drop=True)

    def __repr__(self) -> str:
        more = f"[{len(self._cells)} rows; top(k) has the largest]" if len(self._cells) > ROWS else ""
        table = self.table().to_string(index=False, max_rows=ROWS)
        return "\n".join(filter(None, (self._heading, table, more, self.note and f"note: {self.note}")))

    def _repr_html_(self) -> str:
        return as_html(self, (self._heading, self.note), self.table())

    @property
    def _heading(self) -> str:
        """What was measured, and the baselines, in a line."""
        grid = " x ".join(f"{len(labels)} {axis}" for axis, labels in self.axes.items()) or "a single cell"
        prompts = f"{self.values.shape[-1]} prompt{'s' * (self.values.shape[-1] != 1)}"
        baselines = ", ".join(f"{name} {float(scores.mean()):.4g}" for name, scores in self.baselines.items())
        return f"{self.metric}, {grid}, {prompts}" + (f"; {baselines}" if baselines else "")

    # ------------------------------------------------------------------------------------------------------- on disk

    @checked
    def save(self, folder: str | Path, *, overwrite: bool = False, model: HookedTransformer | None = None) -> None:
        """Write the result and its record to a folder: `result.json` to read, tensors beside it.

        The record has the interventions as data (of recorded activations, those that were used), tokens, the model's
        name, revision, config and a hash of its weights, versions, the seed, and what was asked for as it was written.
        With `overwrite` a result that is there is replaced; it stays until the new one is whole. `model` is needed if
        the one that was used is gone.

        Raises:
            BadInput: the folder holds something; a label or argument that cannot be written; the model's weights, or a
                tensor that the result was computed from, were changed since.
        """
        with replacing(folder, RESULT, overwrite) as beside:
            kept = self if self.record is None else replace(self, record=self.record.kept(model))
            if kept.record is not None:
                write(beside, CALL, *kept.record.packed())
            write(beside, RESULT, *kept.packed())

    def packed(self) -> tuple[dict[str, Json], dict[str, Tensor]]:
        """The result as JSON and tensors, without its record but for what a reader wants to see of it."""
        packing = Packing()
        fields = {name: packing.pack(getattr(self, name)) for name in ("metric", "scale", "values")}
        fields |= {"axes": packing.pack(dict(self.axes)), "baselines": packing.pack(dict(self.baselines))}
        if self.parts_of is not None:
            fields["parts_of"] = packing.pack(self.parts_of)
        if self.changed is not None:
            sizes = torch.tensor([len(did) for did in self.changed])
            flat = torch.tensor(list(itertools.chain.from_iterable(self.changed)), dtype=torch.bool)
            fields["changed"] = packing.pack([sizes, flat])
        told: dict[str, Json] = {"experiment": None if self.record is None else self.record.calls[-1].function}
        if self.record is not None:
            told |= self.record.facts
        return told | {"summary": self._summary(), "result": fields, "objects": packing.objects}, packing.tensors

    def _summary(self) -> dict[str, Json]:
        """For whoever opens the file."""
        found = {
            "metric": self.metric,
            "axes": {axis: len(labels) for axis, labels in self.axes.items()},
            "prompts": self.values.shape[-1],
            "baselines": {name: str(float(scores.mean())) for name, scores in self.baselines.items()},
            "note": self.note,
        }
        for name, place in (("lowest", self.mean.argmin()), ("highest", self.mean.argmax())):
            cell = map(str, self._cells[int(place)])
            found[name] = dict(zip(self.axes, cell, strict=True)) | {"mean": str(float(self.mean.flatten()[place]))}
        return found

    @classmethod
    @checked
    def load(cls, folder: str | Path) -> Result:
        """The result in a folder, on the CPU.

        Raises:
            BadInput: there is none, it is unfinished, or damaged.
        """
        folder = Path(folder)
        if not holds(folder, f"{RESULT}.json"):
            begun = holds(folder, f"{CALL}.json")
            there = "one that is not finished; Result.resume(folder, model) goes on with it" if begun else "none"
            raise BadInput(f"expected a result in {folder}, found {there}")
        document, tensors = read(folder, RESULT)
        with whole(folder):
            result = cls._unpacked(document, tensors, record_in(folder))
            repr(result)  # what cannot be shown is damaged
        return result

    @classmethod
    def _unpacked(cls, document: Mapping[str, Any], tensors: Mapping[str, Tensor], record: Record | None) -> Result:
        unpacking = Unpacking(document["objects"], tensors)
        fields = {name: unpacking.unpack(packed) for name, packed in document["result"].items()}
        if "parts_of" not in fields and str(document.get("experiment")).endswith(PARTS_IN_0_1):
            fields["parts_of"] = "model"
        if "changed" in fields:
            sizes, flat = fields["changed"]
            fields["changed"] = [did.tolist() for did in flat.split(sizes.tolist())]
        return cls(**fields, record=record)

    @checked
    def rerun(
        self, model: HookedTransformer, metric: MetricLike | None = None, *, any_model: bool = False, **options: Any
    ) -> Result:
        """The same experiment once more: the interventions that were recorded, on the tokens that were recorded.

        `metric` is another one, or the one that was a plain function. `any_model` allows another model, in which
        recorded activations are still those of the first one. Other keyword arguments are `max_memory`, `progress` and
        `save_to`, where the experiment has them.

        Raises:
            BadInput: another model, a result without record, or a metric of which only the name was kept.
        """
        if self.record is None:
            raise BadInput("this result has no record of how it came about, so it cannot be computed again")
        return self.record.again(model, metric, options, any_model=any_model)

    @classmethod
    @checked
    def resume(
        cls, folder: str | Path, model: HookedTransformer, metric: MetricLike | None = None, **options: Any
    ) -> Result:
        """Finish what was begun with `save_to=folder`; what was drawn at random then is not drawn again.

        Raises:
            BadInput: nothing was begun there, or what `rerun` refuses.
        """
        if not holds(Path(folder), f"{CALL}.json"):
            raise BadInput(f"nothing was begun in {folder}")
        record = record_in(Path(folder))
        assert record is not None
        return record.again(model, metric, {"save_to": folder} | options)


def _agree(zero: Tensor, one: Tensor) -> Tensor:
    """Where two baselines are too close for anything to lie between them."""
    return (one - zero).abs() <= AGREE * torch.maximum(one.abs(), zero.abs())
