"""Changes of weights: found where they were made, of the rank that they have, and blind to a change of basis."""

import copy

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput
from interp_hooks.studies import weight_changes
from tests.tiny import ARCHITECTURES, build, hooked, unchecked_types

SIZES = ({}, dict(gated_mlp=True, n_key_value_heads=2, normalization_type="RMS"), dict(attn_only=True))


def changed(model: HookedTransformer, name: str, change: Tensor) -> HookedTransformer:
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.get_parameter(name).add_(change)
    return twin


def column(model: HookedTransformer, other: HookedTransformer, measure: str, of: str) -> dict[str, float]:
    result = weight_changes(model, other, of=of)
    place = result.axes["measure"].index(measure)
    return dict(zip(result.axes["part"], result.mean[:, place].tolist(), strict=True))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("of", ["maps", "tensors"])
def test_a_model_beside_itself(name: str, of: str) -> None:
    result = weight_changes(hooked(name), hooked(name), of=of)
    assert not result.mean.nan_to_num(0).any()


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@torch.no_grad()
def test_changes_are_those_of_the_whole_matrices(sizes: dict) -> None:
    """Against d_model x d_model matrices, and of gated MLPs against the whole tensor."""
    a, b = build(seed=0, **sizes), build(seed=1, **sizes)
    found = column(a, b, "relative_change", "maps")
    for layer in range(3):
        for head in range(4):
            for name, old, new in (("OV", a.OV, b.OV), ("QK", a.QK, b.QK)):
                whole, other = old.AB[layer, head], new.AB[layer, head]
                expected = float((other - whole).norm() / whole.norm())
                assert found[f"L{layer}H{head} {name}"] == pytest.approx(expected, rel=1e-12)
        if sizes.get("attn_only"):
            continue
        maps = []
        for model in (a, b):
            mlp = model.blocks[layer].mlp
            if sizes.get("gated_mlp"):
                maps.append(torch.einsum("im,jm,mk->ijk", mlp.W_gate, mlp.W_in, mlp.W_out))
            else:
                maps.append(mlp.W_in @ mlp.W_out)
        assert found[f"L{layer} MLP"] == pytest.approx(float((maps[1] - maps[0]).norm() / maps[0].norm()), rel=1e-12)
    assert found["W_E"] == pytest.approx(float((b.W_E - a.W_E).norm() / a.W_E.norm()), rel=1e-12)


def test_a_change_is_found_where_it_was_made() -> None:
    model = build()
    twin = changed(
        model, "blocks.1.attn.W_V", torch.randn(4, 12, 4, dtype=torch.float64) * torch.eye(4)[2][:, None, None]
    )
    assert {part for part, size in column(model, twin, "relative_change", "maps").items() if size} == {"L1H2 OV"}
    tensors = column(model, twin, "relative_change", "tensors")
    assert {part for part, size in tensors.items() if size} == {"blocks.1.attn.W_V"}


def test_another_basis_within_a_head_is_no_change() -> None:
    model, twin = build(), build()
    with torch.no_grad():
        turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0] * 1.5
        attn = twin.blocks[2].attn
        attn.W_V[1] = attn.W_V[1] @ turn
        attn.b_V[1] = attn.b_V[1] @ turn
        attn.W_O[1] = torch.linalg.inv(turn) @ attn.W_O[1]
        order = torch.randperm(20)
        mlp = twin.blocks[0].mlp
        for name in ("W_in", "b_in"):
            getattr(mlp, name).copy_(getattr(mlp, name)[..., order].clone())
        mlp.W_out.copy_(mlp.W_out[order].clone())
    tokens = torch.randint(23, (2, 7))
    torch.testing.assert_close(twin(tokens), model(tokens), rtol=1e-9, atol=1e-9)
    assert max(column(model, twin, "relative_change", "maps").values()) < 1e-14
    assert set(column(model, twin, "rank", "maps").values()) == {0}
    raw = column(model, twin, "relative_change", "tensors")
    changed_ones = {name for name, size in raw.items() if size > 0.1}
    expected = {f"blocks.2.attn.{name}" for name in ("W_V", "b_V", "W_O")}
    assert changed_ones == expected | {f"blocks.0.mlp.{name}" for name in ("W_in", "b_in", "W_out")}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 3])
def test_the_rank_of_a_lora(dtype: torch.dtype, rank: int) -> None:
    model = build().to(dtype)
    update = torch.randn(12, rank, dtype=torch.float64) @ torch.randn(rank, 16, dtype=torch.float64)
    twin = changed(model, "blocks.0.attn.W_Q", update.reshape(12, 4, 4).movedim(1, 0).to(dtype))
    assert column(model, twin, "rank", "tensors")["blocks.0.attn.W_Q"] == rank
    twin = changed(model, "blocks.1.mlp.W_in", (update @ torch.randn(16, 20, dtype=torch.float64)).to(dtype))
    assert column(model, twin, "rank", "tensors")["blocks.1.mlp.W_in"] == rank
    if dtype != torch.bfloat16:
        assert column(model, twin, "rank", "maps")["L1 MLP"] == rank


def test_a_low_rank_change_of_a_product() -> None:
    """A change of rank 1 in both factors is one of rank 2 in the product."""
    model = build()
    one, two = (torch.randn(12, 1, dtype=torch.float64) @ torch.randn(1, 4, dtype=torch.float64) for _ in range(2))
    selected = torch.eye(4, dtype=torch.float64)[3][:, None, None]
    twin = changed(changed(model, "blocks.0.attn.W_V", selected * one), "blocks.0.attn.W_O", selected * two.T)
    ranks = column(model, twin, "rank", "maps")
    assert ranks["L0H3 OV"] == 2
    assert sum(ranks.values()) == 2


def test_what_cannot_be_compared() -> None:
    others = {r"blocks\.2": dict(n_layers=2), "W_in": dict(d_mlp=24), "W_gate": dict(gated_mlp=True)}
    for told, sizes in others.items():
        with pytest.raises(BadInput, match=told):
            weight_changes(build(), build(**sizes))
    with unchecked_types(), pytest.raises(BadInput, match="'maps' or 'tensors'"):
        weight_changes(build(), build(), of="heads")


def test_it_is_kept(tmp_path) -> None:
    found = weight_changes(build(seed=0), build(seed=1))
    found.save(tmp_path / "changes")
    loaded = type(found).load(tmp_path / "changes")
    assert loaded.table().equals(found.table())
