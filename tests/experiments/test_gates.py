"""Patching and ablation on models whose answer is known before anything is run.

On an OR, destroying one of two causes shows nothing and restoring one shows everything; on an AND it is the other way
round. That is why `patch` makes callers say which of the two they mean.
"""

import itertools
from typing import Literal

import pytest
import torch
from torch import Tensor

from interp_hooks import Intervention, Run, ablate, at, evaluate, patch, path_patch
from tests.experiments.by_hand import OTHER, RTOL, THIRD, TOKENS
from tests.experiments.gates import gate, linear, output, two_heads_or
from tests.tiny import assert_close

EXACT = 1e-12  # sums of a few small whole numbers and of means of up to three of them


def close(ours: Tensor, expected: float) -> bool:
    return bool(((ours - expected).abs() < EXACT).all())


def test_or_hides_each_of_its_two_causes() -> None:
    model, tokens = two_heads_or(), torch.zeros(1, 3, dtype=torch.long)
    single = ablate(model, tokens, output, "z", over=("layer", "head"), progress=False)
    both = ablate(model, tokens, output, "z", over=("layer",), progress=False)
    assert close(single.baselines["original"], 1.0)
    assert single.values.shape == (1, 2, 1)
    assert close(single.values - single.baselines["original"], 0.0)
    assert close(both.values - both.baselines["original"], -1.0)


def test_ablating_the_neuron_of_or_gives_its_bias() -> None:
    """The neuron is off while either head writes, so that it has no effect, and -1 once it is on."""
    model, tokens = two_heads_or(), torch.zeros(1, 3, dtype=torch.long)
    neuron = ablate(model, tokens, output, "post", over=("layer", "neuron"), progress=False)
    assert close(neuron.values, 1.0)
    without_heads = [Intervention(at("z", 0), 0.0)]
    scores = evaluate(
        model, [Run(tokens, without_heads), Run(tokens, [*without_heads, Intervention(at("post", 0), 0.0)])], output
    )
    assert close(scores[0], 0.0)
    assert close(scores[1], 1.0)


@pytest.mark.parametrize("inputs", [2, 3])
@pytest.mark.parametrize("kind", ["and", "or"])
def test_the_gates_are_gates(kind: Literal["and", "or"], inputs: int) -> None:
    tokens = torch.tensor(list(itertools.product((0, 1), repeat=inputs)))
    truth = tokens.bool().all(1) if kind == "and" else tokens.bool().any(1)
    (ours,) = evaluate(gate(kind, inputs), [Run(tokens)], output)
    assert_close(ours, truth.double(), EXACT)


@pytest.mark.parametrize("site", ["resid_pre", "v"])
@pytest.mark.parametrize("inputs", [2, 3])
@pytest.mark.parametrize(
    ("kind", "direction", "effect", "recovered"),
    [
        ("and", "noise", -1, 1),
        ("and", "denoise", 0, 0),
        ("or", "noise", 0, 0),
        ("or", "denoise", 1, 1),
    ],
)
def test_noising_misses_or_and_denoising_misses_and(
    kind: Literal["and", "or"],
    direction: Literal["noise", "denoise"],
    effect: int,
    recovered: int,
    inputs: int,
    site: str,
) -> None:
    """One input at a time, from all ones (clean) and all zeros (corrupt)."""
    clean = torch.ones(1, inputs, dtype=torch.long)
    result = patch(
        gate(kind, inputs),
        clean,
        torch.zeros_like(clean),
        output,
        site,
        over=("layer", "pos"),
        direction=direction,
        progress=False,
    )
    assert close(result.baselines["clean"], 1.0)
    assert close(result.baselines["corrupt"], 0.0)
    base = result.baselines["clean" if direction == "noise" else "corrupt"]
    assert result.values.shape == (1, inputs, 1)
    assert close(result.values - base, effect)
    assert close(result.recovered_fraction, recovered)


@pytest.mark.parametrize("site", ["resid_pre", "v", "hook_embed"])
@pytest.mark.parametrize("kind", ["and", "or"])
def test_patching_some_inputs_is_reading_them(kind: Literal["and", "or"], site: str) -> None:
    """All pairs of rows of the truth table of three inputs, and all sets of inputs to patch."""
    table = torch.tensor(list(itertools.product((0, 1), repeat=3)))
    base, source = table.repeat_interleave(8, 0), table.repeat(8, 1)
    sets, layer = table[1:].bool(), None if site == "hook_embed" else 0
    runs = [Run(base, [Intervention(at(site, layer, pos=some.nonzero()[:, 0].tolist()), Run(source))]) for some in sets]
    mixed = [Run(torch.where(some, source, base)) for some in sets]
    patched, read = (evaluate(gate(kind, 3), each, output) for each in (runs, mixed))
    assert_close(patched, read, EXACT)


