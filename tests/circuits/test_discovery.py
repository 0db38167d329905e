"""Scores of edges against masks, patching and sums that must come out, and circuits that are known."""

import copy
import json
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
    Run,
    acdc,
    at,
    attribution_patch,
    eap,
    eap_ig,
    evaluate,
    faithfulness,
)
from interp_hooks.circuits import mask_gradient, node_attribution, roc_auc
from interp_hooks.circuits.discovery import AT_ONCE
from interp_hooks.errors import BadInput, MetricError
from tests.circuits.test_circuit import some
from tests.circuits.test_graph import HAS_GRAPH
from tests.circuits.test_measures import POSITIONS, SOURCES, TOKENS_AT, as_run, logits_sum
from tests.experiments.by_hand import OTHER, TOKENS, left_alone, model_of, shapes_counted, word_tokenizer
from tests.experiments.gates import gate, induction, linear, output, two_heads_or
from tests.tiny import assert_close, build, in_turn, unchecked_types

DIFF = LogitDiff([4, 11], [7, 2], pos=-1)
WITHIN = 1e-10
BESIDE = ("layer-embeddings",)  # tokens reach its layers beside the stream too
UNSMOOTH = ("experts", "plain-experts", "experts-with-norms", "no-norm", "score-cap-clipped")
SMOOTH = [kind for kind in HAS_GRAPH if kind not in (*UNSMOOTH, *BESIDE)]
STEPS = {"output-norms": (4, 40), "recurrence-beside": (2, 40)}  # of the others 12 are enough
ZEROS = torch.zeros(1, 3, dtype=torch.long)


def scores_of(circuit: Circuit) -> Tensor:
    """Scores of all edges, in the order of the graph."""
    assert circuit.scores is not None
    assert len(circuit) == len(circuit.graph)
    return circuit.scores.listed


def total(circuit: Circuit, writer: str | None = None, reader: str | None = None) -> float:
    assert circuit.scores is not None
    return sum(
        score for edge, score in circuit.scores.items() if writer in (None, edge[0]) and reader in (None, edge[1])
    )


# -------------------------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize(("kind", "source"), in_turn(HAS_GRAPH, SOURCES))
def test_eap_is_the_gradient_of_masks(kind: str, source: str) -> None:
    """With respect to masks of a pass of its own, and to those of interventions on one edge each."""
    model, ablation = model_of(kind), SOURCES[source]
    with left_alone(model), unchecked_types():
        ours = eap(model, TOKENS, OTHER, logits_sum, ablation=ablation)
        assert_close(
            scores_of(ours), scores_of(mask_gradient(model, TOKENS, OTHER, logits_sum, ablation=ablation)), WITHIN
        )
    assert ours == ComputationGraph(model).circuit()
    writers, readers = (
        ours.graph.writer_parts[1],
        ours.graph.reader_parts[-2],
    )  # heads of layer 0, the last MLP or values
    mask = torch.zeros(len(writers.names), len(readers.names), dtype=torch.float64, requires_grad=True)
    edge = Intervention(at(writers.hook), ablation, into=at(readers.hook), mask=mask)
    (gradient,) = torch.autograd.grad(evaluate(model, [Run(TOKENS, [edge])], logits_sum).mean(), mask)
    assert ours.scores is not None
    assert_close(ours.scores.matrix[writers.places, readers.places], -gradient, WITHIN)


