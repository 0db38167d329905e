"""Stability: by hand on prompts drawn again, on circuits that are known, and on circuits that are drawn at random."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import KL, Circuit, ComputationGraph, LogitDiff, LogProb, Metric, Run, acdc, eap, eap_ig, evaluate
from interp_hooks.circuits import Stability, circuit_metric, circuit_stability, random_circuit
from interp_hooks.circuits.discovery import gains
from interp_hooks.circuits.masked_edges import MaskedEdges
from interp_hooks.circuits.setting import setting
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth import handmade
from interp_hooks.ground_truth.system import AnswerDiff
from interp_hooks.interventions.prompts import MetricOf
from tests.tiny import assert_close, build, random_tokens, unchecked_types

N = 8
TOKENS, OTHER = (random_tokens(batch=N, pos=6, d_vocab=23, seed=seed) for seed in (1, 2))
ANSWER, WRONG = (torch.randint(19, (N,), generator=torch.Generator().manual_seed(seed)) for seed in (3, 4))
PLACES = torch.tensor([5, 4, 5, 3, 5, 5, 2, 5])
DIFF = LogitDiff(ANSWER, WRONG, pos=-1)
FEW = dict(samples=3, splits=2, nulls=1, progress=False)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def draws_of_a_call() -> torch.Generator:
    """What a call with `generator()` draws from: it takes a seed for its own, which is recorded."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator())))


# --------------------------------------------------------------------------------------------------- some prompts


METRICS: dict[str, Any] = {
    "one position": lambda rows: LogitDiff(ANSWER[rows], WRONG[rows], pos=-1),
    "positions of their own": lambda rows: LogitDiff(ANSWER[rows], WRONG[rows], pos=PLACES[rows]),
    "whole vocabulary": lambda rows: LogProb(ANSWER[rows], pos=PLACES[rows]),
    "every position": lambda rows: AnswerDiff(TOKENS[rows] % 19, OTHER[rows] % 19),
    "reference": lambda rows: KL(torch.randn(N, 19, generator=generator()).double()[rows], pos=-1),
}


@pytest.mark.parametrize("kind", METRICS)
def test_a_metric_of_some_prompts_is_the_one_made_for_them(kind: str) -> None:
    model, rows = build(n_layers=2), torch.tensor([6, 1, 1, 3])
    whole: Metric = METRICS[kind](torch.arange(N)).on(model)
    ours = evaluate(model, [Run(TOKENS[rows])], MetricOf(whole, rows, rows, N))
    assert_close(ours, evaluate(model, [Run(TOKENS[rows])], METRICS[kind](rows)), 1e-12)
    assert ours[0, 1] == ours[0, 2]


def test_prompts_are_scored_by_the_answers_of_others_at_their_own_positions() -> None:
    model, order = build(n_layers=2), torch.arange(N).roll(3)
    whole = METRICS["positions of their own"](torch.arange(N))
    ours = evaluate(model, [Run(TOKENS)], MetricOf(whole, torch.arange(N), order, N))
    assert_close(ours, evaluate(model, [Run(TOKENS)], LogitDiff(ANSWER[order], WRONG[order], pos=PLACES)), 1e-12)


@pytest.mark.parametrize("positions", [None, {"here": PLACES}])
@pytest.mark.parametrize("memory", [None, 1])
def test_scores_of_each_prompt_are_those_of_the_prompt_alone(positions: Any, memory: int | None) -> None:
    model = build(n_layers=2)
    edges = MaskedEdges(model, *setting(model, TOKENS, OTHER, DIFF, "corrupt", positions), memory)
    found = -gains(edges, by_prompt=True)
    whole = eap(model, TOKENS, OTHER, DIFF, positions=positions)
    assert whole.scores is not None
    assert_close(found.mean(0), whole.scores.matrix, 1e-10)
    for row in (0, 5):
        own = {"here": PLACES[[row]]} if positions else None
        metric = LogitDiff(ANSWER[[row]], WRONG[[row]], pos=-1)
        alone = eap(model, TOKENS[[row]], OTHER[[row]], metric, positions=own)
        assert alone.scores is not None
        assert_close(found[row], alone.scores.matrix, 1e-10)


