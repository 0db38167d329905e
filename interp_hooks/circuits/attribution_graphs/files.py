"""Attribution graphs as JSON files that circuit-tracer's front end and Neuronpedia read, and back.

metadata   slug, scan, prompt, prompt_tokens, schema_version, and here `interp_hooks`: what the format has no
           place for (values, biases, untraced rests), so that a graph of ours is read back as it was
nodes      node_id "layer_feature_pos", feature (one number for layer and feature), layer, ctx_idx, feature_type
           ("cross layer transcoder", "mlp reconstruction error", "embedding", "logit"), clerp (a label), influence
links      source, target, weight
qParams    supernodes: lists of a name and node_ids, which readers show as one node; pinnedIds: the nodes that they show
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from interp_hooks.circuits.attribution_graphs.graph import AttributionGraph
from interp_hooks.circuits.attribution_graphs.nodes import ERROR, FEATURE, LOGIT, TOKEN
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.model.tensor_files import write_text

TYPES = {
    FEATURE: "cross layer transcoder",
    ERROR: "mlp reconstruction error",
    TOKEN: "embedding",
    LOGIT: "logit",
}
OURS = "interp_hooks"
PER_NODE = ("kind", "layer", "pos", "index", "value", "activation", "bias", "untraced")


@checked
def save_graph(
    graph: AttributionGraph,
    path: str | Path,
    *,
    slug: str | None = None,
    supernodes: Mapping[str, Sequence[int]] | None = None,
    labels: Mapping[int, str] | None = None,
) -> None:
    """Write a graph to a JSON file, for circuit-tracer's front end, Neuronpedia, `load_graph` and `load_supernodes`.

    `supernodes` are groups of nodes by name, `labels` what features are called, by node.

    Raises:
        BadInput: a node that the graph does not have, or one in two supernodes.
        DiskError: the file cannot be written; what was there is as before.

    >>> from interp_hooks.circuits import attribution_graph, load_graph, save_graph
    >>> graph = attribution_graph(model, clean[0], transcoders, progress=False).pruned()
    >>> save_graph(graph, "graph.json")
    >>> len(load_graph("graph.json")) == len(graph)
    True
    """
    ids = [_id(graph, node) for node in range(len(graph))]
    named, groups = labels or {}, supernodes or {}
    pinned = [node for nodes in groups.values() for node in nodes]
    if wrong := [node for node in (*named, *pinned) if not 0 <= node < len(graph)]:
        raise BadInput(f"nodes must be 0..{len(graph) - 1}, got {wrong[0]}")
    if twice := [node for node in pinned if pinned.count(node) > 1]:
        raise BadInput(f"{graph.name(twice[0])} stands in two supernodes")
    told = {
        "metadata": {
            "slug": slug or Path(path).stem,
            "scan": graph.model_name,
            "transcoder_list": [],
            "prompt_tokens": list(graph.texts),
            "prompt": "".join(graph.texts),
            "schema_version": 1,
            OURS: _ours(graph),
        },
        "qParams": {
            "linkType": "both",
            "pinnedIds": [ids[node] for node in pinned],
            "clickedId": "",
            "supernodes": [[name, *(ids[node] for node in nodes)] for name, nodes in groups.items()],
            "sg_pos": "",
        },
        "nodes": [_node(graph, node, ids[node], named.get(node, "")) for node in range(len(graph))],
        "links": [
            {"source": ids[source], "target": ids[target], "weight": weight}
            for source, target, weight in zip(
                graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), strict=True
            )
        ],
    }
    write_text(Path(path), json.dumps(told, allow_nan=False) + "\n")


@checked
def load_graph(path: str | Path) -> AttributionGraph:
    """The graph in a JSON file, of ours or of circuit-tracer.

    What only ours say (biases, untraced rests, values) is nan in others.

    Raises:
        BadInput: no such file, or one that holds no attribution graph.
    """
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
        return _graph(told)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path} holds no attribution graph: {type(error).__name__} ({error})") from error


@checked
def load_supernodes(path: str | Path) -> dict[str, list[int]]:
    """The supernodes in a JSON file of an attribution graph, by name: the nodes of `load_graph`.

    Raises:
        BadInput: no such file, one that holds no attribution graph, or a supernode of other nodes or a name twice.

    >>> from interp_hooks.circuits import attribution_graph, load_supernodes, save_graph
    >>> graph = attribution_graph(model, clean[0], transcoders, progress=False).pruned()
    >>> save_graph(graph, "graph.json", supernodes={"names": graph.features[:2]})
    >>> load_supernodes("graph.json") == {"names": graph.features[:2]}
    True
    """
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
        numbers = {str(node["node_id"]): place for place, node in enumerate(told["nodes"])}
        listed = [(str(name), nodes) for name, *nodes in told.get("qParams", {}).get("supernodes", [])]
        found = {name: [numbers[str(node)] for node in nodes] for name, nodes in listed}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{path} holds no supernodes of an attribution graph: {type(error).__name__} ({error})"
        ) from error
    if len(found) < len(listed):
        raise BadInput(f"{path} has two supernodes of one name")
    return found


def _id(graph: AttributionGraph, node: int) -> str:
    kind, layer, pos, index = (int(one[node]) for one in (graph.kind, graph.layer, graph.pos, graph.index))
    if kind == TOKEN:
        return f"E_{index}_{pos}"
    return f"{layer}_{'error' if kind == ERROR else index}_{pos}"


def _node(graph: AttributionGraph, node: int, id: str, label: str) -> dict[str, Any]:
    kind, layer, pos, index = (int(one[node]) for one in (graph.kind, graph.layer, graph.pos, graph.index))
    activation = float(graph.activation[node])
    return {
        "node_id": id,
        "feature": pairing(layer, index) if kind == FEATURE else index,
        "layer": "E" if kind == TOKEN else str(layer),
        "ctx_idx": pos,
        "feature_type": TYPES[kind],
        "token_prob": activation if kind == LOGIT else 0.0,
        "is_target_logit": kind == LOGIT and node == graph.logits[0],
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{id}-0",
        "clerp": label if kind == FEATURE else graph.name(node),
        "influence": float(graph.influence[node]),
        "activation": activation if kind == FEATURE else None,
    }


def pairing(layer: int, index: int) -> int:
    """One number for two (Cantor's pairing), by which the front end knows a feature."""
    return (layer + index) * (layer + index + 1) // 2 + index


def unpaired(number: int) -> tuple[int, int]:
    """The layer and the index of such a number."""
    total = int(((8 * number + 1) ** 0.5 - 1) // 2)
    while total * (total + 1) // 2 > number:
        total -= 1
    while (total + 1) * (total + 2) // 2 <= number:
        total += 1
    index = number - total * (total + 1) // 2
    return total - index, index


def _ours(graph: AttributionGraph) -> dict[str, Any]:
    columns = {name: _listed(getattr(graph, name)) for name in PER_NODE}
    told = {"tokens": graph.tokens.tolist(), "logit_texts": list(graph.logit_texts)}
    return {"version": 1, **columns, **told, "first_as_error": graph.first_as_error}


def _listed(values: torch.Tensor) -> list[float | None]:
    return [None if isinstance(value, float) and value != value else value for value in values.tolist()]


def _graph(told: Mapping[str, Any]) -> AttributionGraph:
    metadata, nodes = told["metadata"], told["nodes"]
    if not isinstance(nodes, list) or not nodes:
        raise BadInput("expected a list of nodes")
    numbers = {str(node["node_id"]): place for place, node in enumerate(nodes)}
    links = [
        (numbers[str(link["source"])], numbers[str(link["target"])], float(link["weight"])) for link in told["links"]
    ]
    texts = [str(text) for text in metadata["prompt_tokens"]]
    ours = metadata.get(OURS)
    columns = _of_others(nodes) if ours is None else {name: ours[name] for name in PER_NODE}
    whole = ("kind", "layer", "pos", "index")
    tensors = {
        name: torch.tensor(
            [float("nan") if value is None else value for value in columns[name]],
            dtype=torch.long if name in whole else torch.float64,
        )
        for name in PER_NODE
    }
    if any(len(one) != len(nodes) for one in tensors.values()):
        raise BadInput("expected as many entries of every kind as there are nodes")
    if bool((tensors["pos"] >= len(texts)).any()) or bool((tensors["pos"] < 0).any()):
        raise BadInput(f"expected positions 0..{len(texts) - 1}")
    weights = torch.tensor([weight for *_, weight in links], dtype=torch.float64)
    if not bool(weights.isfinite().all()):
        raise BadInput("expected weights that are finite")
    logits = [str(node.get("clerp", "")) for node, kind in zip(nodes, columns["kind"], strict=True) if kind == LOGIT]
    tokens = [-1] * len(texts)
    for kind, pos, index in zip(columns["kind"], columns["pos"], columns["index"], strict=True):
        if kind == TOKEN:
            tokens[pos] = index
    return AttributionGraph(
        **tensors,
        source=torch.tensor([source for source, *_ in links], dtype=torch.long),
        target=torch.tensor([target for _, target, _ in links], dtype=torch.long),
        weight=weights,
        tokens=torch.tensor(tokens if ours is None else ours["tokens"], dtype=torch.long),
        texts=texts,
        logit_texts=logits if ours is None else [str(text) for text in ours["logit_texts"]],
        model_name=str(metadata.get("scan", "")),
        first_as_error=False if ours is None else bool(ours["first_as_error"]),
    )


def _of_others(nodes: list[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The columns of nodes as others write them."""
    kinds = {name: kind for kind, name in TYPES.items()}
    columns: dict[str, list[Any]] = {name: [] for name in PER_NODE}
    for node in nodes:
        if node["feature_type"] not in kinds:
            raise BadInput(f"expected nodes of type {', '.join(kinds)}, got {str(node['feature_type'])!r:.60}")
        kind = kinds[node["feature_type"]]
        number = node.get("feature")
        if kind == FEATURE:
            layer, index = unpaired(int(node["feature"]))
        else:
            layer = -1 if kind == TOKEN else int(node["layer"])
            index = -1 if number is None else int(number)
        activation = {FEATURE: node.get("activation"), LOGIT: node.get("token_prob")}.get(kind)
        entry = dict(kind=kind, layer=layer, pos=int(node["ctx_idx"]), index=index, activation=activation)
        for name in PER_NODE:
            columns[name].append(entry.get(name))
    return columns
