"""What is known of a model whose circuit is known.

Nodes are called as in the code of edge attribution patching. Writers are "input" (all embeddings), "a0.h1" (a head) and
"m0" (an MLP); readers are "a1.h0<q>", "a1.h0<k>", "a1.h0<v>", "m0" and "logits". An edge is (writer, reader).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput, nearest
from interp_hooks.interventions.readout import Metric, Readout
from interp_hooks.interventions.sites import Site
from interp_hooks.model.transformer import HookedTransformer

Edge = tuple[str, str]
BOS = "<bos>"


@dataclass(frozen=True, eq=False)
class AnswerDiff(Metric):
    """logit[answer] - logit[wrong], averaged over the positions of a prompt at which the two differ.

    `LogitDiff` for prompts that have a question at several positions; one that has none gets 0.
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


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownTask:
    """Tokens [batch, pos] of pairs of prompts, and at every position the right answer in each of the two.

    `answer` is what is right in the clean prompt, `wrong` what would be right in the corrupt one; a position without a
    question has the same in both.
    """

    clean: Int[Tensor, "batch pos"]
    corrupt: Int[Tensor, "batch pos"]
    answer: Int[Tensor, "batch pos"]
    wrong: Int[Tensor, "batch pos"]

    @property
    def metric(self) -> AnswerDiff:
        """How much better the clean answers do than the corrupt ones; every known circuit is one for this metric."""
        return AnswerDiff(self.answer, self.wrong)


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownModel:
    """A model, a task for it, and the edges that do the task, all of them and no others.

    `circuit` is the truth where removing an edge means that the reader gets nothing (zero) along it.
    `patching_circuit` is the truth where the reader gets what the writer writes in the corrupt run: of `circuit` the
    edges along which the two runs of the task differ. `places` names what plays a part, `notes` says how it works and
    what is particular about the circuit. `vocabulary` are the words of the token ids, `outputs` those of the logits.
    """

    model: HookedTransformer
    vocabulary: tuple[str, ...]
    outputs: tuple[str, ...]
    task: KnownTask
    circuit: frozenset[Edge]
    patching_circuit: frozenset[Edge]
    notes: str
    places: Mapping[str, Site] = field(default_factory=dict)

    def tokens(self, *prompts: Sequence[str]) -> Int[Tensor, "batch pos"]:
        """Token ids of prompts given as sequences of words, as they are.

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
    """Edges from text: "a0.h0->a1.h0<k>", several readers of one writer separated by commas."""
    pairs = (text.split("->") for text in written)
    return frozenset((writer.strip(), reader.strip()) for writer, readers in pairs for reader in readers.split(","))
