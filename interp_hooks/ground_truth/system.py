"""A model together with its true circuit, and the task that the circuit is for.

Nodes are named as in the code of edge attribution patching. Writers are "input" (all embeddings), "a0.h1" (a head) and
"m0" (an MLP); readers are "a1.h0<q>", "a1.h0<k>", "a1.h0<v>", "m0" and "logits". An edge is (writer, reader).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput, nearest
from interp_hooks.experiments.task import Task
from interp_hooks.interventions.metrics import LogitDiff
from interp_hooks.interventions.readout import Metric, Readout
from interp_hooks.interventions.sites import Site
from interp_hooks.model.transformer import HookedTransformer

Edge = tuple[str, str]
BOS = "<bos>"


@dataclass(frozen=True, eq=False)
class AnswerDiff(Metric):
    """logit[answer] - logit[wrong], averaged over the positions of a prompt at which the two tokens differ.

    This is `LogitDiff` for prompts that ask at several positions; a prompt that asks nothing gets 0.
    """

    answer: Int[Tensor, "batch pos"]
    wrong: Int[Tensor, "batch pos"]
    name = "answer_diff"

    @property
    def readout(self) -> Readout:
        return Readout()

    def score(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, " batch"]:
        if logits.shape[:2] != self.answer.shape:
            raise BadInput(f"answers are for {list(self.answer.shape)} [batch, pos], got {list(logits.shape[:2])}")
        answer, wrong = (
            logits.gather(-1, token[..., None].to(logits.device))[..., 0] for token in (self.answer, self.wrong)
        )
        asked = (self.answer != self.wrong).sum(1).clamp(min=1).to(logits.device)
        return (answer - wrong).sum(1) / asked


def task_of(name: str, clean: Tensor, corrupt: Tensor, answer: Tensor, wrong: Tensor) -> Task:
    """Pairs of prompts with the right answer at every position: `answer` in the clean, `wrong` in the corrupt prompt.

    All four are [batch, pos]; a position without a question has the same answer in both. The metric says how much
    better the clean answers do than the corrupt ones.
    """
    metric = AnswerDiff(answer, wrong)
    return Task(name=name, clean=clean, corrupt=corrupt, answer=answer, wrong=wrong, metric=metric)


def task_at_the_end(name: str, clean: Tensor, corrupt: Tensor, answer: int | Tensor, wrong: int | Tensor) -> Task:
    """The same with a question at the last position alone: one answer for all prompts, or one for each."""
    at_all = torch.zeros(2, *clean.shape, dtype=torch.long)
    at_all[0, :, -1], at_all[1, :, -1] = answer, wrong
    return task_of(name, clean, corrupt, *at_all)


def task_with_places(
    name: str, clean: Any, corrupt: Any, answer: Any, wrong: Any, positions: Mapping[str, Tensor]
) -> Task:
    """Pairs of prompts with one question each, at their end, and named positions; rows and answers may be lists."""
    clean, corrupt, answer, wrong = map(torch.as_tensor, (clean, corrupt, answer, wrong))
    told: dict[str, Any] = dict(clean=clean, corrupt=corrupt, answer=answer, wrong=wrong, positions=positions)
    return Task(name=name, metric=LogitDiff(answer, wrong), **told)


@dataclass(frozen=True, kw_only=True, eq=False)
class GroundTruth:
    """A model, a task for it, and the edges that do the task, all of them and no others.

    `circuit` holds the edges that matter where removing an edge means that the reader gets nothing (zero) along it.
    `patching_circuit` holds those that matter where the reader gets what the writer writes in the corrupt run: the
    edges of `circuit` along which the two runs differ. Both are for the task's own metric.

    `places` are sites worth looking at, by name; `notes` say how the model works and what is particular about its
    circuit. `vocabulary` are the words of the token ids, `outputs` those of the logits.
    """

    model: HookedTransformer
    vocabulary: tuple[str, ...]
    outputs: tuple[str, ...]
    task: Task
    circuit: frozenset[Edge]
    patching_circuit: frozenset[Edge]
    notes: str
    places: Mapping[str, Site] = field(default_factory=dict)

    def tokens(self, *prompts: Sequence[str]) -> Int[Tensor, "batch pos"]:
        """Token ids of prompts given as sequences of words; no BOS is added.

        Raises:
            BadInput: a word that is not in the vocabulary, or prompts of unequal length.
        """
        ids = {word: id for id, word in enumerate(self.vocabulary)}
        if unknown := [word for prompt in prompts for word in prompt if word not in ids]:
            raise BadInput(f"{unknown[0]!r} is not in the vocabulary.{nearest(str(unknown[0]), ids)}")
        if len({len(prompt) for prompt in prompts}) != 1:
            raise BadInput(f"expected prompts of the same length, got lengths {[len(prompt) for prompt in prompts]}")
        return torch.tensor([[ids[word] for word in prompt] for prompt in prompts])


def edges(*written: str) -> frozenset[Edge]:
    """Parse edges from text such as "a0.h0->a1.h0<k>,logits": a writer, and its readers separated by commas."""
    pairs = (text.split("->") for text in written)
    return frozenset((writer.strip(), reader.strip()) for writer, readers in pairs for reader in readers.split(","))


KnownModel = GroundTruth  # its name in 0.1
