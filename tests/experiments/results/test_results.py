"""A result's numbers stand in the cells that its labels say."""

import math
import pickle

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
    assert list(table.columns) == ["layer", "head", "logit_diff", "standard_error", "change", "recovered_fraction"]
    assert len(table) == 6
    for row in table.to_dict("records"):
        place = [3, 5].index(row["layer"]), ["a", "b", "c"].index(row["head"])
        assert row["logit_diff"] == float(ours.mean[place])
        assert row["standard_error"] == float(ours.standard_error[place])
        assert row["recovered_fraction"] == float(ours.recovered_fraction[place])
        assert row["change"] == pytest.approx(row["logit_diff"] - 2.0)


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


def test_top_is_the_largest_change_from_the_baseline() -> None:
    """Without a head the answer is 3.2 worse, which is far from the largest logit difference that is left."""
    left = torch.tensor([4.0, 5.7, 0.8, 4.1, 2.0])[:, None].expand(5, 2)
    lost = Result(
        metric="logit_diff", axes={"head": range(5)}, values=left, baselines={"original": torch.full((2,), 4.0)}
    )
    assert lost.reference == "original"
    assert lost.top()["head"].tolist() == [2, 4, 1, 3, 0]
    assert_close(torch.tensor(lost.top()["change"].tolist()), torch.tensor([-3.2, -2.0, 1.7, 0.1, 0.0]), 1e-6)
    assert lost.top(2, by="logit_diff")["head"].tolist() == [1, 3]
    with pytest.raises(BadInput, match="logit_diff, standard_error, change, got 'lodit_diff'"):
        lost.top(by="lodit_diff")


@pytest.mark.parametrize(
    "fields",
    [
        {"scale": None},
        {"baselines": {}, "scale": None},
        {"baselines": {"model": ONE}, "scale": None, "parts_of": "model"},
    ],
    ids=["two baselines", "none", "parts of a baseline"],
)
def test_what_is_no_change_has_no_such_column(fields: dict) -> None:
    ours = result(**fields)
    assert ours.reference is None
    assert "change" not in ours.table()
    assert ours.top(1)["logit_diff"].item() == float(ours.mean.abs().max())
    with pytest.raises(BadInput, match="needs one baseline"):
        _ = ours.change


def test_where_nothing_can_be_recovered_the_change_still_ranks() -> None:
    same = result(baselines={"corrupt": ONE, "clean": ONE})
    assert same.top(1)["logit_diff"].item() == float(same.mean.max())


def test_a_result_prints_as_its_table_with_what_was_measured() -> None:
    text = repr(result())
    first, *rows = text.splitlines()
    assert first == "logit_diff, 2 layer x 3 head, 4 prompts; corrupt 2, clean 6"
    assert rows == result().table().to_string(index=False).splitlines()
    assert str(result()) == text
    assert "note: corrupt and clean give the same mean" in repr(result(baselines={"corrupt": ONE, "clean": ONE}))
    assert "tensor(" not in text
    html = result(metric="<b>")._repr_html_()
    assert html.count("<tr") == 7
    assert "<b>" not in html


def test_a_long_result_prints_its_ends_and_how_long_it_is() -> None:
    many = Result(metric="m", axes={"layer": range(500)}, values=torch.rand(500, 1))
    lines = repr(many).splitlines()
    assert len(lines) < 30
    assert "499" in lines[-2]
    assert lines[-1] == "[500 rows; top(k) has the largest]"


def test_equal_cells_keep_their_order_in_top() -> None:
    ours = Result(metric="m", axes={"layer": range(5)}, values=torch.ones(5, 1))
    assert ours.top(3)["layer"].tolist() == [0, 1, 2]


