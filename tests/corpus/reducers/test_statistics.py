import dataclasses
from itertools import pairwise

import pytest
import torch

from interp_hooks.corpus import CoActivation, Histogram, MeanByToken, Moments, Statistics, Units, neurons
from interp_hooks.corpus.reducers.base import added, exact, number
from interp_hooks.errors import BadInput
from tests.corpus.streams import assert_merges, joined, random_seen

REDUCERS = [Statistics, Histogram, MeanByToken, Moments, CoActivation]
PARTS = [random_seen(seed, range(3 * seed, 3 * seed + 3)) for seed in range(4)]
WHOLE = joined(*PARTS)


@pytest.mark.parametrize("reducer", REDUCERS)
def test_merges_exactly(reducer: type) -> None:
    assert_merges(reducer(neurons()))


def result(kind: type) -> dict[str, torch.Tensor]:
    reducer = kind(neurons())
    state = reducer.reduce(PARTS[0])
    for part in PARTS[1:]:
        state = reducer.merge(state, reducer.reduce(part))
    return reducer.result(state)


def test_statistics() -> None:
    values, found = WHOLE.values.double(), result(Statistics)
    by_hand = {
        "count": torch.tensor(len(values)),
        "mean": values.mean(0),
        "std": values.std(0, unbiased=False),
        "min": values.amin(0).float(),
        "max": values.amax(0).float(),
        "active": (values > 0).double().mean(0),
        "positive": values.clamp(min=0).mean(0),
    }
    torch.testing.assert_close(found, by_hand, rtol=1e-6, atol=1e-7)


def test_histogram() -> None:
    found = result(Histogram)
    edges = found["edges"].tolist()
    assert edges == sorted(edges)
    values = WHOLE.values.double()
    for place, (low, high) in enumerate(pairwise([*edges, torch.inf])):
        negative = high <= 0
        inside = (values > low) & (values <= high) if negative else (values >= low) & (values < high)
        if low < 0 < high:
            inside = (values > low) & (values < high)
        assert torch.equal(found["counts"][:, place], inside.sum(0)), (low, high)
    assert found["counts"].sum(1).eq(len(values)).all()


def test_a_histogram_knows_zero_and_the_extremes() -> None:
    seen = random_seen(0, [0], length=4)
    seen.values[:, 0] = torch.tensor([0.0, -0.0, 1e30, -1e30])
    counts = Histogram(neurons()).reduce(seen)["counts"][0]
    assert counts[0] == counts[-1] == 1
    assert counts[len(counts) // 2] == 2


def test_mean_by_token() -> None:
    found = result(MeanByToken)
    assert torch.equal(found["tokens"], WHOLE.tokens.unique())
    for place, token in enumerate(found["tokens"]):
        there = WHOLE.tokens == token
        assert int(found["counts"][place]) == int(there.sum())
        torch.testing.assert_close(found["means"][place], WHOLE.values[there].double().mean(0), rtol=1e-9, atol=1e-12)


def test_moments() -> None:
    found = result(Moments)
    torch.testing.assert_close(found["mean"], WHOLE.values.double().mean(0), rtol=1e-9, atol=1e-12)
    by_hand = torch.cov(WHOLE.values.double().T, correction=0)
    torch.testing.assert_close(found["covariance"], by_hand, rtol=1e-9, atol=1e-12)


def test_co_activation() -> None:
    active = (WHOLE.values > 0).long()
    assert torch.equal(result(CoActivation)["together"], active.T @ active)


def test_fixed_point_is_exact() -> None:
    values = torch.tensor([1e-3, -1e-3, 1e15, -1e15, 3.5, -(2.0**-60), 0.0], dtype=torch.float64)
    fixed = exact(values)
    assert torch.equal(number(fixed), values)
    torch.testing.assert_close(
        number(added(fixed, exact(-values))), torch.zeros(7, dtype=torch.float64), rtol=0, atol=0
    )
    total = fixed[:, 0]
    for _ in range(999):
        total = added(total, fixed[:, 0])
    assert float(number(total)) == pytest.approx(1.0, abs=1e-15)
    for large in (1e19, torch.nan, torch.inf):
        with pytest.raises(BadInput, match="too large"):
            exact(torch.tensor([large]))


def test_what_does_not_fit_into_memory_is_refused() -> None:
    seen = random_seen(0, [0])
    wide = dataclasses.replace(seen, values=torch.zeros(6, 1).expand(6, 20_000))
    with pytest.raises(BadInput, match="select"):
        CoActivation(Units("wide", ("post",))).reduce(wide)
