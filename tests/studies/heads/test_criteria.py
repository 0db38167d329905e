"""Lengths of what heads write, against the vectors themselves, and the criteria by their formulas."""

from typing import Any

import pytest
import torch

from interp_hooks.studies.heads.criteria import HEAD_CRITERIA, norm_factor, row_entropy, written_norms
from tests.tiny import assert_close, build, random_tokens


@pytest.mark.parametrize("fields", [{}, dict(n_key_value_heads=2), dict(d_head=16), dict(dtype=torch.float32)], ids=str)
def test_lengths_are_those_of_the_vectors(fields: dict[str, Any]) -> None:
    model = build(**fields)
    _, cache = model.run_with_cache(random_tokens(d_vocab=23), names_filter=lambda name: "attn" in name)
    exact = 1e-12 if model.dtype == torch.float64 else 1e-5
    for layer in range(3):
        attn: Any = model.blocks[layer].attn
        factor = norm_factor(attn.W_O)
        result = torch.einsum("bphk,hkd->bphd", cache["z", layer], attn.W_O.detach())
        assert_close(written_norms(cache["z", layer], factor), result.norm(dim=-1), exact)
        v = cache["v", layer].repeat_interleave(4 // cache["v", layer].shape[2], dim=2)
        written = torch.einsum("bphk,hkd->bphd", v, attn.W_O.detach())
        assert_close(written_norms(cache["v", layer], factor), written.norm(dim=-1), exact)
        assert_close(factor @ factor.mT, attn.W_O.detach() @ attn.W_O.detach().mT, exact)


def test_a_head_in_other_coordinates_has_the_same_lengths() -> None:
    attn: Any = build().blocks[0].attn
    x, turn = torch.randn(2, 5, 4, 4).double(), torch.randn(4, 4, 4).double()
    other = torch.linalg.inv(turn) @ attn.W_O.detach()
    same = torch.einsum("bphk,hkl->bphl", x, turn)
    assert_close(written_norms(same, norm_factor(other)), written_norms(x, norm_factor(attn.W_O)), 1e-9)


def test_criteria_by_their_formulas() -> None:
    model = build()
    _, cache = model.run_with_cache(random_tokens(d_vocab=23))
    attn: Any = model.blocks[1].attn
    pattern, factor = cache["pattern", 1], norm_factor(attn.W_O)
    norms = [written_norms(cache[name, 1], factor) for name in ("v", "z")]
    written = torch.einsum("bphk,hkd->bphd", cache["v", 1], attn.W_O.detach()).norm(dim=-1)
    result = torch.einsum("bphk,hkd->bphd", cache["z", 1], attn.W_O.detach())
    weighted = pattern * written.permute(0, 2, 1)[:, :, None]
    expected = {
        "result_norm": result.norm(dim=-1).transpose(1, 2),
        "entropy": torch.distributions.Categorical(probs=pattern).entropy(),
        "max_attention": pattern.max(-1).values,
        "value_sum": weighted.sum(-1),
        "max_value": weighted.max(-1).values,
    }
    assert list(expected) == list(HEAD_CRITERIA)
    for name, criterion in HEAD_CRITERIA.items():
        found = criterion(pattern, *norms)
        assert found.shape == (2, 4, 7)
        assert_close(found, expected[name], 1e-10)


def test_entropy_of_certain_and_of_uniform_rows() -> None:
    rows = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    assert row_entropy(rows).tolist() == pytest.approx([0.0, torch.tensor(4.0).log().item()])
