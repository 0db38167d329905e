"""Integrated gradients and gradient x input: their sums, their limits, and gates whose attributions are known."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, HookPoint, Intervention, LogitDiff, Mean, Resample, Run, Site, at, evaluate
from interp_hooks.errors import BadInput, MetricError, UnknownHook
from interp_hooks.experiments.gradients import gradient_x_input, integrated_gradients
from tests.experiments.by_hand import OTHER, RTOL, THIRD, TOKENS, left_alone, model_of, value_at, word_tokenizer
from tests.experiments.gates import gate, linear, output, two_heads_or
from tests.tiny import ARCHITECTURES, assert_close, build, hooked, unchecked_types

DIFF = LogitDiff([4, 11], [7, 2], pos=-1)
ZEROS = torch.zeros(1, 3, dtype=torch.long)


def first_logits(logits: Tensor) -> Tensor:
    """A linear metric that reads every position."""
    return logits[..., 0].sum(1)


# ------------------------------------------------------------------------------------------------------------- gates


def test_or_is_shared_by_its_two_causes() -> None:
    """The gradient at 1, 1 is 0, as is the effect of ablating either; along the way to 0, 0 each has half of it."""
    shared = integrated_gradients(two_heads_or(), ZEROS, output, at("z", 0), over=("head",))
    assert_close(shared.values, torch.tensor([[0.5], [0.5]]), 1e-12)
    local = gradient_x_input(two_heads_or(), ZEROS, output, at("z", 0), over=("head",))
    assert bool((local.values == 0).all())
    assert_close(local.baselines["residual"], torch.ones(1), 1e-12)


@pytest.mark.parametrize("kind", ["and", "or"])
@pytest.mark.parametrize("inputs", [2, 4])
def test_equal_inputs_of_a_gate_get_equal_shares(kind: Literal["and", "or"], inputs: int) -> None:
    """From all zeros to all ones, although patching one gives each of them 0 or everything; 24 steps hit the kink."""
    ones = torch.ones(1, inputs, dtype=torch.long)
    model = gate(kind, inputs)
    for site in ("hook_embed", at("v", 0)):
        result = integrated_gradients(model, ones, output, site, baseline=Run(0 * ones), steps=24)
        assert result.axes == {"pos": range(inputs)}
        assert_close(result.values, torch.full((inputs, 1), 1 / inputs), 1e-12)
        assert_close(result.baselines["original"], torch.ones(1), 1e-12)
        assert float(result.baselines["baseline"].abs()) < 1e-12
        assert float(result.baselines["residual"].abs()) < 1e-12


# ------------------------------------------------------------------------------------------------------- completeness


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("site", [at("resid_pre", 0), at("z", 1), "hook_embed", "ln_final.hook_normalized"], ids=str)
def test_a_linear_model_needs_one_step(site: Any, steps: int) -> None:
    model = linear() if "ln_final" not in str(site) else build()
    result = integrated_gradients(model, TOKENS, first_logits, site, baseline=0.3, steps=steps)
    product = gradient_x_input(model, TOKENS, first_logits, site)
    for one, start in ((result, 0.3), (product, 0.0)):
        site = site if isinstance(site, Site) else at(site)
        original, ablated = evaluate(model, [Run(TOKENS), Run(TOKENS, [Intervention(site, start)])], first_logits)
        assert_close(one.baselines["original"], original, RTOL)
        assert_close(one.baselines["baseline"], ablated, RTOL)
        assert_close(one.values.sum(0), original - ablated, RTOL)
        assert float(one.baselines["residual"].abs().max()) < 1e-9


SOURCES: dict[str, Any] = {
    "zero": 0.0,
    "tensor": torch.linspace(-1, 1, 12, dtype=torch.float64),
    "run": Run(OTHER),
    "mean": Mean(Run(THIRD)),
    "resample": Resample(Run(TOKENS), torch.tensor([1, 0])),
}


@pytest.mark.parametrize("source", SOURCES)
def test_effects_sum_to_the_difference(source: str) -> None:
    """The more steps, the better: a midpoint sum's error falls with their square."""
    model, site, residuals = model_of("llama"), at("attn_out", 1), []
    expected = evaluate(model, [Run(TOKENS), Run(TOKENS, [Intervention(site, SOURCES[source])])], DIFF)
    for steps in (60, 120):
        result = integrated_gradients(model, TOKENS, DIFF, site, baseline=SOURCES[source], steps=steps)
        assert_close(result.baselines["original"], expected[0], RTOL)
        assert_close(result.baselines["baseline"], expected[1], RTOL)
        residual = expected[0] - expected[1] - result.values.sum(0)
        assert_close(result.baselines["residual"], residual, 1e-9)
        residuals.append(float(residual.abs().max()))
    assert residuals[1] < 0.3 * residuals[0] < 0.01


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture(name: str) -> None:
    """From a nearby baseline the sum is the difference; experts may be chosen anew on the way."""
    model = hooked(name)
    near = model.run_with_cache(TOKENS)[1]["resid_pre", 1] * 0.999
    result = integrated_gradients(model, TOKENS, DIFF, at("resid_pre", 1), baseline=near, steps=4)
    difference = result.baselines["original"] - result.baselines["baseline"]
    assert float(difference.abs().max()) > 0
    assert float(result.baselines["residual"].abs().max()) < 1e-2 * float(difference.abs().max())


