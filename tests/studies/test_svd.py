"""Singular vectors of heads and MLPs, unembedded."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput
from interp_hooks.loading.folding import STEPS, Processing, process
from interp_hooks.studies.svd import SVDInterpreter
from tests.tiny import CUSTOM, assert_close, build, unchecked_types

EXACT = 1e-9  # of unit vectors, whose singular values are well apart


def unembedded(model: HookedTransformer, weight: Tensor, count: int) -> Tensor:
    """Right singular vectors as eigenvectors of weight^T weight, through W_U: [d_vocab, 1, count]."""
    vectors = torch.linalg.eigh(weight.detach().T @ weight.detach()).eigenvectors.flip(1)[:, :count]
    return (model.W_U.detach().T @ vectors)[:, None]


def assert_same_up_to_sign(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    sign = (ours * theirs).sum(0, keepdim=True).sign()
    assert_close(ours * sign, theirs, EXACT)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_what_a_head_writes(groups: int) -> None:
    model = build(n_key_value_heads=groups)
    for head in range(4):
        attn = model.blocks[1].attn
        expected = unembedded(model, attn.W_V[head * groups // 4] @ attn.W_O[head], 3)
        found = SVDInterpreter(model).get_singular_vectors("OV", layer_index=1, num_vectors=3, head_index=head)
        assert found.shape == (19, 1, 3)
        assert_same_up_to_sign(found, expected)


@pytest.mark.parametrize("fields", [{}, dict(gated_mlp=True), dict(normalization_type="RMS", norm_gain_offset=1.0)])
def test_what_neurons_read_and_write(fields: dict[str, Any]) -> None:
    model = build(**fields)
    svd, mlp = SVDInterpreter(model), model.blocks[2].mlp
    gain = model.blocks[2].ln2.w + fields.get("norm_gain_offset", 0.0)
    assert_same_up_to_sign(svd.get_singular_vectors("w_in", 2), unembedded(model, mlp.W_in.T * gain, 10))
    assert_same_up_to_sign(svd.get_singular_vectors("w_out", 2, 12), unembedded(model, mlp.W_out, 12))
    plain = build(normalization_type=None)
    expected = unembedded(plain, plain.blocks[2].mlp.W_in.T, 10)
    assert_same_up_to_sign(SVDInterpreter(plain).get_singular_vectors("w_in", 2), expected)


def test_a_multiplier_of_the_logits_counts() -> None:
    """As everywhere else where directions are read as logits."""
    plain, scaled = build(), build(logits_scale=0.25)
    ours = SVDInterpreter(scaled).get_singular_vectors("w_out", 2)
    assert_same_up_to_sign(ours, unembedded(plain, plain.blocks[2].mlp.W_out, 10) / 4)


def test_a_norm_that_two_readers_share() -> None:
    model = build(parallel_attn_mlp=True, parallel_shared_norm=True)
    expected = unembedded(model, model.blocks[0].mlp.W_in.T * model.blocks[0].ln1.w, 10)
    assert_same_up_to_sign(SVDInterpreter(model).get_singular_vectors("w_in", 0), expected)


def test_folding_an_rms_norm_changes_no_direction_that_is_read() -> None:
    model, folded = (build(normalization_type="RMS") for _ in range(2))
    process(folded, Processing(**{step: step == "fold_ln" for step in STEPS}))
    with torch.no_grad():
        folded.unembed.W_U.copy_(model.unembed.W_U)
    before, after = (SVDInterpreter(one).get_singular_vectors("w_in", 1) for one in (model, folded))
    assert_same_up_to_sign(after, before)


def test_half_precision_is_decomposed_in_float32() -> None:
    for arguments in (dict(vector_type="OV", head_index=0, num_vectors=4), dict(vector_type="w_out")):
        found = SVDInterpreter(build(dtype=torch.bfloat16)).get_singular_vectors(layer_index=0, **arguments)
        assert found.dtype == torch.float32


@pytest.mark.parametrize(
    ("fields", "arguments", "message"),
    [
        ({}, dict(vector_type="OV", layer_index=0), "needs a head_index"),
        ({}, dict(vector_type="w_in", layer_index=0, head_index=1), "has no head_index"),
        ({}, dict(vector_type="QK", layer_index=0), "'OV', 'w_in' or 'w_out', got 'QK'"),
        ({}, dict(vector_type="w_in", layer_index=3), r"layer_index must be 0\.\.2, got 3"),
        ({}, dict(vector_type="w_in", layer_index=-1), r"layer_index must be 0\.\.2, got -1"),
        ({}, dict(vector_type="OV", layer_index=0, head_index=4), r"head_index must be 0\.\.3, got 4"),
        ({}, dict(vector_type="OV", layer_index=0, head_index=0), r"num_vectors must be 1\.\.4 for OV, got 10"),
        ({}, dict(vector_type="w_out", layer_index=0, num_vectors=13), r"num_vectors must be 1\.\.12 for w_out"),
        (dict(attn_only=True), dict(vector_type="w_in", layer_index=0), "layer 0 has no MLP"),
        (CUSTOM["experts"], dict(vector_type="w_out", layer_index=1), "layer 1 has no MLP with one W_in"),
    ],
    ids=str,
)
def test_what_there_is_not(fields: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    with unchecked_types(), pytest.raises(BadInput, match=message):
        SVDInterpreter(build(**fields)).get_singular_vectors(**arguments)
