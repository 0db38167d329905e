"""Means and noise over a reference set, as sources."""

from typing import Any

import pytest
import torch

from interp_hooks import HookedTransformer, Intervention, LogitDiff, Run, ablate, at, evaluate
from interp_hooks.errors import BadInput
from interp_hooks.experiments.ablation import mean_activations, noised_activations
from interp_hooks.experiments.moments import moments
from interp_hooks.interventions.recording import record
from tests.experiments import gates
from tests.experiments.by_hand import OTHER, RTOL, TOKENS, left_alone, model_of, value_at, word_tokenizer
from tests.tiny import ARCHITECTURES, assert_close, build, hooked, random_tokens, unchecked_types

SIX = random_tokens(6, 5, 23, seed=5)
DIFF = LogitDiff([4, 11], [7, 2], pos=-1)
Z = "blocks.1.attn.hook_z"


def with_words(side: Any = "right") -> HookedTransformer:
    model = HookedTransformer(build().cfg, word_tokenizer("a", "b", "c"), default_padding_side=side)
    model.load_state_dict(build().state_dict())
    return model


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("method", ["mean", "position_mean", "resample", "noise"])
def test_every_architecture(method: Any, name: str) -> None:
    """Heads wherever they are, also in groups; an ablation with the prompts' own values, one prompt, is none."""
    model, tokens = hooked(name), random_tokens(2, 5, 19)
    generator = torch.Generator().manual_seed(0)
    result = ablate(model, tokens, DIFF, method=method, generator=generator, progress=False)
    assert result.values.shape == (model.cfg.n_layers, model.cfg.n_heads, 2)
    same = ablate(model, tokens[:1], LogitDiff(4, 7, pos=-1), method="position_mean", progress=False)
    assert_close(same.values, same.baselines["original"].expand_as(same.values), 1e-9)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize(("site", "hook"), [("z", Z), ("pattern", "blocks.1.attn.hook_pattern")])
def test_means_are_those_of_the_whole_set(site: str, hook: str, batch_size: int) -> None:
    model = model_of("gpt2")
    value = value_at(model, Run(SIX), hook)
    for per_position in (False, True):
        ours = mean_activations(model, TOKENS, site, reference=SIX, per_position=per_position, batch_size=batch_size)
        expected = value.mean((0, 1), keepdim=True) if site == "z" and not per_position else value.mean(0, keepdim=True)
        assert_close(ours[hook], expected.expand(2, *value.shape[1:]), RTOL)
    assert set(ours) == {hook.replace(".1.", f".{layer}.") for layer in range(3)}


def test_means_and_spreads_are_precise() -> None:
    """In float32, batch by batch, they are those in float64."""
    model, tokens = build(dtype=torch.float32), random_tokens(200, 9, 23)
    found = moments(model, Run(tokens), model.points([Z]), batch_size=7)[Z]
    value = value_at(model, Run(tokens), Z).double().flatten(0, 1)
    assert found.mean.dtype == torch.float64
    assert_close(found.mean[0, 0], value.mean(0), 1e-6)
    assert_close(found.std[0, 0], value.std(0, correction=0), 1e-6)


def test_padding_and_bos_are_left_out_unless_asked_for() -> None:
    texts = ["a b c", "c"]
    for side in ("left", "right"):
        model = with_words(side)
        run_of = {text: Run(model.to_tokens(text)) for text in texts}
        alone = [value_at(model, run, Z)[0] for run in run_of.values()]
        assert [len(one) for one in alone] == [4, 2]
        real = mean_activations(model, TOKENS, "z", reference=texts)[Z]
        assert_close(real[0, 0], torch.cat([one[1:] for one in alone]).mean(0), RTOL)
        with_bos = mean_activations(model, TOKENS, "z", reference=texts, exclude=("padding",))[Z]
        assert_close(with_bos[0, 0], torch.cat(alone).mean(0), RTOL)
        everything = mean_activations(model, TOKENS, "z", reference=texts, exclude=())[Z]
        assert not torch.allclose(everything, with_bos)
        own = mean_activations(model, texts, "z", per_position=True)[Z]
        last, first = (alone[0][-1], alone[1][0]) if side == "right" else (alone[0][0], alone[0][1])
        assert_close(own[0, 3 if side == "right" else 0], last, RTOL)
        assert_close(own[0, 0 if side == "right" else 1], (alone[0][0] + first) / 2 if side == "right" else first, RTOL)


