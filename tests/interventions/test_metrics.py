"""Metrics compared with what one computes from full logits, and what they refuse."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import (
    ComputationGraph,
    HookedTransformer,
    Intervention,
    LogitDiff,
    LogProb,
    Run,
    ablate,
    at,
    attribution_patch,
    causal_trace,
    direct_logit_attribution,
    evaluate,
    gradient_x_input,
    logit_lens,
    patch,
    path_patch,
    steering_vector,
)
from interp_hooks.circuits import circuit_metric
from interp_hooks.errors import BadInput, MetricError, NoTokenizer, TokenError
from interp_hooks.experiments.optimal import optimal_constants
from interp_hooks.ground_truth.handmade import induction, or_gate
from interp_hooks.ground_truth.programs import reverse
from interp_hooks.interventions.metrics import KL, Accuracy, LogitMargin, Loss, Prob, ProbDiff, Rank, _LogProbs
from interp_hooks.interventions.readout import Metric
from interp_hooks.interventions.runs import as_run
from tests.experiments.by_hand import (
    OTHER,
    RTOL,
    TOKENS,
    left_alone,
    logits_of,
    model_of,
    rows_counted,
    word_tokenizer,
)
from tests.tiny import ARCHITECTURES, assert_close, build, hooked, random_tokens, unchecked_types

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


def test_prob_is_the_exponential() -> None:
    assert Prob(1).name == "prob"
    assert_close(
        evaluate(model_of("gpt2"), RUNS, Prob(RIGHT)), evaluate(model_of("gpt2"), RUNS, LogProb(RIGHT)).exp(), RTOL
    )


def test_a_logit_diff_is_a_log_prob_difference() -> None:
    difference = [evaluate(model_of("gpt2"), RUNS, LogProb(one)) for one in (RIGHT, WRONG)]
    assert_close(evaluate(model_of("gpt2"), RUNS, LogitDiff(RIGHT, WRONG)), difference[0] - difference[1], RTOL)


def test_names_have_units() -> None:
    assert LogitDiff(1, 2).name == "logit_diff"
    assert LogProb(1).name == "logprob_nats"
    assert KL(TOKENS).name == "kl_nats"
    assert Loss().name == "loss_nats"


def test_metrics_say_which_way_is_better() -> None:
    assert [one.lower_is_better for one in (KL(TOKENS), Loss(), Rank(1))] == [True] * 3
    assert [one.lower_is_better for one in (LogitDiff(1, 2), LogProb(1), Accuracy(1))] == [False] * 3


# ------------------------------------------------------------------------------------------------- Rank and Accuracy


@pytest.mark.parametrize("pos", [-1, 0, torch.tensor([4, 1])], ids=str)
def test_rank_is_the_place_in_the_order(pos: Any) -> None:
    """Of every token once: 0 for the top one, 1 for the next."""
    model = model_of("gpt2")
    ranks = torch.stack([evaluate(model, RUNS, Rank([token] * 2, pos=pos)) for token in range(19)], -1)
    for run, rank in zip(RUNS, ranks, strict=True):
        order = logits_of(model, run)[BATCH, pos].argsort(-1, descending=True)
        assert torch.equal(rank.gather(-1, order).long(), torch.arange(19).expand(2, -1))


def test_accuracy_is_rank_zero() -> None:
    model = model_of("gpt2")
    for token in range(19):
        rank, accuracy = (evaluate(model, RUNS, kind([token] * 2)) for kind in (Rank, Accuracy))
        assert torch.equal(accuracy, (rank == 0).double())


def test_accuracy_among_candidates() -> None:
    """As if the vocabulary had no other tokens; candidates may hold the answer, and be each prompt's own."""
    logits = logits_of(model_of("gpt2"), Run(TOKENS))
    for candidates in ([[3, 5], [3, 5]], [[3, 4, 5], [11, 2, 17]], [[4, 4, 9], [11, 1, 1]]):
        for answer in ([4, 11], [3, 2], [9, 9]):
            expected = [
                float(logits[row, -1, answer[row]] > max(logits[row, -1, one] for one in others - {answer[row]}))
                for row, others in enumerate(map(set, candidates))
            ]
            for among in (candidates, torch.tensor(candidates)):
                metric = Accuracy(answer, among=among)
                assert evaluate(model_of("gpt2"), [Run(TOKENS)], metric).tolist() == [expected]
                assert metric(logits).tolist() == expected
    shared = Accuracy([4, 11], among=[3, 4, 5])
    assert torch.equal(shared(logits), Accuracy([4, 11], among=[[3, 4, 5]] * 2)(logits))


