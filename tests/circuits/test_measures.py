"""Circuits against the edges they are made of, one forward pass each, and curves and counts worked out by hand."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import (
    KL,
    Circuit,
    ComputationGraph,
    HookedTransformer,
    Intervention,
    LogitDiff,
    Mean,
    Resample,
    Result,
    Run,
    at,
    eap,
    faithfulness,
)
from interp_hooks.circuits import (
    circuit_metric,
    completeness,
    curve_areas,
    faithfulness_curve,
    minimality,
    random_baseline,
    random_circuit,
    roc_auc,
)
from interp_hooks.circuits.layout import Layout
from interp_hooks.circuits.masked_edges import MaskedEdges
from interp_hooks.circuits.measures import GRID
from interp_hooks.errors import BadInput, MetricError
from tests.circuits.test_circuit import some
from tests.circuits.test_graph import HAS_GRAPH
from tests.experiments.by_hand import (
    OTHER,
    THIRD,
    TOKENS,
    left_alone,
    logits_of,
    model_of,
    shapes_counted,
    word_tokenizer,
)
from tests.experiments.gates import micro, output, two_heads_or
from tests.tiny import assert_close, build, in_turn, unchecked_types

DIFF = LogitDiff([4, 11], [7, 2], pos=-1)
WITHIN = 1e-10  # float64; changes are summed in another order than in one pass
SOURCES: dict[str, Any] = {
    "run": Run(OTHER),
    "zero": 0.0,
    "mean": Mean(Run(OTHER)),
    "resample": Resample(Run(THIRD), torch.tensor([1, 0])),
}


def logits_sum(logits: Tensor) -> Tensor:
    """All logits at all positions, each with a weight of its own."""
    weight = torch.linspace(-1, 1, logits[0].numel(), dtype=logits.dtype).reshape(logits[0].shape)
    return (logits * weight).sum((1, 2))


def without(graph: ComputationGraph, *edges: str) -> Circuit:
    return graph.circuit() - graph.circuit(edges)


def as_run(circuit: Circuit, source: Any) -> Run:
    """The circuit as interventions on the edges outside it, hook by hook."""
    graph = circuit.graph
    removed = (graph.exists & ~circuit.kept).double()
    made = [
        Intervention(at(sender.hook), source, into=at(reader.hook), mask=removed[sender.places, reader.places])
        for sender, reader in itertools.product(graph.writer_parts, graph.reader_parts)
        if bool(removed[sender.places, reader.places].any())
    ]
    return Run(TOKENS, made)


POSITIONS: dict[str, Any] = {"a": 1, "b": torch.tensor([3, 2]), "end": -1}
TOKENS_AT = {"a": [[1, 1]], "b": [[3, 2]], "end": [[4, 4]], "rest": [[0, 0], [2, 3]]}  # of each prompt, by hand


def as_run_by_position(circuit: Circuit, source: Any) -> Run:
    """The same for a circuit at `POSITIONS`, with interventions for each token."""
    graph = circuit.graph
    removed = graph.circuit() - circuit
    made = []
    for sender, reader in itertools.product(graph.writer_parts, graph.reader_parts):
        for label, tokens in TOKENS_AT.items():
            pairs = [[(writer, f"{name}@{label}") for name in reader.names] for writer in sender.names]
            mask = torch.tensor([[float(pair in removed.edges) for pair in row] for row in pairs]).double()
            into = [at(reader.hook, pos=torch.tensor(token)) for token in tokens]
            made += [Intervention(at(sender.hook), source, into=one, mask=mask) for one in into if bool(mask.any())]
    return Run(TOKENS, made)


# ------------------------------------------------------------------------------------------------- running a circuit


@pytest.mark.parametrize(("kind", "source"), in_turn(HAS_GRAPH, SOURCES))
def test_a_circuit_is_its_edges_one_by_one(kind: str, source: str) -> None:
    model = model_of(kind)
    circuit = some(ComputationGraph(model), seed=1)
    with unchecked_types():
        expected = logits_sum(logits_of(model, as_run(circuit, SOURCES[source])))
        ours = circuit_metric(model, circuit, TOKENS, OTHER, logits_sum, ablation=SOURCES[source])
    assert_close(ours, expected, WITHIN)


@pytest.mark.parametrize("kind", HAS_GRAPH)
def test_all_edges_are_the_model_and_none_is_the_corrupt_run(kind: str) -> None:
    model = model_of(kind)
    graph = ComputationGraph(model)
    with torch.no_grad():
        clean, corrupt = (logits_sum(model(tokens)) for tokens in (TOKENS, OTHER))
    with left_alone(model):
        assert torch.equal(circuit_metric(model, graph.circuit(), TOKENS, OTHER, logits_sum), clean)
        assert_close(circuit_metric(model, graph.circuit([]), TOKENS, OTHER, logits_sum), corrupt, WITHIN)


def test_what_is_upstream_of_the_first_removed_edge_is_not_computed_again() -> None:
    """Neither of two circuits that start in layer 2 passes layer 0; each gives what a whole pass gives."""
    model = model_of("gpt2")
    graph = ComputationGraph(model)
    edges = MaskedEdges(model, Run(TOKENS), Run(OTHER), logits_sum)
    circuits = [without(graph, "a0.h1->logits", "a2.h1->m2", "input->a2.h0<v>"), without(graph, "m1->a2.h3<q>")]
    expected = torch.stack([logits_sum(logits_of(model, as_run(circuit, Run(OTHER)))) for circuit in circuits])
    assert edges.whole.changes.all_vectors.shape == (2, 5, 16, 12)
    with shapes_counted(model, "blocks.0", "blocks.2") as shapes:
        ours = edges.of_circuits(circuits)
    assert_close(ours, expected, WITHIN)
    assert shapes == {"blocks.0": [], "blocks.2": [(4, 5)]}


def test_a_circuit_takes_two_passes() -> None:
    model = model_of("llama")
    with shapes_counted(model, "blocks.0") as shapes:
        circuit_metric(model, some(ComputationGraph(model), 0), TOKENS, OTHER, DIFF)
    assert shapes["blocks.0"] == [(2, 5)] * 2


def test_several_circuits_do_not_mix() -> None:
    """Stacked or, for want of memory, one after the other, and if need be each prompt for itself."""
    model = model_of("output-norms")
    edges = MaskedEdges(model, Run(TOKENS), Run(OTHER), DIFF)
    circuits = [some(edges.graph, seed) for seed in range(3)]
    alone = torch.cat([edges.of_circuits([circuit]) for circuit in circuits])
    assert_close(edges.of_circuits(circuits), alone, WITHIN)
    numbers = edges.numbers.of_state + edges.numbers.of_pass + edges.objective.read_numbers
    for max_memory, expected in ((8 * 2 * numbers, [(2, 5)] * 4), (1, [(1, 5)] * 12)):  # source first
        edges = MaskedEdges(model, Run(TOKENS), Run(OTHER), DIFF, max_memory=max_memory)
        with shapes_counted(model, "blocks.0") as shapes:
            assert_close(edges.of_circuits(circuits), alone, WITHIN)
        assert shapes["blocks.0"] == expected


@pytest.mark.parametrize("ablation", ["zero", "mean", "position_mean"])
def test_ablations_by_name(ablation: str) -> None:
    model = model_of("gpt2")
    sources = {"zero": 0.0, "mean": Mean(Run(OTHER)), "position_mean": Mean(Run(OTHER), per_position=True)}
    circuit = some(ComputationGraph(model), 4)
    ours = circuit_metric(model, circuit, TOKENS, OTHER, logits_sum, ablation=ablation)  # pyright: ignore[reportArgumentType]
    assert_close(ours, logits_sum(logits_of(model, as_run(circuit, sources[ablation]))), WITHIN)


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_of_several_lengths(side: Any) -> None:
    """Padding changes nothing, in passes from layer 0 and from a later one."""
    model = HookedTransformer(build().cfg, word_tokenizer("a", "b", "c", "yes", "no"), default_padding_side=side)
    model.load_state_dict(build().state_dict())
    graph, metric = ComputationGraph(model), LogitDiff("yes", "no")
    clean, corrupt = ["a b c", "c"], ["b a c", "a"]
    for circuit in (some(graph, 0), without(graph, "a1.h0->a2.h1<k>", "input->m2")):
        both = circuit_metric(model, circuit, clean, corrupt, metric)
        alone = [circuit_metric(model, circuit, *pair, metric) for pair in zip(clean, corrupt, strict=True)]
        assert_close(both, torch.cat(alone), WITHIN)


def test_means_by_position_are_of_prompts_of_one_length() -> None:
    """Columns of padded prompts are other positions on the left than on the right."""
    model = HookedTransformer(build().cfg, word_tokenizer("a", "b", "c", "yes", "no"))
    graph, metric, ablation = ComputationGraph(model), LogitDiff("yes", "no"), "position_mean"
    for clean, corrupt in ((["a b c", "c"], ["b a c", "a"]), (["a b", "c b"], ["b a c", "a"]), (["a"], ["b a"])):
        with pytest.raises(BadInput, match="needs clean and corrupt prompts all of one length"):
            circuit_metric(model, graph.circuit([]), clean, corrupt, metric, ablation=ablation)
    of_one = circuit_metric(model, graph.circuit([]), ["a b", "c b"], ["b a", "a c", "c c"], metric, ablation=ablation)
    assert of_one.shape == (2,)


# -------------------------------------------------------------------------------------------------------- by position


@pytest.mark.parametrize(
    ("kind", "source"), in_turn(["gpt2", "llama", "neox", "output-norms", "bidirectional"], SOURCES)
)
def test_a_circuit_with_positions_is_its_edges_token_by_token(kind: str, source: str) -> None:
    model = model_of(kind)
    circuit = some(ComputationGraph(model, POSITIONS), seed=2)
    with unchecked_types():
        expected = logits_sum(logits_of(model, as_run_by_position(circuit, SOURCES[source])))
        ours = circuit_metric(model, circuit, TOKENS, OTHER, logits_sum, ablation=SOURCES[source], positions=POSITIONS)
    assert_close(ours, expected, WITHIN)


@pytest.mark.parametrize("edge", ["a0.h1->a2.h3<k>@b", "input->m1@rest", "m0->logits@end", "a1.h2->a2.h0<v>@a"])
def test_one_edge_at_one_position(edge: str) -> None:
    """Beginning at a later layer, with a metric that reads one position, as a result of one circuit."""
    model = model_of("gpt2")
    circuit = without(ComputationGraph(model, POSITIONS), edge)
    expected = DIFF(logits_of(model, as_run_by_position(circuit, Run(OTHER))))
    result = faithfulness(model, circuit, TOKENS, OTHER, DIFF, positions=POSITIONS)
    assert_close(result.values[0], expected, WITHIN)
    assert not torch.equal(result.values[0], result.baselines["model"])


def test_with_an_edge_at_all_positions_positions_do_not_matter() -> None:
    model = model_of("llama")
    plain = some(ComputationGraph(model), 3)
    graph = ComputationGraph(model, POSITIONS)
    everywhere = graph.circuit([(w, f"{r}@{label}") for w, r in plain.edges for label in graph.layout.labels])
    assert len(everywhere) == 4 * len(plain)
    expected = circuit_metric(model, plain, TOKENS, OTHER, logits_sum)
    assert_close(circuit_metric(model, everywhere, TOKENS, OTHER, logits_sum, positions=POSITIONS), expected, WITHIN)
    with torch.no_grad():
        clean, corrupt = (logits_sum(model(tokens)) for tokens in (TOKENS, OTHER))
    found = faithfulness(model, everywhere, TOKENS, OTHER, logits_sum, positions=POSITIONS)
    assert_close(found.baselines["model"], clean, WITHIN)
    assert_close(found.baselines["empty"], corrupt, WITHIN)


def test_positions_as_a_list_are_their_own_names() -> None:
    model = model_of("gpt2")
    circuit = some(ComputationGraph(model, [1, 3]), 0)
    ours = circuit_metric(model, circuit, TOKENS, OTHER, DIFF, positions=[1, 3])
    assert_close(ours, circuit_metric(model, circuit, TOKENS, OTHER, DIFF, positions={"1": 1, "3": 3}), 0.0)

    numbers: Any = torch.tensor([1, 3])
    with unchecked_types():
        assert_close(circuit_metric(model, circuit, TOKENS, OTHER, DIFF, positions=numbers), ours, 0.0)


def test_positions_that_do_not_fit_are_refused() -> None:
    model = model_of("gpt2")
    circuit = some(ComputationGraph(model, POSITIONS), 0)
    plain = some(ComputationGraph(model), 0)
    for message, one, positions in (
        ("say where a, b, end are in these prompts with positions=", circuit, None),
        (
            r"the circuit is of .*, at a, b, end, rest\), the model's is .*, at a, end, rest\)",
            circuit,
            {"a": 1, "end": -1},
        ),
        ("the circuit is of", plain, POSITIONS),
        (r"positions that are all different, got \[3, 3\]", circuit, [3, 3]),
        ("positions must be a mapping from text .* got list .True.", circuit, [True]),
        ("'b' and 'end' are the same token of prompt 1", circuit, POSITIONS | {"b": torch.tensor([3, 4])}),
        ("position 5 is out of range", circuit, POSITIONS | {"a": 5}),
        ("expected one position for each of 2 prompts", circuit, POSITIONS | {"a": torch.tensor([1, 1, 1])}),
    ):
        with pytest.raises(BadInput, match=message):
            faithfulness(model, one, TOKENS, OTHER, DIFF, positions=positions)


# ------------------------------------------------------------------------------------------------------------- records


def test_results_know_how_they_came_about(tmp_path: Path) -> None:
    """Saved, loaded and computed again they are the same; the call is kept as it was written."""
    model = model_of("gpt2")
    ranking = eap(model, TOKENS, OTHER, DIFF, positions=POSITIONS)
    circuit = ranking.top(40)
    generator = torch.Generator().manual_seed(0)
    data: Any = (TOKENS, OTHER, DIFF)
    for name, result in {
        "measures.faithfulness": faithfulness(model, circuit, *data, positions=POSITIONS),
        "measures.faithfulness_curve": faithfulness_curve(model, ranking, *data, positions=POSITIONS),
        "measures.random_baseline": random_baseline(
            model, 30, *data, samples=3, generator=generator, positions=POSITIONS
        ).result,
        "subsets.completeness": completeness(model, circuit, *data, positions=POSITIONS),
        "subsets.minimality": minimality(model, circuit, *data, positions=POSITIONS),
    }.items():
        result.save(tmp_path / name)
        loaded = Result.load(tmp_path / name)
        assert loaded.record is not None
        assert loaded.record.calls[-1].function == f"circuits.{name}"
        assert torch.equal(loaded.record.calls[0].arguments["run"].tokens, TOKENS)
        again = loaded.rerun(model)
        assert torch.equal(again.values, result.values)
        assert again.axes == result.axes
        assert {*again.baselines} == {*result.baselines}


def test_the_micro_model() -> None:
    """The numbers of auto-circuit's tests: the corrupt run, where one edge after the other carries the clean value."""
    model, edges = micro(), ["a0.h1->logits", "a0.h0->a1.h1<v>", "input->a0.h0<v>"]
    graph = ComputationGraph(model)
    clean, corrupt = torch.tensor([[0]]), torch.tensor([[1]])
    for count, expected in enumerate([(-25, -49), (-19, -41), (-13, -25), (-9, -13)]):
        circuit = without(graph, *edges[:count])
        for place, number in enumerate(expected):
            value = circuit_metric(model, circuit, corrupt, clean, lambda logits, at=place: logits[:, -1, at])
            assert_close(value, torch.tensor([number]), 1e-12)


