"""Logits that are computed when they are read are, to a plain function, the logits that a full pass gives."""

from collections.abc import Callable
from typing import Any

import einops
import numpy as np
import pytest
import torch
from torch import Tensor

from interp_hooks import (
    HookedTransformer,
    Intervention,
    LogitDiff,
    Run,
    at,
    attribution_patch,
    eap,
    evaluate,
    gradient_x_input,
    patch,
    path_patch,
)
from interp_hooks.interventions.lazy_logits import LazyLogits
from tests.tiny import assert_close, build

BATCH, LENGTH = 3, 7
TOKENS = torch.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) % 17
OTHER = (TOKENS + torch.tensor([0, 0, 0, 5, 0, 2, 1])) % 17
ANSWER, WRONG = torch.tensor([1, 5, 2]), torch.tensor([4, 0, 3])
EVERY = torch.arange(BATCH)
RTOL = 1e-5

READS: dict[str, Callable[[Any], Any]] = {
    "tokens at the end": lambda logits: logits[:, -1, ANSWER],
    "each its token": lambda logits: logits[EVERY, -1, ANSWER],
    "each its position": lambda logits: logits[EVERY, torch.tensor([6, 2, 4]), ANSWER],
    "positions, then tokens": lambda logits: logits[:, -1][EVERY, ANSWER],
    "gather": lambda logits: logits[:, -1, :].gather(-1, ANSWER[:, None]),
    "torch.gather": lambda logits: torch.gather(logits[:, -1], 1, ANSWER[:, None]),
    "gather of prompts": lambda logits: logits.gather(0, torch.zeros(1, LENGTH, 3, dtype=torch.long)),
    "all positions": lambda logits: logits[..., 3],
    "probabilities": lambda logits: logits[..., -1, :].softmax(-1),
    "all, then one": lambda logits: logits.log_softmax(-1)[:, -1],
    "rearranged": lambda logits: einops.rearrange(logits, "b p v -> p b v"),
    "a prompt": lambda logits: logits[0],
    "a number": lambda logits: logits[0, -1, 5],
    "a list": lambda logits: logits[:, [-1, -2]],
    "lists": lambda logits: logits[[0, 1], [2, 3]],
    "a new axis behind": lambda logits: logits[:, -1, :, None],
    "a new axis in front": lambda logits: logits[None, :, -1],
    "a mask": lambda logits: logits[TOKENS > 5],
    "a mask of tokens": lambda logits: logits[:, -1, torch.arange(19) > 15],
    "True": lambda logits: logits[True],
    "rows one by one": lambda logits: torch.stack([row[-1, 4] for row in logits]),
    "added": lambda logits: logits + logits,
    "put together": lambda logits: torch.cat([logits, logits]),
    "a transpose": lambda logits: logits[:, -1].T,
    "some tokens": lambda logits: logits[:, -1, :7],
    "some of both": lambda logits: logits[:, ::2, 3:5],
    "all but one token": lambda logits: logits[..., 1:],
    "numpy's indices": lambda logits: logits[:, -1, np.array([1, 2])],
    "a range": lambda logits: logits[range(BATCH), -1, ANSWER],
    "indices that are tensors": lambda logits: logits[:, torch.tensor(-1), torch.tensor(3)],
    "two lists of one length": lambda logits: logits[:, ANSWER, ANSWER],
    "an ellipsis twice": lambda logits: logits[-1, ...][..., 2],
    "another precision": lambda logits: logits.double()[:, -1],
    "a loss": lambda logits: torch.nn.functional.cross_entropy(logits[:, -1], ANSWER),
    "itself": lambda logits: logits,
    "changed in place": lambda logits: logits.clone().index_fill_(1, torch.tensor([0]), 0.0),
}


def stream_of(model: HookedTransformer) -> Tensor:
    return model(TOKENS, stop_at_layer=model.cfg.n_layers).detach().requires_grad_()


@pytest.mark.parametrize("name", READS)
def test_a_function_gets_what_full_logits_give_and_the_same_gradient(name: str) -> None:
    model = build(output_logits_soft_cap=3.0)
    stream = stream_of(model)
    expected = READS[name](model.logits(stream))
    found = READS[name](LazyLogits.of(model, stream, LENGTH)) * 1.0
    assert_close(found, expected, RTOL)
    (by_hand,) = torch.autograd.grad(expected.square().sum(), stream)
    (gradient,) = torch.autograd.grad(found.square().sum(), stream)
    assert_close(gradient, by_hand, RTOL)


def test_what_a_tensor_tells_of_itself() -> None:
    model = build()
    stream = stream_of(model)
    full, lazy = model.logits(stream), LazyLogits.of(model, stream, LENGTH)
    for told in (
        Tensor.size,
        Tensor.dim,
        Tensor.numel,
        len,
        lambda logits: (logits.shape, logits.dtype, logits.device),
    ):
        assert told(lazy) == told(full)
    assert isinstance(lazy, Tensor)
    assert lazy.requires_grad
    assert np.array_equal(lazy.detach().numpy(), full.detach().numpy())
    assert repr(lazy) == repr(full)
    with pytest.raises(IndexError):
        lazy[:, LENGTH]