def unembedded(model: HookedTransformer, metric: Metric) -> list[int]:
    """How many positions each call of the unembedding is given while a run is evaluated."""
    positions: list[int] = []
    handle = model.unembed.register_forward_hook(lambda module, inputs, out: positions.append(inputs[0].shape[1]))
    evaluate(model, [Run(TOKENS % 19)], metric)
    handle.remove()
    return positions


def test_candidates_alone_are_unembedded() -> None:
    """The unembedding is not called."""
    model = model_of("gpt2")
    for metric, times in ((Accuracy([4, 11], among=[2, 3]), 0), (Accuracy([4, 11]), 1)):
        assert len(unembedded(model, metric)) == times


def test_a_tie_is_no_success() -> None:
    """A model that says nothing would be right about everything."""
    logits = torch.zeros(2, 3, 5)
    assert Accuracy([1, 2])(logits).tolist() == Accuracy([1, 2], among=[0, 1])(logits).tolist() == [0.0, 0.0]
    assert Rank([1, 2])(logits).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("metric", [Rank([1, 2]), Accuracy([1, 2]), Accuracy([1, 2], among=[0, 3])], ids=str)
def test_counting_does_not_hide_nan(metric: Any) -> None:
    """Nothing is larger than nan, so that it would have rank 0."""
    logits = torch.zeros(2, 3, 5)
    logits[0, -1, 0] = float("nan")
    assert metric(logits).isnan().tolist() == [True, False]


@pytest.mark.parametrize("among", [[], [[1.5, 2.0]], torch.zeros(1, 1, 1, dtype=torch.long)], ids=str)
def test_candidates_that_are_no_tokens_are_refused(among: Any) -> None:
    with unchecked_types(), pytest.raises(BadInput, match="among must be tokens"):
        Accuracy([1, 2], among=among)(torch.zeros(2, 3, 5))


def test_the_answer_alone_is_no_choice() -> None:
    with pytest.raises(BadInput, match="a candidate other than the answer"):
        Accuracy([1, 2], among=[[1, 1], [1, 2]])(torch.zeros(2, 3, 5))
    with pytest.raises(BadInput, match="for each of 3 prompts, or one for all, got 2"):
        Accuracy([1, 2], among=[[1, 1]] * 3)(torch.zeros(2, 3, 5))


# ----------------------------------------------------------------------------------------------------------------- KL


def kl_by_hand(reference: Tensor, logits: Tensor) -> Tensor:
    """The sum over tokens, one by one."""
    p, q = reference.softmax(-1), logits.softmax(-1)
    return torch.stack([sum(p[row, i] * (p[row, i].log() - q[row, i].log()) for i in range(19)) for row in range(2)])


@pytest.mark.parametrize("pos", [-1, 0, torch.tensor([4, 1])], ids=str)
@pytest.mark.parametrize("kind", ["tokens", "run", "logits", "log-probs"])
def test_kl_is_a_sum_over_tokens(kind: str, pos: Any) -> None:
    model = model_of("gpt2")
    original = logits_of(model, Run(OTHER))[BATCH, pos]
    references: dict[str, Any] = {
        "tokens": OTHER,
        "run": Run(OTHER),
        "logits": original + 3.0,
        "log-probs": original.log_softmax(-1),
    }
    ours = evaluate(model, RUNS, KL(references[kind], pos=pos))
    for run, score in zip(RUNS, ours, strict=True):
        assert_close(score, kl_by_hand(original, logits_of(model, run)[BATCH, pos]), 1e-9)
    assert bool((ours >= 0).all())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_run_does_not_diverge_from_itself(name: str) -> None:
    model, tokens = hooked(name), random_tokens(2, 5, 23)
    changed = Run(tokens, [Intervention(at("mlp_out" if model.cfg.d_mlp else "attn_out", 1), 0.3)])
    for reference in (tokens, Run(tokens)):
        same, other = evaluate(model, [Run(tokens), changed], KL(reference, pos=-1))
        assert float(same.abs().max()) < 1e-12
        assert bool((other > 1e-6).any())
    assert float(evaluate(model, [changed], KL(changed, pos=-1)).abs().max()) < 1e-12