def test_sums_over_fewer_axes_are_sums() -> None:
    model, site = model_of("llama"), at("z", 1)
    full = integrated_gradients(model, TOKENS, DIFF, site, over=("head", "pos", "d_head"), steps=3)
    assert full.values.shape == (4, 5, 4, 2)
    for over, kept in ((("pos",), (0, 2)), (("head",), (1, 2)), ((), (0, 1, 2))):
        result = integrated_gradients(model, TOKENS, DIFF, site, over=over, steps=3)
        assert list(result.axes) == list(over)
        assert_close(result.values, full.values.sum(kept), RTOL)
        assert_close(result.baselines["residual"], full.baselines["residual"], 1e-9)
        assert len(result.table()) == result.mean.numel()
    swapped = integrated_gradients(model, TOKENS, DIFF, site, over=("d_head", "head", "pos"), steps=3)
    assert torch.equal(swapped.values, full.values.permute(2, 0, 1, 3))


def test_a_part_of_a_site() -> None:
    """What is not selected stays as it is, and gets nothing."""
    model = model_of("gpt2")
    result = integrated_gradients(
        model, TOKENS, DIFF, at("z", 1, head=2, pos=-1), baseline=Run(OTHER), over=("head", "pos"), steps=100
    )
    chosen = torch.zeros(4, 5, dtype=torch.bool)
    chosen[2, -1] = True
    assert bool((result.values[~chosen] == 0).all())
    patched = evaluate(model, [Run(TOKENS, [Intervention(at("z", 1, head=2, pos=-1), Run(OTHER))])], DIFF)[0]
    assert_close(result.values[2, -1], result.baselines["original"] - patched, 1e-4)


def test_a_baseline_may_have_interventions_of_its_own() -> None:
    """It is what that run has at the site."""
    model = model_of("gpt2")
    baseline = Run(OTHER, [Intervention(at("mlp_out", 0), 0.3)])
    recorded = {"blocks.1.attn.hook_z": value_at(model, baseline, "blocks.1.attn.hook_z")}
    ours = integrated_gradients(model, TOKENS, DIFF, "z1", baseline=baseline, steps=3)
    theirs = integrated_gradients(model, TOKENS, DIFF, "z1", baseline=recorded, steps=3)
    assert_close(ours.values, theirs.values, RTOL)
    plain = integrated_gradients(model, TOKENS, DIFF, "z1", baseline=Run(OTHER), steps=3)
    assert not torch.allclose(ours.values, plain.values)


