"""Whether the examples of a neuron show what it is, or only what the corpus has: an illusion (Bolukbasi et al. 2021).

Its strongest examples in one corpus may suggest one concept, those in another corpus another one
(arxiv.org/abs/2104.07143). Here both stand side by side, with three numbers that tell of it:

    top_mass     how much of all activation is in the highest octave that the unit reaches: if little, the top examples
                 say little of what it does
    clusters     how many kinds of examples there are among the top ones of a corpus
    shared       how many of these kinds both corpora have

Kinds are found by a plain rule: from the largest example on, each joins the first kind whose first example is similar
to it, or else begins one. Similar are two examples if the cosine of what the MLP reads at the two tokens is at least
`threshold` ("stream"), or that share of the tokens before them, as sets, is common to both ("tokens").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.corpus.reducers.top import Side
from interp_hooks.corpus.scanning import Scan
from interp_hooks.errors.arguments import Count
from interp_hooks.experiments.results.shown import Shown
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.names import get_act_name
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.recording import record
from interp_hooks.model.token_text import names_of
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.neurons.contexts import Contexts, Found, split_by_size, stacked, together, top_contexts

By = Literal["stream", "tokens"]
WINDOW = 5  # tokens of an example that are compared and shown, the last one included


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Illusion(Shown):
    """The top examples of a unit in two corpora, best first, and of which kind each is.

    `texts`, `values` and `kinds` are by corpus; kinds of both corpora are numbered together, so that one that both have
    has one number. `top_mass` is by corpus too, None where the scan has no histogram.
    """

    _printed = None

    texts: Sequence[Sequence[str]]
    values: Sequence[Float[Tensor, " _"]]
    kinds: Sequence[Sequence[int]]
    top_mass: Sequence[float | None]

    @property
    def clusters(self) -> list[int]:
        """How many kinds of examples each corpus has."""
        return [len(set(one)) for one in self.kinds]

    @property
    def shared(self) -> int:
        """How many kinds both corpora have: 0 if their top examples have nothing in common."""
        return len(set(self.kinds[0]) & set(self.kinds[1]))

    def table(self) -> pd.DataFrame:
        """A row for each rank, with the example of either corpus, its activation and its kind."""
        columns: dict[str, Any] = {}
        for name, texts, values, kinds in zip("ab", self.texts, self.values, self.kinds, strict=True):
            columns |= {f"{name}": pd.Series(texts, dtype=object), f"activation_{name}": pd.Series(values.tolist())}
            columns[f"kind_{name}"] = pd.Series(kinds, dtype="Int64")
        return pd.DataFrame(columns).rename_axis("rank").reset_index()

    def _words(self) -> list[str]:
        mass = ", ".join("unknown" if one is None else f"{one:.2f}" for one in self.top_mass)
        kinds = f"{self.clusters[0]} and {self.clusters[1]} kinds of examples, {self.shared} in common"
        return [f"{kinds}; mass in the highest octave: {mass}"]


@study
def illusion(
    model: HookedTransformer,
    layer: int,
    neuron: int,
    one: Scan,
    other: Scan,
    *,
    k: Count = 8,
    side: Side = "largest",
    by: By = "stream",
    threshold: float = 0.5,
) -> Illusion:
    """The top `k` examples of a neuron in the corpora of two scans, side by side.

    Scans need `TopK(neurons())`; with `Histogram(neurons())` they tell the mass in the top band, too. With `side`
    "smallest" it is about the other end, of scans with `TopK(neurons(), side="smallest")`.

    Raises:
        BadInput: a neuron that a scan did not measure, a scan without `TopK`, or an unknown measure of likeness.

    >>> from interp_hooks.corpus import scan
    >>> from interp_hooks.studies import illusion, neuron_reducers
    >>> one, other = (scan(model, texts, neuron_reducers(k=3), progress=False) for texts in (clean, corrupt))
    >>> illusion(model, 1, 3, one, other).table().columns[:3].tolist()
    ['rank', 'a', 'activation_a']
    """
    founds = [Found(one), Found(other)]
    examples = [top_contexts(model, found, layer, neuron, k=k, side=side) for found in founds]
    both = together(examples)
    kinds = leaders(LIKENESS[by](model, layer, both), both.values.abs(), threshold)
    text_of, sizes = names_of(model), [len(one) for one in examples]
    return Illusion(
        texts=[
            ["".join(text_of(id) for id in _window(row, at).tolist()) for row, at in zip(one.rows, one.at, strict=True)]
            for one in examples
        ],
        values=[one.values for one in examples],
        kinds=[kinds[: sizes[0]], kinds[sizes[0] :]],
        top_mass=[
            None
            if not found.measures("histogram")
            else top_mass(found.histogram[layer], found.place(layer, neuron), side)
            for found in founds
        ],
    )


def top_mass(histogram: Mapping[str, Tensor], place: int, side: Side = "largest") -> float:
    """The share of a unit's positive (or negative) activation in the last octave that it reaches; nan without any.

    Every value counts as the middle of its octave, three halves of the lower edge, so that the share is right to within
    a third.
    """
    positive = histogram["edges"] > 0
    counts = histogram["counts"][place] if side == "largest" else histogram["counts"][place].flip(0)  # bins mirror
    mass = counts[positive].double() * histogram["edges"][positive]
    reached = mass.nonzero()
    return float(mass[reached[-1]] / mass.sum()) if len(reached) else float("nan")


def leaders(likeness: Float[Tensor, "example example"], size: Float[Tensor, " example"], threshold: float) -> list[int]:
    """The kind of every example, by the rule above."""
    kinds, firsts = [-1] * len(likeness), list[int]()
    for example in size.argsort(descending=True, stable=True).tolist():
        joins = next((kind for kind, first in enumerate(firsts) if likeness[example, first] >= threshold), None)
        if joins is None:
            joins = len(firsts)
            firsts.append(example)
        kinds[example] = joins
    return kinds


def _window(row: Tensor, at: Tensor | int) -> Tensor:
    return row[max(0, int(at) - WINDOW + 1) : int(at) + 1]


def _by_stream(model: HookedTransformer, layer: int, contexts: Contexts) -> Float[Tensor, "example example"]:
    """The cosines of what the MLP of the layer reads at the examples' tokens."""
    name, found = get_act_name("mlp_in", layer), []
    for group in split_by_size(contexts.rows):
        chosen = contexts.chosen(group)
        stream = record(model, stacked(model, chosen.rows), [name])[name]
        found.append(stream[torch.arange(len(chosen)), chosen.at.to(stream.device)])
    read = model.norm_reading(layer, mlp=True).fused(torch.cat(found)).double().cpu()
    read = read / read.norm(dim=1, keepdim=True)
    return read @ read.T


def _by_tokens(model: HookedTransformer, layer: int, contexts: Contexts) -> Float[Tensor, "example example"]:
    """The share of the tokens in the windows of two examples that both have (Jaccard)."""
    windows = [set(_window(row, at).tolist()) for row, at in zip(contexts.rows, contexts.at, strict=True)]
    return torch.tensor([[len(one & other) / len(one | other) for other in windows] for one in windows])


LIKENESS = {"stream": _by_stream, "tokens": _by_tokens}
