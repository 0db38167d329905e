"""Interchange interventions, and the subspace that holds a variable: distributed alignment search (DAS).

    base     "3 + 4 ="      with the first number of `source` in place of its own:
    source   "5 + 1 ="      5 + 4, which is the counterfactual answer

Interchange accuracy is the share of pairs that are answered counterfactually once the component of the base's
activation along some directions is the source's (Geiger et al. 2021, arxiv.org/abs/2106.02997). DAS looks for the
directions by gradient descent on that answer (Geiger et al. 2024, arxiv.org/abs/2303.02536). It can fit nearly
anything where there are few pairs for each number that it may choose, so it never comes without controls:

    no swap             what is right anyway: the pairs whose answer stays the same
    full swap           all of the activation, which is all that the place can do
    random subspace     as many directions, drawn at random
    placebo             a change as long as that of the swap, in a direction drawn for each pair
    arbitrary labels    the search itself, after the counterfactual answers have changed places

Look at pairs that were not trained on, and at those whose answer changes. A subspace may still work through a dormant
path (Makelov, Lange and Nanda 2024, arxiv.org/abs/2311.17030), which shows where it does more than the full swap does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, about, checked
from interp_hooks.experiments.patching import paired_runs
from interp_hooks.experiments.results.kept import Kept
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import study, with_constant_weights
from interp_hooks.hooks.points import HookPoint
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.metrics import Accuracy
from interp_hooks.interventions.prompts import record_parts, run_of
from interp_hooks.interventions.readout import LAST, Metric, Readout, read_pass, said
from interp_hooks.interventions.runs import Intervention, PromptsLike, Run
from interp_hooks.interventions.sites import Here, Recording, Site, Source
from interp_hooks.interventions.subspaces import orthonormal, swapped
from interp_hooks.interventions.vectors import VectorPlace, vector_place
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.stream import Stream
from interp_hooks.model.transformer import HookedTransformer

Answers = Sequence[Any] | Tensor
DRAWS = 5  # random subspaces that are averaged


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Interchange(Kept):
    """Which pairs are answered counterfactually, after a swap and after its controls.

    `right` [control, pair] is 1 where a pair is, with the mean over draws of random subspaces; `controls` names the
    rows, "swap" first. `trained` are the pairs that directions were looked for with (none where they were given),
    `changes` those whose counterfactual answer is another than before. `directions` [rank, width] are orthonormal; they
    are what `patch_along`, `ablate_directions`, `Intervention(along=)` and `steer` take. `losses` [step] are those of
    the search, in nats.
    """

    _printed = None

    hook: str
    directions: Float[Tensor, "rank width"]
    controls: Sequence[str]
    right: Float[Tensor, "control pair"]
    trained: Bool[Tensor, " pair"]
    changes: Bool[Tensor, " pair"]
    losses: Float[Tensor, " step"]

    @property
    def accuracy(self) -> float:
        """The share of pairs that were not trained on which the swap answers counterfactually."""
        return float(self.right[0, ~self.trained].mean())

    @property
    def result(self) -> Result:
        """The pairs that were not trained on as a result, for its intervals and figures."""
        values = self.right[:, ~self.trained]
        return Result(metric="interchange_accuracy", axes={"control": list(self.controls)}, values=values)

    def table(self) -> pd.DataFrame:
        """A row for each control: the share that is right of pairs not trained on: of all, and where the answer changes
        and stays; and of those trained on, if there are any."""
        test = ~self.trained
        chosen = {"accuracy": test, "changes": test & self.changes, "stays": test & ~self.changes}
        if bool(self.trained.any()):
            chosen |= {"trained on": self.trained, "trained on, changes": self.trained & self.changes}
        columns = {name: self.right[:, pairs].mean(1).tolist() for name, pairs in chosen.items()}
        return pd.DataFrame({"control": list(self.controls), **columns})

    def _words(self) -> list[str]:
        test = ~self.trained
        pairs = f"{int(test.sum())} pairs, of which {int((test & self.changes).sum())} change"
        return [f"{len(self.directions)} directions at {self.hook}; {pairs}"]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pairs:
    """Pairs of prompts, their counterfactual answers, where activations are swapped and where answers are read."""

    model: HookedTransformer
    base: Run
    source: Run
    answer: Int[Tensor, " pair"]
    among: Int[Tensor, " token"] | None
    place: VectorPlace
    pos: Any
    read: Any

    @classmethod
    def of(
        cls,
        model: HookedTransformer,
        base: PromptsLike,
        source: PromptsLike,
        counterfactual: Answers,
        hook: str | Site,
        pos: int | Tensor | None,
        read: int | Tensor | None,
        among: Answers | None,
    ) -> _Pairs:
        place = vector_place(model, hook)
        run, other = paired_runs(model, base, source, ("base", "source"))
        with about("counterfactual"):
            answer = model.token_ids(counterfactual).reshape(-1).cpu()
        if len(answer) != len(run.tokens):
            raise BadInput(f"counterfactual must be one answer for each of {len(run.tokens)} pairs, got {len(answer)}")
        with about("among"):
            candidates = None if among is None else model.token_ids(among).reshape(-1).cpu()
        if candidates is not None and not bool(torch.isin(answer, candidates).all()):
            raise BadInput("among must name all counterfactual answers")
        pos, read = said(model, pos), said(model, read)
        if isinstance(pos, Tensor) and pos.shape != answer.shape:
            raise BadInput(f"pos must be one position for all pairs, or one for each of {len(answer)}")
        return cls(
            model=model, base=run, source=other, answer=answer, among=candidates, place=place, pos=pos, read=read
        )

    @property
    def metric(self) -> Accuracy:
        """Whether a pair is answered counterfactually."""
        return Accuracy(self.answer, self.read, among=self.among)

    def run(self, source: Source | None, along: Tensor | None = None) -> Run:
        """The bases with something in place of their activation, or of its component along some directions."""
        where = {} if self.pos is None else {"pos": self.pos}
        site = replace(self.place.site, select={**self.place.site.select, **where})
        made = [] if source is None else [Intervention(site, source, along=along)]
        return Run(self.base.tokens, made, self.base.attention_mask)

    @property
    def originals(self) -> Int[Tensor, " pair"]:
        """The model's own answers to the bases."""
        return evaluate(self.model, [self.base], _Answer(self.read, self.among))[0].long().cpu()

    def some(self, rows: Int[Tensor, " pair"]) -> _Pairs:
        """Some of the pairs."""
        pos, read = (one[rows] if isinstance(one, Tensor) else one for one in (self.pos, self.read))
        base, source = (run_of(self.model, run, rows) for run in (self.base, self.source))
        return replace(self, base=base, source=source, answer=self.answer[rows], pos=pos, read=read)


