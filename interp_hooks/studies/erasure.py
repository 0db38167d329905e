"""Erasure of a concept: the least change of an activation after which no linear probe finds it.

    r(x) = x - W^-1 P W (x - mean)     W whitens x; P projects onto the columns of W cov(x, z), z being the labels

Afterwards the covariance with the labels is 0, all classes have one mean, and so the best linear classifier of any
convex loss is the constant one; among affine maps of which this holds, r changes x least (LEACE, Belrose et al. 2023,
arxiv.org/abs/2306.03819). With W = 1 it is the orthogonal projection, which erases too and changes more. What later
layers compute anew from other parts of the stream is not erased at one layer: `erase_concept` goes layer by layer, each
on the run in which the earlier ones are erased already.

An `Eraser` is a source of interventions, and an `Erasure` is one for each layer:

    erasure = erase_concept(model, prompts, labels, "resid_post")
    Run(tokens, erasure.interventions())                       all of them at once
    ablate(model, prompts, metric, "resid_post", over=("layer",), method=erasure)           one layer after the other
    with erasure.applied(model): model.generate(...)           in whatever passes there are
    steer(model, erasure["resid_post1"], "resid_post1")        one of them, to any degree

The promise is about linear probes and the data that it was fitted on: a probe of another kind may still find the
concept, and with hardly more examples than dimensions other data keep some of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.corpus.labels import Labels
from interp_hooks.corpus.reading import Corpus
from interp_hooks.corpus.reducers.labelled import LabelledMoments
from interp_hooks.corpus.scanning import scan
from interp_hooks.corpus.units import Units
from interp_hooks.errors import BadInput, UnknownHook, nearest
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.experiments.patching import labels_of
from interp_hooks.experiments.results.kept import Kept
from interp_hooks.experiments.steering import Positions, steer
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.names import get_act_name
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.readout import LAST
from interp_hooks.interventions.runs import Intervention, PromptsLike
from interp_hooks.interventions.sites import Site, at
from interp_hooks.interventions.subspaces import Eraser, Pointwise
from interp_hooks.interventions.vectors import vector_place
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.covariances import JointMoments
from interp_hooks.studies.labelled import Labelled, LabelsLike

Method = Literal["leace", "projection"]
TOLERANCE = 1e-8  # the correlation with the labels, as a part of their spread, below which a direction is rounding


@study
def leace(moments: JointMoments, *, method: Method = "leace", shrinkage: float = 0.0) -> Eraser:
    """The eraser of the labels of some moments; its rank is at most the number of labels, of k classes k - 1.

    With `method="projection"` the orthogonal projection onto what is across all directions in which class means differ.
    `shrinkage` of 0..1 moves the covariance that whitens towards a multiple of the identity, as is wise with hardly
    more examples than dimensions: erasure stays exact on these examples, and the change is a little larger.

    Raises:
        BadInput: an unknown method, or a shrinkage outside 0..1.

    >>> from interp_hooks.studies import JointMoments, leace
    >>> x, z = torch.randn(50, 4), torch.arange(50) % 2
    >>> eraser = leace(JointMoments.of(x, z))
    >>> bool(JointMoments.of(eraser(x.double()), z).cross.abs().max() < 1e-12), eraser.rank
    (True, 1)
    """
    if not 0 <= shrinkage <= 1:
        raise BadInput(f"shrinkage must be in 0..1, got {shrinkage}")
    width = len(moments.mean)
    whiten = unwhiten = torch.eye(width, dtype=torch.float64, device=moments.mean.device)
    if method == "leace":
        whiten, unwhiten = _whitening(moments, shrinkage)
    left, sizes, _ = torch.linalg.svd(whiten @ moments.cross, full_matrices=False)
    spread = moments.label_covariance.diagonal().sum().sqrt()
    if method == "projection":  # correlations are then those of x as it is long
        spread = spread * moments.covariance.diagonal().sum().sqrt()
    basis = left[:, sizes > TOLERANCE * spread]
    return Eraser(mean=moments.mean, reads=basis.T @ whiten, writes=(unwhiten @ basis).T)


def _whitening(moments: JointMoments, shrinkage: float = 0.0) -> tuple[Tensor, Tensor]:
    """The matrix that whitens x, and its inverse; variances below what can be told from rounding count as that much.

    So both are of full rank, and erasure is exact also along directions in which x hardly varies.
    """
    covariance = moments.covariance
    mean_variance = covariance.diagonal().mean()
    shrunk = (1 - shrinkage) * covariance + shrinkage * mean_variance * torch.eye(len(covariance)).to(covariance)
    variances, axes = torch.linalg.eigh(shrunk)
    scales = variances.clamp(min=moments.floor).sqrt()
    return axes / scales @ axes.T, axes * scales @ axes.T


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Erasure(Pointwise, Kept):
    """An eraser for each hook, by its full name, and what it took away. As a source it puts each at its own hook.

    `explained` is the share of the labels' variance that the best linear function of the activation explained before
    (of a run in which earlier hooks are erased already, if it was made layer by layer), and `changed` the share of the
    activation's variance that erasing it took away. `left` is the largest covariance with the labels that is left, as a
    part of the largest before: rounding. `select` is what the hooks' places select ("head").
    """

    erasers: Mapping[str, Eraser]
    explained: Sequence[float]
    changed: Sequence[float]
    left: Sequence[float]
    select: Mapping[str, int]

    def __getitem__(self, hook: str) -> Eraser:
        """The eraser of a hook, by its short or full name.

        Raises:
            UnknownHook: it has none of that hook.
        """
        name = get_act_name(hook)
        if name not in self.erasers:
            raise UnknownHook(f"there is no eraser of {hook!r}.{nearest(name, self.erasers)}")
        return self.erasers[name]

    def width_at(self, hook: str) -> int:
        return self[hook].width_at(hook)

    def made_of(self, value: Float[Tensor, "*rows width"], hook: str) -> Float[Tensor, "*rows width"]:
        return self[hook](value)

    def interventions(self, **select: Any) -> list[Intervention]:
        """An intervention for each hook; `select` says where (`pos=-1`), by default at all positions."""
        return [
            Intervention(Site(hook=name, select={**self.select, **select}), eraser)
            for name, eraser in self.erasers.items()
        ]

    @checked
    def applied(
        self, model: HookedTransformer, *, positions: Positions | None = None
    ) -> AbstractContextManager[HookedTransformer]:
        """A `with` block within which every pass, also of `generate`, has all hooks erased; `positions` as in `steer`.

        Raises:
            BadInput, UnknownHook: a model without these hooks, or of another width.
            HookDidNotFire: when the block ends, if some hook was not come by.
        """
        places = [Site(hook=name, select=self.select) for name in self.erasers]
        blocks = [
            steer(model, eraser, site, positions=positions)
            for eraser, site in zip(self.erasers.values(), places, strict=True)
        ]
        return _all_of(model, blocks)

    def table(self) -> pd.DataFrame:
        """A row for each hook: the rank of its eraser, and what was `explained`, `changed` and `left`."""
        columns: dict[str, Any] = dict(hook=list(self.erasers), rank=[one.rank for one in self.erasers.values()])
        return pd.DataFrame(columns | dict(explained=self.explained, changed=self.changed, left=self.left))


@contextmanager
def _all_of(
    model: HookedTransformer, blocks: Sequence[AbstractContextManager[HookedTransformer]]
) -> Iterator[HookedTransformer]:
    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(block)
        yield model


def _erasure(found: Mapping[str, tuple[JointMoments, Eraser]], select: Mapping[str, int]) -> Erasure:
    """An erasure of moments and erasers by hook."""
    numbers = [_numbers(moments, eraser) for moments, eraser in found.values()]
    explained, changed, left = (list(one) for one in zip(*numbers, strict=True))
    erasers = {name: eraser for name, (_, eraser) in found.items()}
    return Erasure(erasers=erasers, explained=explained, changed=changed, left=left, select=dict(select))


def _numbers(moments: JointMoments, eraser: Eraser) -> tuple[float, float, float]:
    whiten, _ = _whitening(moments)
    explained = (whiten @ moments.cross).square().sum() / moments.label_covariance.trace()
    written = eraser.reads @ moments.covariance @ eraser.reads.T
    changed = (eraser.writes.T @ written @ eraser.writes).trace() / moments.covariance.trace()
    after = moments.cross - eraser.writes.T @ eraser.reads @ moments.cross
    left = after.abs().max() / moments.cross.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    return float(explained), float(changed), float(left)


@study
def erase_concept(
    model: HookedTransformer,
    prompts: PromptsLike,
    labels: LabelsLike,
    site: str = "resid_post",
    *,
    pos: int | Tensor | None = LAST,
    layers: Sequence[int] | None = None,
    select: Mapping[str, int] | None = None,
    method: Method = "leace",
    shrinkage: float = 0.0,
    batch_size: Count = 64,
) -> Erasure:
    """Erasers of some labels at `site` of every layer, or of some `layers`, each fitted with the earlier ones in force.

    `labels` are the class of each prompt, read at `pos` (default: the last real token; None: all tokens but BOS and
    padding), or a class for each token [batch, pos], -1 for those without. In the runs that later layers are fitted on
    erasers act at all positions, as they do in `interventions()` and `applied`. `select` says which head (`{"head": 1}`
    of "z"). A layer takes a pass over the prompts, as far as its hook.

    Raises:
        UnknownHook: no such hook.
        BadInput: labels that do not fit, a site other than [batch, pos, width], or what `leace` refuses.

    >>> from interp_hooks.studies import erase_concept
    >>> erasure = erase_concept(model, [*clean, *corrupt], [0] * 4 + [1] * 4, "resid_pre", layers=[1, 2])
    >>> erasure.table()["hook"].tolist()
    ['blocks.1.hook_resid_pre', 'blocks.2.hook_resid_pre']
    >>> with erasure.applied(model):
    ...     text = model.generate(clean[0], max_new_tokens=1, verbose=False)
    """
    labelled, chosen = Labelled.of(model, prompts, labels, pos), dict(select or {})
    found: dict[str, tuple[JointMoments, Eraser]] = {}
    for layer in sorted(labels_of(model, site, ["layer"], labelled.run.tokens.shape[1], layers)["layer"]):
        place = vector_place(model, at(site, layer, **chosen))
        made = [Intervention(Site(hook=name, select=chosen), eraser) for name, (_, eraser) in found.items()]
        (x,) = labelled.vectors(model, [place], made, batch_size)
        moments = JointMoments.of(x, labelled.classes)
        found[place.point.name] = moments, leace(moments, method=method, shrinkage=shrinkage)
    return _erasure(found, chosen)


@study
def erase_concept_of_corpus(
    model: HookedTransformer,
    corpus: Corpus,
    labels: Labels,
    site: str = "resid_post",
    *,
    layers: Sequence[int] | None = None,
    method: Method = "leace",
    shrinkage: float = 0.0,
    **options: Any,
) -> Erasure:
    """`erase_concept` over a corpus that need not fit into memory: a scan for each layer, of which only sums are kept.

    `corpus` has to be there once for each layer: files, lists, data sets, but no stream that is used up. `options` are
    those of `corpus.scan`. What is erased in later scans is erased at all tokens that are read, BOS included.

    Raises:
        UnknownHook: no such hook.
        BadInput: a corpus that can be read only once, or what `leace` and `scan` refuse.

    >>> from interp_hooks.corpus import by_document
    >>> from interp_hooks.studies import erase_concept_of_corpus
    >>> labels = by_document([0] * 4 + [1] * 4)
    >>> erasure = erase_concept_of_corpus(model, [*clean, *corrupt], labels, "resid_pre", layers=[1], progress=False)
    >>> erasure.table()["rank"].tolist()
    [1]
    """
    if isinstance(corpus, Iterator):
        raise BadInput("this corpus can be read only once, and each layer reads it; give a file, a list or a data set")
    found: dict[str, tuple[JointMoments, Eraser]] = {}
    for layer in sorted(labels_of(model, site, ["layer"], 1, layers)["layer"]):
        place = vector_place(model, at(site, layer))
        reducer = LabelledMoments(Units(site, (site,), layers=(layer,)), labels)
        with _erasure(found, {}).applied(model) if found else ExitStack():
            sums = scan(model, corpus, {"moments": reducer}, **options)["moments"][layer]
        moments = JointMoments.of_scan(sums)
        found[place.point.name] = moments, leace(moments, method=method, shrinkage=shrinkage)
    return _erasure(found, {})
