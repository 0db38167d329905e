"""Metrics as values: what they read, and the number they make of it for each prompt.

    LogitDiff   logit[answer] - logit[wrong]          two tokens at one position
    LogitMargin logit[answer] - the largest of wrong  some tokens at one position
    ProbDiff    summed p of some tokens - of others   all tokens at one position
    LogProb     log p(answer), in nats                all tokens at one position
    Prob        p(answer)                             all tokens at one position
    Rank        how many tokens are likelier          all tokens at one position
    Accuracy    1 where the answer is the top         all tokens, or some candidates, at one position
    KL          KL(reference || this run), in nats    all tokens at one position
    Loss        mean next-token loss, in nats         all tokens at all positions but the last

A position of -1, the default, is the last real token of each prompt; a model that reads in both directions has no
default. Answers are one token for each prompt, as ids or as text; text is looked up when a model is at hand
(`metric.on(model)`, which experiments do by themselves).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput, MetricError
from interp_hooks.errors.arguments import about, is_integral, told
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.readout import Metric, Readout, for_each_prompt, or_last
from interp_hooks.interventions.runs import Prompts, Run, as_run
from interp_hooks.model.transformer import HookedTransformer

Answers = str | int | Sequence[str] | Sequence[int] | Tensor


def _is_text(tokens: Any) -> bool:
    if isinstance(tokens, Sequence) and not isinstance(tokens, str):
        return any(_is_text(one) for one in tokens)
    return isinstance(tokens, str)


def _looked_up(model: HookedTransformer, tokens: Answers, role: str) -> Int[Tensor, " n"]:
    with about(role):
        return model.token_ids(tokens).reshape(-1)


def _ids(tokens: Any, role: str) -> Tensor:
    if _is_text(tokens):
        raise BadInput(f"{role} is text, whose token depends on the model: use metric.on(model)")
    return torch.as_tensor(tokens)


def _column(answers: Answers, role: str) -> Int[Tensor, "batch 1"]:
    ids = _ids(answers, role)
    if not is_integral(ids) or ids.ndim > 1 or ids.numel() == 0:
        raise BadInput(f"{role} must be one token for each prompt, got {told(answers)}")
    return ids.reshape(-1, 1).long()


def _check_pairs(answer: Tensor, wrong: Tensor) -> None:
    if len(answer) != len(wrong):
        raise BadInput(f"got {len(answer)} answers but {len(wrong)} wrong answers; expected one of each per prompt")


def _log_probs(logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, "batch d_vocab"]:
    """At least in float32: in half precision neighbouring log-probabilities are the same number."""
    return logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def _count(counted: Tensor, logits: Float[Tensor, "batch n"]) -> Float[Tensor, " batch"]:
    """A count as a score: nan where logits are, since comparing with nan gives an answer that means nothing."""
    return counted.to(logits.dtype).masked_fill(logits.isnan().any(-1), float("nan"))


@dataclass(frozen=True, eq=False)
class LogitDiff(Metric):
    """logit[answer] - logit[wrong] at one position.

    >>> scores = LogitDiff(pairs.answer, pairs.wrong).on(model)(model(clean))
    """

    answer: Answers
    wrong: Answers
    pos: int | Tensor | None = None
    name = "logit_diff"

    def on(self, model: HookedTransformer) -> LogitDiff:
        answer, wrong = _looked_up(model, self.answer, "answer"), _looked_up(model, self.wrong, "wrong")
        _check_pairs(answer, wrong)
        return replace(self, answer=answer, wrong=wrong)

    @property
    def readout(self) -> Readout:
        answer, wrong = _column(self.answer, "answer"), _column(self.wrong, "wrong")
        _check_pairs(answer, wrong)
        return Readout(pos=or_last(self.pos), tokens=torch.cat((answer, wrong), dim=1))

    def score(self, logits: Float[Tensor, "batch 2"]) -> Float[Tensor, " batch"]:
        return logits[:, 0] - logits[:, 1]


@dataclass(frozen=True, eq=False)
class LogitMargin(Metric):
    """logit[answer] - the largest logit[wrong] at one position; `wrong` is [batch, n].

    >>> answer, wrong = model.token_ids(pairs.answer), model.token_ids(pairs.wrong)[:, None]
    >>> scores = LogitMargin(answer, wrong)(model(clean))
    """

    answer: Int[Tensor, " batch"]
    wrong: Int[Tensor, "batch n"]
    pos: int | Tensor | None = None
    name = "logit_margin"

    @property
    def readout(self) -> Readout:
        return Readout(pos=or_last(self.pos), tokens=torch.cat((self.answer[:, None], self.wrong), dim=1))

    def score(self, logits: Float[Tensor, "batch answers"]) -> Float[Tensor, " batch"]:
        return logits[:, 0] - logits[:, 1:].amax(1)


@dataclass(frozen=True, eq=False)
class ProbDiff(Metric):
    """The summed probabilities of some tokens minus those of others, at one position.

    `signs` [batch, n] is 1, -1 or 0 for each of `tokens` [n].

    >>> scores = ProbDiff(model.token_ids([" Mary", " John"]), torch.tensor([[1.0, -1.0]]))(model(clean))
    """

    tokens: Int[Tensor, " n"]
    signs: Float[Tensor, "batch n"]
    pos: int | Tensor | None = None
    name = "prob_diff"
    highest = 1.0

    @property
    def readout(self) -> Readout:
        return Readout(pos=or_last(self.pos))

    def score(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        probs = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        return (probs[:, self.tokens.to(probs.device)] * self.signs.to(probs)).sum(1)


@dataclass(frozen=True, eq=False)
class _OfAnswer(Metric):
    """What compares one token with all others at one position."""

    answer: Answers
    pos: int | Tensor | None = None

    def on(self, model: HookedTransformer) -> _OfAnswer:
        return replace(self, answer=_looked_up(model, self.answer, "answer"))

    @property
    def readout(self) -> Readout:
        return Readout(pos=or_last(self.pos))

    def _answer(self, values: Float[Tensor, "batch d_vocab"]) -> Int[Tensor, "batch 1"]:
        return for_each_prompt(_column(self.answer, "answer").to(values.device), len(values), "answer")


@dataclass(frozen=True, eq=False)
class LogProb(_OfAnswer):
    """log p(answer) at one position, in nats.

    >>> scores = LogProb(pairs.answer).on(model)(model(clean))
    """

    name = "logprob_nats"
    highest = 0.0

    def score(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        return _log_probs(logits).gather(1, self._answer(logits))[:, 0]


@dataclass(frozen=True, eq=False)
class Prob(LogProb):
    """p(answer) at one position: what causal tracing reports.

    >>> scores = Prob(pairs.answer).on(model)(model(clean))
    """

    name = "prob"
    highest = 1.0

    def score(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        return super().score(logits).exp()


@dataclass(frozen=True, eq=False)
class Rank(_OfAnswer):
    """How many tokens are likelier than the answer at one position: 0 for the top one.

    >>> scores = Rank(pairs.answer).on(model)(model(clean))
    """

    name = "rank"
    lower_is_better = True

    def score(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        return _count((logits > logits.gather(1, self._answer(logits))).sum(1), logits)


@dataclass(frozen=True, eq=False)
class Accuracy(_OfAnswer):
    """1 where the answer is likelier than every other token at one position, else 0; a tie counts as wrong.

    With `among` the others are these candidates alone, which only are unembedded: tokens for all prompts, or [batch, n]
    of each prompt's own. The answer itself may be one of them.

    >>> scores = Accuracy(pairs.answer).on(model)(model(clean))
    """

    among: Sequence[Any] | Tensor | None = None
    name = "accuracy"
    highest = 1.0

    def on(self, model: HookedTransformer) -> Accuracy:
        answer, among = _looked_up(model, self.answer, "answer"), self.among
        if among is not None:
            if isinstance(among, list | tuple) and not among:
                raise BadInput(f"among must be tokens for all prompts or [batch, n], got {told(among)}")
            nested = isinstance(among, list | tuple) and any(isinstance(one, list | tuple) for one in among)
            with about("among"):
                among = torch.stack([model.token_ids(row) for row in among]) if nested else model.token_ids(among)
        return replace(self, answer=answer, among=among)

    @property
    def readout(self) -> Readout:
        if self.among is None:
            return Readout(pos=or_last(self.pos))
        answer, among = _column(self.answer, "answer"), _ids(self.among, "among")
        if not is_integral(among) or among.ndim not in (1, 2) or among.numel() == 0:
            raise BadInput(f"among must be tokens for all prompts or [batch, n], got {told(self.among)}")
        among = among.reshape(-1, among.shape[-1]).to(answer)
        batch = max(len(answer), len(among))
        tokens = torch.cat(
            (for_each_prompt(answer, batch, "answer"), for_each_prompt(among, batch, "row of candidates")), 1
        )
        return Readout(pos=or_last(self.pos), tokens=tokens)

    def score(self, logits: Float[Tensor, "batch n"]) -> Float[Tensor, " batch"]:
        tokens = self.readout.tokens  # the answer first, if only candidates are read
        ids = torch.arange(logits.shape[1])[None] if tokens is None else tokens
        ids, answer = ids.to(logits.device), self._answer(logits)
        is_answer = ids == answer
        if bool(is_answer.all(1).any()):
            raise BadInput("among must name a candidate other than the answer for every prompt, got the answer alone")
        own = logits.gather(1, answer) if tokens is None else logits[:, :1]
        return _count((own > logits.masked_fill(is_answer, -torch.inf)).logical_or(is_answer).all(1), logits)


@dataclass(frozen=True, eq=False)
class _LogProbs(Metric):
    """All log-probabilities at one position: what KL keeps of its reference."""

    pos: int | Tensor | None

    @property
    def readout(self) -> Readout:
        return Readout(pos=or_last(self.pos))

    def score(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, "batch d_vocab"]:
        return _log_probs(_refuse_codes(logits))


def _refuse_codes(logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, "batch d_vocab"]:
    """Logits of several tokens as they are.

    Raises:
        MetricError: for every prompt they are 0 but for a single 1 (or for none): a code, and no distribution's logits.
    """
    if logits.shape[-1] == 1 or not logits.numel():
        return logits
    largest, *others = logits.double().abs().sort(-1, descending=True).values.unbind(-1)
    one, none = (largest - 1).abs() <= 1e-3, largest <= 1e-3
    if not bool((one | none).all() & one.any() & (torch.stack(others) <= 1e-3).all()):
        return logits
    raise MetricError(
        "KL has nothing to compare: in the reference, logits are 0 but for a 1 for every prompt, as in models whose "
        "weights were written by hand, so that a divergence says how they are scaled and not what the model computes. "
        "Use LogitDiff, LogitMargin or the task's own metric, which read logits as they are"
    )


@dataclass(frozen=True, eq=False)
class KL(Metric):
    """The divergence KL(reference || this run) at one position, in nats: 0 where both predict the same.

    `reference` are prompts or a Run, which are read at the same position (of each its own, if it is negative), or
    logits or log-probabilities [batch, d_vocab]. One row serves all prompts. A tensor of integers are token ids.

    Raises:
        MetricError: a model whose logits are one-hot for every prompt of the reference: codes, and no distribution's.

    >>> lost = ablate(model, clean, KL(clean), "mlp_out", over=("layer",), progress=False)
    """

    reference: Prompts | Run
    pos: int | Tensor | None = None
    name = "kl_nats"
    lower_is_better = True

    def on(self, model: HookedTransformer) -> KL:
        if isinstance(self.reference, Tensor) and self.reference.is_floating_point():
            return self
        with about("reference"):
            run = self.reference if isinstance(self.reference, Run) else as_run(model, self.reference)
        return replace(self, reference=evaluate(model, [run], _LogProbs(self.pos))[0])

    @property
    def readout(self) -> Readout:
        return Readout(pos=or_last(self.pos))

    def score(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        reference = self.reference
        if not isinstance(reference, Tensor) or not reference.is_floating_point():
            raise BadInput("the reference of KL has to be run first: use metric.on(model)")
        if reference.ndim != 2 or reference.shape[1] != logits.shape[1]:
            raise BadInput(
                f"the reference of KL must be logits [batch, {logits.shape[1]}] at the position that is read, "
                f"got shape {list(reference.shape)}"
            )
        expected = _log_probs(for_each_prompt(reference.to(logits.device), len(logits), "row of reference logits"))
        excess = (expected - _log_probs(logits)).masked_fill(expected == -torch.inf, 0.0)
        return (expected.exp() * excess).sum(-1)


@dataclass(frozen=True, eq=False)
class Loss(Metric):
    """Mean cross-entropy of the next token over each prompt's real tokens, in nats per token.

    Raises:
        BadInput: a prompt of a single token, or an encoder, which sees the tokens it would have to predict.

    >>> scores = evaluate(model, [Run(model.to_tokens(clean))], Loss())
    """

    name = "loss_nats"
    lower_is_better = True

    def on(self, model: HookedTransformer) -> Loss:
        if model.cfg.attention_dir == "bidirectional":
            raise BadInput("this model sees the tokens that follow, so that predicting them measures nothing")
        return self

    @property
    def readout(self) -> Readout:
        return Readout(next_tokens=True)

    def score(self, logits: Float[Tensor, "batch before 2"]) -> Float[Tensor, " batch"]:
        log_probs, counted = logits.unbind(-1)
        if not bool(counted.any(1).all()):
            row = int((~counted.any(1)).nonzero()[0])
            raise BadInput(f"prompt {row} has no token that follows another, so no next-token loss")
        return -log_probs.sum(1) / counted.sum(1)

    def __call__(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, " batch"]:
        raise BadInput("a loss needs the tokens beside the logits: use evaluate(model, [Run(tokens)], Loss())")
