"""Two measures against each other: every cell is where its numbers say, the farthest have their names."""

import pytest
import torch

from interp_hooks import Result
from interp_hooks.errors import BadInput
from interp_hooks.views import head_scatter


def measured(values: torch.Tensor, metric: str = "logit_diff") -> Result:
    axes = {"layer": range(values.shape[0]), "head": range(values.shape[1])}
    return Result(metric=metric, axes=axes, values=values, baselines={"clean": torch.ones(values.shape[-1])})


def test_every_head_is_where_its_two_numbers_say_and_the_farthest_are_named() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(3, 4, 5) * 0.1, torch.randn(3, 4, 5) * 0.1
    one[1, 2] += 9.0
    other[2, 0] -= 5.0
    figure = head_scatter(measured(one), measured(other, "loss_nats"), label=2, measures=("patched", "ablated"))
    rest, far = figure.data
    assert set(far.text) == {"L1H2", "L2H0"}
    by_name = dict(zip(far.text, zip(far.x, far.y, strict=True), strict=True))
    assert by_name["L1H2"] == pytest.approx((float(one[1, 2].mean()), float(other[1, 2].mean())))
    assert len(rest.x) == 10
    place = [*far.text].index("L2H0")
    assert far.error_y.array[place] == pytest.approx(float(other[2, 0].std() / 5**0.5))
    assert figure.layout.xaxis.title.text == "patched: logit difference (nats)"
    assert figure.layout.yaxis.title.text == "ablated: loss (nats per token)"
    assert "L1H2<br>patched: logit difference" in "".join(far.hovertext)


def test_changes_are_from_the_baseline_and_a_single_prompt_has_no_bars() -> None:
    values = torch.randn(2, 2, 1)
    figure = head_scatter(measured(values), measured(values), "change", label=4)
    assert sorted(figure.data[1].x) == pytest.approx(sorted((values.flatten() - 1).tolist()))
    assert not figure.data[1].error_x.visible


def test_cells_that_do_not_correspond_are_refused() -> None:
    one = measured(torch.randn(2, 3, 2))
    with pytest.raises(BadInput, match="same labelled cells, got 2 layer, 3 head and 3 layer, 2 head"):
        head_scatter(one, measured(torch.randn(3, 2, 2)))
    with pytest.raises(BadInput, match="names must name each of 6 cells, got 1"):
        head_scatter(one, one, names=["a"])
