"""A result's numbers stand in the cells that its labels say."""

import pandas as pd
import pytest
import torch

from interp_hooks import Result
from interp_hooks.errors import BadInput
from tests.tiny import assert_close

VALUES = torch.arange(24.0, dtype=torch.float64).reshape(2, 3, 4).square() - 100
ZERO, ONE = torch.tensor([1.0, 3.0, 2.0, 2.0]), torch.tensor([5.0, 7.0, 6.0, 6.0])


def result(**changes: object) -> Result:
    fields = dict(
        metric="logit_diff",
        axes={"layer": [3, 5], "head": ["a", "b", "c"]},
        values=VALUES,
        baselines={"corrupt": ZERO, "clean": ONE},
        scale=("corrupt", "clean"),
    )
    return Result(**fields | changes)  # type: ignore[arg-type]


def test_means_and_errors_are_over_prompts() -> None:
    ours = result()
    assert ours.mean.shape == (2, 3)
    for layer in range(2):
        for head in range(3):
            numbers = VALUES[layer, head].tolist()
            mean = sum(numbers) / 4
            variance = sum((one - mean) ** 2 for one in numbers) / 3
            assert float(ours.mean[layer, head]) == pytest.approx(mean, rel=1e-12)
            assert float(ours.standard_error[layer, head]) == pytest.approx((variance / 4) ** 0.5, rel=1e-12)


def test_identical_prompts_have_no_error() -> None:
    assert not result(values=torch.ones(2, 3, 4)).standard_error.any()


def test_a_single_prompt_has_no_known_error() -> None:
    ours = result(values=VALUES[..., :1], baselines={}, scale=None)
    assert bool(ours.standard_error.isnan().all())
    assert torch.equal(ours.mean, VALUES[..., 0])


def test_the_fraction_is_zero_and_one_at_the_baselines() -> None:
    """It is linear in the mean, and nothing clips it."""
    low, high = ZERO.mean(), ONE.mean()
    values = torch.stack([low, high, (low + high) / 2, 2 * high - low])[:, None].expand(4, 4)
    ours = result(axes={"case": range(4)}, values=values)
    assert_close(ours.recovered_fraction, torch.tensor([0, 1, 0.5, 2]), 1e-6)
    swapped = result(axes={"case": range(4)}, values=values, scale=("clean", "corrupt"))
    assert_close(swapped.recovered_fraction, torch.tensor([1, 0, 0.5, -1]), 1e-6)
    assert ours.note == swapped.note == ""


def test_the_fraction_is_of_means_not_a_mean_of_fractions() -> None:
    """A prompt whose baselines agree by themselves must not spoil the others."""
    ours = result(
        values=torch.tensor([[[2.0, 3.0]]]),
        axes={"layer": [0], "head": [0]},
        baselines={"corrupt": torch.tensor([0.0, 3.0]), "clean": torch.tensor([4.0, 3.0])},
    )
    assert_close(ours.recovered_fraction, torch.tensor([[0.5]]), 1e-6)


@pytest.mark.parametrize("shift", [0.0, 1e-9])
def test_equal_baselines_leave_nothing_to_recover(shift: float) -> None:
    ours = result(baselines={"corrupt": ONE.double(), "clean": ONE.double() + shift})
    assert bool(ours.recovered_fraction.isnan().all())
    assert "corrupt and clean give the same mean logit_diff (6" in ours.note
    assert bool(ours.table()["recovered_fraction"].isna().all())
    assert len(ours.top(2)) == 2


def test_both_baselines_zero_leave_nothing_to_recover() -> None:
    assert result(baselines={"corrupt": torch.zeros(4), "clean": torch.zeros(4)}).note != ""


def test_without_a_scale_there_is_no_fraction() -> None:
    ours = result(scale=None)
    assert ours.note == ""
    with pytest.raises(BadInput, match="no two baselines"):
        _ = ours.recovered_fraction
    assert list(ours.table().columns) == ["layer", "head", "logit_diff", "standard_error"]


def test_every_row_of_the_table_is_its_cell() -> None:
    ours = result()
    table = ours.table()
    assert list(table.columns) == ["layer", "head", "logit_diff", "standard_error", "recovered_fraction"]
    assert len(table) == 6
    for row in table.to_dict("records"):
        place = [3, 5].index(row["layer"]), ["a", "b", "c"].index(row["head"])
        assert row["logit_diff"] == float(ours.mean[place])
        assert row["standard_error"] == float(ours.standard_error[place])
        assert row["recovered_fraction"] == float(ours.recovered_fraction[place])


def test_top_is_the_largest_in_size() -> None:
    """Negative effects count, and the fraction ranks where there is one."""
    values = torch.tensor([1.0, -7.0, 3.0, 0.0, -2.0])[:, None].expand(5, 2)
    plain = Result(metric="m", axes={"layer": range(5)}, values=values)
    assert plain.top(3)["layer"].tolist() == [1, 2, 4]
    assert plain.top(3).index.tolist() == [0, 1, 2]
    baselines = {"zero": torch.full((2,), 3.0), "one": torch.full((2,), 4.0)}
    ranked = Result(metric="m", axes={"layer": range(5)}, values=values, baselines=baselines, scale=("zero", "one"))
    assert ranked.top(2)["layer"].tolist() == [1, 4]
    assert ranked.top(99).shape[0] == 5
    pd.testing.assert_frame_equal(ranked.top(5).sort_values("layer").reset_index(drop=True), ranked.table())


def test_equal_cells_keep_their_order_in_top() -> None:
    ours = Result(metric="m", axes={"layer": range(5)}, values=torch.ones(5, 1))
    assert ours.top(3)["layer"].tolist() == [0, 1, 2]