def test_padded_prompts_can_be_ablated() -> None:
    """Positions that no prompt has, in the reference or here, spoil nothing: a prompt alone gives the same."""
    model = with_words()
    texts, metric = ["a b c", "c"], LogitDiff([4, 4], [7, 7])
    for method in ("mean", "position_mean", "noise"):
        together = ablate(
            model,
            texts,
            metric,
            method=method,
            reference=[*texts, "b b a"],
            generator=None if method != "noise" else torch.Generator().manual_seed(0),
            progress=False,
        )
        assert bool(together.values.isfinite().all())
    mean = mean_activations(model, texts, "z", reference=texts[:1])
    run = Run(model.to_tokens(texts[1]), [Intervention(at("z", 1), mean[Z][1:, :1])])
    alone = evaluate(model, [run], LogitDiff(4, 7))
    both = ablate(model, texts, metric, over=("layer",), method="mean", reference=texts[:1], progress=False)
    assert_close(both.values[1, 1:], alone[0], RTOL)


HOOKS = ["hook_embed", "blocks.0.attn.hook_pattern", Z, "blocks.2.hook_resid_post", "unembed.hook_out"]


@pytest.mark.parametrize("last", range(len(HOOKS)))
def test_what_is_recorded_is_what_the_run_has_there(last: int) -> None:
    """Hooks before, in and after the blocks, in any order; nothing is computed that comes after all of them."""
    model, mask = model_of("gpt2"), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    run, wanted, seen = Run(TOKENS, (), mask), HOOKS[last::-1], []
    with model.hooks(fwd_hooks=[(hook, lambda value, hook: seen.append(hook.name)) for hook in HOOKS]):
        ours = record(model, run, wanted)
    assert set(ours) == set(wanted)
    for hook, value in ours.items():
        assert_close(value, value_at(model, run, hook), RTOL)
    layers = [-1, 0, 1, 2, 3]
    assert seen == [hook for hook, layer in zip(HOOKS, layers, strict=True) if layer <= layers[last]]


# --------------------------------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize("per_position", [False, True])
def test_each_group_has_its_own_mean(per_position: bool) -> None:
    """Labels may be anything, in any order, with groups of any size."""
    model, labels = model_of("gpt2"), ["x", "y", "y", "x", "y", "z"]
    ours = mean_activations(
        model,
        TOKENS,
        "z",
        reference=SIX,
        groups=["y", "x"],
        reference_groups=labels,
        per_position=per_position,
        batch_size=4,
    )[Z]
    for row, label in enumerate("yx"):
        chosen = torch.tensor([one == label for one in labels])
        alone = mean_activations(model, TOKENS, "z", reference=SIX[chosen], per_position=per_position)[Z]
        assert_close(ours[row], alone[row], RTOL)
    numbered = torch.tensor([0, 1, 1, 0, 1, 2])
    again = mean_activations(model, SIX, "z", groups=numbered, per_position=per_position)[Z]
    assert_close(again[1:3], ours[:1].expand(2, -1, -1, -1), RTOL)


def test_a_prompt_that_is_its_own_group_keeps_its_values() -> None:
    model = model_of("gpt2")
    source = mean_activations(model, TOKENS, "z", groups=[0, 1], per_position=True)
    result = ablate(model, TOKENS, DIFF, method=source, progress=False)
    assert_close(result.values, result.baselines["original"].expand_as(result.values), RTOL)


# ---------------------------------------------------------------------------------------------------------- linear nets


def test_in_a_linear_net_a_mean_ablation_moves_along_a_line() -> None:
    """logits(ablated) - logits = (mean - z) W_O W_U, exactly."""
    model = gates.linear()
    z = value_at(model, Run(TOKENS), "blocks.2.attn.hook_z")[:, -1]
    mean = value_at(model, Run(SIX), "blocks.2.attn.hook_z").mean((0, 1))
    result = ablate(model, TOKENS, gates.output, method="mean", reference=SIX, layers=[2], progress=False)
    for head in range(4):
        expected = (mean - z)[:, head] @ model.blocks[2].attn.W_O[head] @ model.unembed.W_U[:, 0]
        assert_close(result.values[0, head] - result.baselines["original"], expected.detach(), 1e-9)


# ---------------------------------------------------------------------------------------------------------------- noise


