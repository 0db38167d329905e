"""Attribution graphs: rows sum up, changes in the linear model are what edges say, influence is that of matrices."""

import copy
import dataclasses
import doctest
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from interp_hooks import HookedTransformer, HookedTransformerConfig, circuits
from interp_hooks.circuits import (
    AttributionGraph,
    attribution_graph,
    check_graph,
    edge_heads,
    load_graph,
    save_graph,
    score_terms,
)
from interp_hooks.circuits.attribution_graphs.files import pairing, unpaired
from interp_hooks.circuits.attribution_graphs.influence import influence, largest_until, shares
from interp_hooks.circuits.attribution_graphs.interventions import predicted_change
from interp_hooks.circuits.attribution_graphs.local import Asker, LocalModel
from interp_hooks.circuits.attribution_graphs.nodes import ERROR, FEATURE, LOGIT, TOKEN
from interp_hooks.circuits.attribution_graphs.rows import Rows
from interp_hooks.dictionaries import CrossLayerTranscoder, ReLU, Transcoder
from interp_hooks.errors import BadInput
from tests.dictionaries.random_ones import cross_layer, transcoder
from tests.tiny import CUSTOM, build, hooked

DATA = Path(__file__).parents[1] / "data" / "circuit_tracer.safetensors"
TOKENS = torch.tensor([3, 11, 0, 7, 18, 11])
SETS: dict[str, Any] = {
    "cross-layer": lambda: cross_layer(),
    "per layer": lambda: [transcoder(layer=layer, seed=layer, kind="jumprelu") for layer in range(3)],
    "of one layer": lambda: [transcoder(layer=1, kind="topk", skip=False)],
}
MODELS: dict[str, Any] = {
    "gpt2": dict(),
    "rms, gated": dict(normalization_type="RMS", gated_mlp=True, act_fn="silu"),
    "rotary": dict(positional_embedding_type="rotary", rotary_dim=4, n_key_value_heads=2),
    "parallel": dict(parallel_attn_mlp=True),
    "capped": dict(output_logits_soft_cap=7.0, attn_scores_soft_cap=5.0),
    "folded": CUSTOM["folded"],
    "no-norm": CUSTOM["no-norm"],
    "output-norms": CUSTOM["output-norms"],
    "experts": CUSTOM["experts"],
    "gated heads": dict(gated_attn=True),
}


def graph_of(model: HookedTransformer, transcoders: Any, **options: Any) -> AttributionGraph:
    return attribution_graph(model, TOKENS, transcoders, progress=False, **options)


def totals(graph: AttributionGraph) -> Tensor:
    return (graph.bias + graph.untraced).index_add(0, graph.target, graph.weight)