@pytest.mark.parametrize("kind", HAS_GRAPH)
def test_edges_into_a_reader_sum_to_the_attribution_of_its_input(kind: str) -> None:
    """An input is the sum of what was written; embeddings count and biases cancel."""
    model = model_of(kind)
    ours = eap(model, TOKENS, OTHER, DIFF)
    for site in ("q_input", "k_input", "v_input", *(["mlp_in"] if "m0" in ours.graph.writers else [])):
        over = ("layer", "head") if site != "mlp_in" else ("layer",)
        patched = attribution_patch(model, TOKENS, OTHER, DIFF, site, over=over, direction="noise")
        expected = (patched.baselines["clean"] - patched.values).mean(-1).flatten()
        names = [name for part in ours.graph.reader_parts if part.hook.endswith(site) for name in part.names]
        sums = torch.tensor([total(ours, reader=name) for name in names], dtype=torch.float64)
        assert_close(sums, expected, 1e-8 if kind == "no-norm" else WITHIN)  # whose stream is long


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "attn-only", "shared-norm"])
def test_nodes_are_scored_by_attribution_patching(kind: str) -> None:
    model = model_of(kind)
    patched = attribution_patch(model, TOKENS, OTHER, DIFF, "z", over=("layer", "head"), direction="noise")
    effects = (patched.baselines["clean"] - patched.values).mean(-1)
    nodes = {f"a{layer}.h{head}": float(effects[layer, head]) for layer in range(3) for head in range(4)}
    for absolute in (False, True):
        ours = node_attribution(model, TOKENS, OTHER, DIFF, absolute=absolute)
        assert ours.scores is not None
        score = {node: abs(effect) if absolute else effect for node, effect in nodes.items()}
        assert abs(ours.scores["a1.h2", "logits"] - score["a1.h2"]) < WITHIN
        assert abs(ours.scores["input", "a2.h3<q>"] - score["a2.h3"]) < WITHIN
        assert abs(ours.scores["a0.h1", "a2.h3<q>"] - min(score["a0.h1"], score["a2.h3"])) < WITHIN
        assert ours.scores["input", "logits"] == max(ours.scores.values())


def test_the_top_of_nodes_is_the_circuit_between_them() -> None:
    model = model_of("gpt2")
    ranking = node_attribution(model, TOKENS, OTHER, DIFF)
    edges = eap(model, TOKENS, OTHER, DIFF)
    best = sorted(ranking.graph.writers[1:], key=lambda node: -abs(total(edges, writer=node)))[:5]
    between = ranking.graph.circuit_of_nodes(best)
    assert ranking.top(len(between)) == between


@pytest.mark.parametrize("kind", SMOOTH)
def test_integrated_edges_from_the_input_sum_to_the_whole_difference(kind: str) -> None:
    model = model_of(kind)
    with torch.no_grad():
        whole = float((logits_sum(model(TOKENS)) - logits_sum(model(OTHER))).mean())
    errors = [
        abs(total(eap_ig(model, TOKENS, OTHER, logits_sum, steps=steps), writer="input") - whole)
        for steps in STEPS.get(kind, (2, 12))
    ]
    assert errors[1] < 2e-2 * abs(whole)
    assert errors[1] < errors[0]


# ------------------------------------------------------------------------------------------------------- by position


METHODS: dict[str, Any] = {"eap": eap, "eap_ig": eap_ig, "mask_gradient": mask_gradient}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "attn-only", "output-norms"])
def test_scores_at_positions_sum_to_those_without(kind: str, method: str) -> None:
    model, find = model_of(kind), METHODS[method]
    plain = find(model, TOKENS, OTHER, logits_sum)
    placed = find(model, TOKENS, OTHER, logits_sum, positions=POSITIONS)
    assert placed == ComputationGraph(model, POSITIONS).circuit()
    sums = dict.fromkeys(plain.graph.edges, 0.0)
    for (writer, reader), score in placed.scores.items():
        sums[writer, reader.partition("@")[0]] += score
    expected = scores_of(plain)
    assert_close(torch.tensor([sums[edge] for edge in plain.graph.edges], dtype=torch.float64), expected, WITHIN)
    assert placed.without_positions() == plain
    assert_close(scores_of(placed.without_positions()), expected, WITHIN)


@pytest.mark.parametrize("method", ["eap", "mask_gradient"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "output-norms"])
def test_a_score_at_a_position_is_the_gradient_of_one_mask(kind: str, method: str) -> None:
    """Of an intervention on the readers of one hook at one token of each prompt."""
    model = model_of(kind)
    ours = METHODS[method](model, TOKENS, OTHER, logits_sum, positions=POSITIONS)
    writers, readers = ours.graph.writer_parts[1], ours.graph.reader_parts[-3]
    assert writers.hook.endswith("z")
    for label, tokens in TOKENS_AT.items():
        mask = torch.zeros(len(writers.names), len(readers.names), dtype=torch.float64, requires_grad=True)
        made = [
            Intervention(at(writers.hook), Run(OTHER), into=at(readers.hook, pos=torch.tensor(one)), mask=mask)
            for one in tokens
        ]
        (gradient,) = torch.autograd.grad(evaluate(model, [Run(TOKENS, made)], logits_sum).mean(), mask)
        found = [[ours.scores[writer, f"{reader}@{label}"] for reader in readers.names] for writer in writers.names]
        assert_close(torch.tensor(found, dtype=torch.float64), -gradient, WITHIN)