# ---------------------------------------------------------------------------------------------------------- intervals


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def normal(n: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_an_interval_is_that_of_the_bootstrap() -> None:
    """Cell by cell, one resample after the other."""
    ours = result(values=VALUES + normal(24).reshape(2, 3, 4)).interval(0.8, 50, seeded())
    drawn = torch.randint(4, (50, 4), generator=seeded())
    values = VALUES + normal(24).reshape(2, 3, 4)
    for layer in range(2):
        for head in range(3):
            means = sorted(float(values[layer, head][rows].mean()) for rows in drawn)
            for end, place in ((ours.lower, 4.9), (ours.upper, 44.1)):  # 0.1 and 0.9 of 49
                below, share = int(place), place - int(place)
                expected = means[below] * (1 - share) + means[below + 1] * share
                assert float(end[layer, head]) == pytest.approx(expected, rel=1e-9)


def test_large_samples_have_the_textbook_interval() -> None:
    ours = Result(metric="m", axes={"cell": [0]}, values=3 + 2 * normal(400)[None])
    half = 1.96 * float(ours.standard_error)
    lower, upper = ours.interval(samples=4000, generator=seeded())
    assert float(lower) == pytest.approx(float(ours.mean) - half, abs=0.1 * half)
    assert float(upper) == pytest.approx(float(ours.mean) + half, abs=0.1 * half)


@pytest.mark.slow
def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """300 experiments of 40 prompts each, as cells: a binomial count around 90%."""
    drawn = normal(300 * 40).reshape(300, 40)
    lower, upper = Result(metric="m", axes={"run": range(300)}, values=drawn).interval(0.9, 2000, seeded())
    covered = float(((lower < 0) & (upper > 0)).double().mean())
    assert abs(covered - 0.9) < 3 * math.sqrt(0.9 * 0.1 / 300)


def test_cells_are_split_and_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = result().interval(generator=seeded())
    monkeypatch.setattr("interp_hooks.experiments.results.intervals.AT_ONCE", 2000)
    parts = result().interval(generator=seeded())
    assert whole.lower.shape == whole.upper.shape == (2, 3)
    assert_close(torch.stack(parts), torch.stack(whole), 1e-12)


def test_the_fraction_has_an_interval_that_counts_the_baselines() -> None:
    """Of values that move with their baselines the fraction is certain, however much both vary."""
    noise = 5 * normal(30)
    zero, one = noise, noise + 4
    shared = result(axes={"cell": [0]}, values=(noise + 1)[None], baselines={"corrupt": zero, "clean": one})
    lower, upper = shared.interval(generator=seeded(), recovered=True)
    assert float(lower) == pytest.approx(0.25)
    assert float(upper) == pytest.approx(0.25)
    plain = shared.interval(generator=seeded())
    assert float(plain.upper - plain.lower) > 1
    apart = result(axes={"cell": [0]}, values=torch.ones(1, 30), baselines={"corrupt": zero, "clean": one})
    lower, upper = apart.interval(generator=seeded(), recovered=True)
    assert float(upper - lower) > 0.1, "only the baselines vary"


def test_an_interval_says_which_cell_is_which() -> None:
    ours = result()
    interval = ours.interval(generator=seeded())
    table = interval.table()
    assert list(table.columns) == ["layer", "head", "lower", "upper"]
    assert repr(interval) == table.to_string(index=False)
    lower, upper = interval
    for row in table.to_dict("records"):
        place = [3, 5].index(row["layer"]), ["a", "b", "c"].index(row["head"])
        assert (row["lower"], row["upper"]) == (float(lower[place]), float(upper[place]))
        assert row["lower"] <= float(ours.mean[place]) <= row["upper"]
    assert interval[0] is interval.lower
    again = pickle.loads(pickle.dumps(interval))
    assert again.axes == interval.axes


def test_intervals_that_are_not_known() -> None:
    single = result(values=VALUES[..., :1], baselines={}, scale=None).interval()
    assert bool(single.lower.isnan().all())
    assert bool(single.upper.isnan().all())
    agreeing = result(baselines={"corrupt": ONE, "clean": ONE})
    assert bool(agreeing.interval(recovered=True).lower.isnan().all())
    assert not agreeing.interval().lower.isnan().any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(level=1.0), "level must lie between 0 and 1"),
        (dict(level=95.0), "level must lie between 0 and 1, got 95"),
        (dict(samples=0), "samples must be at least 1"),
        (dict(recovered=True), "no two baselines"),
    ],
)
def test_no_interval(options: dict[str, float], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        result(scale=None).interval(**options)  # type: ignore[arg-type]


def test_the_generator_decides_alone() -> None:
    cell = Result(metric="m", axes={"cell": [0]}, values=normal(30)[None])
    first, again, other = (cell.interval(generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.lower, again.lower)
    assert not torch.equal(first.lower, other.lower)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    cell.interval(generator=seeded())
    assert torch.equal(torch.rand(3), expected)


def test_a_table_with_intervals() -> None:
    ours = result()
    table = ours.table(interval=0.9, samples=100, generator=seeded())
    ends = ["lower", "upper"]
    fraction = ["recovered_fraction", "recovered_lower", "recovered_upper"]
    assert list(table.columns) == ["layer", "head", "logit_diff", "standard_error", *ends, "change", *fraction]
    generator = seeded()
    plain, recovered = (ours.interval(0.9, 100, generator, recovered=one) for one in (False, True))
    for column, values in (("lower", plain.lower), ("upper", plain.upper), ("recovered_upper", recovered.upper)):
        assert table[column].tolist() == values.flatten().tolist()
    columns = list(result(scale=None).table(interval=0.9).columns)
    assert columns == ["layer", "head", "logit_diff", "standard_error", "lower", "upper"]


def test_the_fraction_of_every_prompt() -> None:
    ours = result(baselines={"corrupt": ZERO, "clean": torch.tensor([5.0, 3.0, 6.0, 7.0])})
    for place in ((0, 0), (1, 2)):
        value = VALUES[place]
        expected = [(value[0] - 1) / 4, float("nan"), (value[2] - 2) / 4, (value[3] - 2) / 5]
        assert ours.recovered_by_prompt[place].tolist() == pytest.approx([float(one) for one in expected], nan_ok=True)
    assert not ours.recovered_fraction.isnan().any()