# ---------------------------------------------------------------------------------------------------- the questions


def by_hand(model: Any, rows: Tensor, n_edges: int, **options: Any) -> Circuit:
    metric = LogitDiff(ANSWER[rows], WRONG[rows], pos=-1)
    return eap(model, TOKENS[rows], OTHER[rows], metric, **options).top(n_edges, absolute=True)


def test_samples_are_circuits_of_prompts_drawn_again() -> None:
    model, draws = build(n_layers=2), draws_of_a_call()
    ours = circuit_stability(
        model, TOKENS, OTHER, DIFF, method="eap", n_edges=40, samples=4, splits=3, nulls=1, generator=generator(),
        progress=False,
    )  # fmt: skip
    drawn = [torch.randint(N, (N,), generator=draws) for _ in range(4)]
    inclusion = torch.stack([by_hand(model, rows, 40).kept.double() for rows in drawn]).mean(0)
    assert_close(ours.inclusion, inclusion, 1e-12)
    shared = []
    for _ in range(3):
        order = torch.randperm(N, generator=draws)
        one, other = (by_hand(model, rows, 40).edges for rows in (order[:4], order[4:]))
        shared.append(len(one & other) / len(one | other))
    assert ours.halves.tolist() == pytest.approx(shared)
    assert 0 < float(ours.halves.mean()) < 1
    assert ours.circuit == by_hand(model, torch.arange(N), 40)


@pytest.mark.parametrize("method", ["eap", "eap_ig"])
def test_other_ablations_and_single_edges(method: Any) -> None:
    model = build(n_layers=2)
    ours = circuit_stability(
        model, TOKENS, OTHER, DIFF, method=method, n_edges=30, steps=2, tried=6, generator=generator(), **FEW
    )
    search: Any = eap if method == "eap" else (lambda *args, **kw: eap_ig(*args, steps=2, progress=False, **kw))
    for ablation in ("zero", "mean"):
        found = search(model, TOKENS, OTHER, DIFF, ablation=ablation).top(30, absolute=True)
        assert torch.equal(ours.found[ablation], found.kept)
        empty, whole, some = (
            float(circuit_metric(model, one, TOKENS, OTHER, DIFF, ablation=ablation).mean())
            for one in (found - found, ComputationGraph(model).circuit(), ours.circuit)
        )
        assert ours.faithfulness[ablation] == pytest.approx((some - empty) / (whole - empty), rel=1e-9)
    whole = ComputationGraph(model).circuit()
    scores = search(model, TOKENS, OTHER, DIFF).scores
    before = circuit_metric(model, whole, TOKENS, OTHER, DIFF).mean()
    for edge, predicted, intervened in zip(ours.tried, ours.predicted, ours.intervened, strict=True):
        without = circuit_metric(model, whole - whole.only([edge]), TOKENS, OTHER, DIFF).mean()
        assert float(intervened) == pytest.approx(float(before - without), abs=1e-12)
        assert float(predicted) == pytest.approx(scores[edge], abs=1e-12)
    assert sum(edge in ours.circuit for edge in ours.tried) == 3


def test_the_null_exchanges_answers() -> None:
    model = build(n_layers=2)
    ours = circuit_stability(
        model, TOKENS, OTHER, DIFF, method="eap", n_edges=30, samples=1, splits=1, nulls=2, tried=1,
        generator=generator(), progress=False,
    )  # fmt: skip
    draws = draws_of_a_call()
    torch.randint(N, (N,), generator=draws)
    torch.randperm(N, generator=draws)
    torch.randperm(len(ours.circuit.graph) - 30, generator=draws)
    assert ours.circuit.scores is not None
    sizes = ours.circuit.scores.listed.abs()
    for count, strength in zip(ours.null, ours.null_strength, strict=True):
        order = torch.randperm(N, generator=draws)
        answers = torch.empty_like(order)
        answers[order] = order.roll(1)
        assert not bool((answers == torch.arange(N)).any())
        null = eap(model, TOKENS, OTHER, LogitDiff(ANSWER[answers], WRONG[answers], pos=-1)).top(30, absolute=True)
        assert null.scores is not None
        assert float(count) == int((null.scores.listed.abs() >= sizes.min()).sum())
        assert float(strength) == pytest.approx(float(null.scores.listed.abs().sum() / sizes.sum()))
    same = circuit_stability(model, TOKENS, OTHER, LogitDiff([3], [5], pos=-1), method="eap", n_edges=30, **FEW)
    assert bool(same.null.isnan().all())