@pytest.mark.parametrize("name", MODELS)
def test_sources_and_bias_sum_up_to_what_targets_are(name: str) -> None:
    """The bias comes from a pass without sources, so that the sum is no matter of definition."""
    model = build(**MODELS[name])
    graph = graph_of(model, cross_layer(), at_once=7)
    traced = ~graph.bias.isnan()
    assert int(traced.sum()) == len(graph.features) + len(graph.logits) > 50
    assert torch.allclose(totals(graph)[traced], graph.value[traced], rtol=1e-9, atol=1e-9)
    assert graph.bias[traced].abs().max() > 0.1
    local = LocalModel(model, TOKENS, cross_layer())
    features = torch.cat([found.pre_activation for found in local.features])
    assert torch.allclose(graph.value[graph.features], features)
    logits = model(TOKENS[None])[0, -1]
    if model.cfg.output_logits_soft_cap:
        logits = 7.0 * torch.atanh(logits / 7.0)
    wanted = (logits - logits.mean())[graph.index[graph.logits]]
    assert torch.allclose(graph.value[graph.logits], wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", SETS)
@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "rotary", "output-norms"])
def test_a_changed_source_changes_every_target_by_the_edges_weight(name: str, kind: str) -> None:
    """A linear pass forward with twice a source, which knows nothing of gradients."""
    model, transcoders = build(**MODELS[name]), SETS[kind]()
    graph, local = graph_of(model, transcoders), LocalModel(model, TOKENS, transcoders)
    watch = {*local.transcoders.layers_in, local.final}
    edges = torch.zeros(len(graph), len(graph), dtype=torch.float64)
    edges[graph.target, graph.source] = graph.weight
    chosen = [*graph.features[::11], *graph.of_kind(ERROR).tolist()[::5], *graph.of_kind(TOKEN).tolist()[::2]]
    for node in chosen:
        place = (int(one[node]) for one in (graph.kind, graph.layer, graph.pos, graph.index))
        added = local.written_by(*place)
        given = {hook: (value + added.get(hook, 0.0))[None] for hook, value in local.written.items()}
        seen, before = local.run(given, watch), {hook: local.recording[hook] for hook in watch}
        for target in [*graph.features[::7], *graph.logits]:
            pos = int(graph.pos[target])
            if int(graph.kind[target]) == LOGIT:
                row, hook = local.onto_logits(graph.index[target : target + 1])[0][0], local.final
            else:
                layer = local.layers.index(int(graph.layer[target]))
                row, hook = local.transcoders.encoder_rows(layer, [int(graph.index[target])])[0], watch_of(local, layer)
            came = (seen[hook] - before[hook])[0, pos] @ row
            assert float(came) == pytest.approx(float(edges[target, node]), abs=1e-9)


def watch_of(local: LocalModel, layer: int) -> str:
    return local.transcoders.layers_in[layer]


def perfect(model: HookedTransformer) -> CrossLayerTranscoder:
    """MLPs with ReLU as their own transcoders."""
    made = []
    for layer in range(model.cfg.n_layers):
        mlp: Any = model.blocks[layer].mlp
        norm: Any = model.blocks[layer].ln2
        W, b = mlp.W_in.detach(), mlp.b_in.detach()
        made.append(
            Transcoder(
                hook_in=f"blocks.{layer}.ln2.hook_normalized",
                hook_out=f"blocks.{layer}.hook_mlp_out",
                W_enc=norm.w.detach()[:, None] * W,
                b_enc=b + norm.b.detach() @ W,
                W_dec=mlp.W_out.detach(),
                b_dec=mlp.b_out.detach(),
                activation=ReLU(),
            )
        )
    return CrossLayerTranscoder.of(made)


def test_perfect_transcoders_leave_no_errors() -> None:
    model = build(act_fn="relu")
    graph = graph_of(model, perfect(model))
    assert graph.weight[graph.kind[graph.source] == ERROR].abs().max() < 1e-12
    scores = graph.scores()
    assert scores.replacement == pytest.approx(1.0)
    assert scores.completeness == pytest.approx(1.0)
    assert len(graph.pruned(0.5).of_kind(ERROR)) == 0


def test_small_changes_of_features_come_as_predicted() -> None:
    """With perfect transcoders, and attention and norms that hardly move, the graph foretells the model itself."""
    model = build(act_fn="relu", normalization_type=None, std=0.15)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.zero_()
            block.attn.b_Q.zero_()
    made = [
        Transcoder(
            hook_in=f"blocks.{layer}.hook_mlp_in",
            hook_out=f"blocks.{layer}.hook_mlp_out",
            W_enc=block.mlp.W_in.detach(),
            b_enc=block.mlp.b_in.detach(),
            W_dec=block.mlp.W_out.detach(),
            b_dec=block.mlp.b_out.detach(),
        )
        for layer, block in enumerate(model.blocks)
    ]
    graph = graph_of(model, made, max_logits=4)
    table = check_graph(model, made, graph, k=6, factor=1.0 + 1e-4)
    assert len(table) == 6 * 4
    assert table["predicted"].abs().max() > 1e-7
    assert table["predicted"].to_numpy() == pytest.approx(table["actual"].to_numpy(), abs=1e-11)


