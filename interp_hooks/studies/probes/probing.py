"""What a linear probe finds in activations, beside what it finds where there is nothing to find.

    trained          on the activations of other documents than those that it is tested on
    shuffled labels  the same, after the labels that it is trained on have changed places
    random model     on the activations of a model of the same config whose weights are drawn anew
    token identity   no activations: the most frequent class of the token that stands there
    majority         no activations: the most frequent class
    k = 1, 2, ...    trained on the k coordinates in which class means differ most (Gurnee et al. 2023,
                     arxiv.org/abs/2305.01610): few are enough where single units stand for the label

A probe says that the label can be read off linearly, not that the model reads it; interventions along its direction do.
What a random model gives is what token and position alone give. Everything that is chosen (means, scales, coordinates)
is chosen on the documents that are trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.corpus.labels import Labels
from interp_hooks.corpus.reading import Corpus
from interp_hooks.corpus.reducers.labelled import LabelledMoments, LinearHits
from interp_hooks.corpus.scanning import scan
from interp_hooks.corpus.units import Units
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, refuse_outside
from interp_hooks.experiments.patching import labels_of
from interp_hooks.experiments.results.kept import Kept
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.readout import LAST
from interp_hooks.interventions.runs import PromptsLike
from interp_hooks.interventions.sites import at
from interp_hooks.interventions.vectors import VectorPlace, vector_place
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.covariances import JointMoments
from interp_hooks.studies.labelled import Labelled, LabelsLike
from interp_hooks.studies.probes.fitting import LinearProbe, logistic, ridge

Kind = Literal["logistic", "ridge"]
CONTROLS = ("shuffled labels", "random model", "token identity", "majority")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Probes(Kept):
    """The accuracy of probes of each layer on documents that they were not trained on, and the probes themselves.

    `accuracy` [layer, probe, document] is the share of a document's labelled tokens that a probe gets right; `probes`
    names them, "trained" first. `weights` and `bias` are those of probes of each layer trained on all documents.
    """

    site: str
    layers: Sequence[int]
    probes: Sequence[str]
    accuracy: Float[Tensor, "layer probe document"]
    weights: Float[Tensor, "layer class width"]
    bias: Float[Tensor, "layer class"]

    @property
    def result(self) -> Result:
        """The accuracies as a result, for its intervals (over documents) and figures."""
        axes = {"layer": list(self.layers), "probe": list(self.probes)}
        return Result(metric="accuracy", axes=axes, values=self.accuracy)

    def probe(self, layer: int) -> LinearProbe:
        """The probe of a layer; its `direction` is one that steering, patching and erasing take.

        Raises:
            BadInput: a layer that was not probed.
        """
        if layer not in self.layers:
            raise BadInput(f"layer {layer} was not probed; these were: {', '.join(map(str, self.layers))}")
        at = list(self.layers).index(layer)
        return LinearProbe(weights=self.weights[at], bias=self.bias[at])

    def table(self, level: float = 0.95, generator: torch.Generator | None = None) -> pd.DataFrame:
        """A row for each layer: the accuracy of the trained probe with its bootstrap interval, and of all others."""
        ends = self.result.interval(level, generator=generator)
        means = self.accuracy.mean(-1)
        columns: dict[str, Any] = {"layer": list(self.layers), "trained": means[:, 0].tolist()}
        columns |= {"lower": ends.lower[:, 0].tolist(), "upper": ends.upper[:, 0].tolist()}
        columns |= {name: means[:, at].tolist() for at, name in enumerate(self.probes) if at}
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        return self.table(generator=torch.Generator().manual_seed(0)).to_string(index=False, max_rows=40)


@study
def linear_probe(
    model: HookedTransformer,
    prompts: PromptsLike,
    labels: LabelsLike,
    site: str = "resid_post",
    *,
    pos: int | Tensor | None = LAST,
    layers: Sequence[int] | None = None,
    select: Mapping[str, int] | None = None,
    kind: Kind = "logistic",
    strength: float = 1e-2,
    balanced: bool = False,
    groups: Sequence[int] | Tensor | None = None,
    folds: Count = 5,
    sparsity: Sequence[int] = (),
    controls: Sequence[str] = CONTROLS,
    batch_size: Count = 64,
    generator: torch.Generator | None = None,
) -> Probes:
    """Train probes of labels on `site` of every layer, and test them, and controls, on other documents.

    `labels`, `pos`, `layers` and `select` are as in `erase_concept`. `groups` says which document, or template, each
    prompt belongs to: the prompts of a group are trained on or tested on together (default: prompts of the same tokens
    are a group). Groups are dealt to `folds` at random, and each is tested by probes of all others. `sparsity` are the
    numbers of coordinates of k-sparse probes. `strength` and `balanced` are as in `logistic` and `ridge`.

    Raises:
        BadInput: labels that do not fit, fewer groups than folds, a fold without one of which all labels are of one
            class, an unknown kind or control, more coordinates than there are, or `balanced` ridge probes.

    >>> from interp_hooks.studies import linear_probe
    >>> labels = [0] * 4 + [1] * 4
    >>> found = linear_probe(model, [*clean, *corrupt], labels, "resid_pre", layers=[0, 2], folds=4)
    >>> found.table().columns.tolist()[:4]
    ['layer', 'trained', 'lower', 'upper']
    >>> direction = found.probe(2).direction
    """
    labelled, chosen = Labelled.of(model, prompts, labels, pos), dict(select or {})
    numbers = labels_of(model, site, ["layer"], labelled.run.tokens.shape[1], layers)["layer"]
    places = [vector_place(model, at(site, layer, **chosen)) for layer in numbers]
    _check(kind, balanced, controls, sparsity, places[0].width)
    split = _Split.of(labelled, groups, folds, generator)
    fit = _Fit(kind=kind, strength=strength, balanced=balanced, n_classes=int(labelled.classes.max()) + 1)
    found = labelled.vectors(model, places, batch_size=batch_size)
    drawn: list[Tensor] = []
    if "random model" in controls:
        drawn = labelled.vectors(*_drawn_anew(model, places, generator), batch_size=batch_size)
    names = ["trained", *controls, *(f"k = {k}" for k in sparsity)]
    shuffle = torch.randperm(len(labelled.classes), generator=generator)
    accuracy, whole = [], []
    for layer, x in enumerate(found):
        right = torch.zeros(len(names), len(x), dtype=torch.bool)
        for fold in range(folds):
            train, test = split.of_examples != fold, split.of_examples == fold
            case = _Case(
                fit=fit, labelled=labelled, x=x, drawn=drawn[layer] if drawn else x, train=train, shuffle=shuffle
            )
            for at_name, name in enumerate(names):
                right[at_name, test] = case.said(name)[test] == labelled.classes[test]
        accuracy.append(split.by_group(right))
        whole.append(fit(x, labelled.classes))
    return Probes(
        site=site,
        layers=list(numbers),
        probes=names,
        accuracy=torch.stack(accuracy),
        weights=torch.stack([one.weights for one in whole]),
        bias=torch.stack([one.bias for one in whole]),
    )


def _check(kind: str, balanced: bool, controls: Sequence[str], sparsity: Sequence[int], width: int) -> None:
    if kind == "ridge" and balanced:
        raise BadInput(
            "balanced= is for logistic probes: ridge probes are made of moments, in which classes weigh as they are"
        )
    if unknown := [one for one in controls if one not in CONTROLS]:
        raise BadInput(f"controls may be {', '.join(map(repr, CONTROLS))}, got {unknown[0]!r}")
    if not all(1 <= k <= width for k in sparsity):
        raise BadInput(f"sparsity must be numbers of coordinates, 1..{width}, got {list(sparsity)}")


@dataclass(frozen=True, kw_only=True)
class _Split:
    """Which group, and so which fold, each example is in."""

    groups: Int[Tensor, " example"]
    of_examples: Int[Tensor, " example"]

    @classmethod
    def of(
        cls, labelled: Labelled, groups: Sequence[int] | Tensor | None, folds: int, generator: torch.Generator | None
    ) -> _Split:
        """Groups dealt to folds at random, so that folds differ by at most one group."""
        tokens = labelled.run.tokens.cpu()
        given = tokens.unique(dim=0, return_inverse=True)[1] if groups is None else torch.as_tensor(groups).cpu()
        if given.shape != (len(tokens),) or given.is_floating_point():
            raise BadInput(f"groups must be a number for each of {len(tokens)} prompts, got {list(given.shape)}")
        of_examples = given[labelled.prompts].unique(return_inverse=True)[1]
        count = int(of_examples.max()) + 1
        refuse_outside("folds", folds, 2, count, "the number of groups with a label")
        dealt = torch.empty(count, dtype=torch.long)
        dealt[torch.randperm(count, generator=generator)] = torch.arange(count) % folds
        split = cls(groups=of_examples, of_examples=dealt[of_examples])
        for fold in range(folds):
            if len(labelled.classes[split.of_examples != fold].unique()) < 2:
                raise BadInput(
                    f"all labels outside of fold {fold} are of one class; use fewer folds, or more documents"
                )
        return split

    def by_group(self, right: Bool[Tensor, "probe example"]) -> Float[Tensor, "probe group"]:
        """The share of each group's examples that are right."""
        size = self.groups.bincount().double()
        return torch.zeros(len(right), len(size)).double().index_add_(1, self.groups, right.double()) / size


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """How probes are fitted."""

    kind: str
    strength: float
    balanced: bool
    n_classes: int

    def __call__(self, x: Float[Tensor, "example width"], classes: Int[Tensor, " example"]) -> LinearProbe:
        if self.kind == "logistic":
            options: dict[str, Any] = dict(balanced=self.balanced, n_classes=self.n_classes)
            return logistic(x, classes, strength=self.strength, **options)
        target = torch.nn.functional.one_hot(classes, self.n_classes).double()
        return ridge(JointMoments.of(x, target), strength=self.strength)


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One layer and one fold: what is trained on, and what each probe then says of all examples."""

    fit: _Fit
    labelled: Labelled
    x: Float[Tensor, "example width"]
    drawn: Float[Tensor, "example width"]
    train: Bool[Tensor, " example"]
    shuffle: Int[Tensor, " example"]

    def said(self, probe: str) -> Int[Tensor, " example"]:
        """The class that a probe of that name gives each example."""
        classes = self.labelled.classes[self.train]
        if probe == "majority":
            return classes.bincount().argmax().expand(len(self.x))
        if probe == "token identity":
            return self._by_token(classes)
        if probe == "shuffled labels":
            classes = classes[self.shuffle[self.shuffle < len(classes)]]
        x = self.drawn if probe == "random model" else self.x
        if probe.startswith("k = "):
            x = x[:, most_different(x[self.train], classes, int(probe.removeprefix("k = ")))]
        return self.fit(x[self.train], classes).classes(x)

    def _by_token(self, classes: Int[Tensor, " train"]) -> Int[Tensor, " example"]:
        """The most frequent class of each token where it was trained on; of all tokens where it was not."""
        of_all = self.labelled.tokens.unique(return_inverse=True)[1]
        counts = torch.zeros(int(of_all.max()) + 1, self.fit.n_classes)
        counts.index_put_((of_all[self.train], classes), torch.ones(len(classes)), accumulate=True)
        counts += classes.bincount(minlength=self.fit.n_classes) / (2 * len(classes))  # decides ties and unseen tokens
        return counts.argmax(1)[of_all]


def most_different(x: Float[Tensor, "example width"], classes: Int[Tensor, " example"], k: int) -> Int[Tensor, " k"]:
    """The k coordinates whose class means differ most, in standard deviations: by the variance between classes."""
    moments = JointMoments.of(x, classes)
    share = moments.label_mean.clamp(min=torch.finfo(torch.float64).tiny)
    between = (moments.cross.square() / share).sum(1)  # sum over classes of share * (class mean - mean)^2
    return (between / moments.covariance.diagonal().clamp(min=moments.floor)).topk(k).indices


def _drawn_anew(
    model: HookedTransformer, places: Sequence[VectorPlace], generator: torch.Generator | None
) -> tuple[HookedTransformer, list[VectorPlace]]:
    """A model of the same config with weights of its own, and the same places in it."""
    cfg = replace(model.cfg, seed=int(torch.randint(2**31, (), generator=generator)), init_weights=True)
    other = HookedTransformer(cfg, tokenizer=model.tokenizer, move_to_device=False).to(model.device)
    return other, [vector_place(other, place.site) for place in places]


# ------------------------------------------------------------------------------------------------------------- corpora


@study
def probe_corpus(
    model: HookedTransformer,
    corpus: Corpus,
    labels: Labels,
    site: str = "resid_post",
    *,
    layers: Sequence[int] | None = None,
    strength: float = 1e-2,
    parts: Count = 5,
    seed: int = 0,
    **options: Any,
) -> Result:
    """Ridge probes of a corpus that need not fit into memory, tested on a part of its documents: two scans.

    Documents are dealt to `parts` by a hash of their number and `seed`; the first part is tested on, after the others
    were trained on. The result has the accuracy over its labelled tokens, [layer, probe], of "trained" and "majority".
    `options` are those of `corpus.scan`, but for `save_to`: only sums are kept.

    Raises:
        BadInput: fewer than 2 parts, a part without labelled tokens, a corpus that can be read only once, or what
            `scan` and `ridge` refuse.

    >>> from interp_hooks.corpus import by_token
    >>> from interp_hooks.studies import probe_corpus
    >>> labels = by_token({id: id % 2 for id in range(model.cfg.d_vocab)})
    >>> probe_corpus(model, [*clean, *corrupt], labels, layers=[1], parts=2, progress=False).axes["probe"]
    ['trained', 'majority']
    """
    if parts < 2 or "save_to" in options or isinstance(corpus, Iterator):
        raise BadInput("expected 2 parts or more, a corpus that can be read twice, and no save_to=")
    numbers = labels_of(model, site, ["layer"], 1, layers)["layer"]
    for layer in numbers:
        vector_place(model, at(site, layer))
    units = Units(site, (site,), layers=tuple(numbers))
    sums = scan(model, corpus, {"moments": LabelledMoments(units, labels, parts, seed)}, **options)["moments"]
    probes = {layer: ridge(JointMoments.of_scan(sums[layer], range(1, parts)), strength=strength) for layer in numbers}
    weights = {layer: (one.weights, one.bias) for layer, one in probes.items()}
    hits = scan(model, corpus, {"hits": LinearHits(units, labels, weights, parts, seed)}, **options)["hits"]
    train = sums[numbers[0]]["count"][1:].sum(0)
    rows = []
    for layer in numbers:
        confusion = hits[layer]["confusion"][0].double()
        if not float(confusion.sum()):
            raise BadInput("no token of the part that is tested on has a label; give more documents, or another seed")
        rows.append([confusion.trace() / confusion.sum(), confusion[int(train.argmax())].sum() / confusion.sum()])
    values = torch.tensor(rows, dtype=torch.float64)[..., None]
    return Result(metric="accuracy", axes={"layer": list(numbers), "probe": ["trained", "majority"]}, values=values)