def test_kl_reads_each_prompt_at_its_own_end() -> None:
    """A reference with padding, of another length than the prompts."""
    model = _with_words()
    one, other = (model.to_tokens(text) for text in ("yes no", "no"))
    run = Run(torch.stack([one[0], one[0]]))
    ours = evaluate(model, [run], KL(["yes no", "no"]))[0]
    final = [logits_of(model, Run(tokens))[:, -1] for tokens in (one, other)]
    assert float(ours[0].abs()) < 1e-12
    assert_close(ours[1:], kl_by_hand(torch.cat([final[1]] * 2), torch.cat([final[0]] * 2))[:1], 1e-9)


def test_impossible_tokens_add_nothing() -> None:
    """0 log 0 = 0; and what the reference deems possible must not be impossible here."""
    half = torch.tensor([[0.5, 0.5, 0.0]]).log()
    assert float(KL(half).score(torch.zeros(1, 3))) == pytest.approx(math.log(1.5))
    assert float(KL(half).score(half)) == 0.0
    assert float(KL(torch.zeros(1, 3)).score(half)) == math.inf


def test_kl_in_half_precision_is_precise() -> None:
    """Sums of log-probabilities rounded to 8 bits would be off by more than small divergences."""
    logits, change = torch.randn(2, 2, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    ours = KL(logits).score(logits + change / 16)
    expected = KL(logits.double()).score((logits + change / 16).double())
    assert_close(ours, expected.float(), 1e-4)


def test_a_reference_that_does_not_fit_is_refused() -> None:
    model = model_of("gpt2")
    with pytest.raises(BadInput, match=r"one row of reference logits for each of 2 prompts"):
        evaluate(model, RUNS, KL(random_tokens(3, 5, 23)))
    for reference in (torch.zeros(2, 18), torch.zeros(2, 5, 19)):
        with pytest.raises(BadInput, match=r"must be logits \[batch, 19\] at the position"):
            evaluate(model, RUNS, KL(reference))
    with pytest.raises(BadInput, match=r"use metric\.on\(model\)"):
        KL(TOKENS)(logits_of(model, Run(TOKENS)))


@pytest.mark.parametrize("known", [or_gate, induction, reverse])
def test_kl_where_logits_are_codes_is_refused(known: Any) -> None:
    """One-hot by construction."""
    system = known()
    with pytest.raises(MetricError, match=r"KL has nothing to compare: .*Use LogitDiff, LogitMargin or the task's own"):
        evaluate(system.model, [Run(system.task.corrupt)], KL(system.task.clean, pos=-1))


def test_kl_of_sure_answers_is_allowed() -> None:
    """A model that has learnt something is certain, and logits near 0 and 1 are no codes."""
    model = model_of("gpt2")
    sure = torch.zeros(2, 19, dtype=torch.float64)
    sure[:, 3] = 40.0
    assert bool(KL(sure).on(model).score(sure).eq(0).all())
    near = torch.tensor([[0.0, 1.0, 0.5]])
    assert_close(_LogProbs(-1).score(near), near.log_softmax(-1), 1e-6)
    assert_close(_LogProbs(-1).score(torch.zeros(2, 4)), torch.full((2, 4), -math.log(4)), 1e-6)
    for codes in (torch.eye(3).double(), torch.tensor([[0.0, 0.0], [0.0, 1.0]])):
        with pytest.raises(MetricError, match="nothing to compare"):
            _LogProbs(-1).score(codes)


def test_kl_in_an_experiment() -> None:
    """Nothing ablated is no divergence, and the reference is run once, not for every cell."""
    model = model_of("gpt2")
    with rows_counted(model, "blocks.0.hook_resid_pre") as counts:
        result = ablate(model, TOKENS, KL(OTHER), "z", progress=False)
    assert counts["blocks.0.hook_resid_pre"] == [2, 2, 8], "the reference, the prompts, and the heads of layer 0"
    expected = KL(OTHER).on(model)(logits_of(model, Run(TOKENS)))
    assert_close(result.baselines["original"], expected, RTOL)


# --------------------------------------------------------------------------------------------------------------- Loss


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_loss_is_the_models_own(name: str) -> None:
    model, tokens = hooked(name), random_tokens(2, 5, 19)
    changed = Run(tokens, [Intervention(at("attn_out", 1, pos=2), 0.3)])
    if model.cfg.attention_dir == "bidirectional":
        with pytest.raises(BadInput, match="sees the tokens that follow"):
            evaluate(model, [changed], Loss())
        return
    ours = evaluate(model, [Run(tokens), changed], Loss())
    for run, loss in zip((Run(tokens), changed), ours, strict=True):
        log_probs = logits_of(model, run).log_softmax(-1)
        by_hand = -log_probs[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0].mean(1)
        assert_close(loss, by_hand, RTOL)
    assert_close(ours[0].mean(), model(tokens, return_type="loss").detach(), RTOL)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_has_no_loss(side: Any) -> None:
    """Each prompt's loss is what it is alone, also with a hook behind the blocks, where logits are computed in full."""
    model = HookedTransformer(build().cfg, word_tokenizer("yes", "no", "maybe"), default_padding_side=side)
    model.load_state_dict(build().state_dict())
    texts = ["yes no maybe no", "no yes"]
    run = as_run(model, texts)
    assert run.attention_mask is not None
    alone = [evaluate(model, [as_run(model, text)], Loss())[0] for text in texts]
    assert_close(evaluate(model, [run], Loss())[0], torch.cat(alone), RTOL)
    late = [Intervention(at("ln_final.hook_scale"), 1.7)]
    alone = [evaluate(model, [Run(as_run(model, text).tokens, late)], Loss())[0] for text in texts]
    padded = Run(run.tokens, late, run.attention_mask)
    assert_close(evaluate(model, [padded, padded], Loss()), torch.cat(alone).expand(2, 2), RTOL)


def test_the_last_position_is_not_unembedded() -> None:
    assert unembedded(model_of("gpt2"), Loss()) == [4]


def test_what_has_no_loss() -> None:
    with pytest.raises(BadInput, match="prompt 0 has no token that follows another"):
        evaluate(model_of("gpt2"), [Run(TOKENS[:, :1])], Loss())
    run = Run(TOKENS % 19, (), torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 0, 1]]))
    with pytest.raises(BadInput, match="prompt 1 has no token that follows another"):
        evaluate(model_of("gpt2"), [run], Loss())
    with pytest.raises(BadInput, match="a loss needs the tokens"):
        Loss()(torch.zeros(2, 3, 5))


