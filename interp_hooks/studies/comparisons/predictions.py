"""How far apart two models' predictions are, token by token, and which tokens one of them favours.

    kl_nats               KL(model || other) of what both say comes next
    reverse_kl_nats       KL(other || model)
    log_prob_difference   log-probability of the token that came, other less model, in nats
    same_top              1 where both find the same token likeliest

A number belongs to the token that came: it is what was predicted there. Sums are those of `corpus`: exact, and merged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.corpus.packing import Rows
from interp_hooks.corpus.reading import Corpus
from interp_hooks.corpus.reducers.base import Merges, Reducer, State, States
from interp_hooks.corpus.reducers.statistics import MeanByToken, Statistics
from interp_hooks.corpus.reducers.top import TopK
from interp_hooks.corpus.units import Seen, Units
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.experiments.results.kept import Kept
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.metrics import Loss
from interp_hooks.model.token_text import names_of
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.comparisons.pairs import scan_pair

PREDICTED = ("kl_nats", "reverse_kl_nats", "log_prob_difference", "same_top")
UNITS = Units("prediction", ("unembed.hook_out",))
MINED = 100  # logits of a position that count as favoured: a hundredth of the vocabulary, and at most so many
CHUNK = 2**20  # numbers of [token, vocabulary] that are worked on at once, in float64: few enough for fast memory


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PredictionChanges(Kept):
    """How far apart predictions are. Prints as the means.

    `mean` and `std` [measure] are over `count` tokens, by `PREDICTED`. `tokens`, `token_counts` and `token_means`
    [token, measure] are the same by the token that came. `favoured` are the tokens whose logits are most often among
    the `mined` ones that rose most from the model to the other: at which `shares` of positions, and at which `raised`
    their log-probability rose at all; `by_chance` is an even share. `places` are the largest ones of each measure:
    document, position, text before, token, value.
    """

    count: int
    mean: Float[Tensor, " measure"]
    std: Float[Tensor, " measure"]
    tokens: Sequence[str]
    token_counts: Int[Tensor, " token"]
    token_means: Float[Tensor, "token measure"]
    mined: int
    favoured: Sequence[str]
    shares: Float[Tensor, " favoured"]
    raised: Float[Tensor, " favoured"]
    by_chance: float
    places: Mapping[str, Sequence[Any]]

    def result(self) -> Result:
        """The means: the axis is "measure"."""
        return Result(metric="value", axes={"measure": list(PREDICTED)}, values=self.mean[:, None])

    def table(self) -> pd.DataFrame:
        """The mean and the standard deviation of each measure."""
        columns = {"measure": PREDICTED, "mean": self.mean.tolist(), "std": self.std.tolist(), "tokens": self.count}
        return pd.DataFrame(columns)

    def contexts(self, measure: str = "kl_nats") -> pd.DataFrame:
        """Where a measure is largest, a row for each document, with the tokens before: at most as many as were kept.

        Raises:
            BadInput: an unknown measure.
        """
        if measure not in self.places:
            raise BadInput(f"measure must be one of {', '.join(self.places)}, got {measure!r}")
        return pd.DataFrame(self.places[measure], columns=["document", "position", "before", "token", measure])

    @checked
    def by_token(self, k: Count = 10, measure: str = "kl_nats", least: Count = 3) -> pd.DataFrame:
        """The `k` tokens, of those that came at least so often, at which the mean of a measure is largest in size."""
        if measure not in PREDICTED:
            raise BadInput(f"measure must be one of {', '.join(PREDICTED)}, got {measure!r}")
        values = self.token_means[:, PREDICTED.index(measure)]
        kept = (self.token_counts >= least).nonzero()[:, 0]
        best = kept[values[kept].abs().argsort(descending=True, stable=True)[:k]]
        names = [self.tokens[one] for one in best.tolist()]
        return pd.DataFrame({"token": names, measure: values[best].tolist(), "count": self.token_counts[best].tolist()})

    @checked
    def mining(self, k: Count = 10) -> pd.DataFrame:
        """The `k` tokens that the other favours most often: `share` of positions, `enrichment` over an even share,
        and `raised`, the share of positions at which the log-probability rose."""
        columns = {"token": self.favoured, "share": self.shares.tolist()}
        columns |= {"enrichment": (self.shares / self.by_chance).tolist(), "raised": self.raised.tolist()}
        return pd.DataFrame(columns).head(k)


@checked
def prediction_changes(
    model: HookedTransformer, other: HookedTransformer, corpus: Corpus, *, top: Count = 10, **options: Any
) -> PredictionChanges:
    """How far apart the predictions of two models with one vocabulary are, over all tokens of a corpus that follow one.

    `top` places are kept of each measure, one of each document. Which logits rose most is counted over positions
    (logit-difference mining): tokens that are favoured far more often than by chance tell what the other was trained
    on. Other keyword arguments are those of `corpus.scan`.

    Raises:
        BadInput: other vocabularies, a model that reads both ways, or a corpus in which nothing follows anything.

    >>> from interp_hooks.studies import prediction_changes
    >>> prediction_changes(model, model, clean, progress=False).mean.tolist()
    [0.0, 0.0, 0.0, 1.0]
    """
    for one in (model, other):
        Loss().on(one)
    reading = _Predictions((model, other), top)
    found = scan_pair(model, other, corpus, reading, **options)
    if not found.states["statistics"]:
        raise BadInput("the corpus has no token that counts and follows another; give longer texts, or exclude=()")
    statistics, by_token, mined = (found[name][None] for name in ("statistics", "by_token", "mined"))
    best, words = found["top"][None], names_of(model)

    def row(document: int, position: int, value: float) -> tuple[Any, ...]:
        *before, token = map(words, found.context(document, position, before=12, after=0).tolist())
        return document, position, ("" if model.tokenizer else " ").join(before), token, value

    listed = {
        measure: [
            row(*one)
            for one in zip(*(best[name][place].tolist() for name in ("documents", "positions", "values")), strict=True)
            if one[0] >= 0
        ]
        for place, measure in enumerate(PREDICTED)
    }
    favoured = mined["favoured"].argsort(descending=True, stable=True)[:MINED]
    favoured = favoured[mined["favoured"][favoured] > 0]
    return PredictionChanges(
        count=int(statistics["count"]),
        mean=statistics["mean"],
        std=statistics["std"],
        tokens=list(map(words, by_token["tokens"].tolist())),
        token_counts=by_token["counts"],
        token_means=by_token["means"],
        mined=reading.mined.k,
        favoured=list(map(words, favoured.tolist())),
        shares=mined["favoured"][favoured],
        raised=mined["raised"][favoured],
        by_chance=reading.mined.k / model.cfg.d_vocab_out,
        places=listed,
    )


@dataclass(frozen=True)
class _Mined(Merges):
    """How often each token's logit is among the `k` that rose most, and how often its log-probability rose."""

    k: int

    def reduce(self, before: Float[Tensor, "token vocabulary"], after: Float[Tensor, "token vocabulary"]) -> State:
        rose = (after - before).float()
        values, best = rose.topk(self.k, dim=-1)
        chosen = best[values > rose.mean(-1, keepdim=True)]
        return {
            "count": torch.tensor(len(rose)),
            "favoured": chosen.bincount(minlength=rose.shape[1]).cpu(),
            "raised": (rose > 0).sum(0).cpu(),
        }

    def merge(self, one: State, other: State) -> State:
        return {name: one[name] + other[name] for name in one}

    def result(self, state: State) -> dict[str, Tensor]:
        return {name: state[name].double() / state["count"] for name in ("favoured", "raised")}


