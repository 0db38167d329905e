"""Which head of one model is whose counterpart in another, by the columns of their wikis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.ground_truth.matching import assignment
from interp_hooks.hooks.tables import pd
from interp_hooks.studies.wikis.tables import Wiki


@checked
def compare(wiki_a: Wiki | str | Path, wiki_b: Wiki | str | Path, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Match the heads of two models, of two seeds say, by what their wikis say of them.

    A head's profile is its metrics (default: all numbers that both wikis have, and that vary), each as standard
    deviations from the mean of its own model. Heads are matched one to one so that the correlations of the profiles of
    matched heads sum to the most; a head that has none, because its model has more of them, is left out.

    The table has a row for each pair: `layer_a`, `head_a`, `layer_b`, `head_b`, their `correlation`, the `runner_up`,
    the best correlation of the head of `a` with another one, and `mutual`: whether each is the other's best. A high
    correlation that is hardly above the runner-up says which kind of head it is, and not which one.

    Raises:
        BadInput: a folder without a wiki, a metric that one of them lacks, or fewer than two that vary.

    >>> from interp_hooks.studies import compare, wiki
    >>> made = wiki(model, [*clean, *corrupt], "my-wiki", causal=False, progress=False)
    >>> bool(compare(made, "my-wiki")["mutual"].all())
    True
    """
    a, b = (one if isinstance(one, Wiki) else Wiki(one) for one in (wiki_a, wiki_b))
    names = _metrics(a, b, metrics)
    heads_a, heads_b = a.heads, b.heads
    correlations = _profiles(heads_a, names) @ _profiles(heads_b, names).T
    of_a, of_b = (one[["layer", "head"]].to_numpy().tolist() for one in (heads_a, heads_b))
    rows = matched(correlations)
    best_a, best_b = correlations.argmax(1), correlations.argmax(0)
    return pd.DataFrame(
        [
            {
                **dict(zip(("layer_a", "head_a"), of_a[i], strict=True)),
                **dict(zip(("layer_b", "head_b"), of_b[j], strict=True)),
                "correlation": float(correlations[i, j]),
                "runner_up": float(np.delete(correlations[i], j).max(initial=-1.0)),
                "mutual": bool(best_a[i] == j and best_b[j] == i),
            }
            for i, j in rows
        ]
    )


def _metrics(a: Wiki, b: Wiki, metrics: Sequence[str] | None) -> list[str]:
    known = [_numbers(one.heads) for one in (a, b)]
    if metrics is not None and (lacking := [name for name in metrics if any(name not in one for one in known)]):
        raise BadInput(f"not both wikis have the metric {lacking[0]!r}; both have {', '.join(known[0] & known[1])}")
    names = sorted(known[0] & known[1]) if metrics is None else list(metrics)
    if len(names) < 2:
        raise BadInput(f"a profile needs two metrics that both wikis have and that vary, got {names}")
    return names


def _numbers(heads: pd.DataFrame) -> set[str]:
    """The metrics that are numbers, known of every head, and not the same for all."""
    numbers = heads.drop(columns=["layer", "head"]).select_dtypes("number")
    return {name for name in numbers if numbers[name].notna().all() and numbers[name].nunique() > 1}


def _profiles(heads: pd.DataFrame, names: list[str]) -> np.ndarray:
    """A row for each head, of length 1, so that products of rows are their correlations."""
    values = heads[names].to_numpy(dtype=float)
    scores = (values - values.mean(0)) / values.std(0)
    scores = scores - scores.mean(1, keepdims=True)
    return scores / np.maximum(np.linalg.norm(scores, axis=1, keepdims=True), 1e-12)


def matched(gains: np.ndarray) -> list[tuple[int, int]]:
    """Rows and columns matched one to one so that the gains of all pairs sum to the most."""
    if gains.shape[0] > gains.shape[1]:
        return sorted((row, column) for column, row in matched(gains.T))
    return list(enumerate(assignment(-gains).tolist()))
