"""Names for groups of nodes of an attribution graph, by a language model that is told what feeds them and what follows.

named = name_supernodes(endpoint, graph, [[3, 17], [8]], labels={3: "fires on capitals"})
save_graph(graph, "graph.json", supernodes=named)        circuit-tracer's front end and Neuronpedia show them
load_supernodes("graph.json")                            and back
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from interp_hooks.circuits.attribution_graphs.graph import AttributionGraph
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.hooks.tables import pd
from interp_hooks.studies.explanations.answers import Request
from interp_hooks.studies.explanations.endpoint import Endpoint

NAME = re.compile(r"^\W*NAME\W*?:\W*(\w.*)$", re.IGNORECASE | re.MULTILINE)
NEIGHBOURS = 4  # of each node that are told, on either side
LONGEST = 60  # characters of a name
UNNAMED = "unnamed"
SYSTEM = (
    "An attribution graph shows which features of a neural network lead, through which others, from the tokens of a "
    "prompt to the next token. Some of its nodes belong together. You are told what each of them is, what feeds it "
    "most and what it feeds most, with weights. Find a name of two to five words for what they stand for together. "
    "You may think in a few sentences. Write a last line of the form\nNAME: the name"
)


@checked
def name_supernodes(
    endpoint: Endpoint,
    graph: AttributionGraph,
    groups: Sequence[Sequence[int]],
    labels: Mapping[int, str] | None = None,
) -> dict[str, list[int]]:
    """Ask a language model for a name of each of some groups of nodes, one request for each.

    `labels` say of nodes what they are (explanations of features, say), beside "L3 pos 5 f1027". The names are those of
    the answers; a second group of one name is "name (2)", one whose answer has no name "unnamed".

    Raises:
        EndpointError: as `Endpoint.ask`.
        BadInput: no groups, an empty one, or a node that the graph does not have.

    >>> from interp_hooks import dictionaries
    >>> from interp_hooks.circuits import attribution_graph
    >>> from interp_hooks.studies import Endpoint, name_supernodes
    >>> transcoders = dictionaries.load("ioi-tiny/transcoders")
    >>> graph = attribution_graph(model, clean[0], transcoders, max_features=50, progress=False).pruned()
    >>> endpoint = Endpoint(base_url="http://localhost:8000/v1", model="llama-3.3-70b", cache=None)
    >>> endpoint.dry_run(name_supernodes, graph, [graph.features[:2], graph.features[2:3]]).n_requests
    2
    """
    nodes = [node for group in groups for node in group]
    if not groups or not all(len(group) for group in groups):
        raise BadInput("there must be a group at least, and a node in each group")
    if wrong := [node for node in (*nodes, *(labels or {})) if not 0 <= node < len(graph)]:
        raise BadInput(f"nodes must be 0..{len(graph) - 1}, got {wrong[0]}")
    requests = [Request(system=SYSTEM, user=_told(graph, group, labels or {}), max_tokens=300) for group in groups]
    named: dict[str, list[int]] = {}
    for group, answer in zip(groups, endpoint.ask(requests), strict=True):
        lines = NAME.findall(answer.text)
        name = lines[-1].strip()[:LONGEST] if lines else UNNAMED
        same = sum(one == name or one.startswith(f"{name} (") for one in named)
        named[f"{name} ({same + 1})" if same else name] = [int(node) for node in group]
    return named


def _told(graph: AttributionGraph, group: Sequence[int], labels: Mapping[int, str]) -> str:
    """The prompt and the nodes of a group."""

    def called(node: int) -> str:
        return graph.name(node) + (f" ({labels[node]})" if node in labels else "")

    def listed(edges: pd.DataFrame, end: str) -> str:
        pairs = zip(edges[end].tolist(), edges["weight"].tolist(), strict=True)
        return ", ".join(f"{called(node)} {weight:+.3g}" for node, weight in pairs) or "nothing"

    lines = [f"Prompt: {''.join(graph.texts)!r}"]
    for node in group:
        into, out_of = graph.into(node, NEIGHBOURS), graph.out_of(node, NEIGHBOURS)
        at = f" at the token {graph.texts[int(graph.pos[node])]!r}"
        lines.append(f"Node: {called(node)}{at}")
        lines.append(f"  fed by: {listed(into, 'source')}")
        lines.append(f"  feeds: {listed(out_of, 'target')}")
    return "\n".join(lines)