def test_changes_run_along_all_paths() -> None:
    graph = graph_of(build(), cross_layer())
    node = graph.features[3]
    dense = torch.zeros(len(graph), len(graph), dtype=torch.float64)
    dense[graph.target, graph.source] = graph.weight
    slopes = torch.where(graph.kind == FEATURE, 1 / graph.activation, 0.0).nan_to_num(0.0)
    start = torch.zeros(len(graph), dtype=torch.float64)
    start[node] = 1.5 - 1
    moved = torch.linalg.solve(torch.eye(len(graph), dtype=torch.float64) - slopes[:, None] * dense, start)
    assert torch.allclose(predicted_change(graph, node, 1.5), (dense @ moved)[graph.logits])


# --------------------------------------------------------------------------------------------------- influence, pruning


def published() -> AttributionGraph:
    """The graph of 12 nodes that circuit-tracer's tests have: two layers, two tokens, all weights alike."""
    into = {11: (1, 3, 6, 8), 3: (0, 1, 6), 1: (9, 10), 0: (9,)}
    edges = [(source, target) for target, sources in into.items() for source in sources]
    kind = torch.tensor([FEATURE] * 5 + [ERROR] * 4 + [TOKEN] * 2 + [LOGIT])
    nothing = torch.zeros(12, dtype=torch.float64)
    return AttributionGraph(
        kind=kind,
        layer=torch.tensor([0, 0, 1, 1, 1, 0, 0, 1, 1, -1, -1, 2]),
        pos=torch.tensor([0, 0, 0, 1, 1, 0, 1, 0, 1, 0, 1, 1]),
        index=torch.arange(12),
        value=nothing,
        activation=torch.where(kind == LOGIT, 1.0, 2.0).double(),
        bias=nothing,
        untraced=nothing,
        source=torch.tensor([source for source, _ in edges]),
        target=torch.tensor([target for _, target in edges]),
        weight=torch.full((len(edges),), 10.0, dtype=torch.float64),
        tokens=torch.tensor([0, 1]),
        texts=["a", "b"],
        logit_texts=["a"],
        model_name="none",
    )


def test_influence_is_the_published_one() -> None:
    graph = published()
    wanted = [1 / 12, 1 / 3, 0, 1 / 4, 0, 0, 1 / 3, 0, 1 / 4, 1 / 4, 1 / 6, 0]
    assert graph.influence.tolist() == pytest.approx(wanted)
    small = graph.pruned(0.8, 1.0)
    assert small.index.tolist() == [1, 3, 6, 8, 9, 10, 11]
    assert (small.weight.numel(), small.untraced[small.index == 3].item()) == (8, 10.0)


def test_influence_is_that_of_the_matrix_series() -> None:
    graph = graph_of(build(), cross_layer())
    dense = torch.zeros(len(graph), len(graph), dtype=torch.float64)
    dense[graph.target, graph.source] = graph.weight.abs()
    dense = dense / dense.sum(1, keepdim=True).clamp(min=1e-300)
    outputs = torch.where(graph.kind == LOGIT, graph.activation, 0.0)
    eye = torch.eye(len(graph), dtype=torch.float64)
    assert torch.allclose(graph.influence, outputs @ (torch.linalg.inv(eye - dense) - eye))
    errors = graph.kind == ERROR
    of_tokens, of_errors = graph.influence[graph.kind == TOKEN].sum(), graph.influence[errors].sum()
    counted = graph.influence + outputs
    scores = graph.scores()
    assert scores.replacement == pytest.approx(float(of_tokens / (of_tokens + of_errors)))
    complete = ((1 - dense[:, errors].sum(1)) * counted).sum() / counted.sum()
    assert scores.completeness == pytest.approx(float(complete))


