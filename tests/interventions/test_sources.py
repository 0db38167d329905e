"""Sources of one's own: what they see, what they put, and that results keep them and can be computed again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import Intervention, LogitDiff, Result, Run, Source, at, evaluate, sweep
from interp_hooks.errors import BadHookValue, BadInput
from interp_hooks.interventions.sites import Here
from tests.experiments.by_hand import OTHER, RTOL, TOKENS, model_of, value_at
from tests.tiny import assert_close, unchecked_types

DIFF = LogitDiff([4, 11], [7, 2])


@dataclass(frozen=True, eq=False)
class PartWay(Source):
    """Part of the way from what is here to another run."""

    other: Run
    share: float
    runs = property(lambda self: [self.other])

    def put(self, here: Here) -> Tensor:
        return here.value + self.share * (here.of(self.other) - here.value)


@dataclass(frozen=True, eq=False)
class Feature(Source):
    """A feature of a dictionary as it is in another run."""

    W_enc: Tensor
    W_dec: Tensor
    feature: int
    other: Run
    runs = property(lambda self: [self.other])

    def put(self, here: Here) -> Tensor:
        f = torch.relu(torch.stack((here.value, here.of(self.other))) @ self.W_enc[:, self.feature])
        return here.value + (f[1] - f[0])[..., None] * self.W_dec[self.feature]


class Counting(Source):
    """No dataclass: it counts how often it is asked."""

    def __init__(self) -> None:
        self.times = 0

    def put(self, here: Here) -> Tensor:
        self.times += 1
        return here.value


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("select", [{}, {"pos": 3}, {"pos": [1, 4]}, {"pos": torch.tensor([2, 0])}])
def test_part_of_the_way_is_a_mask(kind: str, select: dict[str, Any]) -> None:
    """At whole hooks and at parts of them, started late or not: what the built-in mask gives."""
    model = model_of(kind)
    for hook in ("resid_pre", "z"):
        site = at(hook, 1, **select, **({"head": 1} if hook == "z" else {}))
        own = Run(TOKENS, [Intervention(site, PartWay(Run(OTHER), 0.3))])
        mask = Run(TOKENS, [Intervention(site, Run(OTHER), mask=0.3)])
        found = evaluate(model, [own, mask, Run(TOKENS)], DIFF)
        assert_close(found[0], found[1], RTOL)
        assert float((found[0] - found[2]).abs().max()) > 1e-9


def test_a_feature_from_another_run_by_hand() -> None:
    model = model_of("gpt2")
    W_enc, W_dec = torch.randn(12, 6, dtype=torch.float64), torch.randn(6, 12, dtype=torch.float64)
    x, new = (value_at(model, Run(tokens), "blocks.1.hook_mlp_out") for tokens in (TOKENS, OTHER))
    for feature in range(6):
        change = torch.relu(new @ W_enc[:, feature]) - torch.relu(x @ W_enc[:, feature])
        expected = x + change[..., None] * W_dec[feature]
        runs = [
            Run(TOKENS, [Intervention(at("mlp_out", 1), Feature(W_enc, W_dec, feature, Run(OTHER)))]),
            Run(TOKENS, [Intervention(at("mlp_out", 1), expected)]),
        ]
        found = evaluate(model, runs, DIFF)
        assert_close(found[0], found[1], RTOL)


def test_a_function_of_the_value() -> None:
    model = model_of("gpt2")
    doubled = Run(TOKENS, [Intervention(at("z", 1, head=2), lambda value: value.mul_(2))])
    z = value_at(model, Run(TOKENS), "blocks.1.attn.hook_z")
    by_value = Run(TOKENS, [Intervention(at("z", 1, head=2), 2 * z[:, :, 2])])
    found = evaluate(model, [doubled, by_value], DIFF)
    assert_close(found[0], found[1], RTOL)


def test_it_is_asked_once_for_each_run() -> None:
    counting = Counting()
    runs = [Run(TOKENS, [Intervention(at("z", layer), counting)]) for layer in range(3)]
    evaluate(model_of("gpt2"), runs, DIFF)
    assert counting.times == 3


def test_equal_sources_are_one() -> None:
    W_enc, W_dec, run = torch.randn(12, 6), torch.randn(6, 12), Run(OTHER)
    assert Feature(W_enc, W_dec, 1, run).key == Feature(W_enc, W_dec, 1, Run(OTHER)).key
    assert Feature(W_enc, W_dec, 1, run).key != Feature(W_enc, W_dec, 2, run).key
    assert Counting().key != Counting().key


def _swept(source: Any) -> Result:
    def run_at(layer: int) -> Run:
        return Run(TOKENS, [Intervention(at("z", layer), source)])

    return sweep(model_of("gpt2"), run_at, DIFF, over={"layer": range(3)}, progress=False)


def test_results_keep_sources_and_compute_with_them_again(tmp_path: Path) -> None:
    result = _swept(PartWay(Run(OTHER), 0.3))
    result.save(tmp_path / "swept")
    loaded = Result.load(tmp_path / "swept")
    assert torch.equal(loaded.rerun(model_of("gpt2")).values, result.values)
    assert set(loaded.interventions()["source"]) == {"PartWay"}


@pytest.mark.parametrize("source", [lambda value: 0 * value, Counting()], ids=["function", "no dataclass"])
def test_of_others_the_name_is_kept(source: Any, tmp_path: Path) -> None:
    _swept(source).save(tmp_path / "swept")
    loaded = Result.load(tmp_path / "swept")
    with pytest.raises(BadInput, match="known by its name alone"):
        loaded.rerun(model_of("gpt2"))


def test_what_does_not_fit_is_refused() -> None:
    def wrong(value: Tensor) -> Tensor:
        return value[..., :1]

    with unchecked_types(), pytest.raises(BadHookValue, match="returned shape"):
        evaluate(model_of("gpt2"), [Run(TOKENS, [Intervention(at("z", 1), wrong)])], DIFF)
    with unchecked_types(), pytest.raises(BadInput, match="source must be a number, a tensor, activations, a function"):
        Intervention(at("z", 1), "mean")  # pyright: ignore[reportArgumentType]
