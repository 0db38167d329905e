"""What neurons add to the logits of all tokens, by their output weights alone, and a table of what is known of them.

    effect = (gain of the final norm) w_out W_U, less its mean over tokens     [d_vocab], for each neuron
    logits change by      post * effect / (scale of the final norm)           in a run

`post`, what the output weights multiply, may be negative where MLPs are gated or their neurons normalized: then the
same neuron raises what it else lowers. So tokens and labels have two sides. Effects of neurons in experts are times the
router's weight, and those that pass a norm before they are added are divided by its scale, too.

Labels are those of Gurnee et al. 2024 (arxiv.org/abs/2401.12181), by the moments of the effect over tokens:

    prediction     a heavy tail (kurtosis > 10) towards higher logits (skew > 0): raises some tokens
    suppression    a heavy tail towards lower logits: lowers some tokens
    entropy        large output weights with little effect on logits: works through the final norm's scale
    partition      much variance, no tail: parts the vocabulary in two

Kurtosis is the fourth standardized moment, 3 for a normal distribution. (They take cosines with the columns of W_U;
here they are logits, of which tokens with a large column have larger ones.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.corpus.scanning import Scan
from interp_hooks.corpus.units import Part, neurons
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, refuse_outside
from interp_hooks.experiments.results.shown import Shown
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.tables import pd
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.token_text import names_of
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.directions import CHUNK, unembedding
from interp_hooks.studies.neurons.contexts import Found
from interp_hooks.studies.neurons.illusions import top_mass
from interp_hooks.studies.neurons.weights import Neurons, neurons_of

Side = Literal["positive", "negative"]


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """From where on an effect has a label; the last three are multiples of the median of a layer's neurons.

    `kurtosis` is the least one of a heavy tail. `variance` is the least one of a partition neuron. An entropy neuron
    has at least `norm` times the weights, and at most `effect` times the variance for the norm (variance / norm^2).
    """

    kurtosis: float = 10.0
    variance: float = 4.0
    norm: float = 1.5
    effect: float = 0.25


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class VocabularyEffect(Shown):
    """What each neuron adds to logits: moments over the vocabulary [neuron], and tokens at both ends [neuron, k].

    `neurons` are (layer, part, number) as in `neurons_of`. `norm` is that of the output weights, and `null_share` the
    share of its square in directions that hardly reach the logits. Skew and kurtosis are nan where the variance is 0.
    """

    neurons: Sequence[tuple[int, str, int]]
    signed: Sequence[bool]
    norm: Float[Tensor, " neuron"]
    null_share: Float[Tensor, " neuron"]
    variance: Float[Tensor, " neuron"]
    skew: Float[Tensor, " neuron"]
    kurtosis: Float[Tensor, " neuron"]
    top: Int[Tensor, "neuron k"]
    top_values: Float[Tensor, "neuron k"]
    bottom: Int[Tensor, "neuron k"]
    bottom_values: Float[Tensor, "neuron k"]
    thresholds: Thresholds
    text_of: Callable[[int], str]

    def labels(self, side: Side = "positive") -> list[str]:
        """What each neuron does where its activation is positive (or negative): a label of the table above, or ""."""
        limits, found = self.thresholds, [""] * len(self.neurons)
        skew, effect = self.skew if side == "positive" else -self.skew, self.variance / self.norm.square()
        tailed = self.kurtosis > limits.kurtosis
        spread = self.variance > limits.variance * self._medians(self.variance)
        strong = self.norm > limits.norm * self._medians(self.norm)
        silent = strong & (effect < limits.effect * self._medians(effect))
        by_label = {"partition": spread, "entropy": silent}
        by_label |= {"suppression": tailed & (skew < 0), "prediction": tailed & (skew > 0)}
        for label, which in by_label.items():
            for neuron in which.nonzero()[:, 0].tolist():
                found[neuron] = label
        return found

    def words(self, neuron: int, side: Side = "positive") -> tuple[list[str], list[str]]:
        """The tokens that a neuron, by its place here, raises most and lowers most on one side of its activation."""
        up, down = ([self.text_of(id) for id in ids[neuron].tolist()] for ids in (self.top, self.bottom))
        return (up, down) if side == "positive" else (down, up)

    def table(self) -> pd.DataFrame:
        """A row for each neuron and, where its activation may well be negative, a second one for that side.

        `variance` is in logits squared, but for the norm's scale, for an activation of 1; `raises` and `lowers` are
        the tokens at both ends, most extreme first.
        """
        labels = {side: self.labels(side) for side in SIDES}
        rows: list[dict[str, Any]] = []
        for place, (layer, part, neuron) in enumerate(self.neurons):
            for side in SIDES if self.signed[place] else SIDES[:1]:
                up, down = self.words(place, side)
                moments = {name: float(getattr(self, name)[place]) for name in MOMENTS}
                moments["skew"] *= 1 if side == "positive" else -1
                found = dict(layer=layer, part=part, neuron=neuron, side=side, label=labels[side][place])
                rows.append(found | moments | dict(raises=up, lowers=down))
        return pd.DataFrame(rows)

    def _medians(self, values: Float[Tensor, " neuron"]) -> Float[Tensor, " neuron"]:
        """The median of the values over the neurons of the same layer and part, for each neuron."""
        groups = {one[:2]: number for number, one in enumerate(self.neurons)}
        of = torch.tensor([groups[one[:2]] for one in self.neurons])
        medians = torch.zeros_like(values)
        for group in groups.values():
            medians[of == group] = values[of == group].median()
        return medians


SIDES: tuple[Side, ...] = ("positive", "negative")
MOMENTS = ("norm", "null_share", "variance", "skew", "kurtosis")


@study
def vocabulary_effect(
    model: HookedTransformer,
    layers: Sequence[int] | None = None,
    *,
    k: Count = 10,
    null: float = 0.1,
    thresholds: Thresholds | None = None,
    progress: bool = False,
) -> VocabularyEffect:
    """What every neuron of some layers (default: all) adds to the logits of all tokens.

    `k` tokens are kept of either end. Null directions are the singular ones of the unembedding, as the final norm
    makes it, whose singular value is at most `null` times their root mean square. It never holds the effects of more
    than some hundred neurons at once.

    Raises:
        BadInput: a layer that does not exist, a model without neurons there, a `k` out of range, or a masked-LM head.

    >>> from interp_hooks.studies import vocabulary_effect
    >>> vocabulary_effect(model, [2], k=3).table().columns[:5].tolist()
    ['layer', 'part', 'neuron', 'side', 'label']
    """
    listed = range(model.cfg.n_layers) if layers is None else layers
    groups = [group for layer in listed for group in neurons_of(model, layer)]
    if not groups:
        raise BadInput("there are no neurons: expected layers of a model that has MLPs")
    onto = unembedding(model)
    refuse_outside("k", k, 1, onto.shape[1], "the size of the vocabulary")
    nothing = null_space(onto, null)
    size = sum(len(group.writes) for group in groups)
    with progress_bar(total=size, progress=progress, unit="neuron") as bar:
        parts: list[dict[str, Tensor]] = []
        for group in groups:
            for rows in group.writes.to(onto).split(max(1, CHUNK // onto.shape[1])):
                parts.append(moments_of(rows, onto, nothing, k))
                bar.update(len(rows))
    return VocabularyEffect(
        neurons=[(group.layer, group.part, number) for group in groups for number in range(len(group.writes))],
        signed=[group.signed for group in groups for _ in range(len(group.writes))],
        thresholds=thresholds or Thresholds(),
        text_of=cache(names_of(model)),
        **{name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]},
    )


def effect_of(group: Neurons, neuron: int, onto: Float[Tensor, "d_model d_vocab"]) -> Float[Tensor, " d_vocab"]:
    """What one neuron adds to all logits, given the model's `unembedding`."""
    return group.writes[neuron].to(onto) @ onto