# ------------------------------------------------------------------------------------------------- known and random


@pytest.mark.parametrize(("method", "options"), [("eap_ig", {}), ("acdc", dict(threshold=0.3))])
def test_a_planted_circuit_is_found_every_time(method: Any, options: dict[str, Any]) -> None:
    """And none where answers are exchanged, but for what is left of attributions in a mean over so few prompts."""
    known = handmade.induction(d_vocab=31, n_ctx=7)
    task = handmade.repetition(3, 31, n=20)
    ours = circuit_stability(
        known.model, task, method=method, n_edges=len(known.patching_circuit), samples=2, splits=1, nulls=2, tried=29,
        generator=generator(), progress=False, **options,
    )  # fmt: skip
    assert ours.circuit.edges == known.patching_circuit
    assert bool((ours.inclusion[ours.circuit.kept] == 1).all())
    assert float(ours.inclusion.sum()) == len(known.patching_circuit)
    assert ours.halves.tolist() == [1.0]
    assert ours.correlation > 0.95
    assert float(ours.null_strength.max()) < 0.3
    if method == "acdc":
        assert ours.null.tolist() == [0, 0]


def test_random_circuits_are_not() -> None:
    """Inclusion is the share of edges that the circuit has, and what halves share is chance."""
    model, draws, n_edges = build(n_layers=2), generator(), 60

    def find(model: Any, clean: Run, corrupt: Run | None, metric: Metric) -> Circuit:
        return random_circuit(ComputationGraph(model), n_edges, draws)

    ours = circuit_stability(model, TOKENS, OTHER, DIFF, method=find, samples=60, splits=30, nulls=1, progress=False)
    total = len(ours.circuit.graph)
    assert float(ours.inclusion[ours.circuit.kept].mean()) == pytest.approx(n_edges / total, rel=0.15)
    assert float(ours.halves.mean()) == pytest.approx(ours.chance, rel=0.15)
    assert not bool((ours.inclusion > 0.8).any())
    assert float(ours.null_strength.mean()) == 1.0
    assert ours.method == "find"
    assert bool(ours.predicted.isnan().all())


def test_a_search_of_ones_own_sees_the_prompts_that_were_drawn() -> None:
    model, seen = build(n_layers=2), list[tuple[Tensor, Tensor]]()

    def find(model: Any, clean: Run, corrupt: Run | None, metric: Metric) -> Circuit:
        assert corrupt is not None
        seen.append((clean.tokens, evaluate(model, [clean], metric)[0]))
        return eap(model, clean, corrupt, metric).top(40, absolute=True)

    own = circuit_stability(model, TOKENS, OTHER, DIFF, method=find, generator=generator(), **FEW)
    ours = circuit_stability(
        model, TOKENS, OTHER, DIFF, method="eap", n_edges=40, ablations=(), generator=generator(), **FEW
    )
    assert torch.equal(own.inclusion, ours.inclusion)
    assert torch.equal(own.halves, ours.halves)
    rows = torch.randint(N, (N,), generator=draws_of_a_call())
    assert torch.equal(seen[1][0], TOKENS[rows])
    assert_close(
        seen[1][1], evaluate(model, [Run(TOKENS[rows])], LogitDiff(ANSWER[rows], WRONG[rows], pos=-1))[0], 1e-12
    )


# ------------------------------------------------------------------------------------------------ table, disk, errors


