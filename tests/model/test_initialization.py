"""Initial weights: the spread that each mode promises, from fans counted by hand, and where randomness comes from."""

import math
from typing import Any, get_args

import pytest
import torch

from interp_hooks import ExpertsConfig, HookedTransformer, HookedTransformerConfig
from interp_hooks.errors import ConfigError
from interp_hooks.model.config import InitMode
from interp_hooks.model.initialization import CURVATURES
from tests.tiny import assert_close, unchecked_types

# Every axis another size, so that a fan read from a wrong axis shows.
SIZES = dict(n_layers=1, d_model=40, n_ctx=30, d_vocab=70, d_vocab_out=50, n_heads=6, d_head=8, d_mlp=60, act_fn="relu")
GROUPED = SIZES | dict(n_key_value_heads=3, gated_mlp=True)
FANS = {  # name -> numbers read, numbers written
    "embed.W_E": (70, 40),
    "pos_embed.W_pos": (30, 40),
    "blocks.0.attn.W_Q": (40, 48),
    "blocks.0.attn.W_K": (40, 24),
    "blocks.0.attn.W_V": (40, 24),
    "blocks.0.attn.W_O": (48, 40),
    "blocks.0.mlp.W_gate": (40, 60),
    "blocks.0.mlp.W_in": (40, 60),
    "blocks.0.mlp.W_out": (60, 40),
    "unembed.W_U": (40, 50),
}
EMBEDDINGS = ("embed.W_E", "pos_embed.W_pos")


def promised(mode: str, name: str, spread: float) -> float:
    """The standard deviation of a weight."""
    fan_in, fan_out = FANS[name]
    return (
        spread
        * {
            "gpt2": 1.0,
            "xavier": (2 / (fan_in + fan_out)) ** 0.5,
            "kaiming": (2 / fan_in) ** 0.5,
            "muP": 1.0 if name in EMBEDDINGS else 1 / fan_in if name == "unembed.W_U" else fan_in**-0.5,
        }[mode.partition("_")[0]]
    )


@pytest.mark.parametrize("spread", [None, 0.3])
@pytest.mark.parametrize("mode", get_args(InitMode))
def test_every_mode_has_its_spread(mode: InitMode, spread: float | None) -> None:
    given = {} if spread is None else dict(initializer_range=spread)
    model = HookedTransformer(GROUPED | dict(init_mode=mode, seed=2) | given)
    default = 0.8 / math.sqrt(40) if mode == "gpt2" else 1.0
    weights = {name: weight for name, weight in model.named_parameters() if name.rpartition(".")[2].startswith("W")}
    assert weights.keys() == FANS.keys()
    for name, weight in weights.items():
        deviation = promised(mode, name, spread or default)
        # of n normal numbers the root of their mean square is off by 1 / sqrt(2 n), of uniform ones by less
        found = weight.detach().double().square().mean().sqrt() / deviation
        assert abs(float(found) - 1) < 5 / math.sqrt(2 * weight.numel()), name
        assert abs(float(weight.detach().mean())) < 5 * deviation / math.sqrt(weight.numel()), name
        largest = float(weight.detach().abs().max()) / deviation
        assert (largest <= math.sqrt(3) + 1e-6) == mode.endswith("uniform"), name


def test_each_expert_is_a_map_of_its_own() -> None:
    experts = ExpertsConfig(n_experts=7, experts_per_token=2, d_expert=90, layers=(True,))
    model = HookedTransformer(SIZES | dict(experts=experts, init_mode="kaiming_normal", seed=0))
    for name, fan_in in (("W_in", 40), ("W_out", 90)):
        weight = model.blocks[0].mlp.get_parameter(f"experts.{name}").detach()
        assert abs(float(weight.std()) / (2 / fan_in) ** 0.5 - 1) < 5 / math.sqrt(2 * weight.numel())


def test_biases_gains_and_curvatures() -> None:
    model = HookedTransformer(SIZES | dict(norm_gain_offset=1.0, attn_sinks=True, act_fn="xielu"))
    for name, weight in model.named_parameters():
        kind = name.rpartition(".")[2]
        if not kind.startswith("W"):
            assert bool((weight == CURVATURES.get(kind, 0.0)).all()), name  # gains are 0 + 1
    act = model.blocks[0].mlp.act_fn
    assert_close(torch.nn.functional.softplus(act.alpha_p), torch.full((1,), 0.8), 1e-6)  # float32
    assert_close(0.5 + torch.nn.functional.softplus(act.alpha_n), torch.full((1,), 0.8), 1e-6)


def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    one, other = (HookedTransformer(SIZES | dict(seed=3)) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    for (name, weight), twin in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, twin), name
    assert not torch.equal(HookedTransformer(SIZES | dict(seed=4)).W_E, one.W_E)


def test_a_seed_means_the_same_in_every_dtype() -> None:
    single = HookedTransformer(SIZES | dict(seed=3)).W_Q
    assert torch.equal(HookedTransformer(SIZES | dict(seed=3, dtype="float64")).W_Q, single.double())
    assert torch.equal(HookedTransformer(SIZES | dict(seed=3, dtype="bfloat16")).W_Q, single.bfloat16())


def test_without_a_seed_the_global_generator_counts() -> None:
    torch.manual_seed(5)
    one = HookedTransformer(SIZES)
    assert not torch.equal(one.W_E, HookedTransformer(SIZES).W_E)
    torch.manual_seed(5)
    assert torch.equal(one.W_E, HookedTransformer(SIZES).W_E)


def test_weights_may_be_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp_hooks.model.transformer.initialize", lambda *_: pytest.fail("weights were drawn"))
    assert HookedTransformer(SIZES | dict(init_weights=False)).W_E.shape == (70, 40)


@pytest.mark.parametrize("unset", [-1.0, 0.0])
def test_an_unset_range_is_the_default(unset: float) -> None:
    cfg = HookedTransformerConfig(**SIZES, initializer_range=unset)
    assert cfg.initializer_range == 0.8 / math.sqrt(40)


def test_an_unknown_mode_is_told() -> None:
    with unchecked_types(), pytest.raises(ConfigError, match=r"init_mode must be .* Did you mean xavier_normal"):
        HookedTransformer(SIZES | dict[str, Any](init_mode="xavier_norm"))