@dataclass(frozen=True, eq=False)
class _Answer(Metric):
    """The likeliest token of some, or of all, at one position."""

    pos: int | Tensor
    among: Int[Tensor, " token"] | None
    name = "answer"

    @property
    def readout(self) -> Readout:
        return Readout(pos=self.pos, tokens=None if self.among is None else self.among[None])

    def score(self, logits: Float[Tensor, "pair token"]) -> Float[Tensor, " pair"]:
        best = logits.argmax(-1)
        return (best if self.among is None else self.among.to(best.device)[best]).double()


@dataclass(frozen=True, eq=False)
class _Placebo(Source):
    """A change as long as that of a swap along some directions, in other directions [pair, width] of unit length."""

    other: Run
    basis: Float[Tensor, "rank width"]
    noise: Float[Tensor, "pair width"]

    @property
    def runs(self) -> Sequence[Run]:
        return [self.other]

    def put(self, here: Here) -> Tensor:
        change = (here.of(self.other) - here.value) @ self.basis.to(here.value).T
        noise = self.noise.to(here.value)
        noise = noise if here.value.ndim == 2 else noise[:, None]
        return here.value + change.norm(dim=-1, keepdim=True) * noise


@study
def interchange_accuracy(
    model: HookedTransformer,
    base: PromptsLike,
    source: PromptsLike,
    counterfactual: Answers,
    hook: str | Site,
    along: Float[Tensor, "*n width"],
    *,
    pos: int | Tensor | None = LAST,
    read: int | Tensor | None = LAST,
    original: Answers | None = None,
    among: Answers | None = None,
    generator: torch.Generator | None = None,
) -> Interchange:
    """How many pairs are answered counterfactually once the component of `base` along some directions is `source`'s.

    Activations are swapped at `hook`, a name or a site of one vector for each position, at `pos` of each prompt
    (default: the last real token; None: everywhere); prompts correspond position by position. `counterfactual` are the
    tokens that should be likeliest then, of `among` or of all, at the position `read`; `original` (default: what the
    model itself answers to `base`) tells where that is a change. Controls are "no swap", "full swap", "random subspace"
    and "placebo".

    Raises:
        UnknownHook: no such hook.
        BadInput: prompts, answers, positions or directions that do not fit.

    >>> from interp_hooks.studies import interchange_accuracy
    >>> along = steering_vector(model, clean, corrupt, "resid_pre2")
    >>> found = interchange_accuracy(model, corrupt, clean, pairs.answer, "resid_pre2", along)
    >>> found.table()["control"].tolist()
    ['swap', 'no swap', 'full swap', 'random subspace', 'placebo']
    """
    pairs = _Pairs.of(model, base, source, counterfactual, hook, pos, read, among)
    if along.shape[-1:] != (pairs.place.width,):
        raise BadInput(f"along must be directions [n, {pairs.place.axis}={pairs.place.width}], got {list(along.shape)}")
    return _measured(pairs, orthonormal(along).cpu(), original, generator)


