"""Counterparts of heads: found where they are known, one to one, and by the rule that is stated."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput
from interp_hooks.studies import Wiki, compare, wiki
from interp_hooks.studies.wikis.comparing import matched
from tests.tiny import build, random_tokens

OPTIONS = dict(causal=False, progress=False, top=1, per_band=1)
CORPUS = random_tokens(batch=8, pos=9, d_vocab=23)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Wiki:
    return wiki(build(attn_only=True, d_vocab_out=23), CORPUS, tmp_path_factory.mktemp("wikis") / "a", **OPTIONS)


def reordered(orders: list[list[int]]) -> HookedTransformer:
    """The same model with the heads of each layer in another order."""
    model = build(attn_only=True, d_vocab_out=23)
    with torch.no_grad():
        for block, order in zip(model.blocks, orders, strict=True):
            for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V"):
                weight = getattr(block.attn, name)
                weight.copy_(weight[order].clone())
    return model


def test_heads_in_another_order_are_found(original: Wiki, tmp_path: Path) -> None:
    orders = [[2, 0, 3, 1], [1, 0, 3, 2], [3, 2, 1, 0]]
    other = wiki(reordered(orders), CORPUS, tmp_path / "b", **OPTIONS)
    table = compare(original, other)
    assert len(table) == 12
    for row in table.itertuples():
        assert row.layer_a == row.layer_b
        assert orders[row.layer_b][row.head_b] == row.head_a
        assert row.correlation == pytest.approx(1, abs=1e-6)
        assert row.correlation > row.runner_up
    assert table["mutual"].all()
    columns = [name for name in original.heads.select_dtypes("number") if name not in ("layer", "head")]
    flat = [4 * layer + head for layer, order in enumerate(orders) for head in order]
    moved = original.heads[columns].to_numpy()[flat]
    assert np.allclose(moved, other.heads[columns].to_numpy(), atol=1e-6), "the wiki is the same but for the order"


def test_models_of_other_sizes_leave_some_out(original: Wiki, tmp_path: Path) -> None:
    small = wiki(build(attn_only=True, d_vocab_out=23, n_layers=2, n_heads=3), CORPUS, tmp_path / "b", **OPTIONS)
    for one, other in ((original, small), (small, original)):
        table = compare(one, other.path)
        assert len(table) == 6
        for side in ("a", "b"):
            assert not table[[f"layer_{side}", f"head_{side}"]].duplicated().any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (4, 6), (6, 4), (5, 5)])
def test_the_assignment_is_the_best_of_all(shape: tuple[int, int]) -> None:
    drawn = np.random.default_rng(sum(shape))
    for _ in range(20):
        gains = drawn.normal(size=shape).round(1)
        few, many = sorted(shape)
        wide = gains if shape[0] <= shape[1] else gains.T
        best = max(
            sum(wide[i, j] for i, j in enumerate(columns)) for columns in itertools.permutations(range(many), few)
        )
        pairs = matched(gains)
        assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == few
        assert sum(gains[i, j] for i, j in pairs) == pytest.approx(best)


def test_what_cannot_be_compared_is_refused(original: Wiki, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no wiki"):
        compare(original, tmp_path)
    with pytest.raises(BadInput, match="not both wikis have the metric 'sharpness'"):
        compare(original, original, ["sharpness"])
    with pytest.raises(BadInput, match="two metrics"):
        compare(original, original, ["entropy"])
