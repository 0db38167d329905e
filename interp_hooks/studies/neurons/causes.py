"""What happens to the model's predictions where a neuron is ablated: on its top contexts, and on random ones.

    loss change    -log p(next token) with the neuron at its mean, minus that without          in nats, by context
    kl             KL(model || model with the neuron at its mean)                              in nats, by context

Both are read at the token at which the neuron is at its largest (or at random tokens); the neuron is ablated at all
tokens of the context. A neuron that matters where it is active, and only there, is what its examples suggest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.corpus.reducers.top import Side
from interp_hooks.corpus.scanning import Scan
from interp_hooks.corpus.units import Part, neurons
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count
from interp_hooks.experiments.results.shown import Shown
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.readout import Metric, Readout
from interp_hooks.interventions.runs import Intervention, Run
from interp_hooks.interventions.sites import Site, at
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.neurons.contexts import (
    AT_ONCE,
    Contexts,
    Found,
    random_contexts,
    split_by_size,
    stacked,
    together,
    top_contexts,
)

KINDS = ("top", "random")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AblationEffects(Shown):
    """The changes of loss and the divergences, in nats, by context: for each unit those of its own top contexts
    (fewer where it has fewer examples), and [unit, context] those of random contexts, which all units share.

    `units` are (layer, neuron), or (layer, feature) if `called` says so; `means` are what their activations were set
    to.
    """

    units: Sequence[tuple[int, int]]
    means: Float[Tensor, " unit"]
    top_loss: Sequence[Float[Tensor, " _"]]
    top_kl: Sequence[Float[Tensor, " _"]]
    random_loss: Float[Tensor, "unit context"]
    random_kl: Float[Tensor, "unit context"]
    called: str = "neuron"

    def table(self) -> pd.DataFrame:
        """A row for each unit and kind of context ("top", "random"): means over contexts and their standard errors."""
        rows: list[dict[str, Any]] = []
        for place, (layer, number) in enumerate(self.units):
            effects = ((self.top_loss[place], self.top_kl[place]), (self.random_loss[place], self.random_kl[place]))
            for kind, (loss, kl) in zip(KINDS, effects, strict=True):
                n = len(loss)
                row: dict[str, Any] = {"layer": layer, self.called: number, "contexts": kind, "n": n}
                for name, values in (("loss_change_nats", loss), ("kl_nats", kl)):
                    row[name] = float(values.mean()) if n else float("nan")
                    row[f"{name}_error"] = float(values.std() / n**0.5) if n > 1 else float("nan")
                rows.append(row)
        return pd.DataFrame(rows)


@study
def ablation_effects(
    model: HookedTransformer,
    scan: Scan,
    units: Sequence[tuple[int, int]],
    *,
    part: Part = "mlp",
    k: Count = 8,
    n_random: Count = 32,
    side: Side = "largest",
    before: Count | None = 64,
    value: float | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> AblationEffects:
    """What each of some neurons (layer, neuron) does to predictions where it is active, and elsewhere.

    It is set to its mean over the scan's corpus, or to `value`. With `part="experts"`, (layer, neuron) counts the
    neurons of all experts in turn, and a neuron is set to 0 unless `value` says otherwise: at tokens that do not pass
    its expert it is nothing, so that its mean is no value that it could have there. `scan` needs `TopK(neurons())` and
    `Statistics(neurons())`, as `neuron_reducers` has them. `k` top contexts of each unit and `n_random` tokens of the
    corpus, drawn by `generator` (default: seed 0), are read with `before` tokens before them. `side` "smallest" takes
    the contexts in which a unit is smallest: neurons of gated MLPs may do what they do where they are negative.

    Raises:
        BadInput: units that the scan did not measure, or a scan without such reducers.

    >>> from interp_hooks.corpus import scan
    >>> from interp_hooks.studies import ablation_effects, neuron_reducers
    >>> found = scan(model, clean, neuron_reducers(k=3), progress=False)
    >>> ablation_effects(model, found, [(1, 3), (2, 40)], n_random=4).table()["contexts"].tolist()
    ['top', 'random', 'top', 'random']
    """
    found = Found(scan, neurons(part=part).name)
    if not units:
        raise BadInput("units must be (layer, neuron) pairs, got none")
    places = [(layer, found.place(layer, neuron)) for layer, neuron in units]
    if value is None and part == "experts":
        value = 0.0
    means = [float(found.statistics[layer]["mean"][place]) if value is None else value for layer, place in places]
    sites = [site_of(model, layer, neuron, part) for layer, neuron in units]
    ablations = [Ablation(site, mean) for site, mean in zip(sites, means, strict=True)]
    options: dict[str, Any] = dict(k=k, side=side, before=before)
    tops = [top_contexts(model, found, layer, neuron, **options).followed() for layer, neuron in units]
    drawn = random_contexts(model, scan, n_random, generator or torch.Generator().manual_seed(0), before)
    return effects_on(model, units, ablations, tops, drawn, progress=progress)


def effects_on(
    model: HookedTransformer,
    units: Sequence[tuple[int, int]],
    ablations: Sequence[Ablation],
    tops: Sequence[Contexts],
    drawn: Contexts,
    *,
    called: str = "neuron",
    progress: bool = False,
) -> AblationEffects:
    """The effects of the ablation of each unit: on its own top contexts, and on those that were drawn for all."""
    with progress_bar(total=2 * len(units), progress=progress, unit="unit") as bar:
        top = _on_their_own(model, ablations, tops)
        bar.update(len(units))
        random = _on_the_same(model, ablations, drawn)
        bar.update(len(units))
    return AblationEffects(
        units=[(int(layer), int(number)) for layer, number in units],
        means=torch.tensor([one.value for one in ablations], dtype=torch.float64),
        called=called,
        top_loss=[one[:, 0] for one in top],
        top_kl=[one[:, 1] for one in top],
        random_loss=random[..., 0],
        random_kl=random[..., 1],
    )


@dataclass(frozen=True)
class Ablation:
    """A neuron, or a feature, that is set to a value, at all tokens but those with the id `spared`."""

    site: Site
    value: float
    spared: int | None = None

    def on(self, run: Run, rows: Float[Tensor, "prompt 1"] | None = None) -> Intervention:
        """In all prompts of a run, or in those where `rows` is 1."""
        if self.spared is None:
            return Intervention(self.site, self.value, mask=rows)
        others = (run.tokens != self.spared).float()
        return Intervention(self.site, self.value, mask=others if rows is None else others * rows.to(others))


def site_of(model: HookedTransformer, layer: int, neuron: int, part: Part) -> Site:
    """Where a neuron of a part of a layer is; those of experts are numbered in turn."""
    hook = neurons([layer], part=part).places(model)[layer][0]
    experts = model.cfg.experts
    if part != "experts" or experts is None:
        return at(hook, neuron=neuron)
    return at(hook, expert=neuron // experts.d_expert, neuron=neuron % experts.d_expert)


@dataclass(frozen=True, eq=False)
class _LogProbs(Metric):
    """All log-probabilities at one position of each prompt."""

    at: Int[Tensor, " batch"]

    @property
    def readout(self) -> Readout:
        return Readout(pos=self.at)

    def score(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, "batch d_vocab"]:
        return logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))


@dataclass(frozen=True, eq=False)
class _Changes(_LogProbs):
    """Beside log-probabilities `before` [batch, d_vocab]: the change of the next token's loss, and the divergence."""

    before: Float[Tensor, "batch d_vocab"]
    next: Int[Tensor, " batch"]

    def score(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, "batch 2"]:
        lost = self.before - super().score(logits)
        kl = (self.before.exp() * lost.masked_fill(self.before == -torch.inf, 0.0)).sum(-1)
        return torch.stack((lost.gather(1, self.next[:, None])[:, 0], kl), dim=-1)


