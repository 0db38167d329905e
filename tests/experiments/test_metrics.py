"""Metrics compared with what one computes from full logits, and what they refuse."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, Intervention, LogitDiff, LogProb, Run, ablate, at, evaluate, patch
from interp_hooks.errors import BadInput, MetricError, NoTokenizer, TokenError
from tests.experiments.by_hand import OTHER, RTOL, TOKENS, left_alone, logits_of, model_of, word_tokenizer
from tests.tiny import assert_close, build, random_tokens, unchecked_types

RIGHT, WRONG = [4, 11], [7, 2]
BATCH = torch.arange(2)
RUNS = [Run(TOKENS), *(Run(TOKENS, [Intervention(at("z", layer, head=1), Run(OTHER))]) for layer in (0, 2, 2))]


@pytest.mark.parametrize("pos", [-1, 0, 3, -2, torch.tensor([4, 1])], ids=str)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_logit_diff_is_a_difference_of_logits(pos: Any, as_tensor: bool) -> None:
    answers = (torch.tensor(RIGHT), torch.tensor(WRONG)) if as_tensor else (RIGHT, WRONG)
    ours = evaluate(model_of("gpt2"), RUNS, LogitDiff(*answers, pos=pos))
    for run, score in zip(RUNS, ours, strict=True):
        logits = logits_of(model_of("gpt2"), run)[BATCH, pos]
        assert_close(score, logits[BATCH, torch.tensor(RIGHT)] - logits[BATCH, torch.tensor(WRONG)], RTOL)


@pytest.mark.parametrize("pos", [-1, 0, 3, -2, torch.tensor([4, 1])], ids=str)
def test_log_prob_is_a_log_softmax(pos: Any) -> None:
    ours = evaluate(model_of("gpt2"), RUNS, LogProb(RIGHT, pos=pos))
    for run, score in zip(RUNS, ours, strict=True):
        log_probs = logits_of(model_of("gpt2"), run)[BATCH, pos].log_softmax(-1)
        assert_close(score, log_probs[BATCH, torch.tensor(RIGHT)], RTOL)


def test_probabilities_of_all_answers_sum_to_one() -> None:
    scores = [evaluate(model_of("gpt2"), [Run(TOKENS)], LogProb([token, token])) for token in range(19)]
    assert_close(torch.cat(scores).exp().sum(0), torch.ones(2), RTOL)


def test_a_logit_diff_is_a_log_prob_difference() -> None:
    difference = [evaluate(model_of("gpt2"), RUNS, LogProb(one)) for one in (RIGHT, WRONG)]
    assert_close(evaluate(model_of("gpt2"), RUNS, LogitDiff(RIGHT, WRONG)), difference[0] - difference[1], RTOL)


def test_names_have_units() -> None:
    assert LogitDiff(1, 2).name == "logit_diff"
    assert LogProb(1).name == "logprob_nats"


METRICS: dict[str, Any] = {
    "LogitDiff": lambda answers: LogitDiff(answers, [token + 1 for token in answers]),
    "LogProb": LogProb,
}


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("site", ["blocks.2.attn.hook_z", "ln_final.hook_scale"])
def test_an_answer_too_few_or_too_many_is_refused(kind: str, count: int, site: str) -> None:
    """Never another number of scores than prompts: too few answers would leave the last prompts out unnoticed."""
    model, tokens = model_of("gpt2"), random_tokens(3, 5, 23)
    runs = [Run(tokens, [Intervention(at(site), value)]) for value in (0.1, 0.2)]
    with left_alone(model), unchecked_types(), pytest.raises(BadInput):
        evaluate(model, runs, METRICS[kind](list(range(count))))


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("count", [2, 4])
def test_so_it_is_on_logits(kind: str, count: int) -> None:
    logits = logits_of(model_of("gpt2"), Run(random_tokens(3, 5, 23)))
    with unchecked_types(), pytest.raises(BadInput):
        METRICS[kind](list(range(count)))(logits)


@pytest.mark.parametrize("max_memory", [1, 10**9])
@pytest.mark.parametrize("metric", [LogitDiff(4, 7), LogProb(4)], ids=["LogitDiff", "LogProb"])
def test_one_answer_for_several_prompts_serves_all_or_is_refused(metric: Any, max_memory: int) -> None:
    """Whichever, it must be a number for each prompt or an error, and not depend on how many runs fit in memory."""
    whole = LogitDiff([4, 4], [7, 7]) if isinstance(metric, LogitDiff) else LogProb([4, 4])
    expected = evaluate(model_of("gpt2"), RUNS, whole)
    with unchecked_types():
        try:
            ours = evaluate(model_of("gpt2"), RUNS, metric, max_memory=max_memory)
        except BadInput:
            return
    assert ours.shape == expected.shape
    assert_close(ours, expected, RTOL)


@pytest.mark.parametrize("answers", [[1.0, 2.0], torch.tensor([[1, 2], [3, 4]]), []], ids=str)
def test_answers_that_are_no_tokens_are_refused(answers: Any) -> None:
    logits = logits_of(model_of("gpt2"), Run(TOKENS))
    with unchecked_types(), pytest.raises(BadInput, match="answer must be one token for each prompt"):
        LogProb(answers)(logits)


@pytest.mark.parametrize("answers", [[1, 19], [-1, 2]], ids=str)
def test_answers_outside_the_vocabulary_are_refused(answers: list[int]) -> None:
    """The output vocabulary, which is not the input's."""
    for metric in (LogProb(answers), LogitDiff(answers, [1, 1]), LogitDiff([1, 1], answers)):
        with left_alone(model_of("gpt2")), pytest.raises(BadInput, match=r"token ids must be 0\.\.18"):
            evaluate(model_of("gpt2"), [Run(TOKENS)], metric)