def test_a_broken_model_has_no_loss() -> None:
    """A loss that is nan at a real position is not taken for padding."""
    run = Run(TOKENS % 19, [Intervention(at("resid_pre", 1, pos=2), float("nan"))])
    with pytest.raises(MetricError, match="nan"):
        evaluate(model_of("gpt2"), [run], Loss())


METRICS: dict[str, Any] = {
    "LogitDiff": lambda answers: LogitDiff(answers, [token + 1 for token in answers]),
    "LogProb": LogProb,
    "Prob": Prob,
    "Rank": Rank,
    "Accuracy": Accuracy,
    "Accuracy among a few": lambda answers: Accuracy(answers, among=[3, 5, 17]),
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
        (Rank(["yes", "no"]), Rank([yes, no])),
        (Accuracy(["yes", "no"], among=["maybe", "no"]), Accuracy([yes, no], among=[maybe, no])),
        (Accuracy(["yes", "no"], among=[["maybe"], ["yes"]]), Accuracy([yes, no], among=[[maybe], [yes]])),
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
        patch(model, TOKENS.clamp(min=2), OTHER.clamp(min=2), LogProb(["yes no", "no"]), progress=False)
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


WRONG_COUNTS: dict[str, Any] = {
    "three for two prompts": lambda logits: logits[:, -1, :3].sum(0),
    "none": lambda logits: logits[:0, -1, 0],
    "imaginary": lambda logits: logits[:, -1, 0].to(torch.complex128) * 1j,
}


@pytest.mark.parametrize("what", WRONG_COUNTS)
def test_a_metric_gives_a_real_number_for_each_prompt(what: str) -> None:
    """In every door that scores by itself."""
    model, metric, options = model_of("gpt2"), WRONG_COUNTS[what], dict[str, Any](progress=False)
    graph = ComputationGraph(model)
    doors: list[Callable[[], Any]] = [
        lambda: evaluate(model, [Run(TOKENS)], metric),
        lambda: patch(model, TOKENS, OTHER, metric, over=("layer",), **options),
        lambda: ablate(model, TOKENS, metric, **options),
        lambda: path_patch(model, TOKENS, OTHER, metric, over=("layer",), **options),
        lambda: gradient_x_input(model, TOKENS, metric),
        lambda: attribution_patch(model, TOKENS, OTHER, metric, "z", over=("layer",)),
        lambda: optimal_constants(model, TOKENS, metric, "mlp_out", over=("layer",), minimize=True, steps=1, **options),
        lambda: circuit_metric(model, graph.circuit(), TOKENS, OTHER, metric),
    ]
    with left_alone(model):
        for door in doors:
            with pytest.raises(MetricError, match="number for each"):
                door()


@pytest.mark.parametrize("kind", ["bidirectional", "post-norm"])
def test_a_model_that_reads_both_ways_has_no_default_position(kind: str) -> None:
    """Its last token sees all others, and predicts nothing; a position that is said is taken."""
    model = hooked(kind)
    metrics: list[Any] = [
        *(LogitDiff(4, 7), LogProb(4), Prob(4), Rank(4), Accuracy(4), KL(TOKENS)),
        *(LogitMargin(torch.tensor([4, 4]), torch.tensor([[7], [7]])), ProbDiff(torch.tensor([4]), torch.ones(2, 1))),
    ]
    doors: list[Callable[..., Any]] = [
        *(lambda metric=one, **pos: evaluate(model, [Run(TOKENS)], replace(metric, **pos)) for one in metrics),
        lambda **pos: logit_lens(model, TOKENS, **pos),
        lambda **pos: steering_vector(model, TOKENS, OTHER, "resid_pre1", **pos),
    ]
    for door in doors:
        with pytest.raises(BadInput, match="pos= is needed: this model reads in both directions"):
            door()
        door(pos=-1)
        door(pos=1)
    with pytest.raises(BadInput, match="pos= is needed"):
        causal_trace(model, TOKENS, [1], progress=False)
    if kind == "bidirectional":  # the other has no direct effects
        with pytest.raises(BadInput, match="pos= is needed"):
            direct_logit_attribution(model, TOKENS, 4)
        direct_logit_attribution(model, TOKENS, 4, pos=-1)


@pytest.mark.parametrize("kind", ["bidirectional", "post-norm"])
def test_a_model_that_reads_both_ways_has_no_next_token_loss(kind: str) -> None:
    model = hooked(kind)
    calls: list[Callable[[], Any]] = [
        lambda: model(TOKENS, return_type="loss"),
        lambda: model(TOKENS, return_type="both"),
        lambda: model.loss_fn(model(TOKENS), TOKENS),
        lambda: evaluate(model, [Run(TOKENS)], Loss()),
    ]
    for call in calls:
        with left_alone(model), pytest.raises(BadInput, match="tokens that follow"):
            call()
