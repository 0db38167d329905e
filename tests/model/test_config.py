"""The config resolves everything once, refuses what contradicts itself, and never changes."""

import copy
import dataclasses
import inspect
import json
import pickle
from typing import Any, get_args

import pytest
import torch

from interp_hooks import HookedTransformer, HookedTransformerConfig
from interp_hooks.errors import ConfigError
from interp_hooks.model.components.mlp import ACTIVATIONS
from interp_hooks.model.config import Activation, as_dtype
from tests.tiny import ARCHITECTURES, hooked, unchecked_types

SIZES = dict(n_layers=2, d_model=12, n_ctx=8, d_vocab=11, n_heads=4, act_fn="relu")


def config(**fields: Any) -> HookedTransformerConfig:
    return HookedTransformerConfig(**SIZES | fields)


@pytest.mark.parametrize(
    ("fields", "resolved"),
    [
        ({}, dict(d_head=3, n_key_value_heads=4, d_mlp=48, d_vocab_out=11, attn_scale=3**0.5, rotary_dim=0)),
        (dict(d_head=5), dict(n_heads=4, d_head=5, attn_scale=5**0.5)),
        (dict(n_heads=0, d_head=3), dict(n_heads=4, d_head=3)),
        (dict(n_key_value_heads=2), dict(n_key_value_heads=2)),
        (dict(d_vocab_out=5, d_mlp=7, attn_scale=1.0), dict(d_vocab_out=5, d_mlp=7, attn_scale=1.0)),
        (dict(positional_embedding_type="rotary", d_head=4), dict(rotary_dim=4)),
        (dict(positional_embedding_type="rotary", d_head=8, rotary_dim=2), dict(rotary_dim=2)),
        (dict(attn_only=True, act_fn=None), dict(d_mlp=0)),
        (dict(dtype="bfloat16"), dict(dtype=torch.bfloat16)),
    ],
)
def test_what_is_left_out_is_resolved(fields: dict[str, Any], resolved: dict[str, Any]) -> None:
    cfg = config(**fields)
    assert {key: getattr(cfg, key) for key in resolved} == resolved


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(n_layers=0), "n_layers must be positive, got 0"),
        (dict(d_model=-1), "d_model must be positive, got -1"),
        (dict(n_ctx=0), "n_ctx must be positive"),
        (dict(d_vocab=-2), "d_vocab must be positive"),
        (dict(d_mlp=-3), "d_mlp must be positive, got -3"),
        (dict(n_heads=0), "expected n_heads or d_head .or both., got neither"),
        (dict(n_heads=5), "n_heads=5 does not divide d_model=12"),
        (dict(n_heads=0, d_head=5), "d_head=5 does not divide d_model=12"),
        (dict(n_key_value_heads=3), "n_key_value_heads=3 does not divide n_heads=4"),
        (dict(n_key_value_heads=-4), "n_key_value_heads must be positive"),
        (dict(act_fn=None), "act_fn must be 'relu', .* got None"),
        (dict(act_fn="gelo"), "act_fn must be .* got 'gelo'. Did you mean gelu"),
        (dict(normalization_type="LM"), "normalization_type must be .*got 'LM'. Did you mean"),
        (dict(positional_embedding_type="rotery"), "Did you mean rotary"),
        (dict(attention_dir="casual"), "Did you mean causal"),
        (dict(attn_only=True, d_mlp=4), "attn_only=True excludes d_mlp, gated_mlp, parallel_attn_mlp and experts"),
        (dict(attn_only=True, parallel_attn_mlp=True), "attn_only=True excludes"),
        (dict(rotary_dim=2), "need positional_embedding_type='rotary'"),
        (dict(rotary_scaling={"rope_type": "linear"}), "need positional_embedding_type='rotary'"),
        (dict(positional_embedding_type="rotary"), "rotary_dim=3 must be even and at most d_head=3"),
        (dict(positional_embedding_type="rotary", d_head=4, rotary_dim=6), "rotary_dim=6 must be even and at most"),
        (dict(act_fn="solu_ln", gated_mlp=True), "act_fn='solu_ln' is for plain MLPs"),
        (dict(positional_embedding_type="shortformer", kv_latent=4), r"latent attention .* no shortformer"),
        (dict(init_mode="mup"), "init_mode must be .* Did you mean muP"),
        (dict(dtype=torch.int8), "dtype must be a floating torch dtype"),
        (dict(dtype="flaot32"), "dtype must be a floating torch dtype .* got 'flaot32'"),
    ],
)
def test_a_contradiction_is_refused(fields: dict[str, Any], said: str) -> None:
    with unchecked_types(), pytest.raises(ConfigError, match=said):
        config(**fields)


