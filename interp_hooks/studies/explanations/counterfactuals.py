"""Prompts with small edits that change the answer: asked of a language model, checked by the tokenizer and the model.

    found = counterfactuals(endpoint, model, ["The capital of France is"], [" Paris"])
    found.table()           "The capital of Italy is", " Rome"; which tokens differ, and p(answer) before and after
    found.rejected          why the others were left out, and how many
    patch(model, found.task, site="resid_pre", over=("layer", "pos"))

A pair is kept if both prompts have the same number of tokens, few of which differ, both answers are single tokens, and
the model prefers each answer after its own prompt. Nothing else of what was proposed is in the task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput, TokenError
from interp_hooks.errors.arguments import Positive, checked
from interp_hooks.experiments.results.shown import Shown
from interp_hooks.experiments.task import Task, position_labels
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.metrics import LogitDiff, Prob
from interp_hooks.interventions.runs import as_run
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.explanations.answers import Request, parsed_json
from interp_hooks.studies.explanations.endpoint import Endpoint

PER_PROPOSAL, SPARE = 80, 100  # tokens that an answer may have
SYSTEM = (
    "You write counterfactual prompts for experiments on a language model. You are given a prompt, and the word with "
    "which it goes on. Change as few words of the prompt as possible, each for one of the same kind and about the same "
    "length, so that it goes on with another word. Keep everything else as it is: the same words in the same places, "
    "the same punctuation, and no answer in the prompt. Answer with a JSON list of objects such as\n"
    '[{"prompt": "the changed prompt", "answer": "the other word"}]\nand with nothing else.'
)
NO_LIST, NO_PAIR = "an answer without a list of proposals", "no prompt with an answer"
SAME, BEFORE = "the prompt is the same", "it was proposed before"
LENGTH, MANY = "another number of tokens", "too many tokens differ"
ONE_TOKEN, SAME_ANSWER = "the answer is not one token", "the answer is the same"
NOT_BEFORE, NOT_AFTER = "the model does not prefer the answer to the prompt itself", "the model's answer does not flip"


class _Pair(NamedTuple):
    """A prompt and a proposal that passed the tokenizer: their texts, tokens, answers' texts and tokens."""

    clean: str
    corrupt: str
    ids: list[int]
    differing: list[int]
    answer: str
    wrong: str
    answer_id: int
    wrong_id: int


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Counterfactuals(Shown):
    """The task, and of each of its pairs which tokens differ, and the probability of the answer and of the other one
    after the clean prompt ("before") and after the corrupt one ("after").

    `rejected` counts the proposals that were left out, by reason; so does `task.left_out`.

    >>> from interp_hooks.studies import Counterfactuals
    >>> found = Counterfactuals(task=pairs, differing=[[10]] * 4, probabilities=torch.full((4, 2, 2), 0.5))
    >>> found.table()["p_answer_before"].tolist()
    [0.5, 0.5, 0.5, 0.5]
    """

    _printed = None

    task: Task
    differing: Sequence[Sequence[int]]
    probabilities: Float[Tensor, "pair 2 2"]
    """[pair, before or after, the answer or the other one]."""
    rejected: Mapping[str, int] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """A row for each pair: prompts, answers, the positions that differ, and the four probabilities."""
        columns: dict[str, Any] = {
            name: list(getattr(self.task, name)) for name in ("clean", "corrupt", "answer", "wrong")
        }
        columns["differing"] = [list(one) for one in self.differing]
        for place, when in enumerate(("before", "after")):
            for which, name in enumerate(("answer", "wrong")):
                columns[f"p_{name}_{when}"] = self.probabilities[:, place, which].tolist()
        return pd.DataFrame(columns)

    def _words(self) -> list[str]:
        left = ", ".join(f"{count} times {reason}" for reason, count in self.rejected.items())
        return [f"left out: {left}"] if left else []