def test_unequal_numbers_of_answers_are_refused() -> None:
    with pytest.raises(BadInput, match="got 2 answers but 3 wrong answers"):
        evaluate(model_of("gpt2"), [Run(TOKENS)], LogitDiff([1, 2], [3, 4, 5]))


def _with_words() -> HookedTransformer:
    model = HookedTransformer(build().cfg, word_tokenizer("yes", "no", "maybe"))
    model.load_state_dict(build().state_dict())
    return model


def test_answers_may_be_text() -> None:
    model = _with_words()
    yes, no, maybe = (model.to_single_token(word) for word in ("yes", "no", "maybe"))
    pairs = [
        (LogitDiff(["yes", "no"], ["no", "maybe"]), LogitDiff([yes, no], [no, maybe])),
        (LogProb([" yes", "maybe"]), LogProb([yes, maybe])),
    ]
    for text, ids in pairs:
        assert torch.equal(evaluate(model, [Run(TOKENS)], text), evaluate(model, [Run(TOKENS)], ids))
        logits = logits_of(model, Run(TOKENS))
        assert_close(text.on(model)(logits), ids(logits), RTOL)
        with pytest.raises(BadInput, match=r"depends on the model: use metric\.on\(model\)"):
            text(logits)
    one = Run(TOKENS[:1])
    single = evaluate(model, [one], LogitDiff("yes", "no"))
    assert torch.equal(single, evaluate(model, [one], LogitDiff(yes, no)))


def test_an_answer_of_several_tokens_is_refused() -> None:
    """Before anything is run; the message shows the pieces."""
    model = _with_words()
    with left_alone(model), pytest.raises(TokenError, match=r"'yes no' is 2 tokens .*yes.*no.*expected exactly one"):
        patch(model, TOKENS, OTHER, LogProb(["yes no", "no"]), progress=False)
    with left_alone(model_of("gpt2")), pytest.raises(NoTokenizer, match="no tokenizer"):
        ablate(model_of("gpt2"), TOKENS, LogProb(["yes", "no"]), progress=False)


def test_a_metric_of_ones_own() -> None:
    """Any function of full logits: a number for each prompt, or one for all."""
    model = model_of("gpt2")

    def entropy(logits: Tensor) -> Tensor:
        return torch.distributions.Categorical(logits=logits[:, -1]).entropy()

    result = patch(model, TOKENS, OTHER, entropy, over=("layer",), progress=False)
    assert result.metric == "entropy"
    assert_close(result.baselines["clean"], entropy(logits_of(model, Run(TOKENS))), RTOL)
    total = patch(model, TOKENS, OTHER, lambda logits: entropy(logits).mean(), over=("layer",), progress=False)
    assert total.values.shape == (3, 1)
    assert_close(total.mean, result.mean, RTOL)


@pytest.mark.parametrize(
    "metric", [lambda logits: logits[:, -1].argmax(-1) == 3, lambda logits: logits[:, -1].argmax(-1)]
)
def test_a_metric_may_count(metric: Any) -> None:
    """Accuracy and rank are natural metrics; their mean is a fraction."""
    model = model_of("gpt2")
    with unchecked_types():
        result = patch(model, TOKENS, OTHER, metric, over=("layer",), progress=False)
        expected = torch.stack([metric(logits_of(model, Run(TOKENS)))] * 3).double()
        assert_close(result.mean + 1, expected.mean(-1) + 1, RTOL)
        assert len(result.table()) == 3


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda logits: logits[:, -1], r"one number for each prompt, got shape \[2, 19\]"),
        (lambda logits: logits.mean().item(), "must return a tensor .*got float"),
        (lambda logits: None, "got NoneType"),
        (lambda logits: logits[:, -1, 0] / 0 - logits[:, -1, 0] / 0, "the metric gives nan for run"),
    ],
)
def test_what_is_no_metric(metric: Any, message: str) -> None:
    for experiment in (
        lambda: patch(model_of("gpt2"), TOKENS, OTHER, metric, progress=False),
        lambda: ablate(model_of("gpt2"), TOKENS, metric, progress=False),
    ):
        with left_alone(model_of("gpt2")), pytest.raises(MetricError, match=message):
            experiment()
