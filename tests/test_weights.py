"""All layers' weights in one tensor, as formulas want them."""

import pytest
import torch

from interp_hooks import HookedTransformer
from tests.tiny import build


def test_each_slice_is_the_layers_weight(plain: HookedTransformer) -> None:
    for layer, block in enumerate(plain.blocks):
        for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"):
            assert torch.equal(getattr(plain, name)[layer], getattr(block.attn, name))
        for name in ("W_in", "W_out", "b_in", "b_out"):
            assert torch.equal(getattr(plain, name)[layer], getattr(block.mlp, name))
    assert plain.W_E is plain.embed.W_E
    assert plain.W_U is plain.unembed.W_U
    assert plain.b_U is plain.unembed.b_U
    assert plain.W_pos is plain.pos_embed.W_pos


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_shared_keys_are_repeated_for_each_query_head(groups: int) -> None:
    model = build(n_key_value_heads=groups)
    for name in ("W_K", "W_V", "b_K", "b_V"):
        stacked = getattr(model, name)
        assert stacked.shape[:2] == (3, 4)
        for head in range(4):
            assert torch.equal(stacked[1, head], getattr(model.blocks[1].attn, name)[head * groups // 4])


def test_a_gated_model_has_a_gate() -> None:
    model = build(gated_mlp=True)
    assert torch.equal(model.W_gate[2], model.blocks[2].mlp.W_gate)


@pytest.mark.parametrize(
    ("fields", "name"),
    [({}, "W_gate"), (dict(positional_embedding_type="none"), "W_pos"), (dict(attn_only=True), "W_in")],
)
def test_a_weight_that_the_model_lacks_is_an_attribute_error(fields: dict, name: str) -> None:
    with pytest.raises(AttributeError):
        getattr(build(**fields), name)


def test_state_dict_keys_and_shapes_are_the_fields(plain: HookedTransformer) -> None:
    shapes = {name: list(weight.shape) for name, weight in plain.state_dict().items()}
    assert shapes["embed.W_E"] == [23, 12]
    assert shapes["pos_embed.W_pos"] == [9, 12]
    assert shapes["blocks.0.attn.W_Q"] == shapes["blocks.0.attn.W_K"] == [4, 12, 4]
    assert shapes["blocks.0.attn.W_O"] == [4, 4, 12]
    assert shapes["blocks.0.attn.b_Q"] == [4, 4]
    assert shapes["blocks.2.mlp.W_in"] == [12, 20]
    assert shapes["blocks.2.mlp.W_out"] == [20, 12]
    assert shapes["unembed.W_U"] == [12, 19]
    assert shapes["blocks.1.ln1.w"] == shapes["ln_final.b"] == [12]
    assert len(shapes) == 2 + 3 * (4 + 8 + 4) + 2 + 2