def _measured(
    pairs: _Pairs, basis: Float[Tensor, "rank width"], original: Answers | None, generator: torch.Generator | None
) -> Interchange:
    """The swap along a basis, and its controls."""
    n, width = len(pairs.answer), pairs.place.width
    noise = F.normalize(torch.randn(n, width, generator=generator, dtype=torch.float64), dim=-1)
    drawn = torch.randn(DRAWS, len(basis), width, generator=generator, dtype=torch.float64)
    runs = [
        pairs.run(pairs.source, basis),
        pairs.run(None),
        pairs.run(pairs.source),
        pairs.run(_Placebo(pairs.source, basis, noise)),
        *(pairs.run(pairs.source, one) for one in drawn),
    ]
    swap, none, full, placebo, *random = evaluate(pairs.model, runs, pairs.metric).double().cpu()
    before = pairs.originals if original is None else pairs.model.token_ids(original).reshape(-1).cpu()
    if len(before) != n:
        raise BadInput(f"original must be one answer for each of {n} pairs, got {len(before)}")
    return Interchange(
        hook=pairs.place.point.name,
        directions=basis,
        controls=["swap", "no swap", "full swap", "random subspace", "placebo"],
        right=torch.stack([swap, none, full, torch.stack(random).mean(0), placebo]),
        trained=torch.zeros(n, dtype=torch.bool),
        changes=before != pairs.answer,
        losses=torch.zeros(0, dtype=torch.float64),
    )


# ------------------------------------------------------------------------------------------------------------- search