def test_nodes_at_positions() -> None:
    """A node counts at each position by itself; keys and values may come out anywhere."""
    model = model_of("gpt2")
    edges = eap(model, TOKENS, OTHER, DIFF, positions=POSITIONS).scores
    ours = node_attribution(model, TOKENS, OTHER, DIFF, positions=POSITIONS).scores
    assert edges is not None
    assert ours is not None

    def node(name: str, label: str) -> float:
        return abs(
            sum(score for (writer, reader), score in edges.items() if (writer, reader[-len(label) :]) == (name, label))
        )

    assert abs(ours["a1.h2", "logits@end"] - node("a1.h2", "end")) < WITHIN
    assert abs(ours["input", "a2.h3<q>@end"] - node("a2.h3", "end")) < WITHIN
    assert abs(ours["a0.h1", "m1@b"] - min(node("a0.h1", "b"), node("m1", "b"))) < WITHIN
    best = max(node("a1.h3", label) for label in TOKENS_AT)
    assert abs(ours["input", "a1.h3<v>@a"] - best) < WITHIN
    assert ours["input", "logits@a"] == max(ours.values())


def test_acdc_finds_where_induction_happens() -> None:
    """BOS A B C D A B: the word after the first B is copied to the end, found by the B in front of it."""
    model = induction()
    clean, corrupt, metric = induction_prompts()
    positions = {"B": 2, "C": 3, "end": -1}
    found = acdc(model, clean, corrupt, metric, 0.1, positions=positions)
    reads = ["input->a0.h0<v>@B", "input->a1.h0<q>@end", "input->a1.h0<v>@C", "a0.h0->a1.h0<k>@C", "a1.h0->logits@end"]
    assert found == ComputationGraph(model, positions).circuit(reads)
    assert found.pruned() == found
    ranking = eap_ig(model, clean, corrupt, metric, steps=20, positions=positions)
    assert ranking.top(len(found), absolute=True) == found


# ------------------------------------------------------------------------------------------------------------- records


def test_a_circuit_knows_how_it_came_about(tmp_path: Path) -> None:
    model = model_of("gpt2")
    start = eap(model, TOKENS, OTHER, DIFF).top(30)
    for name, found in {
        "eap": eap(model, TOKENS, OTHER, DIFF, positions=POSITIONS),
        "eap_ig": eap_ig(model, TOKENS, OTHER, DIFF, steps=2),
        "mask_gradient": mask_gradient(model, TOKENS, OTHER, DIFF),
        "node_attribution": node_attribution(model, TOKENS, OTHER, DIFF),
        "acdc": acdc(model, TOKENS, OTHER, DIFF, 1e-3, start=start),
    }.items():
        found.save(tmp_path / name)
        loaded = Circuit.load(tmp_path / name)
        assert loaded == found
        assert loaded.scores == found.scores
        assert loaded.record is not None
        assert loaded.record.calls[-1].function == f"circuits.discovery.{name}"
        again = loaded.top(3).rerun(model)
        assert again == found
        assert again.scores == found.scores
    call = Circuit.load(tmp_path / "acdc").record.calls[-1].arguments  # pyright: ignore[reportOptionalMemberAccess]
    assert call["threshold"] == 1e-3
    assert Circuit.from_json(call["start"]) == start
    assert json.loads((tmp_path / "acdc" / "circuit.json").read_text())["model"]["weights"]
    with pytest.raises(BadInput, match="this model has"):
        start.rerun(model_of("llama"))


