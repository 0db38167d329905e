"""Metrics as values: what they read, and the number they make of it for each prompt.

Logits and log-probabilities are in nats. A position of -1 is the last real token of each prompt. Answers are one token
for each prompt, as ids or as text; text is looked up when a model is at hand (`metric.on(model)`, which experiments
do by themselves).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.model import HookedTransformer
from interp_hooks.readout import Metric, Readout, for_each_prompt

Answers = str | int | Sequence[str] | Sequence[int] | Tensor


def _column(answers: Answers, role: str) -> Int[Tensor, "batch 1"]:
    if isinstance(answers, str) or (isinstance(answers, Sequence) and any(isinstance(one, str) for one in answers)):
        raise BadInput(f"{role} is text, whose token depends on the model: use metric.on(model)")
    ids = torch.as_tensor(answers)
    if ids.is_floating_point() or ids.ndim > 1 or ids.numel() == 0:
        raise BadInput(f"{role} must be one token for each prompt, got shape {list(ids.shape)} of {ids.dtype}")
    return ids.reshape(-1, 1).long()


@dataclass(frozen=True, eq=False)
class LogitDiff(Metric):
    """logit[answer] - logit[wrong] at one position."""

    answer: Answers
    wrong: Answers
    pos: int | Tensor = -1
    name = "logit_diff"

    def on(self, model: HookedTransformer) -> LogitDiff:
        answer, wrong = model.token_ids(self.answer).reshape(-1), model.token_ids(self.wrong).reshape(-1)
        if len(answer) != len(wrong):
            raise BadInput(f"got {len(answer)} answers but {len(wrong)} wrong answers; expected one of each per prompt")
        return replace(self, answer=answer, wrong=wrong)

    @property
    def readout(self) -> Readout:
        tokens = torch.cat((_column(self.answer, "answer"), _column(self.wrong, "wrong")), dim=1)
        return Readout(pos=self.pos, tokens=tokens)

    def score(self, logits: Float[Tensor, "batch 2"]) -> Float[Tensor, " batch"]:
        return logits[:, 0] - logits[:, 1]


@dataclass(frozen=True, eq=False)
class LogProb(Metric):
    """log p(answer) at one position, in nats."""

    answer: Answers
    pos: int | Tensor = -1
    name = "logprob_nats"

    def on(self, model: HookedTransformer) -> LogProb:
        return replace(self, answer=model.token_ids(self.answer).reshape(-1))

    @property
    def readout(self) -> Readout:
        return Readout(pos=self.pos)

    def score(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        answer = for_each_prompt(_column(self.answer, "answer").to(logits.device), len(logits), "answer")
        return logits.log_softmax(-1).gather(1, answer)[:, 0]
