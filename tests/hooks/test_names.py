"""Short names and the full ones they stand for."""

from typing import Any

import pytest

from interp_hooks import HookedTransformer
from interp_hooks.errors import UnknownHook
from interp_hooks.hooks import get_act_name


@pytest.mark.parametrize(
    ("short", "full"),
    [
        (("hook_embed",), "hook_embed"),
        (("blocks.0.attn.hook_z",), "blocks.0.attn.hook_z"),
        (("embed",), "hook_embed"),
        (("pos_embed",), "hook_pos_embed"),
        (("k", 6, "a"), "blocks.6.attn.hook_k"),
        (("k6",), "blocks.6.attn.hook_k"),
        (("pre", 2), "blocks.2.mlp.hook_pre"),
        (("pre2",), "blocks.2.mlp.hook_pre"),
        (("pre_linear", 2), "blocks.2.mlp.hook_pre_linear"),
        (("q_input", 1), "blocks.1.hook_q_input"),
        (("mlp_in", 1), "blocks.1.hook_mlp_in"),
        (("resid_pre", 3), "blocks.3.hook_resid_pre"),
        (("normalized", 27, "ln2"), "blocks.27.ln2.hook_normalized"),
        (("scale", 4, "ln1"), "blocks.4.ln1.hook_scale"),
        (("scale4ln1",), "blocks.4.ln1.hook_scale"),
        (("scale", 4, "ln1_post"), "blocks.4.ln1_post.hook_scale"),
        (("scale",), "ln_final.hook_scale"),
        (("normalized",), "ln_final.hook_normalized"),
        (("normalized", None), "ln_final.hook_normalized"),
        (("expert_weights", 1, "mlp"), "blocks.1.mlp.hook_expert_weights"),
        (("attn", 0), "blocks.0.attn.hook_pattern"),
        (("attn0",), "blocks.0.attn.hook_pattern"),
        (("attn_logits", 0), "blocks.0.attn.hook_attn_scores"),
        (("key", 1), "blocks.1.attn.hook_k"),
        (("query", 1), "blocks.1.attn.hook_q"),
        (("value", 1), "blocks.1.attn.hook_v"),
        (("mlp_pre", 1), "blocks.1.mlp.hook_pre"),
        (("mlp_post", 1), "blocks.1.mlp.hook_post"),
        (("post", 0, "m"), "blocks.0.mlp.hook_post"),
        (("attn_out", 5), "blocks.5.hook_attn_out"),
        (("resid_mid", 5, "block"), "blocks.5.hook_resid_mid"),
        (("q", 2, "mlp"), "blocks.2.attn.hook_q"),  # the name decides where only one place makes sense
        (("resid_pre", 3, "m"), "blocks.3.hook_resid_pre"),
        (("attn_out", 3, "attn"), "blocks.3.hook_attn_out"),
        (("k_input", 1, "a"), "blocks.1.hook_k_input"),
        (("hook_q", 0), "blocks.0.attn.hook_q"),
        (("hook_resid_pre", 0), "blocks.0.hook_resid_pre"),
        (("hook_scale", 2, "ln1"), "blocks.2.ln1.hook_scale"),
        (("mlp_out0",), "blocks.0.hook_mlp_out"),
        (("rot_q4",), "blocks.4.attn.hook_rot_q"),
        (("resid_pre0",), "blocks.0.hook_resid_pre"),
        (("resid_post11",), "blocks.11.hook_resid_post"),
        (("attn_scores0",), "blocks.0.attn.hook_attn_scores"),
        (("pre_linear3",), "blocks.3.mlp.hook_pre_linear"),
        (("q_input2",), "blocks.2.hook_q_input"),
    ],
)
def test_short_names(short: tuple[Any, ...], full: str) -> None:
    assert get_act_name(*short) == full


def test_every_name_of_a_model_has_itself_as_full_name(plain: HookedTransformer) -> None:
    for name in plain.hook_dict:
        assert get_act_name(name) == name


def test_every_point_of_a_block_can_be_written_short(plain: HookedTransformer) -> None:
    """`get_act_name(name, layer, sublayer)` reaches every hook point that there is."""
    for name in plain.hook_dict:
        parts = name.split(".")
        if parts[0] == "blocks":
            sublayer = parts[2] if len(parts) == 4 else None
            assert get_act_name(parts[-1].removeprefix("hook_"), int(parts[1]), sublayer) == name


@pytest.mark.parametrize("short", ["z0", "mlp_out0", "resid_pre2", "attn_scores1", "scale1ln2", "scale", "embed"])
def test_short_names_are_hook_names(plain: HookedTransformer, short: str) -> None:
    (point,) = plain.points(short)
    assert point.name == get_act_name(short)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("blocks.0.hook_resid_per", "blocks.0.hook_resid_pre"),
        ("blocks.7.hook_resid_pre", "blocks.0.hook_resid_pre"),
        ("blocks.0.atn.hook_z", "blocks.0.attn.hook_z"),
        ("hook_embedd", "hook_embed"),
        ("zz0", ""),
    ],
)
def test_a_wrong_name_suggests_near_ones(plain: HookedTransformer, wrong: str, nearest: str) -> None:
    with pytest.raises(UnknownHook, match="there is no hook point") as error:
        plain.points(wrong)
    assert nearest in str(error.value)
    assert "hook_table()" in str(error.value)


def test_a_full_name_may_leave_its_layer_open() -> None:
    assert get_act_name("blocks.{layer}.hook_mlp_out.sae.hook_features", 3) == "blocks.3.hook_mlp_out.sae.hook_features"