def test_nothing_changes_it_afterwards() -> None:
    cfg = config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.n_layers = 3  # type: ignore[misc]
    scaled = config(positional_embedding_type="rotary", d_head=4, rotary_scaling={"rope_type": "linear", "factor": 2.0})
    with pytest.raises(TypeError):
        scaled.rotary_scaling["factor"] = 3.0  # type: ignore[index]


def test_a_scaling_is_copied() -> None:
    mine = {"rope_type": "linear", "factor": 2.0}
    cfg = config(positional_embedding_type="rotary", d_head=4, rotary_scaling=mine)
    mine["factor"] = 5.0
    assert dict(cfg.rotary_scaling or {})["factor"] == 2.0


SCALED = dict(positional_embedding_type="rotary", d_head=4, rotary_scaling={"rope_type": "linear", "factor": 2.0})


@pytest.mark.parametrize("fields", [{}, SCALED, dict(attn_only=True, act_fn=None, n_key_value_heads=2)])
def test_copies_are_equal(fields: dict[str, Any]) -> None:
    cfg = config(**fields)
    assert HookedTransformerConfig.from_dict(cfg.to_dict()) == cfg
    assert copy.deepcopy(cfg) == cfg
    assert pickle.loads(pickle.dumps(cfg)) == cfg
    assert cfg.replace() == cfg
    assert cfg.replace(n_layers=7).n_layers == 7
    assert type(cfg.to_dict()["rotary_scaling"]) in (dict, type(None)), "plain values"


@pytest.mark.parametrize("unset", [None, -1])
def test_what_people_write_for_unset(unset: Any) -> None:
    fields = ("n_key_value_heads", "d_mlp", "d_vocab_out", "rotary_dim", "attn_scale", "initializer_range")
    with unchecked_types():
        caps = dict.fromkeys(("attn_scores_soft_cap", "output_logits_soft_cap"), unset)
        assert config(**dict.fromkeys(fields, unset), **caps) == config()
        assert config(d_head=unset) == config()
        assert config(n_heads=unset, d_head=3) == config(d_head=3)


def test_unscaled_scores_and_a_device_to_be_found() -> None:
    assert config(use_attn_scale=False).attn_scale == 1.0
    with pytest.raises(ConfigError, match=r"use_attn_scale=False contradicts attn_scale=2.0"):
        config(use_attn_scale=False, attn_scale=2.0)
    assert config(device=None).device == torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_file_may_make_lists_of_tuples(name: str) -> None:
    cfg = hooked(name).cfg
    plain = json.loads(json.dumps(cfg.to_dict() | dict(dtype="float64", device="cpu")))
    assert HookedTransformerConfig.from_dict(plain) == cfg


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hidden_weights_are_counted(name: str) -> None:
    model = hooked(name)
    hidden = [(name, weight) for name, weight in model.named_parameters() if name.startswith("blocks.")]
    expected = sum(weight.numel() for name, weight in hidden if name.rpartition(".")[2].startswith("W"))
    assert model.cfg.n_params == expected
    assert model.n_params_total == sum(weight.numel() for weight in model.parameters()) > expected


def test_replacing_checks_again() -> None:
    with pytest.raises(ConfigError, match="n_key_value_heads=3"):
        config().replace(n_key_value_heads=3)