@dataclass
class _Predictions:
    """What a scan does with rows: both models read them, and what they say of each next token is measured."""

    models: tuple[HookedTransformer, HookedTransformer]
    top: int
    keep: Sequence[Units] = field(default=())

    def __post_init__(self) -> None:
        self.reduced: Mapping[str, Reducer] = {
            "statistics": Statistics(UNITS),
            "top": TopK(UNITS, k=self.top),
            "by_token": MeanByToken(UNITS),
        }
        self.mined = _Mined(max(1, min(MINED, self.models[0].cfg.d_vocab_out // 100)))

    @property
    def reducers(self) -> Mapping[str, Merges]:
        return {**self.reduced, "mined": self.mined}

    @no_gradients
    def read(self, rows: Rows) -> tuple[States, dict[str, Tensor]]:
        follows = rows.counted[:, 1:] & (rows.pieces[:, 1:] == rows.pieces[:, :-1])
        if not bool(follows.any()):
            return {}, {}
        logits = []
        for model in self.models:
            said = model(rows.tokens.to(model.device), return_type="logits", **rows.told_apart(model.device))
            logits.append(said[:, :-1][follows.to(said.device)].to(self.models[0].device))
        where = {name: getattr(rows, name)[:, 1:][follows] for name in ("tokens", "documents", "positions", "pieces")}
        values, mined = list[Tensor](), None
        size = max(1, CHUNK // logits[0].shape[1])
        for *both, tokens in zip(*(one.split(size) for one in (*logits, where["tokens"])), strict=True):
            before, after = (one.double().log_softmax(-1) for one in both)
            values.append(_measured(before, after, tokens.to(before.device)))
            state = self.mined.reduce(before, after)
            mined = state if mined is None else self.mined.merge(mined, state)
        assert mined is not None
        order = where["pieces"].argsort(stable=True)
        seen = Seen(torch.cat(values).cpu()[order], **{name: one[order] for name, one in where.items()}, layer=None)
        return {**{name: {None: one.reduce(seen)} for name, one in self.reduced.items()}, "mined": {None: mined}}, {}


def _measured(
    before: Float[Tensor, "token vocabulary"], after: Float[Tensor, "token vocabulary"], tokens: Int[Tensor, " token"]
) -> Float[Tensor, "token measure"]:
    """`PREDICTED`, of log-probabilities. What one finds impossible and the other does not is infinitely far away."""

    def divergence(of: Tensor, to: Tensor) -> Tensor:
        return torch.where(of == -torch.inf, 0.0, of.exp() * (of - to)).sum(-1)

    came = [one.gather(1, tokens[:, None])[:, 0] for one in (before, after)]
    same = (before.argmax(-1) == after.argmax(-1)).double()
    return torch.stack((divergence(before, after), divergence(after, before), came[1] - came[0], same), dim=1)
