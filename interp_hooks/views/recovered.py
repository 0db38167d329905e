"""Which true features dictionaries have found: a row for each dictionary, a column for each true feature."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go
import torch

from interp_hooks.dictionaries.hierarchies import Recovery
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.experiments.results.result import Result
from interp_hooks.views.figures import heatmap


@checked
def recovery_figure(found: Mapping[str, Recovery], *, title: str | None = None) -> go.Figure:
    """Draw the cosine of every true feature to the feature that it is matched with; those near 1 are recovered.

    Dictionaries with fewer true features leave the rest of their row empty.

    Raises:
        BadInput: there is no dictionary.

    >>> from interp_hooks.dictionaries import recovery
    >>> from interp_hooks.views import recovery_figure
    >>> figure = recovery_figure({"random": recovery(torch.randn(9, 5), torch.eye(5)[:4])})
    """
    if not found:
        raise BadInput("expected what recovery() gives, by name; got none")
    width = max(len(one.cosine) for one in found.values())
    cells = torch.full((len(found), width), float("nan"), dtype=torch.float64)
    for row, one in enumerate(found.values()):
        cells[row, : len(one.cosine)] = one.cosine
    names = [f"{name}: mcc {one.mcc:.2f}" for name, one in found.items()]
    axes = {"dictionary": names, "true feature": range(width)}
    return heatmap(Result(metric="cosine", axes=axes, values=cells[..., None]), "mean", title=title)