@pytest.fixture
def unembedded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int | None]]:
    """Of each product with the unembedding, how many rows it has, and how many tokens if these are chosen."""
    seen: list[tuple[int, int | None]] = []
    plain = HookedTransformer.logits

    def counted(model: HookedTransformer, stream: Tensor, tokens: Tensor | None = None) -> Tensor:
        seen.append((stream.shape[:-1].numel(), None if tokens is None else tokens.shape[-1]))
        return plain(model, stream, tokens)

    monkeypatch.setattr(HookedTransformer, "logits", counted)
    return seen


def test_only_what_is_read_is_unembedded(unembedded: list[tuple[int, int | None]]) -> None:
    model = build()
    stream = stream_of(model)
    for name in ("tokens at the end", "probabilities", "rows one by one", "added"):
        READS[name](LazyLogits.of(model, stream, LENGTH))
    assert unembedded == [(3, 3), (3, None), *3 * [(1, 1)], (BATCH * LENGTH, None)]


def difference(logits: Tensor) -> Tensor:
    return logits[EVERY, -1, ANSWER] - logits[EVERY, -1, WRONG]


def elsewhere_if_low(logits: Tensor) -> Tensor:
    """Reads the last position, and where a logit there is below that of the first run's, the one before it."""
    last = logits[:, -1, 3]
    return torch.where(last < last.mean(), logits[:, -2, 3], last) if float(last.detach().sum()) % 0.2 < 0.1 else last


def swallowing(logits: Tensor) -> Tensor:
    """Hides that a position it asks for was left out."""
    try:
        return elsewhere_if_low(logits)
    except Exception:
        return torch.full((BATCH,), 99.0)


def runs_of_a_grid(model: HookedTransformer) -> list[Run]:
    other = Run(OTHER)
    sites = [at("resid_pre", layer, pos=pos) for layer in range(model.cfg.n_layers) for pos in range(LENGTH)]
    return [Run(TOKENS, [Intervention(site, other)]) for site in sites]


@pytest.mark.parametrize("function", [difference, elsewhere_if_low, swallowing, lambda logits: logits])
def test_scores_are_those_of_full_passes(function: Callable[[Tensor], Tensor]) -> None:
    model = build(n_layers=2)
    other = model.run_with_cache(OTHER)[1]
    runs = runs_of_a_grid(model)
    scores = evaluate(model, runs, function)
    for run, score in zip(runs, scores, strict=True):
        ((made,), pos) = run.interventions, run.interventions[0].site.select["pos"]

        def put(value: Tensor, hook: Any, pos: int = pos) -> Tensor:
            value[:, pos] = other[hook.name][:, pos]
            return value

        with torch.no_grad():
            assert_close(score, function(model.run_with_hooks(TOKENS, fwd_hooks=[(made.site.hook, put)])), 1e-4)


def test_one_function_reads_elsewhere_in_some_of_these_runs() -> None:
    """So that the test above tests that."""
    model = build(n_layers=2)
    last = evaluate(model, runs_of_a_grid(model), lambda logits: logits[:, -1, 3]).sum(1) % 0.2 < 0.1
    assert last.any()
    assert not last.all()


def test_runs_are_cut_to_what_a_function_reads(unembedded: list[tuple[int, int | None]]) -> None:
    model = build(n_layers=2)
    metric = LogitDiff(ANSWER, WRONG)
    by_metric = patch(model, TOKENS, OTHER, metric, "resid_pre", over=("layer", "pos"), progress=False)
    unembedded.clear()
    by_function = patch(model, TOKENS, OTHER, difference, "resid_pre", over=("layer", "pos"), progress=False)
    assert_close(by_function.values, by_metric.values, RTOL)
    assert {rows for rows, _ in unembedded} == {BATCH}


@pytest.mark.parametrize("hook", ["ln_final.hook_normalized", "unembed.hook_in"])
def test_hooks_behind_the_blocks_see_all_positions(hook: str) -> None:
    model = build(n_layers=2)
    shapes: set[torch.Size] = set()
    with model.hooks([(hook, lambda value, hook: shapes.add(value.shape))]):
        evaluate(model, runs_of_a_grid(model), difference)
        gradient_x_input(model, TOKENS, difference)
        eap(model, TOKENS, OTHER, difference)
    assert {shape[1] for shape in shapes} == {LENGTH}


def test_experiments_give_what_they_give_for_the_metric_of_that_name() -> None:
    model = build(n_layers=2)
    metric = LogitDiff(ANSWER, WRONG)
    experiments: list[Callable[[Any], Tensor]] = [
        lambda one: torch.tensor(list(eap(model, TOKENS, OTHER, one).scores.values())),
        lambda one: attribution_patch(model, TOKENS, OTHER, one).values,
        lambda one: gradient_x_input(model, TOKENS, one).values,
        lambda one: path_patch(model, TOKENS, OTHER, one, progress=False).values,
    ]
    for experiment in experiments:
        assert_close(experiment(difference), experiment(metric), 1e-4)