@checked
def counterfactuals(
    endpoint: Endpoint,
    model: HookedTransformer,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    per_prompt: Positive = 4,
    most_differing: Positive = 3,
    name: str = "counterfactuals",
) -> Counterfactuals:
    """Ask a language model for prompts with small edits that change the answer, and keep those that do for the model.

    `answers` are the single tokens with which the prompts go on, leading spaces included (" Paris"); where a prompt's
    own begins with a space, so do those that are proposed for it. Each prompt gets one request for `per_prompt`
    proposals. Of a pair at most `most_differing` tokens differ: `differing` says which; the task has the first of them
    as "first_difference", and its last token as "end".

    Raises:
        EndpointError: as `Endpoint.ask`.
        BadInput: no prompts, or not an answer for each.
        TokenError: an answer that is not one token, or no proposal that holds; the message counts the reasons.

    >>> from interp_hooks.studies import Endpoint, counterfactuals
    >>> endpoint = Endpoint(base_url="http://localhost:8000/v1", model="llama-3.3-70b", cache=None)
    >>> endpoint.dry_run(counterfactuals, model, clean, pairs.answer).n_requests
    4
    """
    if not prompts or len(prompts) != len(answers):
        raise BadInput(f"expected prompts and an answer for each, got {len(prompts)} and {len(answers)}")
    for prompt, answer in zip(prompts, answers, strict=True):
        if len(model.text.answer(prompt, answer)) != 1:
            raise TokenError(f"the answer {answer!r} to {prompt!r:.60} is not one token")
    requests = [
        Request(
            system=SYSTEM,
            user=f"Prompt: {prompt}\nIt goes on with: {answer.strip()}\nGive {per_prompt} changed prompts.",
            max_tokens=PER_PROPOSAL * per_prompt + SPARE,
        )
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    rejected: Counter[str] = Counter()
    pairs: list[_Pair] = []
    for prompt, answer, said in zip(prompts, answers, endpoint.ask(requests), strict=True):
        seen: set[str] = set()
        for proposal in _proposals(said.text, rejected):
            try:
                pairs.append(_fitted(model, prompt, answer, proposal, seen, most_differing))
            except TokenError as reason:
                rejected[str(reason)] += 1
    probabilities = _probabilities(model, pairs) if pairs else torch.zeros(0, 2, 2)
    before, after = (probabilities[:, one, 0] - probabilities[:, one, 1] for one in (0, 1))
    rejected[NOT_BEFORE] += int((before <= 0).sum())
    rejected[NOT_AFTER] += int(((before > 0) & (after >= 0)).sum())
    rejected = +rejected  # without those of which there are none
    holds = ((before > 0) & (after < 0)).nonzero()[:, 0].tolist()
    if not holds:
        reasons = ", ".join(f"{count} times {reason}" for reason, count in rejected.items()) or "there were none"
        raise TokenError(f"none of the proposals holds: {reasons}")
    kept = [pairs[place] for place in holds]
    return Counterfactuals(
        task=_task(model, name, kept, rejected),
        differing=[one.differing for one in kept],
        probabilities=probabilities[holds],
        rejected=dict(rejected),
    )


def _proposals(text: str, rejected: Counter[str]) -> list[tuple[str, str]]:
    """The prompts and answers in what a language model said; what is none is counted."""
    try:
        listed = parsed_json(text)
    except ValueError:
        rejected[NO_LIST] += 1
        return []
    found = []
    for one in listed:
        pair = (one.get("prompt"), one.get("answer")) if isinstance(one, dict) else (None, None)
        if all(isinstance(part, str) and part.strip() for part in pair):
            found.append(pair)
        else:
            rejected[NO_PAIR] += 1
    return found


def _fitted(
    model: HookedTransformer, prompt: str, answer: str, proposal: tuple[str, str], seen: set[str], most: int
) -> _Pair:
    """A pair by the tokenizer.

    Raises:
        TokenError: it cannot be used; the message is the reason.
    """
    corrupt, wrong = proposal
    wrong = " " * answer.startswith(" ") + wrong.strip()
    if corrupt == prompt:
        raise TokenError(SAME)
    if corrupt in seen:
        raise TokenError(BEFORE)
    seen.add(corrupt)
    ids, others = (model.text.encode(text).tokens[0].tolist() for text in (prompt, corrupt))
    if len(ids) != len(others):
        raise TokenError(LENGTH)
    differing = [place for place, (one, other) in enumerate(zip(ids, others, strict=True)) if one != other]
    if len(differing) > most:
        raise TokenError(MANY)
    try:
        of_answer, of_wrong = model.text.answer(prompt, answer), model.text.answer(corrupt, wrong)
        model.text.answer(prompt, wrong)
    except TokenError:
        raise TokenError(ONE_TOKEN) from None
    if len(of_wrong) != 1:
        raise TokenError(ONE_TOKEN)
    if of_wrong == of_answer:
        raise TokenError(SAME_ANSWER)
    return _Pair(prompt, corrupt, ids, differing, answer, wrong, of_answer[0], of_wrong[0])


def _probabilities(model: HookedTransformer, pairs: Sequence[_Pair]) -> Float[Tensor, "pair 2 2"]:
    """The probabilities of both answers of each pair after both prompts."""
    runs = [as_run(model, [getattr(one, name) for one in pairs]) for name in ("clean", "corrupt")]
    of_answers = [torch.tensor([getattr(one, name) for one in pairs]) for name in ("answer_id", "wrong_id")]
    found = [evaluate(model, runs, Prob(ids)) for ids in of_answers]  # [prompt, pair] of each answer
    return torch.stack(found).permute(2, 1, 0).cpu()


def _task(model: HookedTransformer, name: str, kept: Sequence[_Pair], rejected: Mapping[str, int]) -> Task:
    longest = max(len(one.ids) for one in kept)
    left = model.default_padding_side == "left"
    shift: Callable[[_Pair], int] = lambda one: longest - len(one.ids) if left else 0  # noqa: E731
    answer, wrong = [one.answer for one in kept], [one.wrong for one in kept]
    return Task(
        name=name,
        clean=[one.clean for one in kept],
        corrupt=[one.corrupt for one in kept],
        answer=answer,
        wrong=wrong,
        metric=LogitDiff(answer, wrong),
        positions={
            "first_difference": torch.tensor([one.differing[0] + shift(one) for one in kept]),
            "end": torch.tensor([len(one.ids) - 1 + shift(one) for one in kept]),
        },
        labels=position_labels([one.ids for one in kept], model.to_str_tokens(torch.tensor(kept[0].ids))),
        left_out=dict(rejected),
    )
