"""An attribution graph as a page of its own: layers upwards, tokens along, a click for a node's edges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interp_hooks.circuits.attribution_graphs.graph import AttributionGraph
from interp_hooks.circuits.attribution_graphs.nodes import KINDS, LOGIT
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.views.pages import write_page


@checked
def attribution_graph_page(
    graph: AttributionGraph,
    path: str | Path,
    *,
    title: str | None = None,
    supernodes: Mapping[str, Sequence[int]] | None = None,
) -> Path:
    """Write a graph to one HTML file that opens offline, and return its path; best of a pruned graph.

    A click on a node (or Enter; arrows go from node to node) shows its edges and what feeds it. Nodes can be pinned and
    put into named groups, of which `supernodes` are there to begin with, and the page with them be saved from the
    browser.

    Raises:
        BadInput: supernodes with a node that the graph does not have.
        DiskError: the file cannot be written.

    >>> from interp_hooks import dictionaries
    >>> from interp_hooks.circuits import attribution_graph
    >>> from interp_hooks.views import attribution_graph_page
    >>> transcoders = dictionaries.load("ioi-tiny/transcoders")
    >>> graph = attribution_graph(model, clean[0], transcoders, progress=False).pruned()
    >>> attribution_graph_page(graph, "graph.html").name
    'graph.html'
    """
    groups = {name: list(nodes) for name, nodes in (supernodes or {}).items()}
    if wrong := [node for nodes in groups.values() for node in nodes if not 0 <= node < len(graph)]:
        raise BadInput(f"nodes must be 0..{len(graph) - 1}, got {wrong[0]}")
    numbers = ("influence", "activation", "value", "bias", "untraced")
    columns = {name: [_number(value) for value in getattr(graph, name).tolist()] for name in numbers}
    nodes = [
        {
            "kind": KINDS[int(graph.kind[node])],
            "layer": int(graph.layer[node]),
            "pos": int(graph.pos[node]),
            "name": graph.name(node),
            **{name: column[node] for name, column in columns.items()},
        }
        for node in range(len(graph))
    ]
    scores = graph.scores()
    ends = zip(graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), strict=True)
    told = {
        "title": title or f"Attribution graph of {''.join(graph.texts)!r:.80}",
        "told": f"{graph.model_name}: {len(graph.features)} features, {len(graph.weight)} edges; "
        f"replacement score {scores.replacement:.2f}, completeness {scores.completeness:.2f}.",
        "n_layers": max((int(layer) for layer in graph.layer[graph.kind != LOGIT]), default=0) + 1,
        "texts": list(graph.texts),
        "nodes": nodes,
        "groups": [{"name": name, "nodes": nodes} for name, nodes in groups.items()],
        "edges": [[source, target, _number(weight)] for source, target, weight in ends],
    }
    return write_page("attribution_graph.html", told, Path(path))


def _number(value: float) -> Any:
    """A number with five digits, None if it is not known."""
    return None if math.isnan(value) else float(f"{value:.5g}")