def test_an_unknown_field_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"has no field 'n_layer'. Did you mean n_layers"):
        HookedTransformerConfig.from_dict({**SIZES, "n_layer": 2})


@pytest.mark.parametrize(
    ("kind", "centres", "folded"),
    [("LN", True, False), ("LNPre", True, True), ("RMS", False, False), ("RMSPre", False, True), (None, False, True)],
)
def test_facts_that_follow_from_the_norm(kind: Any, centres: bool, folded: bool) -> None:
    cfg = config(normalization_type=kind)
    assert (cfg.centres_residual, cfg.norm_is_folded) == (centres, folded)


def test_the_scale_of_a_layer() -> None:
    assert [config(attn_scale=2.0).attn_scale_at(layer) for layer in (0, 1)] == [2.0, 2.0]
    growing = config(attn_scale=2.0, scale_attn_by_inverse_layer_idx=True)
    assert [growing.attn_scale_at(layer) for layer in (0, 1)] == [2.0, 4.0]


def test_every_activation_that_may_be_named_exists() -> None:
    assert {*ACTIVATIONS, "xielu", "solu_ln", "gelu_ln"} == set(get_args(Activation))


@pytest.mark.parametrize(
    ("given", "dtype"),
    [("float32", torch.float32), ("torch.bfloat16", torch.bfloat16), (torch.float64, torch.float64)],
)
def test_dtypes_by_name(given: Any, dtype: torch.dtype) -> None:
    assert as_dtype(given) == dtype


@pytest.mark.parametrize("given", ["nn", "int32", torch.bool, "manual_seed"])
def test_what_is_no_floating_dtype(given: Any) -> None:
    with pytest.raises(ConfigError):
        as_dtype(given)


# ------------------------------------------------------------------------------------- names that TransformerLens has


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (
            dict(use_local_attn=True, window_size=3, attn_types=["global", "local"]),
            dict(window_sizes=(None, 3)),
        ),
        (dict(use_local_attn=False, window_size=None, attn_types=None), {}),
        (dict(final_rms=True, normalization_type="RMS"), dict(normalization_type="RMS")),
        (dict(final_rms=True, normalization_type="RMSPre"), dict(normalization_type="RMSPre")),
        (dict(final_rms=False), {}),
        (
            dict(post_embedding_ln=True, positional_embedding_type="rotary", d_head=4),
            dict(embed_norm_type="LN", positional_embedding_type="rotary", d_head=4),
        ),
        (
            dict(post_embedding_ln=True, positional_embedding_type="shortformer"),
            dict(embed_norm_type="LN", positional_embedding_type="shortformer"),
        ),
        (dict(use_normalization_before_and_after=True), dict(norm_placement="pre_and_output")),
        (dict(use_attention_sinks=True, clip_qkv=2.0), dict(attn_sinks=True, qkv_clip=2.0)),
        (dict(use_attn_scale=False), dict(attn_scale=1.0, use_attn_scale=False)),
        (dict(use_attn_scale=True, attn_scale=-1.0), dict(attn_scale=3**0.5)),
        (dict(n_devices=1, num_experts=None, n_params=7, trust_remote_code=False, from_checkpoint=False), {}),
    ],
)
def test_fields_that_are_called_otherwise_elsewhere(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    cfg = config(**theirs)
    assert cfg == config(**ours)
    assert cfg == HookedTransformerConfig.from_dict(SIZES | theirs) == cfg.replace()
    assert HookedTransformer(SIZES | theirs).cfg == cfg


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(use_local_attn=True), "use_local_attn=True needs window_size, and attn_types"),
        (dict(use_local_attn=True, window_size=3), "use_local_attn=True needs window_size, and attn_types"),
        (dict(use_local_attn=True, window_size=3, attn_types=["local"]), "window_sizes must have 2 entries, got 1"),
        (dict(use_local_attn=True, window_size=3, attn_types=["local", "near"]), "attn_types .* got 'near'"),
        (
            dict(use_local_attn=True, window_size=3, attn_types=["local"] * 2, window_sizes=(3, 4)),
            r"window_sizes=\(3, 4\) contradicts .* window_sizes=\(3, 3\)",
        ),
        (dict(window_size=3), "window_size and local attn_types mean nothing without use_local_attn=True"),
        (dict(attn_types=["local", "global"]), "mean nothing without use_local_attn=True"),
        (dict(post_embedding_ln=True), "post_embedding_ln=True is not implemented where .*'standard'"),
        (dict(attention_dir="both"), "attention_dir must be 'causal' or 'bidirectional', got 'both'"),
        (dict(init_mode="zeros"), "init_mode must be 'gpt2'"),
        (dict(ungroup_grouped_query_attention=True), r"set_ungroup_grouped_query_attention\(True\)"),
        (dict(n_devices=2), "n_devices=2 is not implemented: load with device_map="),
        (dict(use_qk_norm=True), "use_qk_norm=True is not implemented: give qk_norm='shared'"),
        (dict(num_experts=4), r"num_experts=4 is not implemented: give experts=ExpertsConfig"),
        (dict(window=3), "has no field 'window'. Did you mean .*window_size"),
    ],
)
@pytest.mark.parametrize("make", [config, lambda **fields: HookedTransformer(SIZES | fields)])
def test_fields_that_would_be_ignored_are_refused(make: Any, fields: dict[str, Any], said: str) -> None:
    with unchecked_types(), pytest.raises(ConfigError, match=said):
        make(**fields)