def _changes(
    model: HookedTransformer, contexts: Contexts, run: Run, ablated: Sequence[Sequence[Intervention]]
) -> Float[Tensor, "run context 2"]:
    """The changes of loss and the divergences of runs with these interventions, on contexts that `run` stacks."""
    before = evaluate(model, [run], _LogProbs(contexts.at))[0]
    metric = _Changes(contexts.at, before, contexts.next_tokens.to(before.device))
    runs = [Run(run.tokens, made, run.attention_mask) for made in ablated]
    return evaluate(model, runs, metric).double().cpu()


def _on_their_own(
    model: HookedTransformer, ablations: Sequence[Ablation], contexts: Sequence[Contexts]
) -> list[Float[Tensor, "_ 2"]]:
    """The effects of each ablation on contexts of its own: all of them are rows of one run, each row with its own."""
    owners = [number for number, one in enumerate(contexts) for _ in range(len(one))]
    rows, found = together(contexts), [torch.zeros(0, 2, dtype=torch.float64)]
    for group in split_by_size(rows.rows, AT_ONCE):
        chosen, owner = rows.chosen(group), torch.tensor([owners[row] for row in group])
        run = stacked(model, chosen.rows)
        made = [
            ablations[one].on(run, (owner == one)[:, None].to(model.device, model.dtype))
            for one in owner.unique().tolist()
        ]
        found.append(_changes(model, chosen, run, [made])[0])
    return list(torch.cat(found).split([len(one) for one in contexts]))


def _on_the_same(
    model: HookedTransformer, ablations: Sequence[Ablation], contexts: Contexts
) -> Float[Tensor, "unit context 2"]:
    """The effects of each ablation on the same contexts: a run for each."""
    found = [torch.zeros(len(ablations), 0, 2, dtype=torch.float64)]
    for group in split_by_size(contexts.rows, AT_ONCE):
        chosen = contexts.chosen(group)
        run = stacked(model, chosen.rows)
        found.append(_changes(model, chosen, run, [[one.on(run)] for one in ablations]))
    return torch.cat(found, dim=1)