def test_a_circle_is_told() -> None:
    source, target = torch.tensor([0, 1, 0]), torch.tensor([1, 0, 2])
    share = shares(target, torch.ones(3), 3)
    with pytest.raises(BadInput, match="circle"):
        influence(source, target, share, torch.tensor([0.0, 0.0, 1.0]))


def test_the_largest_are_as_many_as_it_takes() -> None:
    values = torch.tensor([1.0, 5.0, 0.0, 3.0, 1.0])
    assert largest_until(values, 0.5).tolist() == [False, True, False, False, False]
    assert largest_until(values, 0.51).tolist() == [False, True, False, True, False]
    assert largest_until(values, 1.0).tolist() == [True, True, False, True, True]


def test_a_pruned_graph_says_what_it_left_out() -> None:
    graph = graph_of(build(), cross_layer())
    small = graph.pruned(0.6, 0.9)
    assert len(small) < len(graph)
    assert 0 < len(small.weight) < len(graph.weight)
    traced = ~small.bias.isnan()
    assert torch.allclose(totals(small)[traced], small.value[traced])
    fed = torch.zeros(len(small), dtype=torch.bool)
    fed[small.target] = True
    feeds = torch.zeros(len(small), dtype=torch.bool)
    feeds[small.source] = True
    inner = small.kind == FEATURE
    assert bool((fed & feeds)[inner].all())
    assert small.logits == [len(small) - len(small.logits) + place for place in range(len(small.logits))]


def test_few_features_are_chosen_by_influence() -> None:
    model = build()
    whole = graph_of(model, cross_layer())
    few = graph_of(model, cross_layer(), max_features=30)
    assert len(few.features) == 30
    traced = ~few.bias.isnan()
    assert torch.allclose(totals(few)[traced], few.value[traced])
    keys = {
        one: set(zip(one.layer.tolist(), one.pos.tolist(), one.index.tolist(), strict=True)) for one in (few, whole)
    }
    assert keys[few] < keys[whole]
    best = whole.influence.masked_fill(whole.kind != FEATURE, -1).topk(10).indices.tolist()
    kept = [(int(whole.layer[one]), int(whole.pos[one]), int(whole.index[one])) in keys[few] for one in best]
    assert sum(kept) >= 8


