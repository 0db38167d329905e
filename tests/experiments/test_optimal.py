"""Constants that are learned, where the best one is known."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import (
    HookedTransformer,
    Intervention,
    LogitDiff,
    LogitMargin,
    LogProb,
    Run,
    ablate,
    at,
    evaluate,
    tasks,
)
from interp_hooks.errors import BadInput, MetricError
from interp_hooks.experiments import optimal
from interp_hooks.experiments.optimal import optimal_ablation, optimal_constants
from interp_hooks.interventions.metrics import KL, Accuracy, Loss, Rank
from tests.experiments import gates
from tests.experiments.by_hand import OTHER, TOKENS, left_alone, model_of, value_at, word_tokenizer
from tests.tiny import ARCHITECTURES, assert_close, build, hooked, random_tokens, unchecked_types

SIX = random_tokens(6, 5, 23, seed=5)
TARGET = torch.tensor([0.3, -1.0, 2.0, 0.7, -0.2, 1.1], dtype=torch.float64)


def distance(logits: Tensor) -> Tensor:
    """The squared distance of an output from its target."""
    return (logits[:, -1, 0] - TARGET[: len(logits)]) ** 2


LOSS: dict[str, Any] = dict(minimize=True, progress=False)


def test_in_a_linear_net_what_a_constant_cannot_explain_is_variance() -> None:
    """The best constant moves every output by the mean of what is missing, so that its variance remains."""
    model = gates.linear()
    result = optimal_ablation(model, SIX, distance, layers=[1, 2], steps=300, **LOSS)
    zero = ablate(model, SIX, lambda logits: logits[:, -1, 0], layers=[1, 2], progress=False)
    missing = TARGET - zero.values
    assert_close(result.values.mean(-1), missing.var(-1, correction=0), 1e-4)


def test_at_every_position_too() -> None:
    """A constant of its own for the last position, which is the only one that is read after the last layer."""
    model = gates.linear()
    axes = ("layer", "pos", "head")
    result = optimal_ablation(model, SIX, distance, over=axes, layers=[2], steps=300, batch_size=30, **LOSS)
    zero = ablate(model, SIX, lambda logits: logits[:, -1, 0], over=axes, layers=[2], progress=False)
    assert_close(result.mean[0, -1], (TARGET - zero.values[0, -1]).var(-1, correction=0), 1e-4)
    assert_close(result.values[0, 0], result.baselines["original"].expand(4, 6), 1e-9)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_constant_that_we_know_is_better(name: str) -> None:
    """On the prompts it is learned on it is never worse than the mean, which it starts from; two metrics in turn."""
    model, tokens = hooked(name), random_tokens(3, 5, 19)
    metric, sign = (KL(tokens, pos=-1), -1) if ARCHITECTURES.index(name) % 2 else (LogProb([1, 2, 3], pos=-1), 1)
    best = optimal_ablation(model, tokens, metric, steps=20, lr=0.01, layers=[1], progress=False)
    mean = ablate(model, tokens, metric, method="mean", layers=[1], progress=False)
    assert bool((sign * (best.mean - mean.mean) >= -1e-9).all())
    assert bool((sign * (best.mean - mean.mean) > 0).any())


def test_without_steps_it_is_the_mean() -> None:
    for site, over in (("z", ("layer", "head")), ("mlp_out", ("layer",)), ("post", ("layer", "neuron"))):
        for layers in ([0], [2]):
            ours = optimal_ablation(model_of("gpt2"), SIX, distance, site, over=over, steps=0, layers=layers, **LOSS)
            mean = ablate(
                model_of("gpt2"), SIX, distance, site, method="mean", over=over, layers=layers, progress=False
            )
            assert_close(ours.values, mean.values, 1e-10)


def test_patterns_have_a_constant_for_every_query() -> None:
    model = model_of("gpt2")
    ours = optimal_ablation(model, SIX, distance, "pattern", over=("head",), steps=20, layers=[0], **LOSS)
    mean = ablate(model, SIX, distance, "pattern", method="mean", over=("head",), layers=[0], progress=False)
    assert bool((ours.mean < mean.mean - 1e-6).all())


def test_a_part_that_says_nothing_is_not_missed() -> None:
    """Heads that are 1 whatever they read: zero ablation of both breaks the OR, the best constant does not."""
    model, tokens = gates.two_heads_or(), torch.zeros(2, 3, dtype=torch.long)
    zero = ablate(model, tokens, gates.output, over=("layer",), progress=False)
    missed = optimal_ablation(model, tokens, lambda logits: 1 - gates.output(logits), over=("layer",), steps=10, **LOSS)
    assert zero.mean.tolist() == [0.0]
    assert missed.mean.tolist() == [0.0]


def test_cells_do_not_disturb_each_other() -> None:
    """All heads of a layer at once, or one after the other."""
    model = model_of("llama")
    together, apart = (optimal_ablation(model, SIX, distance, steps=5, batch_size=size, **LOSS) for size in (100, 1))
    assert_close(together.values, apart.values, 1e-9)


def test_learned_on_one_set_and_measured_on_another() -> None:
    """The constant for the reference: no better for it on other prompts than there."""
    model = gates.linear()
    metric, learned = (lambda target: lambda logits: (logits[:, -1, 0] - target) ** 2 for _ in range(2))
    ours = optimal_ablation(
        model,
        TOKENS,
        metric(0.5),
        layers=[2],
        reference=OTHER,
        reference_metric=learned(-2.0),
        steps=300,
        **LOSS,
    )
    final = {name: gates.output(model(tokens).detach()) for name, tokens in (("own", TOKENS), ("other", OTHER))}
    for head in range(4):
        writes = model.blocks[2].attn.W_O[head] @ model.unembed.W_U[:, 0]
        rest = {
            name: final[name] - value_at(model, Run(tokens), "blocks.2.attn.hook_z")[:, -1, head] @ writes.detach()
            for name, tokens in (("own", TOKENS), ("other", OTHER))
        }
        moved = -2.0 - rest["other"].mean()
        assert_close(ours.values[0, head], (rest["own"] + moved - 0.5) ** 2, 1e-3)


SIGNED: dict[str, dict[str, Any]] = {
    "a difference of logits": dict(metric=LogitDiff([1] * 6, [2] * 6)),
    "its negative": dict(metric=LogitDiff([1] * 6, [2] * 6), minimize=True),
    "a margin": dict(metric=LogitMargin(torch.ones(6).long(), torch.full((6, 1), 2))),
    "a log-probability downwards": dict(metric=LogProb([1] * 6), minimize=True),
    "a divergence upwards": dict(metric=KL(SIX), minimize=False),
    "a function that does not say": dict(metric=lambda logits: logits[:, -1, 1] - logits[:, -1, 2]),
    "a function upwards": dict(metric=lambda logits: logits[:, -1, 1] - logits[:, -1, 2], minimize=False),
    "that of a reference": dict(metric=LogProb([1] * 6), reference=SIX, reference_metric=LogitDiff([1] * 6, [2] * 6)),
}


@pytest.mark.parametrize("what", SIGNED)
def test_what_has_no_best_value_is_refused(what: str) -> None:
    """A constant of ten times the size is better by ten times as much: there is nothing to come to."""
    with left_alone(model_of("gpt2")), pytest.raises(BadInput, match=r"metric must be a loss.*Leave metric out"):
        optimal_ablation(model_of("gpt2"), SIX, steps=1, progress=False, **SIGNED[what])


def test_by_default_the_loss_is_the_distance_from_the_own_output() -> None:
    """Of each head it is that of a run with its constant, and no worse than with the mean, or with zero."""
    model = model_of("gpt2")
    constants = optimal_constants(model, SIX, layers=[1], steps=30, lr=0.03, progress=False)["blocks.1.attn.hook_z"]
    result = optimal_ablation(model, SIX, layers=[1], steps=30, lr=0.03, progress=False)
    assert result.metric == "kl_nats"
    own = model(SIX)[:, -1].detach().log_softmax(-1)
    for head in range(model.cfg.n_heads):

        def put(z: Tensor, hook: Any, head: int = head) -> None:
            z[:, :, head] = constants[:, :, head]

        changed = model.run_with_hooks(SIX, fwd_hooks=[("blocks.1.attn.hook_z", put)])[:, -1].detach().log_softmax(-1)
        assert_close(result.values[0, head], (own.exp() * (own - changed)).sum(-1), 1e-8)
    assert float(result.baselines["original"].abs().max()) < 1e-12
    for method in ("zero", "mean"):
        other = ablate(model, SIX, KL(SIX), method=method, layers=[1], progress=False)
        assert bool((result.mean <= other.mean).all())


def test_a_task_does_not_bring_its_signed_metric_and_a_reference_needs_none() -> None:
    model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
    task, options = tasks.ioi(model, 4), dict(site="mlp_out", over=("layer",), steps=2, progress=False)
    result = optimal_ablation(model, task, **options)
    assert result.metric == "kl_nats"
    assert torch.equal(result.values, optimal_ablation(model, task.clean, **options).values)
    assert bool((result.change >= 0).all())
    other = optimal_ablation(model, task, reference=task.corrupt, **options)
    constants = optimal_constants(model, task.corrupt, KL(task.corrupt), prompts=task.clean, **options)
    measured = ablate(model, task.clean, KL(task.clean), "mlp_out", over=("layer",), method=constants, progress=False)
    assert torch.equal(other.values, measured.values)


def test_padded_prompts_and_losses() -> None:
    model = type(build())(build().cfg, word_tokenizer("a", "b", "c"))
    model.load_state_dict(build().state_dict())
    texts = ["a b c", "c b"]
    ours = optimal_ablation(model, texts, Loss(), "mlp_out", over=("layer",), steps=20, progress=False)
    mean = ablate(model, texts, Loss(), "mlp_out", method="mean", over=("layer",), progress=False)
    assert bool((ours.mean < mean.mean - 1e-3).all())
    again = optimal_ablation(model, texts, Loss(), "mlp_out", over=("layer",), steps=20, progress=False)
    assert torch.equal(ours.values, again.values)


# ------------------------------------------------------------------------------------------------------------ constants

Z2 = "blocks.2.attn.hook_z"


def closest(aim: float) -> Any:
    """The squared distance of the output from a number."""
    return lambda logits: (logits[:, -1, 0] - aim) ** 2


def test_each_head_has_the_constant_that_is_best_for_it() -> None:
    """In a linear net it brings the mean output to the aim, whose gap is another for every head."""
    model = gates.linear()
    constants = optimal_constants(model, SIX, closest(-2.0), layers=[2], prompts=TOKENS, steps=300, **LOSS)
    assert set(constants) == {Z2}
    assert constants[Z2].shape == (2, 5, 4, 4)
    z, final = value_at(model, Run(SIX), Z2)[:, -1], gates.output(model(SIX).detach())
    for head in range(4):
        writes = (model.blocks[2].attn.W_O[head] @ model.unembed.W_U[:, 0]).detach()
        rest = final - z[:, head] @ writes
        assert_close(constants[Z2][:, :, head] @ writes, (-2.0 - rest.mean()).expand(2, 5), 1e-4)


def test_constants_are_a_source_on_other_prompts() -> None:
    """For `ablate` and in a Run of one's own; one of them by itself on prompts of any number and length."""
    model = model_of("gpt2")
    options: dict[str, Any] = LOSS | dict(steps=3)
    constants = optimal_constants(model, OTHER, closest(-2.0), prompts=SIX, **options)
    ours = ablate(model, SIX, distance, method=constants, progress=False)
    direct = optimal_ablation(model, SIX, distance, reference=OTHER, reference_metric=closest(-2.0), **options)
    assert torch.equal(ours.values, direct.values)
    where = at("z", 2, head=1)
    (alone,) = evaluate(model, [Run(SIX, [Intervention(where, constants)])], distance)
    assert_close(alone, ours.values[2, 1], 1e-10)
    few = Run(SIX[:3, :4], [Intervention(where, constants[Z2][0, 0, 1])])
    own = optimal_constants(model, OTHER, closest(-2.0), prompts=few.tokens, **options)
    (by_tensor, by_source) = evaluate(model, [few, Run(few.tokens, [Intervention(where, own)])], distance)
    assert_close(by_tensor, by_source, 1e-10)