@pytest.mark.parametrize("inputs", [2, 3])
@pytest.mark.parametrize("kind", ["and", "or"])
def test_a_gate_is_on_the_path_through_its_neuron(kind: Literal["and", "or"], inputs: int) -> None:
    """Attention writes nothing that the logits read, so that with MLPs frozen it has no path to them."""
    ones = torch.ones(1, inputs, dtype=torch.long)
    for mlps, senders, receivers, recovered in (
        ("recompute", at("z", 0), "logits", 1.0),
        ("recompute", at("z", 0), at("mlp_in", 0), 1.0),
        ("freeze", at("z", 0), "logits", 0.0),
        ("freeze", at("hook_embed"), "logits", 0.0),
        ("freeze", at("hook_embed"), at("v_input", 0), 1.0),
        ("freeze", at("mlp_out", 0), "logits", 1.0),
    ):
        result = path_patch(gate(kind, inputs), ones, 0 * ones, output, senders, receivers, mlps=mlps, progress=False)
        assert close(result.recovered_fraction, recovered)


@pytest.mark.parametrize("kind", ["and", "or"])
def test_the_attention_is_the_whole_gate(kind: Literal["and", "or"]) -> None:
    """At the last position, in either direction; what it writes elsewhere is never read."""
    clean = torch.ones(1, 3, dtype=torch.long)
    for direction in ("denoise", "noise"):
        result = patch(gate(kind, 3), clean, 0 * clean, output, "attn_out", direction=direction, progress=False)
        assert_close(result.recovered_fraction, torch.tensor([[0.0, 0.0, 1.0]]), EXACT)


def first_logits(logits: Tensor) -> Tensor:
    """A linear metric that reads every position."""
    return logits[..., 0].sum(1)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(
    ("site", "over"),
    [
        ("resid_pre", ("layer", "pos")),
        ("hook_embed", ("pos",)),
        ("attn_out", ("layer", "pos")),
        ("z", ("layer", "head")),
    ],
)
def test_effects_add_up_in_a_linear_model(site: str, over: tuple[str, ...], direction: str) -> None:
    """The parts of one layer, patched one by one, make up the effect of patching the layer; all inputs, the whole."""
    model = linear()
    base, other = (OTHER, TOKENS) if direction == "denoise" else (TOKENS, OTHER)
    if site == "hook_embed":
        runs = [Run(base, [Intervention(at("hook_embed", pos=pos), Run(other))]) for pos in range(5)]
        *parts, whole, unpatched = evaluate(model, [*runs, Run(other), Run(base)], first_logits)
        assert_close((torch.stack(parts) - unpatched).sum(0), whole - unpatched, RTOL)
        return
    parts = patch(model, TOKENS, OTHER, first_logits, site, over=over, direction=direction, progress=False)
    whole = patch(model, TOKENS, OTHER, first_logits, site, over=("layer",), direction=direction, progress=False)
    unpatched = parts.baselines["corrupt" if direction == "denoise" else "clean"]
    assert_close((parts.values - unpatched).sum(1), whole.values - unpatched, RTOL)
    if site == "resid_pre":
        assert_close(whole.recovered_fraction, torch.ones(3), RTOL)


def test_mean_ablation_is_a_linear_map_of_the_difference() -> None:
    """In the last layer: (mean - z) W_O W_U, head by head."""
    model = linear()
    result = ablate(model, TOKENS, output, "z", method="mean", reference=THIRD, layers=[2], progress=False)
    z, reference = (model.run_with_cache(tokens)[1]["z", 2] for tokens in (TOKENS, THIRD))
    for head in range(4):
        change = (reference[:, :, head].mean((0, 1)) - z[:, -1, head]) @ model.W_O[2, head] @ model.W_U[:, 0]
        assert_close(result.values[0, head] - result.baselines["original"], change.detach(), RTOL)


def test_effects_are_proportional_in_a_linear_model() -> None:
    """Also across layers: what a head of layer 0 writes goes on through the heads of all later ones."""
    model = linear()
    runs = [Run(TOKENS, [Intervention(at("result", 0, head=1), value)]) for value in (0.0, 1.0, 2.0, 5.0)]
    none, once, twice, five_times = evaluate(model, runs, first_logits)
    assert_close(twice - none, 2 * (once - none), RTOL)
    assert_close(five_times - none, 5 * (once - none), RTOL)