def null_space(onto: Float[Tensor, "d_model d_vocab"], null: float) -> Float[Tensor, "d_model n"]:
    """An orthonormal basis of the directions that hardly reach the logits."""
    gram = torch.zeros(len(onto), len(onto), dtype=torch.float64, device=onto.device)
    for part in onto.split(8192, dim=1):
        gram += part.double() @ part.double().T
    squares, vectors = torch.linalg.eigh(gram)
    return vectors[:, squares <= null**2 * squares.mean()].to(onto)


def moments_of(
    rows: Float[Tensor, "neuron d_model"],
    onto: Float[Tensor, "d_model d_vocab"],
    nothing: Float[Tensor, "d_model n"],
    k: int,
) -> dict[str, Tensor]:
    """All that is kept of some neurons' effects."""
    effect = rows @ onto
    top, bottom = effect.topk(k), effect.topk(k, largest=False)
    squares = effect.square()
    norm, variance = rows.norm(dim=1), squares.mean(1)
    usual = norm * (onto.square().mean() ** 0.5)  # the spread of a row that points nowhere in particular
    rounding = (64 * torch.finfo(onto.dtype).eps * usual) ** 2
    variance = variance.where(variance > rounding, 0.0)
    spread = variance.sqrt().where(variance > 0, torch.nan)
    return {
        "norm": norm,
        "null_share": (rows @ nothing).square().sum(1) / norm.square().clamp(min=torch.finfo(norm.dtype).tiny),
        "variance": variance,
        "skew": (squares * effect).mean(1) / spread**3,
        "kurtosis": squares.square().mean(1) / spread**4,
        "top": top.indices,
        "top_values": top.values,
        "bottom": bottom.indices,
        "bottom_values": bottom.values,
    }


