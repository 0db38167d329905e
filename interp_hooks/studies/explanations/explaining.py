"""`explain`: what a unit answers to, in the words of a language model that is shown texts in which it fires.

The texts are those of `UnitExamples.train`, from all bands of activation, with the tokens at which the unit fires
between << and >>, and how much on a scale of 1 to 10; of heads also what the strongest token attends to. (After Paulo
et al. 2024, arxiv.org/abs/2410.13928; the wording is our own.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.experiments.results.kept import Kept
from interp_hooks.experiments.results.record import versions
from interp_hooks.hooks.tables import pd
from interp_hooks.studies.explanations.answers import Request
from interp_hooks.studies.explanations.endpoint import Endpoint
from interp_hooks.studies.explanations.examples import UnitExamples

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
