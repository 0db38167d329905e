"""`explain`: what a unit answers to, in the words of a language model that is shown texts in which it fires.

The texts are those of `UnitExamples.train`, from all bands of activation, with the tokens at which the unit fires
between << and >>, and how much on a scale of 1 to 10; of heads also what the strongest token attends to. (After Paulo
et al. 2024, arxiv.org/abs/2410.13928; the wording is our own.)

`name_supernodes` asks such a model for names of groups of nodes of an attribution graph, by what feeds them and what
follows:

    named = name_supernodes(endpoint, graph, [[3, 17], [8]], labels={3: "fires on capitals"})
    save_graph(graph, "graph.json", supernodes=named)    circuit-tracer's front end and Neuronpedia show them
    load_supernodes("graph.json")                        and back
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from interp_hooks.circuits.attribution_graphs.graph import AttributionGraph
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.experiments.results.kept import Kept
from interp_hooks.experiments.results.record import versions
from interp_hooks.hooks.tables import pd
from interp_hooks.studies.explanations.answers import Request
from interp_hooks.studies.explanations.endpoint import Endpoint
from interp_hooks.studies.explanations.sources import UnitExamples

EXPLANATION = re.compile(r"^\W*EXPLANATION\W*?:\W*(\w.*)$", re.IGNORECASE | re.MULTILINE)
OF_UNIT = (
    "You study one unit of a neural network that reads text from left to right. You are given texts in which the unit "
    "is active, with the tokens at which it is active between << and >>, and how active it is there on a scale from 1 "
    "to 10. Find out what these tokens, or what stands before them, have in common that makes the unit active there "
    "and nowhere else. Be specific, and prefer what explains strong activations. Do not list the texts."
)
OF_HEAD = (
    " The unit is an attention head: after each text it is said to which earlier tokens the strongest token attends. "
    "Say what kind of token attends, and to what."
)
LAST_LINE = " You may think in a few sentences. Write a last line of the form\nEXPLANATION: one short phrase"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Explanations(Kept):
    """What was said of some units, by their names, and how it came about.

    `texts` are the explanations; a unit whose answer had none is in `failed`, not there. `requests` are what was sent
    for each, `answers` what came back, `shown` the documents that it was shown and where in them, `asked` the address,
    the model and the options of the endpoint, and `model` what the server calls its model.

    >>> from interp_hooks.studies import Explanations
    >>> explanations = Explanations(texts={"L1N17": "names of people"})
    >>> explanations.save("explanations")
    >>> Explanations.load("explanations").texts
    {'L1N17': 'names of people'}
    """

    texts: Mapping[str, str]
    answers: Mapping[str, str] = field(default_factory=dict)
    requests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shown: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    made: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[str]:
        """The units whose answers had no explanation in them."""
        return [name for name in self.answers if name not in self.texts]

    @checked
    def again(self, endpoint: Endpoint) -> Explanations:
        """What an endpoint answers to the same requests; the same one, from its cache, what it answered."""
        return _explanations(endpoint, self.requests, self.shown)

    def table(self) -> pd.DataFrame:
        """A row for each unit: its explanation, "" where the answer had none, and how many texts it came from."""
        names = list(dict.fromkeys((*self.texts, *self.answers)))
        rows = [(name, self.texts.get(name, ""), len(self.shown.get(name, ()))) for name in names]
        return pd.DataFrame(rows, columns=["unit", "explanation", "n_shown"])


@checked
def explain(endpoint: Endpoint, examples: Mapping[str, UnitExamples], *, max_tokens: Count = 500) -> Explanations:
    """Ask a language model what some units answer to, one request for each.

    Only the examples `train` are shown, so that explanations can be scored on the others. `endpoint.dry_run(explain,
    examples)` says what it costs.

    Raises:
        EndpointError: as `Endpoint.ask`.
        BadInput: no examples.

    >>> from interp_hooks.corpus import Bands, neurons, scan
    >>> from interp_hooks.studies import Endpoint, explain, unit_examples
    >>> found = scan(model, [*clean, *corrupt], {"bands": Bands(neurons())}, progress=False)
    >>> examples = unit_examples(model, found, [(1, 17)], active=0.5, width=8)
    >>> endpoint = Endpoint(base_url="http://localhost:8000/v1", model="llama-3.3-70b", cache="answers")
    >>> endpoint.dry_run(explain, examples).n_requests
    1
    """
    if not examples:
        raise BadInput("there are no units to explain")
    requests = {
        name: {"system": _system(one), "user": _shown(one), "max_tokens": max_tokens} for name, one in examples.items()
    }
    shown = {name: [(text.document, text.start) for text in one.train] for name, one in examples.items()}
    return _explanations(endpoint, requests, shown)


def _explanations(
    endpoint: Endpoint, requests: Mapping[str, Mapping[str, Any]], shown: Mapping[str, Sequence[tuple[int, int]]]
) -> Explanations:
    answers = dict(zip(requests, endpoint.ask([Request(**one) for one in requests.values()]), strict=True))
    found = {name: EXPLANATION.findall(answer.text) for name, answer in answers.items()}
    return Explanations(
        texts={name: lines[-1].strip() for name, lines in found.items() if lines},
        answers={name: answer.text for name, answer in answers.items()},
        requests=requests,
        shown=shown,
        asked=endpoint.told,
        model=", ".join(sorted({answer.model for answer in answers.values()})),
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=versions(),
    )


def _system(examples: UnitExamples) -> str:
    return OF_UNIT + OF_HEAD * (examples.kind == "head") + LAST_LINE


def _shown(examples: UnitExamples) -> str:
    """The texts that explain a unit, the strongest first."""
    by_strength = sorted(
        examples.train, key=lambda one: -max(one.activations[at] for at in one.firing(examples.threshold))
    )
    lines = []
    for number, one in enumerate(by_strength, 1):
        firing = one.firing(examples.threshold)
        strengths = ", ".join(f"{one.tokens[at]!r} {examples.level(one.activations[at])}" for at in firing)
        lines += [f"Text {number}: {one.marked(firing)}", f"Active: {strengths}"]
        if one.attended:
            keys = ", ".join(
                f"{text!r} ({abs(back)} tokens {'after' if back < 0 else 'before'}, {share:.0%})"
                for text, back, share in one.attended
            )
            lines.append(f"The strongest attends to: {keys}")
    return "\n".join(lines)


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