def test_the_rules_of_integration() -> None:
    """Midpoint of 1 step is half way, left of 1 step the corrupt end, and left of 2 the mean of both."""
    model = model_of("gpt2")

    def found(steps: int, rule: Any) -> Tensor:
        return scores_of(eap_ig(model, TOKENS, OTHER, logits_sum, steps=steps, rule=rule))

    assert_close(found(2, "left"), (found(1, "left") + found(1, "midpoint")) / 2, WITHIN)
    at_corrupt = scores_of(eap(model, OTHER, TOKENS, logits_sum))  # with the change the other way round
    assert_close(found(1, "left")[:12], -at_corrupt[:12], WITHIN)  # input to layer 0, whose writer is the same there
    with torch.no_grad():
        whole = float((logits_sum(model(TOKENS)) - logits_sum(model(OTHER))).mean())
    errors = [
        abs(total(eap_ig(model, TOKENS, OTHER, logits_sum, steps=20, rule=rule), "input") - whole)
        for rule in ("midpoint", "left")
    ]
    assert errors[0] < errors[1] / 5


def test_in_a_linear_model_everything_agrees() -> None:
    model = linear()
    graph = ComputationGraph(model)
    without = {" -> ".join(edge): graph.circuit() - graph.circuit([edge]) for edge in graph.edges}
    left = faithfulness(model, without, TOKENS, OTHER, logits_sum)
    expected = (left.baselines["model"] - left.values).mean(-1)
    assert_close(scores_of(eap(model, TOKENS, OTHER, logits_sum)), expected, WITHIN)
    assert_close(scores_of(eap_ig(model, TOKENS, OTHER, logits_sum, steps=3)), expected, WITHIN)
    assert expected.abs().max() > 0.01