def test_in_bounded_memory_the_largest_edges_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted: bytes of rows, and of gradients that are asked for at once. What is left out is told."""
    model, transcoders, memory = build(), cross_layer(), 60_000
    whole, held, asked = graph_of(model, transcoders), [], []
    add, gradients = Rows.add, Asker.gradients

    def counted_rows(self: Rows, *args: Any) -> None:
        add(self, *args)
        held.append(self.bytes)

    def counted_gradients(self: Asker, hook: str, cotangents: Tensor, *args: Any) -> Any:
        asked.append(len(cotangents))
        return gradients(self, hook, cotangents, *args)

    monkeypatch.setattr(Rows, "add", counted_rows)
    monkeypatch.setattr(Asker, "gradients", counted_gradients)
    assert torch.equal(graph_of(model, transcoders, max_memory=10**9).weight, whole.weight)
    assert (max(asked), held[-1] > memory // 2) == (32, True)
    held.clear()
    asked.clear()
    graph = graph_of(model, transcoders, max_memory=memory)
    local = LocalModel(model, TOKENS, transcoders)
    each = sum(value.nbytes for value in local.written.values())
    assert 1 <= max(asked) <= memory // 2 // each < 32
    assert max(held) + graph.weight.nbytes + graph.source.nbytes + graph.target.nbytes <= memory // 2
    traced = ~graph.bias.isnan()
    assert torch.allclose(totals(graph)[traced], graph.value[traced])
    most = Rows.most_in(memory // 2, len(graph.features) + len(graph.logits), torch.float64)
    for target in [*graph.features[::9], *graph.logits]:
        edges, wanted = (one.weight[one.target == target] for one in (graph, whole))
        order = wanted.abs().argsort(descending=True)[:most]
        assert torch.equal(edges, wanted[order.sort().values])


def test_influence_of_rows_is_that_of_the_graph() -> None:
    """One pass over the rows, from the last layer to the first, is the series of matrices."""
    graph, rows = graph_of(build(), cross_layer()), Rows(None)
    dense = torch.zeros(len(graph), len(graph), dtype=torch.float64)
    dense[graph.target, graph.source] = graph.weight
    targets = [*graph.features, *graph.logits]
    rows.add(targets, dense[targets])
    outputs = torch.where(graph.kind == LOGIT, graph.activation, 0.0)
    found = rows.influence(sorted(targets, key=lambda node: -int(graph.layer[node])), outputs)
    assert torch.allclose(found, graph.influence)


def test_the_first_position_may_count_as_error() -> None:
    graph = graph_of(build(), cross_layer(), first_as_error=True)
    assert (graph.pos[graph.features] > 0).all()
    traced = ~graph.bias.isnan()
    assert torch.allclose(totals(graph)[traced], graph.value[traced])


# ----------------------------------------------------------------------------------------------------------- attention


@pytest.mark.parametrize("name", ["gpt2", "rotary", "output-norms", "no-norm", "gated heads"])
def test_heads_carry_the_whole_edge(name: str) -> None:
    model, transcoders = build(**MODELS[name]), cross_layer()
    graph = graph_of(model, transcoders)
    weights = {
        (s, t): w for s, t, w in zip(*(one.tolist() for one in (graph.source, graph.target, graph.weight)), strict=True)
    }
    sources = [
        graph.features[2],
        graph.features[50],
        graph.of_kind(ERROR).tolist()[7],
        graph.of_kind(TOKEN).tolist()[1],
    ]
    seen = 0
    for source in sources:
        for target in (graph.features[-3], graph.logits[0]):
            table = edge_heads(model, transcoders, graph, source, target)
            assert table["weight"].sum() == pytest.approx(weights.get((source, target), 0.0), abs=1e-9)
            moves = table[table["head"] >= 0]
            seen += len(moves) > 0
            assert (moves["key"] >= int(graph.pos[source])).all()
            if int(graph.pos[source]) != int(graph.pos[target]):
                assert float(table[table["head"] < 0]["weight"].abs().sum()) == 0.0
    assert seen > 3


def test_a_head_that_writes_nothing_carries_nothing() -> None:
    model, transcoders = build(), cross_layer()
    with torch.no_grad():
        for layer, head in ((1, 2), (2, 0)):
            model.blocks[layer].attn.W_O[head] = 0.0
    graph = graph_of(model, transcoders)
    table = edge_heads(model, transcoders, graph, graph.features[1], graph.logits[0])
    heads = set(zip(table["layer"].tolist(), table["head"].tolist(), strict=True))
    assert {(1, 1), (2, 1)} < heads
    assert not {(1, 2), (2, 0)} & heads


@pytest.mark.parametrize("name", ["gpt2", "rotary", "output-norms"])
def test_terms_of_a_score_sum_up_to_it(name: str) -> None:
    model, transcoders = build(**MODELS[name]), cross_layer()
    graph = graph_of(model, transcoders)
    _, cache = model.run_with_cache(TOKENS[None])
    table = score_terms(model, transcoders, graph, 2, 1, query=4, key=2, k=5)
    assert len(table) == 5
    assert table.attrs["score"] == pytest.approx(float(cache["attn_scores", 2][0, 1, 4, 2]), abs=1e-9)


# --------------------------------------------------------------------------------------------------------------- files


def test_graphs_are_read_as_they_were_written(tmp_path: Path) -> None:
    graph = graph_of(build(), cross_layer()).pruned()
    save_graph(graph, tmp_path / "one.json")
    again = load_graph(tmp_path / "one.json")
    for part in dataclasses.fields(graph):
        before, after = getattr(graph, part.name), getattr(again, part.name)
        if isinstance(before, Tensor):
            before, after = before.nan_to_num(9.5).tolist(), after.nan_to_num(9.5).tolist()
        assert before == after, part.name


def test_files_of_others_are_read(tmp_path: Path) -> None:
    graph = graph_of(build(), cross_layer()).pruned()
    save_graph(graph, tmp_path / "ours.json")
    told = json.loads((tmp_path / "ours.json").read_text())
    del told["metadata"]["interp_hooks"]
    (tmp_path / "theirs.json").write_text(json.dumps(told))
    theirs = load_graph(tmp_path / "theirs.json")
    for name in ("kind", "layer", "pos", "source", "target", "weight", "tokens"):
        assert torch.equal(getattr(theirs, name), getattr(graph, name)), name
    assert torch.equal(theirs.index[theirs.features], graph.index[graph.features])
    assert torch.allclose(theirs.influence, graph.influence)


def test_one_number_for_layer_and_feature() -> None:
    pairs = [(layer, index) for layer in (0, 1, 25) for index in (0, 7, 16383)]
    assert [unpaired(pairing(*pair)) for pair in pairs] == pairs
    assert pairing(1, 1) == 4


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"metadata": {}, "nodes": [], "links": []}', "[1]", '{"nodes": [{"node_id": "a"}], "links": []}'],
)
def test_files_that_hold_no_graph_are_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(BadInput, match=r"no attribution graph|list of nodes"):
        load_graph(tmp_path / "bad.json")


# ----------------------------------------------------------------------------------------------------------- bad input


def test_bad_input_is_told() -> None:
    model, transcoders = build(), cross_layer()
    graph = graph_of(model, transcoders)
    for match, call in {
        "prompt must be": lambda: attribution_graph(model, TOKENS[None], transcoders),
        "max_features must be": lambda: graph_of(model, transcoders, max_features=-1),
        "max_memory must be": lambda: graph_of(model, transcoders, max_memory=0),
        "mass must be": lambda: graph_of(model, transcoders, mass=0.0),
        "causal language models whose layers": lambda: graph_of(build(attention_dir="bidirectional"), transcoders),
        "width": lambda: graph_of(build(d_model=14), transcoders),
        "must write hook_mlp_out": lambda: graph_of(
            model, [dataclasses.replace(transcoder(skip=False), hook_out="blocks.1.hook_attn_out")]
        ),
        "share above 0": lambda: graph.pruned(0.0),
        "node must be": lambda: graph.into(10**6),
        "no edge from": lambda: edge_heads(model, transcoders, graph, graph.logits[0], graph.features[0]),
        "not active": lambda: edge_heads(
            model, [transcoder(layer=0, kind="topk", skip=False)], graph, graph.features[0], graph.logits[0]
        ),
        "expected a layer": lambda: score_terms(model, transcoders, graph, 0, 0, query=1, key=3),
        "must be features": lambda: check_graph(model, transcoders, graph, [graph.logits[0]]),
    }.items():
        with pytest.raises(BadInput, match=match):
            call()
    assert not any(point.hooked for point in model.hook_points())


def test_what_is_not_linear_is_told() -> None:
    model = build()
    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", lambda value, hook: value**2)]):
        with pytest.raises(BadInput, match="not linear where attention patterns"):
            graph_of(model, cross_layer())


NAMES = ["attribution_graph", "check_graph", "edge_heads", "load_supernodes", "save_graph", "suggested_supernodes"]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    model, draw = copy.deepcopy(hooked("gpt2")).to(torch.float32), torch.Generator().manual_seed(0)
    d = model.cfg.d_model

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    made = Transcoder(
        hook_in="mlp_in1",
        hook_out="mlp_out1",
        W_enc=random(d, 20),
        b_enc=random(20),
        W_dec=random(20, d),
        b_dec=random(d),
    )
    value = getattr(circuits, name)
    world = {"model": model, "clean": [TOKENS], "transcoders": [made], "torch": torch}
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(value) or "")
    told: list[str] = []
    test = doctest.DocTest(examples, world, name, None, 0, None)
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(
        test, out=told.append
    )
    assert examples
    assert results.failed == 0, "".join(told)


# ---------------------------------------------------------------------------------------------------- circuit-tracer's


def reference() -> tuple[dict[str, Tensor], HookedTransformer, list[Transcoder]]:
    """What circuit-tracer 0.5.0 found (benchmarks/reference_circuit_tracer.py), and the same model and transcoders."""
    found = load_file(DATA)
    sizes = dict(n_layers=3, d_model=12, n_ctx=16, d_head=4, n_heads=3, d_mlp=20, d_vocab=17)
    rotary = dict(positional_embedding_type="rotary", rotary_dim=4)
    model = HookedTransformer(
        HookedTransformerConfig(**sizes, **rotary, act_fn="silu", gated_mlp=True, normalization_type="RMS")
    ).eval()
    weights = {name.removeprefix("model."): one for name, one in found.items() if name.startswith("model.")}
    weights = {name.replace("old_mlp.", "").replace("old_unembed.", ""): one for name, one in weights.items()}
    zero = {name: torch.zeros_like(one) for name, one in model.state_dict().items() if name not in weights}
    assert {name.rpartition(".")[2] for name in zero} <= {"b_gate", "b_U"}  # theirs has none
    model.load_state_dict(zero | {name: weights[name] for name in model.state_dict() if name in weights})
    made = []
    for layer in range(3):
        names = ("W_enc", "W_dec", "W_skip", "b_enc", "b_dec")
        one = {name: found[f"transcoders.transcoders.{layer}.{name}"] for name in names}
        gain = weights[f"blocks.{layer}.ln2.w"][:, None]  # theirs read what the norm gives with its gain
        made.append(
            Transcoder(
                hook_in=f"blocks.{layer}.ln2.hook_normalized",
                hook_out=f"blocks.{layer}.hook_mlp_out",
                W_enc=gain * one["W_enc"].T,
                b_enc=one["b_enc"],
                W_dec=one["W_dec"],
                b_dec=one["b_dec"],
                W_skip=gain * one["W_skip"].T,
            )
        )
    return found, model, made


def test_the_graph_is_that_of_circuit_tracer() -> None:
    """It leaves out what MLPs write at BOS; here that is an error."""
    found, model, transcoders = reference()
    graph = attribution_graph(model, found["tokens"], transcoders, max_logits=5, first_as_error=True, progress=False)
    n_pos, n_features = len(found["tokens"]), len(found["features"])
    assert [*zip(*(one[graph.features].tolist() for one in (graph.layer, graph.pos, graph.index)), strict=True)] == [
        tuple(row) for row in found["features"].tolist()
    ]
    assert torch.allclose(graph.activation[graph.features], found["activations"], rtol=1e-4, atol=1e-5)
    assert graph.index[graph.logits].tolist() == found["logits"].tolist()
    assert torch.allclose(graph.activation[graph.logits], found["probabilities"], rtol=1e-4)
    dense = torch.zeros(len(graph), len(graph))
    dense[graph.target, graph.source] = graph.weight
    assert dense.shape == found["adjacency"].shape
    compared = torch.ones(len(graph), dtype=torch.bool)
    compared[n_features : n_features + 3 * n_pos : n_pos] = False  # errors at BOS
    assert (dense - found["adjacency"])[:, compared].abs().max() < 1e-4 * found["adjacency"].abs().max()
    theirs = dataclasses.replace(graph, weight=torch.where(compared[graph.source], graph.weight, 0.0))
    assert theirs.scores() == pytest.approx(found["scores"].tolist(), abs=1e-4)