OF_STATISTICS = ("mean", "std", "min", "max", "active")


@study
def neuron_table(
    model: HookedTransformer,
    scan: Scan | None = None,
    layers: Sequence[int] | None = None,
    *,
    k: Count = 10,
    thresholds: Thresholds | None = None,
    effect: VocabularyEffect | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """A row for each neuron of some layers (default: all), and in each column a metric:

        layer, part, neuron     which one; `part` is "mlp", "experts" or "shared"
        mean, std, min, max     of its activation (`post`) over the scan's tokens
        active                  the share of tokens at which it is above 0
        top_mass                the share of its positive activation in the highest octave that it reaches
        norm                    of its output weights, as the stream sees them
        null_share              the share of the square of that norm which hardly reaches logits
        variance, skew, kurtosis    of its effect on logits over the vocabulary, for an activation of 1: in logits
                                squared but for the final norm's scale, and without units
        label, negative_label   prediction, suppression, partition, entropy or "", where its activation is positive,
                                and where it is negative
        cos_in, cos_gate        the cosine of what it reads (through W_in, and W_gate where there is one) and writes
        raises, lowers          the `k` tokens whose logits it raises and lowers most where it is positive

    Columns of activations are there if a scan is given that has `Statistics(neurons())` or `Histogram(neurons())`
    (`neurons(part="experts")` for those of experts), and nan for neurons that it did not measure. `effect` is the
    `vocabulary_effect` of the same layers, if it is known.

    Raises:
        BadInput: a model without neurons, or a layer that does not exist.

    >>> from interp_hooks.corpus import scan
    >>> from interp_hooks.studies import neuron_reducers, neuron_table
    >>> found = scan(model, clean, neuron_reducers(k=3), progress=False)
    >>> neuron_table(model, found, [2], k=3).columns[:5].tolist()
    ['layer', 'part', 'neuron', 'mean', 'std']
    """
    effect = effect or vocabulary_effect(model, layers, k=k, thresholds=thresholds, progress=progress)
    columns: dict[str, Any] = {
        name: [one[axis] for one in effect.neurons] for axis, name in enumerate(("layer", "part", "neuron"))
    }
    columns |= {} if scan is None else _activations(scan, effect.neurons)
    columns |= {name: getattr(effect, name).tolist() for name in MOMENTS}
    columns |= {"label": effect.labels(), "negative_label": effect.labels("negative")}
    columns |= _congruence(model, effect.neurons)
    words = [effect.words(place) for place in range(len(effect.neurons))]
    columns |= {"raises": [up for up, _ in words], "lowers": [down for _, down in words]}
    return pd.DataFrame(columns)


def _activations(scan: Scan, listed: Sequence[tuple[int, str, int]]) -> dict[str, list[float]]:
    """The columns of activations that a scan has, nan for neurons that it did not measure."""
    by_part = {part: Found(scan, neurons(part=part).name) for part in get_args(Part)}
    columns: dict[str, list[float]] = {}
    if any(found.measures("statistics") for found in by_part.values()):
        columns |= {name: [float("nan")] * len(listed) for name in OF_STATISTICS}
    if any(found.measures("histogram") for found in by_part.values()):
        columns["top_mass"] = [float("nan")] * len(listed)
    for row, (layer, part, neuron) in enumerate(listed):
        found = by_part[part]
        if not found.measured(layer, neuron):
            continue
        place = found.place(layer, neuron)
        for name, column in columns.items():
            if name == "top_mass":
                column[row] = top_mass(found.histogram[layer], place)
            else:
                column[row] = float(found.statistics[layer][name][place])
    return columns


def _congruence(model: HookedTransformer, listed: Sequence[tuple[int, str, int]]) -> dict[str, list[float]]:
    """The cosines of what neurons read and write."""
    found: dict[str, list[Tensor]] = {}
    groups = list(dict.fromkeys(one[:2] for one in listed))
    for layer, part in groups:
        group = next(one for one in neurons_of(model, layer) if one.part == part)
        for name, rows in group.reads.items():
            found.setdefault(f"cos_{name}", []).append(_cosines(rows, group.writes))
    return {name: torch.cat(values).tolist() for name, values in sorted(found.items(), reverse=True)}


def _cosines(one: Float[Tensor, "neuron d_model"], other: Float[Tensor, "neuron d_model"]) -> Float[Tensor, " neuron"]:
    return torch.nn.functional.cosine_similarity(one, other, dim=1)