@pytest.mark.parametrize(
    ("site", "over"), [("z", ("head",)), ("z", ("head", "pos")), ("pattern", ("query",)), ("mlp_out", ("layer",))]
)
def test_every_cell_is_learned_as_if_alone(site: str, over: tuple[str, ...]) -> None:
    """Each constant, at its own place, is what a search in that cell alone finds."""
    model = model_of("gpt2")
    options: dict[str, Any] = LOSS | dict(layers=[1], steps=3)
    together = optimal_constants(model, SIX, distance, site, over=over, **options)
    point = model.points(f"{site}1")[0]
    size = {axis: point.sizes.get(axis, 5) for axis in over if axis != "layer"}
    for cell in [dict.fromkeys(size, 0), {axis: n - 1 for axis, n in size.items()}]:
        where = at(site, 1, **cell)
        index = where.index(point, together[point.name])
        search = optimal._search(model, Run(SIX), optimal._loss(model, distance, True), point, "pos" in over)
        alone = optimal._learn(search, optimal._selected(point, where, search.start)[None], 3, 0.1)[0]
        expected = alone.expand_as(together[point.name])[index]
        assert_close(together[point.name][index], expected, 1e-10)
        start = search.start.expand_as(expected if not cell else together[point.name])
        assert not torch.equal(expected, start if not cell else start[index]), "nothing was learned"