def test_fields_mean_what_they_say() -> None:
    """Those that no other test of this file reads back: in the weights, the hook points, or the pattern."""
    assert torch.equal(HookedTransformer(SIZES | dict(seed=3)).W_E, HookedTransformer(SIZES | dict(seed=3)).W_E)
    kaiming = HookedTransformer(SIZES | dict(seed=3, init_mode="kaiming_uniform"))
    assert not torch.equal(kaiming.W_E, HookedTransformer(SIZES | dict(seed=3)).W_E)
    assert "hook_tokens" in HookedTransformer(SIZES | dict(use_hook_tokens=True)).hook_dict
    assert "hook_tokens" not in HookedTransformer(SIZES).hook_dict
    tokens = torch.tensor([[1, 2, 3, 4]])
    seen = {}
    kinds = {"causal": {}, "bidirectional": dict(attention_dir="bidirectional")}
    kinds["local"] = dict(use_local_attn=True, window_size=2, attn_types=["local", "global"])
    for name, fields in kinds.items():
        _, cache = HookedTransformer(SIZES | fields).run_with_cache(tokens)
        seen[name] = cache["pattern", 0][0, 0] > 0
    here, all_seen = torch.arange(4), torch.ones(4, 4).bool()
    assert torch.equal(seen["causal"], all_seen.tril())
    assert torch.equal(seen["bidirectional"], all_seen)
    assert torch.equal(seen["local"], all_seen.tril() & (here[:, None] - here < 2))


def test_help_shows_the_fields() -> None:
    assert [*inspect.signature(HookedTransformerConfig).parameters][:3] == ["n_layers", "d_model", "n_ctx"]


@pytest.mark.parametrize(
    ("given", "missing"), [({}, "n_layers, d_model, n_ctx"), (dict(n_layers=2, n_ctx=4), "d_model")]
)
def test_sizes_that_are_missing_are_named(given: dict[str, Any], missing: str) -> None:
    with pytest.raises(ConfigError, match=f"got none for {missing}$"):
        HookedTransformer(given)


def test_a_single_number_in_place_of_a_list_is_told() -> None:
    with pytest.raises(ConfigError, match="window_sizes must be"):
        HookedTransformerConfig(n_layers=1, d_model=4, n_ctx=4, n_heads=1, d_vocab=5, window_sizes=torch.tensor(3.0))  # pyright: ignore[reportArgumentType]