def noised(seed: int = 0, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return noised_activations(model_of("gpt2"), TOKENS, "z", generator=generator, **options)


def test_no_noise_is_no_ablation() -> None:
    for source in (noised(std=0.0), noised(reference=TOKENS[:1, :1])):  # a single token does not vary
        result = ablate(model_of("gpt2"), TOKENS, DIFF, method=source, progress=False)
        assert_close(result.values, result.baselines["original"].expand_as(result.values), RTOL)


def test_noise_is_the_same_in_every_cell() -> None:
    """In proportion to its size: doubling that doubles it, and layers differ by the size alone."""
    model, own = (
        model_of("gpt2"),
        [value_at(model_of("gpt2"), Run(TOKENS), f"blocks.{i}.attn.hook_z") for i in range(3)],
    )
    small, large = noised(std=0.5), noised(std=1.0)
    drawn = [large[f"blocks.{layer}.attn.hook_z"] - own[layer] for layer in range(3)]
    assert_close(drawn[0], drawn[1], 1e-12)
    assert_close((small[Z] - own[1]) * 2, drawn[1], 1e-12)
    reference = noised(reference=SIX)
    value = value_at(model, Run(SIX), Z).flatten(0, 1)
    assert_close(reference[Z] - own[1], drawn[1] * value.std(0, correction=0), RTOL)
    assert float(drawn[0].std()) == pytest.approx(1, abs=0.1)
    by_name = ablate(
        model, TOKENS, DIFF, method="noise", reference=SIX, generator=torch.Generator().manual_seed(0), progress=False
    )
    by_source = ablate(model, TOKENS, DIFF, method=reference, progress=False)
    assert torch.equal(by_name.values, by_source.values)


def test_the_generator_decides() -> None:
    assert torch.equal(noised(3)[Z], noised(3)[Z])
    assert not torch.equal(noised(3)[Z], noised(4)[Z])
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    noised(3)
    assert torch.equal(torch.rand(3), expected)


# ------------------------------------------------------------------------------------------------------------- mistakes


def means(**options: Any) -> Any:
    return lambda model: mean_activations(model, TOKENS, "z", **options)


MISTAKES: dict[str, tuple[Any, str]] = {
    "groups alone": (means(reference=SIX, groups=[0, 1]), "go together"),
    "too few groups": (means(groups=[0]), "a group for each of 2 prompts and of 2 reference prompts, got 1 and 1"),
    "unknown group": (
        means(reference=SIX, groups=["a", "b"], reference_groups=["a"] * 6),
        "no reference prompt is of group 'b'; there are 'a'",
    ),
    "exclude": (means(exclude=("eos",)), r"exclude must be a list of 'bos' or 'padding', got tuple \('eos',\)"),
    "batch size": (means(batch_size=0), "batch_size must be at least 1"),
    "longer": (means(reference=SIX[:, :4], per_position=True), "needs prompts of 5 tokens; they have .*pos=4"),
    "a run with interventions": (means(reference=Run(SIX, [Intervention(at("z", 0), 0.0)])), "without interventions"),
    "no real token": (
        means(reference=Run(SIX, (), torch.tensor([[0, 1, 1, 1, 1]] * 6)), per_position=True),
        "no token of the reference counts at blocks.0.attn.hook_z for prompt 0, position 0",
    ),
    "std": (lambda model: noised_activations(model, TOKENS, "z", std=-1.0), "std must not be negative"),
    "masked scores": (
        lambda model: noised_activations(model, TOKENS, "attn_scores"),
        "infinite where attention is masked",
    ),
    "patterns of others": (
        lambda model: noised_activations(model, TOKENS, "pattern", reference=SIX[:, :4]),
        "needs prompts of 5 tokens",
    ),
    "a source and a reference": (
        lambda model: ablate(model, TOKENS, DIFF, method=0.0, reference=OTHER, progress=False),
        "belong to a method by name",
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_told(what: str) -> None:
    call, message = MISTAKES[what]
    with left_alone(model_of("gpt2")), unchecked_types(), pytest.raises(BadInput, match=message):
        call(model_of("gpt2"))


def test_a_reference_of_bos_tokens_has_no_mean() -> None:
    model = with_words()
    with pytest.raises(BadInput, match="no token of the reference counts"):
        mean_activations(model, TOKENS, "z", reference=model.to_tokens("a")[:, :1])


def test_a_number_and_a_run_are_methods_too() -> None:
    model = model_of("gpt2")
    zero, number = (ablate(model, TOKENS, DIFF, method=method, progress=False).values for method in ("zero", 0.0))
    assert torch.equal(zero, number)
    run = ablate(model, TOKENS, DIFF, method=Run(OTHER), over=("layer",), progress=False)
    by_hand = evaluate(model, [Run(TOKENS, [Intervention(at("z", 1), Run(OTHER))])], DIFF)
    assert_close(run.values[1], by_hand[0], RTOL)
