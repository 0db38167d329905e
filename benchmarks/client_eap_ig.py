"""EAP-IG, of a checkout: scores of edges, nodes and neurons by all methods, circuits and what they do.

python client_eap_ig.py CHECKOUT
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from client_steps import let_cuda_be_the_cpu, run, step, texts, tiny
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(sys.argv[1]) / "src"))
let_cuda_be_the_cpu()
FOLDER = Path(tempfile.mkdtemp())
MADE: dict[str, Any] = {}
OPTIONS = dict(use_attn_result=True, use_split_qkv_input=True, use_hook_mlp_in=True)


def data() -> Any:
    rows = texts(8, 6)
    pairs = [(clean, corrupted, 7) for clean, corrupted in zip(rows[:4], rows[4:], strict=True)]
    return DataLoader(
        pairs, batch_size=2, collate_fn=lambda batch: [list(column) for column in zip(*batch, strict=True)]
    )


def metric(logits: Any, clean_logits: Any, input_lengths: Any, label: Any, mean: bool = True) -> Any:
    last = logits[torch.arange(len(logits)), input_lengths - 1]
    found = last[torch.arange(len(logits)), torch.tensor(label)] - last[:, 5]
    return found.mean() if mean else found


def measured(*arguments: Any) -> Any:
    return metric(*arguments, mean=False)


def graph(**options: Any) -> Any:
    from eap.graph import Graph

    return Graph.from_model(MADE["model"], **options)


def scores(method: str, **options: Any) -> Any:
    from eap.attribute import attribute

    found = graph()
    attribute(MADE["model"], found, data(), metric, method=method, quiet=True, **options)
    return found.scores


def node_scores(method: str, **options: Any) -> Any:
    from eap.attribute_node import attribute_node

    neuron = options.get("neuron", False)
    found = graph(neuron_level=neuron, node_scores=not neuron)
    attribute_node(MADE["model"], found, data(), metric, method=method, quiet=True, **options)
    return found.neurons_scores if neuron else found.nodes_scores


@step
def imports() -> None:
    import eap.attribute
    import eap.attribute_node
    import eap.evaluate
    import eap.graph  # noqa: F401


@step
def a_model() -> Any:
    MADE["model"] = tiny(FOLDER, **OPTIONS)
    return MADE["model"](texts(2))


@step
def a_graph() -> Any:
    return graph().real_edge_mask.int()


@step
def edge_attribution_patching() -> Any:
    return scores("EAP")


@step
def integrated_over_inputs() -> Any:
    return scores("EAP-IG-inputs", ig_steps=3)


@step
def integrated_over_activations() -> Any:
    return scores("EAP-IG-activations", ig_steps=3)


@step
def clean_and_corrupted() -> Any:
    return scores("clean-corrupted")


@step
def information_flow_routes() -> Any:
    return scores("information-flow-routes")


@step
def from_means() -> Any:
    means = DataLoader(texts(4, 6), batch_size=2)
    return scores("EAP", intervention="mean", intervention_dataloader=means)


@step
def exact() -> Any:
    from eap.attribute import attribute

    found = graph()
    attribute(MADE["model"], found, list(data())[:1], measured, method="exact", quiet=True)
    return found.scores


@step
def of_nodes() -> Any:
    return node_scores("EAP"), node_scores("EAP-IG-inputs", ig_steps=2)


@step
def of_neurons() -> Any:
    return node_scores("EAP", neuron=True)


@step
def a_circuit_and_its_faithfulness() -> Any:
    from eap.evaluate import evaluate_baseline, evaluate_graph

    found = graph()
    found.scores[:] = scores("EAP-IG-inputs", ig_steps=3)
    found.apply_topn(12, True)
    whole = evaluate_baseline(MADE["model"], data(), measured, quiet=True)
    corrupted = evaluate_baseline(MADE["model"], data(), measured, quiet=True, run_corrupted=True)
    zero = evaluate_graph(MADE["model"], found, data(), measured, quiet=True, intervention="zero")
    return evaluate_graph(MADE["model"], found, data(), measured, quiet=True), zero, whole, corrupted


@step
def a_greedy_circuit_on_disk() -> Any:
    from eap.graph import Graph

    found = graph()
    found.scores[:] = scores("EAP")
    found.apply_greedy(15)
    found.to_json(str(FOLDER / "graph.json"))
    return Graph.from_json(str(FOLDER / "graph.json")).in_graph.int()


@step
def grouped_keys_and_values() -> Any:
    MADE["model"] = tiny(
        FOLDER, n_key_value_heads=1, normalization_type="RMS", positional_embedding_type="rotary", rotary_dim=8,
        gated_mlp=True, act_fn="silu", ungroup_grouped_query_attention=True, **OPTIONS,
    )  # fmt: skip
    for block in MADE["model"].blocks:
        block.mlp.b_in.data.zero_()
    return MADE["model"](texts(2)), scores("EAP"), scores("EAP-IG-inputs", ig_steps=3)


run()