def test_the_position_of_a_constant_matters() -> None:
    """Only the last one is read after the last layer: others stay at the mean, which nothing can improve."""
    model = model_of("gpt2")
    constants = optimal_constants(model, SIX, distance, over=("pos",), layers=[2], steps=5, **LOSS)[Z2]
    mean = value_at(model, Run(SIX), Z2).mean(0)
    assert_close(constants[0, :4], mean[:4], 1e-10)
    assert float((constants[0, 4] - mean[4]).abs().max()) > 1e-3
    assert torch.equal(constants[0], constants[5])


def test_padding_of_the_prompts_does_not_matter() -> None:
    """Constants are as many as the prompts have columns, and those of real positions count."""
    model = type(build())(build().cfg, word_tokenizer("a", "b", "c"))
    model.load_state_dict(build().state_dict())
    texts, hook = ["a b c", "c b"], "blocks.1.hook_mlp_out"
    options: dict[str, Any] = dict(over=("layer",), layers=[1], steps=3, progress=False)
    constants = optimal_constants(model, TOKENS, LogProb([1, 2]), "mlp_out", prompts=texts, **options)
    assert constants[hook].shape == (2, 4, 12)
    assert torch.equal(constants[hook], constants[hook][:1, :1].expand(2, 4, -1))


@pytest.mark.parametrize("mutant", ["swapped", "doubled"])
def test_constants_at_places_of_others_are_caught(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = optimal._learn
    wrong = {
        "swapped": lambda *arguments: right(*arguments).flip(0),
        "doubled": lambda search, chosen, *rest: right(search, chosen | chosen.roll(1, 0), *rest),
    }
    monkeypatch.setattr(optimal, "_learn", wrong[mutant])
    with pytest.raises(AssertionError, match="relative difference"):
        test_each_head_has_the_constant_that_is_best_for_it()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "position by position": (
        dict(over=("head", "pos"), prompts=SIX[:, :4]),
        "needs prompts of 4 tokens; they have .*pos=5",
    ),
    "a pattern": (dict(site="pattern", prompts=SIX[:, :4]), "needs prompts of 4 tokens; they have .*query=5"),
    "a run that does something": (dict(reference=Run(SIX, [Intervention(at("z", 0), 0.0)])), "without interventions"),
    "batch size": (dict(batch_size=0), "batch_size >= 1"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_constants_that_would_not_fit_are_refused_before_they_are_learned(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, message = REFUSED[what]
    monkeypatch.setattr(optimal, "_learn", None)
    arguments = LOSS | dict(reference=SIX, metric=distance) | changes
    with left_alone(model_of("gpt2")), unchecked_types(), pytest.raises(BadInput, match=message):
        optimal_constants(model_of("gpt2"), **arguments)


# ------------------------------------------------------------------------------------------------------------- mistakes

MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "rank": (dict(metric=Rank([1, 2])), MetricError, "no gradient"),
    "accuracy": (dict(metric=Accuracy([1, 2])), MetricError, "no gradient"),
    "reference alone": (dict(reference=OTHER), BadInput, "go together"),
    "steps": (dict(steps=-1), BadInput, "steps >= 0"),
    "scores": (dict(site="attn_scores"), BadInput, "infinite where attention is masked"),
    "axis": (dict(over=("layer", "query")), BadInput, "cannot be swept over 'query'"),
    "nan": (dict(metric=lambda logits: logits[:, -1, 0] / 0, minimize=True), MetricError, "not finite"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_told(what: str) -> None:
    changes, error, message = MISTAKES[what]
    arguments = dict(prompts=TOKENS, metric=LogProb([1, 2]), progress=False) | changes
    with left_alone(model_of("gpt2")), unchecked_types(), pytest.raises(error, match=message):
        optimal_ablation(model_of("gpt2"), **arguments)


def test_steps_that_overshoot_are_not_taken() -> None:
    """The best constant of all steps counts, of every cell by itself."""
    wild = optimal_ablation(model_of("gpt2"), SIX, distance, steps=4, lr=30.0, **LOSS)
    mean = ablate(model_of("gpt2"), SIX, distance, method="mean", progress=False)
    assert bool((wild.mean <= mean.mean + 1e-9).all())
    assert bool((wild.mean >= mean.mean - 1e-9).any()), "none of the steps was any good"