def test_a_low_metric_that_is_good_turns_the_scores_around() -> None:
    """KL to another prompt: an edge helps if the divergence rises without it."""
    model = model_of("gpt2")
    reference = KL(OTHER[[1, 0]])
    known = reference.on(model)

    def negative(logits: Tensor) -> Tensor:
        return -known.score(logits[:, -1])

    for method in (eap, mask_gradient):
        assert_close(
            scores_of(method(model, TOKENS, OTHER, reference)),
            scores_of(method(model, TOKENS, OTHER, negative)),
            WITHIN,
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_that_are_rounding_errors_are_no_ranking(dtype: torch.dtype) -> None:
    """The divergence from the clean run is least there. On the way to the corrupt one it has a gradient."""
    model = copy.deepcopy(model_of("gpt2")).to(dtype)
    for method in (eap, mask_gradient, node_attribution):
        with pytest.raises(MetricError, match=r"kl_nats is flat in the clean run.*use eap_ig"):
            method(model, TOKENS, OTHER, KL(TOKENS))
    found = eap_ig(model, TOKENS, OTHER, KL(TOKENS), steps=20)
    with torch.no_grad():
        clean, corrupt = (model(tokens)[:, -1].log_softmax(-1) for tokens in (TOKENS, OTHER))
    divergence = (clean.exp() * (clean - corrupt)).sum(-1).mean()
    assert abs(total(found, writer="input") - float(divergence)) < 0.01 * float(divergence)


def test_small_units_and_no_effect_at_all_are_no_rounding_errors() -> None:
    model = model_of("gpt2")
    plain = scores_of(eap(model, TOKENS, OTHER, logits_sum))
    for method in (eap, mask_gradient):
        small = scores_of(method(model, TOKENS, OTHER, lambda logits: 1e-18 * logits_sum(logits)))
        assert_close(1e18 * small, plain, WITHIN)
        assert scores_of(method(model, TOKENS, TOKENS, logits_sum)).abs().max() < 1e-12
        assert scores_of(method(model, TOKENS, TOKENS, KL(TOKENS))).abs().max() < 1e-12


def test_eap_takes_two_passes() -> None:
    model = model_of("gpt2")
    with shapes_counted(model, "blocks.0") as shapes:
        eap(model, TOKENS, OTHER, DIFF)
    assert shapes["blocks.0"] == [(2, 5)] * 2


# ---------------------------------------------------------------------------------------------- models that are known


def test_or_hides_its_causes_from_gradients_and_acdc_keeps_one() -> None:
    """Either head will do: gradients are 0 for both, removal finds one of them."""
    model = two_heads_or()
    heads = [("a0.h0", "m0"), ("a0.h1", "m0")]
    scores = eap(model, ZEROS, None, output, ablation="zero").scores
    assert scores is not None
    assert [scores[edge] for edge in heads] == [0.0, 0.0]
    assert scores["m0", "logits"] == 1.0
    kept = acdc(model, ZEROS, None, output, 0.5, ablation="zero")
    assert kept.edges == {("a0.h0", "m0"), ("m0", "logits")}
    assert kept.scores == {("a0.h0", "m0"): 1.0, ("m0", "logits"): 1.0}


@pytest.mark.parametrize(("kind", "from_clean", "from_corrupt"), [("and", 1.0, 0.0), ("or", 0.0, 1.0)])
def test_gates_by_one_input(kind: Any, from_clean: float, from_corrupt: float) -> None:
    """AND shows what noising one input destroys, OR what restoring one brings back."""
    model, edge = gate(kind, 2), ("input", "a0.h0<v>")
    ones, one, none = torch.tensor([[1, 1]]), torch.tensor([[1, 0]]), torch.tensor([[0, 0]])
    noised = eap(model, ones, one, output).scores
    restored = eap(model, none, one, output).scores
    assert noised is not None
    assert restored is not None
    assert abs(noised[edge] - from_clean) < 1e-12
    assert abs(restored[edge] + from_corrupt) < 1e-12
    whole = eap_ig(model, ones, none, output, steps=24).scores
    assert whole is not None
    assert abs(whole[edge] - 1.0) < 1e-12


INDUCTION = ["input->a0.h0<v>", "input->a1.h0<q>", "input->a1.h0<v>", "a0.h0->a1.h0<k>", "a1.h0->logits"]


def induction_prompts() -> tuple[Tensor, Tensor, LogitDiff]:
    """BOS A B C D A B: C comes next. In the corrupt prompts all words are others."""
    clean = torch.tensor([[0, 1, 2, 3, 4, 1, 2], [0, 5, 3, 1, 2, 5, 3]])
    corrupt = torch.tensor([[0, 6, 7, 8, 9, 6, 7], [0, 8, 6, 10, 9, 8, 6]])
    return clean, corrupt, LogitDiff(clean[:, 3], corrupt[:, 3])


def test_acdc_finds_the_induction_circuit() -> None:
    model = induction()
    clean, corrupt, metric = induction_prompts()
    true = ComputationGraph(model).circuit(INDUCTION)
    found = acdc(model, clean, corrupt, metric, 0.1)
    assert found == true
    assert found.pruned() == true
    from_some = acdc(model, clean, corrupt, metric, 0.1, start=eap_ig(model, clean, corrupt, metric, steps=10).top(12))
    assert from_some == true


def test_integrated_gradients_find_the_induction_circuit() -> None:
    model = induction()
    clean, corrupt, metric = induction_prompts()
    true = ComputationGraph(model).circuit(INDUCTION)
    ranking = eap_ig(model, clean, corrupt, metric, steps=20)
    assert ranking.top(len(true), absolute=True) == true
    assert roc_auc(ranking, true, absolute=True) == 1.0


# --------------------------------------------------------------------------------------------------------------- acdc


def one_by_one(model: HookedTransformer, threshold: float, start: Circuit) -> tuple[Circuit, dict[Any, float]]:
    """ACDC as it is written down: every edge in turn, a whole pass for each."""
    circuit, scores = start, dict[Any, float]()
    graph = start.graph

    def metric_of(one: Circuit) -> float:
        return float(evaluate(model, [as_run(one, Run(OTHER))], DIFF).mean())

    for reader in reversed(graph.readers):
        for writer in reversed(graph.writers):
            if (writer, reader) in circuit.edges:
                without = circuit - graph.circuit([(writer, reader)])
                loss = metric_of(circuit) - metric_of(without)
                if loss < threshold:
                    circuit = without
                else:
                    scores[writer, reader] = loss
    return circuit, scores


@pytest.mark.parametrize(("kind", "threshold"), [("gpt2", 1e-3), ("output-norms", 1e-3)])
def test_acdc_is_one_edge_after_the_other(kind: str, threshold: float) -> None:
    model = model_of(kind)
    start = some(ComputationGraph(model), 0, share=0.25)
    with unchecked_types():
        expected, scores = one_by_one(model, threshold, start)
        ours = acdc(model, TOKENS, OTHER, DIFF, threshold, start=start)
    assert ours == expected
    assert 0 < len(ours) < len(start)
    assert ours.scores is not None
    assert_close(
        torch.tensor([ours.scores[edge] for edge in ours.listed], dtype=torch.float64),
        torch.tensor([scores[edge] for edge in ours.listed], dtype=torch.float64),
        1e-8,  # losses are small differences
    )


def test_acdc_begins_at_the_layer_that_it_visits() -> None:
    model = model_of("gpt2")
    with shapes_counted(model, "blocks.0", "blocks.1", "blocks.2") as shapes:
        acdc(model, TOKENS, OTHER, DIFF, 1e-3)
    rows = [sum(rows for rows, _ in passes) for passes in shapes.values()]
    assert rows[0] < rows[1] < rows[2]
    assert max(rows for rows, _ in shapes["blocks.2"]) <= 2 * AT_ONCE


def test_acdc_with_a_mean() -> None:
    model = model_of("attn-only")
    start = some(ComputationGraph(model), 0, share=0.25)
    by_name = acdc(model, TOKENS, OTHER, DIFF, 0.01, ablation="mean", start=start)
    assert by_name == acdc(model, TOKENS, None, DIFF, 0.01, ablation=Mean(Run(OTHER)), start=start)
    assert by_name != acdc(model, TOKENS, OTHER, DIFF, 0.01, start=start)


# ------------------------------------------------------------------------------------------------------ what is refused


def test_bad_input_is_refused() -> None:
    model = model_of("gpt2")
    graph = ComputationGraph(model)

    def refused(message: str, ask: Any, error: type[Exception] = BadInput) -> None:
        with pytest.raises(error, match=message), unchecked_types():
            ask()

    refused("no sum", lambda: eap(model_of("post-norm"), TOKENS, OTHER, DIFF))
    refused("latent", lambda: acdc(model_of("latent"), TOKENS, OTHER, DIFF, 0.1))
    refused("at least 1", lambda: eap_ig(model, TOKENS, OTHER, DIFF, steps=0))
    refused("rule must be 'midpoint' or 'left'", lambda: eap_ig(model, TOKENS, OTHER, DIFF, rule="right"))  # pyright: ignore[reportArgumentType]
    refused("threshold must be above 0", lambda: acdc(model, TOKENS, OTHER, DIFF, 0.0))
    refused("start has no edges", lambda: acdc(model, TOKENS, OTHER, DIFF, 0.1, start=graph.circuit([])))
    other = ComputationGraph(model_of("llama")).circuit()
    refused("the circuit is of", lambda: acdc(model, TOKENS, OTHER, DIFF, 0.1, start=other))
    placed = ComputationGraph(model, ["a"]).circuit()
    refused("say where a are in these prompts", lambda: acdc(model, TOKENS, OTHER, DIFF, 0.1, start=placed))
    refused("out of range", lambda: eap(model, TOKENS, OTHER, DIFF, positions={"a": 9}))
    refused("cannot be called 'rest'", lambda: eap(model, TOKENS, OTHER, DIFF, positions={"rest": 1}))
    refused("needs corrupt prompts", lambda: eap(model, TOKENS, None, DIFF))
    refused("one number for each prompt", lambda: eap(model, TOKENS, OTHER, lambda logits: logits), MetricError)
    for method in (eap, mask_gradient):
        counts: Any = lambda x: x.argmax(-1).sum(-1).double()  # noqa: E731
        refused("no gradient", lambda find=method: find(model, TOKENS, OTHER, counts), MetricError)
    refused("different, got", lambda: eap(model, TOKENS, OTHER, DIFF, positions=[3, 3]))


@pytest.mark.parametrize(("side", "pos"), [("right", 2), ("left", 0)])
def test_a_position_in_the_padding_is_refused(side: Any, pos: int) -> None:
    model = HookedTransformer(build().cfg, word_tokenizer("yes", "no", "maybe"), default_padding_side=side)
    clean, corrupt = ["yes no maybe", "yes"], ["no no maybe", "no"]
    with pytest.raises(BadInput, match="the position 'there' is padding in prompt 1"):
        eap(model, clean, corrupt, LogitDiff(3, 4), positions={"there": pos})
    eap(model, clean, corrupt, LogitDiff(3, 4), positions={"there": -1})