@checked
def fit_das(
    model: HookedTransformer,
    base: PromptsLike,
    source: PromptsLike,
    counterfactual: Answers,
    hook: str | Site,
    *,
    rank: Count = 1,
    pos: int | Tensor | None = LAST,
    read: int | Tensor | None = LAST,
    original: Answers | None = None,
    among: Answers | None = None,
    held_out: float = 0.25,
    steps: Count = 200,
    batch_size: Count = 128,
    lr: float = 0.03,
    arbitrary: bool = True,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> Interchange:
    """Distributed alignment search: the subspace of `rank` dimensions whose swap best gives counterfactual answers.

    Arguments are those of `interchange_accuracy`. A part `held_out` of the pairs is not trained on. The search is
    `steps` of Adam over batches, on the cross-entropy of the counterfactual answer (among the candidates, or in the
    whole vocabulary), with a learning rate that falls from `lr` to 0; directions stay orthonormal. With `arbitrary`,
    the search is made once more with the answers of the pairs trained on in random order: the row "arbitrary labels" is
    how many of these it fits, which tells how much of "trained on" the search could make of anything.

    Raises:
        UnknownHook, BadInput: as `interchange_accuracy`; a rank beyond the activation's width, or a share held out that
            leaves no pairs on one side.

    >>> from interp_hooks.studies import fit_das
    >>> found = fit_das(model, corrupt, clean, pairs.answer, "resid_pre2", steps=3, progress=False)
    >>> found.table().columns.tolist()
    ['control', 'accuracy', 'changes', 'stays', 'trained on', 'trained on, changes']
    """
    pairs = _Pairs.of(model, base, source, counterfactual, hook, pos, read, among)
    n, width = len(pairs.answer), pairs.place.width
    test = round(held_out * n)
    if not 1 <= rank <= width or not 0 < test < n or steps < 1 or batch_size < 1 or not 0 < lr < float("inf"):
        raise BadInput(
            f"expected a rank of 1..{width}, at least 1 step and 1 pair a batch, lr > 0, and a share held out that "
            f"leaves pairs on both sides, got {rank}, {steps}, {batch_size}, {lr} and {held_out} of {n} pairs"
        )
    order = torch.randperm(n, generator=generator)
    train = order[test:]
    search = _Search(steps=steps, batch_size=batch_size, lr=lr, rank=rank)
    with progress_bar(total=steps * (1 + arbitrary), progress=progress, unit="step") as bar:
        basis, losses = search.basis(pairs.some(train), generator, bar.update)
        found = _measured(pairs, basis, original, generator)
        trained = torch.zeros(n, dtype=torch.bool).index_fill(0, train, True)
        found = replace(found, trained=trained, losses=losses)
        if not arbitrary:
            return found
        shuffled = pairs.answer.clone()
        shuffled[train] = shuffled[train[torch.randperm(len(train), generator=generator)]]
        other = replace(pairs, answer=shuffled)
        fitted, _ = search.basis(other.some(train), generator, bar.update)
    right = evaluate(model, [other.run(other.source, fitted)], other.metric).double().cpu()
    right = torch.where(trained, right, torch.nan)
    return replace(found, controls=[*found.controls, "arbitrary labels"], right=torch.cat((found.right, right)))


@dataclass(frozen=True, kw_only=True)
class _Search:
    """Gradient descent over bases of a subspace."""

    steps: int
    batch_size: int
    lr: float
    rank: int

    def basis(
        self, pairs: _Pairs, generator: torch.Generator | None, done: Callable[[], object]
    ) -> tuple[Float[Tensor, "rank width"], Float[Tensor, " step"]]:
        """An orthonormal basis that was found for some pairs, and the loss of each step."""
        width, n = pairs.place.width, len(pairs.answer)
        drawn = torch.randn(width, self.rank, generator=generator, dtype=torch.float64)
        free = torch.linalg.qr(drawn).Q.requires_grad_()
        known = _Known.of(pairs, self.batch_size)
        optimizer = torch.optim.Adam([free], lr=self.lr)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=self.steps)
        losses: list[float] = []
        waiting = torch.zeros(0, dtype=torch.long)
        for _ in range(self.steps):
            if not len(waiting):
                waiting = torch.randperm(n, generator=generator)
            rows, waiting = waiting[: self.batch_size], waiting[self.batch_size :]
            loss = _loss(pairs.some(rows), known.some(rows), free)
            (free.grad,) = torch.autograd.grad(loss, [free])
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            done()
        return torch.linalg.qr(free.detach()).Q.T, torch.tensor(losses, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Known:
    """What no step of a search changes: the streams that passes over the bases start from, and the sources' vectors."""

    entering: Recording
    other: Float[Tensor, "pair pos width"]

    @classmethod
    def of(cls, pairs: _Pairs, batch_size: int) -> _Known:
        model, place, stream = pairs.model, pairs.place, Stream(pairs.model)
        start = stream.starts(stream.place(place.point.name).layer)
        hooks = [stream.entering(start)] if start >= 0 else []
        entering = record_parts(model, pairs.base, hooks, batch_size) if hooks else {}
        value = record_parts(model, pairs.source, [place.point.name], batch_size)[place.point.name]
        return cls(entering=entering, other=value[place.index(value)])

    def some(self, rows: Int[Tensor, " pair"]) -> _Known:
        """That of some of the pairs."""
        entering = {hook: value[rows.to(value.device)] for hook, value in self.entering.items()}
        return _Known(entering=entering, other=self.other[rows.to(self.other.device)])


@with_constant_weights
def _loss(pairs: _Pairs, known: _Known, free: Float[Tensor, "width rank"]) -> Float[Tensor, ""]:
    """The cross-entropy in nats of the counterfactual answers with the swap along the span of `free`.

    A pass of its own: the engine would plan and record anew in each step of the search.
    """
    model, place, stream = pairs.model, pairs.place, Stream(pairs.model)
    basis = torch.linalg.qr(free).Q.T.to(model.device, model.dtype)

    def swap(value: Tensor, hook: HookPoint) -> Tensor:
        value, index = value.clone(), place.index(value)
        here = value[index]
        new = swapped(here, known.other, basis)
        if pairs.pos is not None:
            at = Readout(pos=pairs.pos).positions(pairs.base).to(here.device)  # batch 1
            chosen = torch.zeros(here.shape[:2], dtype=torch.bool, device=here.device).scatter_(1, at, True)
            new = torch.where(chosen[..., None], new, here)
        value[index] = new
        return value

    tokens = None if pairs.among is None else pairs.among.expand(len(pairs.answer), -1)
    readout = Readout(pos=pairs.read, tokens=tokens)
    hooks = [(place.point.name, swap)]
    layer = stream.place(place.point.name).layer
    (logits,) = read_pass(stream, readout, pairs.base, 1, layer, known.entering, hooks)
    target = pairs.answer if pairs.among is None else (pairs.answer[:, None] == pairs.among).int().argmax(1)
    return F.cross_entropy(logits.double(), target.to(logits.device))