# ------------------------------------------------------------------------------------------------------- faithfulness


def test_faithfulness_lies_between_no_edge_and_the_model() -> None:
    model = model_of("gpt2")
    graph = ComputationGraph(model)
    circuits = {"none": graph.circuit([]), "all": graph.circuit(), "some": some(graph, 0)}
    result = faithfulness(model, circuits, TOKENS, OTHER, DIFF)
    with torch.no_grad():
        clean, corrupt = DIFF(model(TOKENS)), DIFF(model(OTHER))
    assert_close(result.baselines["model"], clean, 1e-12)
    assert_close(result.baselines["empty"], corrupt, WITHIN)
    none, every, part = result.recovered_fraction.tolist()
    assert (none, every) == (0.0, 1.0)
    values = circuit_metric(model, circuits["some"], TOKENS, OTHER, DIFF)
    expected = (values - corrupt).mean() / (clean - corrupt).mean()  # a ratio of means, not the mean of ratios
    assert abs(part - float(expected)) < WITHIN
    assert abs(part - float(((values - corrupt) / (clean - corrupt)).mean())) > 1e-4
    single = faithfulness(model, circuits["some"], TOKENS, OTHER, DIFF)
    assert_close(single.values[0], result.values[2], WITHIN)


def curve_of(f: Any) -> Result:
    """A curve with these values."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    values = torch.tensor([[f(k)] for k in GRID], dtype=torch.float64)
    return Result(
        metric="m",
        axes={"fraction": GRID},
        values=values,
        baselines={"empty": zero, "model": one},
        scale=("empty", "model"),
    )


@pytest.mark.parametrize(
    ("f", "cpr", "cmd"),
    [
        (lambda k: 1.0, 0.999, 0.0),
        (lambda k: float(k == 1), 0.25, 0.749),
        (lambda k: k, 0.4999995, 0.4990005),
        (lambda k: 2.0, 1.998, 0.999),
    ],
)
def test_areas_that_are_known(f: Any, cpr: float, cmd: float) -> None:
    found = curve_areas(curve_of(f))
    assert abs(found.cpr - cpr) < 1e-12
    assert abs(found.cmd - cmd) < 1e-12


@pytest.mark.parametrize("absolute", [False, True])
def test_a_curve_is_the_top_of_a_ranking(absolute: bool) -> None:
    model = model_of("gpt2")
    ranking = eap(model, TOKENS, OTHER, DIFF)
    result = faithfulness_curve(model, ranking, TOKENS, OTHER, DIFF, fractions=(0.0, 0.2, 1.0), absolute=absolute)
    chosen = ranking.top(52, absolute=absolute).pruned()  # of 262
    assert_close(result.values[1], circuit_metric(model, chosen, TOKENS, OTHER, DIFF), WITHIN)
    assert result.recovered_fraction[0] == 0
    assert result.recovered_fraction[2] == 1
    unpruned = faithfulness_curve(model, ranking, TOKENS, OTHER, DIFF, fractions=(0.2,), absolute=absolute, prune=False)
    whole = ranking.top(52, absolute=absolute)
    assert_close(unpruned.values[0], circuit_metric(model, whole, TOKENS, OTHER, DIFF), WITHIN)


# ---------------------------------------------------------------------------------------------- true and random edges


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_roc_auc_counts_pairs(seed: int, absolute: bool) -> None:
    graph = ComputationGraph(Layout(n_layers=1, n_heads=2, n_key_value_heads=2))
    generator = torch.Generator().manual_seed(seed)
    ranking = graph.scored(torch.randint(-2, 3, graph.exists.shape, generator=generator).double())  # with ties
    true = random_circuit(graph, 4, generator)
    assert ranking.scores is not None
    scores = {edge: abs(score) if absolute else score for edge, score in ranking.scores.items()}
    pairs = list(itertools.product(true.edges, graph.circuit().edges - true.edges))
    won = sum((scores[one] > scores[other]) + 0.5 * (scores[one] == scores[other]) for one, other in pairs)
    assert abs(roc_auc(ranking, true, absolute=absolute) - won / len(pairs)) < 1e-12


def test_roc_auc_of_a_perfect_and_an_inverted_ranking() -> None:
    graph = ComputationGraph(Layout(n_layers=2, n_heads=2, n_key_value_heads=2))
    true = some(graph, 0)
    assert roc_auc(graph.scored(true.kept.double()), true) == 1.0
    assert roc_auc(graph.scored(-true.kept.double()), true) == 0.0
    assert roc_auc(graph.scored(torch.zeros(graph.exists.shape)), true) == 0.5


def test_random_circuits_are_uniform_and_follow_the_generator() -> None:
    graph = ComputationGraph(Layout(n_layers=1, n_heads=1, n_key_value_heads=1))
    generator = torch.Generator().manual_seed(0)
    drawn = [random_circuit(graph, 3, generator) for _ in range(600)]
    assert {len(circuit) for circuit in drawn} == {3}
    expected = 3 / len(graph)
    for edge in graph.edges:
        share = sum(edge in circuit.edges for circuit in drawn) / len(drawn)
        assert abs(share - expected) < 5 * (expected * (1 - expected) / len(drawn)) ** 0.5
    again = [random_circuit(graph, 3, torch.Generator().manual_seed(0)) for _ in range(2)]
    assert again[0] == again[1] == drawn[0]


def test_a_random_baseline() -> None:
    model = model_of("gpt2")
    found = random_baseline(
        model, 131, TOKENS, OTHER, DIFF, samples=12, generator=torch.Generator().manual_seed(0), resamples=200
    )
    again = random_baseline(
        model, 131, TOKENS, OTHER, DIFF, samples=12, generator=torch.Generator().manual_seed(0), resamples=200
    )
    assert found[1:] == again[1:]
    assert found.lower < found.mean < found.upper
    assert abs(found.mean - float(found.result.recovered_fraction.mean())) < 1e-12
    first = random_circuit(ComputationGraph(model), 131, torch.Generator().manual_seed(0))
    assert_close(found.result.values[0], circuit_metric(model, first, TOKENS, OTHER, DIFF), WITHIN)


def test_a_random_baseline_of_all_edges_is_the_model() -> None:
    model = model_of("attn-only")
    found = random_baseline(model, 193, TOKENS, OTHER, DIFF, samples=2)
    assert torch.tensor(found[1:]).sub(1).abs().max() < 1e-12


# ------------------------------------------------------------------------------------------------------ what is refused


def test_bad_input_is_refused() -> None:
    model: HookedTransformer = model_of("gpt2")
    graph = ComputationGraph(model)
    ranking = graph.scored(torch.zeros(graph.exists.shape))
    true, other = graph.circuit(["input->m0"]), model_of("llama")

    def refused(message: str, ask: Any, error: type[Exception] = BadInput) -> None:
        with pytest.raises(error, match=message), unchecked_types():
            ask()

    full = graph.circuit()
    refused("the circuit is of .* the model's is", lambda: circuit_metric(other, full, TOKENS, OTHER, DIFF))
    refused("'corrupt' needs corrupt prompts", lambda: circuit_metric(model, full, TOKENS, None, DIFF))
    refused("ablation must be 'corrupt'", lambda: circuit_metric(model, full, TOKENS, OTHER, DIFF, ablation="men"))  # pyright: ignore[reportArgumentType]
    refused("has 5 tokens in clean but 4", lambda: circuit_metric(model, full, TOKENS, OTHER[:, 1:], DIFF))
    refused("one number for each prompt", lambda: circuit_metric(model, full, TOKENS, OTHER, lambda x: x), MetricError)
    three: Any = lambda logits: logits[0, 0, :3]  # noqa: E731
    refused(
        r"for each of 2 prompts, or one for all, got .* \[3\]",
        lambda: circuit_metric(model, full, TOKENS, OTHER, three),
        MetricError,
    )
    refused("at least one circuit", lambda: faithfulness(model, {}, TOKENS, OTHER, DIFF))
    refused("a score for each of the 262", lambda: faithfulness_curve(model, true, TOKENS, OTHER, DIFF))
    for fractions in ([], [0.5, 0.1], [0.5, 2.0]):
        refused("ascend", lambda f=fractions: faithfulness_curve(model, ranking, TOKENS, OTHER, DIFF, fractions=f))
    refused("what faithfulness_curve gives", lambda: curve_areas(faithfulness(model, true, TOKENS, OTHER, DIFF)))
    refused("nothing to tell apart", lambda: roc_auc(ranking, graph.circuit([])))
    refused("nothing to tell apart", lambda: roc_auc(ranking, full))
    refused("a score for each of 262", lambda: roc_auc(true, true))
    refused("n_edges must be 0..262, got 263", lambda: random_circuit(graph, 263))
    refused("samples must be at least 1", lambda: random_baseline(model, 3, TOKENS, OTHER, DIFF, samples=0))
    refused("must be a", lambda: circuit_metric(model, "all", TOKENS, OTHER, DIFF))  # pyright: ignore[reportArgumentType]


def test_where_no_edge_matters_nothing_is_faithful() -> None:
    """Clean and corrupt prompts are the same."""
    model = model_of("gpt2")
    ranking = eap(model, TOKENS, OTHER, DIFF)
    curve = faithfulness_curve(model, ranking, TOKENS, TOKENS, DIFF)
    for ask in (lambda: curve_areas(curve), lambda: random_baseline(model, 3, TOKENS, TOKENS, DIFF, samples=2)):
        with pytest.raises(BadInput, match="empty and model give the same mean logit_diff"):
            ask()


def test_one_number_for_all_prompts_counts_as_one_prompt() -> None:
    model = model_of("gpt2")
    circuit = some(ComputationGraph(model), 0)
    ours = faithfulness(model, circuit, TOKENS, OTHER, lambda logits: logits_sum(logits).mean())
    of_each = faithfulness(model, circuit, TOKENS, OTHER, logits_sum)
    assert ours.values.shape == (1, 1)
    assert_close(ours.recovered_fraction, of_each.recovered_fraction, WITHIN)


def test_a_metric_that_is_low_where_all_is_well() -> None:
    """KL to the model is 0 with all edges."""
    model = model_of("gpt2")
    full = circuit_metric(model, ComputationGraph(model).circuit(), TOKENS, OTHER, KL(TOKENS))
    assert full.abs().max() < 1e-12


def test_the_or_gate_needs_one_of_two_heads() -> None:
    model, tokens = two_heads_or(), torch.zeros(1, 3, dtype=torch.long)
    graph = ComputationGraph(model)
    one, none = graph.circuit(["a0.h0->m0", "m0->logits"]), graph.circuit(["m0->logits"])
    result = faithfulness(model, {"one": one, "none": none}, tokens, None, output, ablation="zero")
    assert result.recovered_fraction.tolist() == [1.0, 0.0]
