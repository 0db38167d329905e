"""What somebody found out about a part of a model, in a form that can be checked again.

    Finding(part="L1N17", claim="fires at names that come twice", evidence="19 of its 20 top contexts",
            check=lambda model: ...)

A library of findings is a list of them: `check_findings(model, findings)` says which still hold, and
`wiki(..., findings=...)` shows each on the page of its part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked, told
from interp_hooks.hooks.tables import pd
from interp_hooks.model.transformer import HookedTransformer

PART = re.compile(r"L(\d+)([HN])(\d+)")
KINDS: dict[str, Literal["head", "neuron"]] = {"H": "head", "N": "neuron"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim about one part of a model, "L1H0" or "L2N17", what speaks for it, and a function that checks it.

    `check(model)` is True where the claim holds. Its name stands beside the claim, so that readers can call it, too.

    Raises:
        BadInput: a part that is no head and no neuron.
    """

    part: str
    claim: str
    evidence: str
    check: Callable[[HookedTransformer], bool]

    def __post_init__(self) -> None:
        if not isinstance(self.part, str) or PART.fullmatch(self.part) is None:
            raise BadInput(f"the part of a finding is a head, 'L1H0', or a neuron, 'L2N17', got {told(self.part)}")
        if not callable(self.check):
            raise BadInput(f"check must be a function of a model, got {told(self.check)}")

    @property
    def place(self) -> tuple[Literal["head", "neuron"], int, int]:
        """The kind of the part, its layer and its number there."""
        found = PART.fullmatch(self.part)
        assert found is not None
        return KINDS[found[2]], int(found[1]), int(found[3])

    @property
    def command(self) -> str:
        """The name, with its module, of the function that checks the claim."""
        named = getattr(self.check, "__wrapped__", self.check)
        return f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', type(named).__name__)}"

    def holds(self, model: HookedTransformer) -> bool:
        """Whether the claim holds in a model.

        Raises:
            BadInput: the model has no such part, or the check says neither True nor False.
        """
        kind, layer, number = self.place
        cfg = model.cfg
        sizes = {"head": cfg.n_heads, "neuron": 0 if cfg.attn_only else cfg.d_mlp_at(min(layer, cfg.n_layers - 1))}
        if layer >= cfg.n_layers or number >= sizes[kind]:
            raise BadInput(f"this model has no {self.part}: {cfg.n_layers} layers of {sizes[kind]} {kind}s")
        answer = self.check(model)
        if not isinstance(answer, bool):
            raise BadInput(f"the check of a finding is True or False, got {told(answer)} for {self.part}")
        return answer


@checked
def check_findings(model: HookedTransformer, findings: Sequence[Finding]) -> pd.DataFrame:
    """A row for each finding: `part`, `claim`, `evidence`, `check` (what to call), and whether it `holds` in a model.

    Raises:
        BadInput: as `Finding.holds`.

    >>> from interp_hooks.studies import Finding, check_findings, head_metrics
    >>> def inducts(model):
    ...     return float(head_metrics(model, n=4).above_uniform("induction")[1, 0]) > 0.8
    >>> finding = Finding(part="L1H0", claim="finds what came after", evidence="0.9 of its attention", check=inducts)
    >>> check_findings(model, [finding])["holds"].tolist()
    [True]
    """
    rows = [(one.part, one.claim, one.evidence, one.command, one.holds(model)) for one in findings]
    return pd.DataFrame(rows, columns=["part", "claim", "evidence", "check", "holds"])
