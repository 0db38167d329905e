"""The picture of a thing: which figure shows a result, a circuit or a finding if nothing else is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go

from interp_hooks.circuits.circuit import Circuit
from interp_hooks.circuits.feature_circuits import FeatureCircuit
from interp_hooks.circuits.stability import Stability
from interp_hooks.dictionaries.planted import Recovery
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked, told
from interp_hooks.experiments.results.result import Result
from interp_hooks.studies.training_runs.watching import WatchedTraining
from interp_hooks.views.alt_texts import alt_text
from interp_hooks.views.circuits import circuit_figure
from interp_hooks.views.drawing.scales import Undrawable
from interp_hooks.views.drawing.sheet import drawn
from interp_hooks.views.feature_circuits import feature_circuit_figure
from interp_hooks.views.figures import bars, heatmap
from interp_hooks.views.recovered import recovery_figure
from interp_hooks.views.stability import stability_figure
from interp_hooks.views.training import training_figure

BARS_UP_TO, ROWS_UP_TO, CELLS_UP_TO = 40, 400, 200_000  # of a result; a picture of more shows nothing
READABLE = "min-width:560px"  # on a narrower page it scrolls by itself, instead of becoming too small to read
EDGES = 40  # of a circuit, of which the strongest are shown


@checked
def picture(shown: Any) -> go.Figure:
    """The figure that shows a thing: bars of a result of one axis, a heat map of two, a circuit, a training, a figure.

    Bars are those of the 40 entries that change most, edges the 40 strongest. Functions of this room that draw one kind
    have more to choose from.

    Raises:
        BadInput: a result with more than two axes, or of too many cells; a thing that has no picture.

    >>> from interp_hooks.views import picture
    >>> figure = picture(patch(model, clean, corrupt, metric, "z", over=("layer", "head"), progress=False))
    >>> figure.data[0].type
    'heatmap'
    """
    if isinstance(shown, go.Figure):
        return shown
    for kind, draw in PICTURES.items():
        if isinstance(shown, kind):
            return draw(shown)
    raise BadInput(f"expected a figure, or one of {', '.join(kind.__name__ for kind in PICTURES)}, got {told(shown)}")


def _of_result(result: Result) -> go.Figure:
    sizes = [len(entries) for entries in result.axes.values()]
    if len(sizes) == 1:
        return bars(result, top=BARS_UP_TO if sizes[0] > BARS_UP_TO else None)
    if len(sizes) == 2 and sizes[0] <= ROWS_UP_TO and sizes[0] * sizes[1] <= CELLS_UP_TO:
        return heatmap(result)
    named = " x ".join(f"{size} {axis}" for size, axis in zip(sizes, result.axes, strict=True)) or "a single number"
    axis = next(iter(result.axes), "layer")
    raise BadInput(
        f"a picture shows one axis or two, of at most {CELLS_UP_TO} cells; this result has {named}: choose some, as in "
        f"result.select({axis}={next(iter(result.axes.get(axis, [0])), 0)!r}), or see result.top(10)"
    )


def _of_circuit(circuit: Circuit) -> go.Figure:
    return circuit_figure(circuit, top=EDGES if circuit.scores is not None and len(circuit) > EDGES else None)


PICTURES: dict[type, Callable[[Any], go.Figure]] = {
    Result: _of_result,
    Circuit: _of_circuit,
    Stability: stability_figure,
    FeatureCircuit: feature_circuit_figure,
    WatchedTraining: training_figure,
    Recovery: lambda found: recovery_figure({"dictionary": found}),
}


def inline(shown: Any) -> tuple[str, str]:
    """The picture of a thing as SVG for a page, or '' and why there is none; both are '' of what never has one."""
    if not isinstance(shown, tuple(PICTURES)):
        return "", ""
    try:
        figure = picture(shown)
        svg = drawn(figure, None, None, alt_text(figure)).replace("max-width:100%", f"max-width:100%;{READABLE}", 1)
        return f'<div style="overflow-x:auto">{svg}</div>', ""
    except (BadInput, Undrawable) as error:
        return "", str(error)