def test_table_summary_disk_and_rerun(tmp_path: Path) -> None:
    model = build(n_layers=2)
    ours = circuit_stability(
        model, TOKENS, OTHER, DIFF, method="eap", n_edges=30, tried=4, generator=generator(), **FEW
    )
    table = ours.table()
    assert len(table) == int(((ours.inclusion > 0) | ours.circuit.kept).sum())
    assert table["inclusion"].is_monotonic_decreasing
    assert int(table["circuit"].sum()) == 30
    assert int(table["in zero"].sum()) <= 30
    assert table["intervened"].notna().sum() >= 2
    row = table.iloc[0]
    assert float(ours.inclusion[ours.circuit.graph.place((row["writer"], row["reader"]))]) == row["inclusion"]
    assert set(ours.summary()["question"]) == {"other prompts", "another ablation", "the truth of scores", "a null"}
    assert "Jaccard of halves" in repr(ours)
    ours.save(tmp_path / "stability")
    again = Stability.load(tmp_path / "stability")
    assert repr(again) == repr(ours)
    assert again.circuit == ours.circuit
    assert repr(again.rerun(model, progress=False)) == repr(ours)
    with pytest.raises(BadInput, match="model"):
        again.rerun(build(seed=3))
    assert len(ours.by_inclusion) == int((ours.inclusion > 0).sum())


BAD: Sequence[tuple[dict[str, Any], str]] = [
    (dict(method="magic"), "method must be"),
    (dict(n_edges=0), "n_edges must be 1"),
    (dict(samples=0), "at least 1"),
    (dict(clean=TOKENS[:3], corrupt=OTHER[:3]), "at least 4"),
    (dict(metric=lambda logits: logits[:, -1, 0]), "needs a Metric"),
    (dict(ablations=("nothing",)), "ablations must be a list of"),
    (dict(method=lambda *args: 3), "must return a circuit"),
    (dict(steps=0), "at least 1"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_bad_input_is_refused(arguments: dict[str, Any], words: str) -> None:
    model = build(n_layers=2)
    given: dict[str, Any] = dict(clean=TOKENS, corrupt=OTHER, metric=DIFF, **FEW) | arguments
    with pytest.raises(BadInput, match=words), unchecked_types():
        circuit_stability(model, **given)
    assert not any(point.hooks for point in model.hook_dict.values())


@pytest.mark.parametrize("method", ["eap", "acdc"])
def test_positions_go_with_their_prompts(method: Any) -> None:
    """Of each prompt its own: a sample has those of the prompts that were drawn."""
    model, rows = build(n_layers=1), torch.randint(N, (N,), generator=draws_of_a_call())
    options: Any = dict(method=method, n_edges=30, threshold=0.02, ablations=(), positions={"here": PLACES - 1})
    ours = circuit_stability(
        model, TOKENS, OTHER, DIFF, samples=1, splits=1, nulls=1, generator=generator(), progress=False, **options
    )
    metric, places = LogitDiff(ANSWER[rows], WRONG[rows], pos=-1), {"here": PLACES[rows] - 1}
    if method == "eap":
        found = eap(model, TOKENS[rows], OTHER[rows], metric, positions=places).top(30, absolute=True)
    else:
        found = acdc(model, TOKENS[rows], OTHER[rows], metric, 0.02, positions=places, progress=False)
    assert torch.equal(ours.inclusion > 0, found.kept)
    assert any("@here" in reader for reader in ours.table()["reader"])


@pytest.mark.parametrize("method", ["eap", "acdc"])
def test_sources_of_ablated_values_go_with_their_prompts_too(method: Any) -> None:
    model = build(n_layers=1)
    options: Any = dict(method=method, n_edges=20, threshold=0.1, ablations=(), samples=2, splits=1, nulls=1, tried=3)
    one, other = (
        circuit_stability(
            model, TOKENS, OTHER, DIFF, ablation=ablation, generator=generator(), progress=False, **options
        )
        for ablation in ("corrupt", Run(OTHER))
    )
    assert torch.equal(one.inclusion, other.inclusion)
    assert torch.equal(one.null_strength, other.null_strength)
    assert (one.ablation, other.ablation) == ("corrupt", "as given")
    alone = circuit_stability(
        model, TOKENS, None, DIFF, ablation="zero", generator=generator(), progress=False, **options
    )
    assert list(alone.faithfulness) == ["zero"]