def test_gradient_x_input_is_a_derivative() -> None:
    """d metric / d log(scale) of the activation at one position."""
    model, step = model_of("neox"), 1e-6
    result = gradient_x_input(model, TOKENS, DIFF, "z1")
    for pos in range(5):

        def scored(scale: float, pos: int = pos) -> Tensor:
            def grow(value: Tensor, hook: HookPoint) -> Tensor:
                value[:, pos] *= scale
                return value

            with torch.no_grad():
                return DIFF(model.run_with_hooks(TOKENS, fwd_hooks=[("z1", grow)]))

        assert_close(result.values[pos], (scored(1 + step) - scored(1 - step)) / (2 * step), 1e-6)


def test_gradient_x_input_is_a_step_of_the_same_path() -> None:
    """The two differ in where the gradient is taken, so they meet when there is nothing to bend it."""
    model = model_of("gpt2")
    near = model.run_with_cache(TOKENS)[1]["mlp_out", 2]
    small = integrated_gradients(model, TOKENS, DIFF, at("mlp_out", 2), baseline=near * (1 - 1e-5), steps=1)
    assert_close(small.values * 1e5, gradient_x_input(model, TOKENS, DIFF, at("mlp_out", 2)).values, 1e-4)


# ------------------------------------------------------------------------------------------------ prompts, side effects


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_of_several_lengths(side: Any) -> None:
    model = HookedTransformer(build().cfg, word_tokenizer("a", "b", "c", "yes", "no"), default_padding_side=side)
    model.load_state_dict(build().state_dict())
    both = integrated_gradients(model, ["a b c", "c"], LogitDiff("yes", "no"), at("z", 1), over=("head",), steps=2)
    alone = [
        integrated_gradients(model, text, LogitDiff("yes", "no"), at("z", 1), over=("head",), steps=2)
        for text in ("a b c", "c")
    ]
    assert_close(both.values, torch.cat([one.values for one in alone], -1), RTOL)


def test_masked_scores_are_no_infinite_effects() -> None:
    """Both ends are -inf there; from 0 the effect would be infinite times nothing, which is refused."""
    model, site = model_of("gpt2"), at("attn_scores", 0)
    result = integrated_gradients(model, TOKENS, DIFF, site, baseline=Run(OTHER), over=("head", "key"), steps=50)
    assert float(result.baselines["residual"].abs().max()) < 1e-3
    with pytest.raises(MetricError, match="not finite"):
        gradient_x_input(model, TOKENS, DIFF, site, over=("head",))


def test_the_model_is_left_alone() -> None:
    model = build()
    with left_alone(model):
        expected = integrated_gradients(model, TOKENS, DIFF, "hook_embed", steps=2)
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert not any(value.requires_grad for value in (expected.values, *expected.baselines.values()))
    model.requires_grad_(False)
    with torch.no_grad():
        again = integrated_gradients(model, TOKENS, DIFF, "hook_embed", steps=2)
    assert_close(again.values, expected.values, RTOL)


MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "site": (dict(site=at("zz", 1)), UnknownHook, "Did you mean blocks.1.attn.hook_z"),
    "axis": (dict(over=("query",)), BadInput, "no axis 'query' to keep; it has pos, head, d_head"),
    "axis twice": (dict(over=("pos", "pos")), BadInput, "names an axis twice"),
    "steps": (dict(steps=0), BadInput, "at least 1, got 0"),
    "shorter baseline": (dict(baseline=Run(OTHER[:, :4])), BadInput, "batch=2, pos=4"),
    "shape of the baseline": (dict(baseline=torch.zeros(3)), BadInput, r"shape \[3\]"),
    "metric": (dict(metric=lambda logits: logits[:, -1]), MetricError, "one number for each prompt"),
    "a count": (dict(metric=lambda logits: logits[:, -1].argmax(-1)), MetricError, "has no gradient"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_told_and_leave_the_model_alone(what: str) -> None:
    changes, error, message = MISTAKES[what]
    arguments = dict(prompts=TOKENS, metric=DIFF, site=at("z", 1)) | changes
    with left_alone(model_of("gpt2")), unchecked_types(), pytest.raises(error, match=message):
        integrated_gradients(model_of("gpt2"), **arguments)
