"""The picture of a thing: which figure shows a result, a circuit or a finding if nothing else is asked for.

    picture(shown)    the figure of plotly
    to_svg(shown)     heat maps, bars, lines, points and what stands around them as SVG; no browser, nothing to install
    to_png(shown)     the same through resvg, a renderer of 3 MB:    pip install interp-hooks[png]

What is not drawn here (3D, maps, boxes, ...) is left to plotly's own export, for which kaleido and Chrome are needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from interp_hooks.circuits.circuit import Circuit
from interp_hooks.circuits.feature_circuits import FeatureCircuit
from interp_hooks.circuits.stability import Stability
from interp_hooks.dictionaries.hierarchies import Recovery
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, checked, told
from interp_hooks.experiments.results.result import Result
from interp_hooks.model.tensor_files import on_disk, write_text
from interp_hooks.studies.training_runs.watching import WatchedTraining
from interp_hooks.views.alt_texts import alt_text
from interp_hooks.views.circuits import circuit_figure, stability_figure
from interp_hooks.views.drawing.scales import Undrawable
from interp_hooks.views.drawing.sheet import drawn
from interp_hooks.views.feature_circuits import feature_circuit_figure
from interp_hooks.views.figures import bars, heatmap
from interp_hooks.views.recovered import recovery_figure
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


@checked
def to_svg(
    shown: Any, path: str | Path | None = None, *, width: Count | None = None, height: Count | None = None
) -> str:
    """Draw a figure, or a result as `picture` shows it, as SVG, and return its text; with `path` it is written there.

    `width` and `height` are in pixels; by default they are the figure's own, or 720 wide. The picture is one element
    `<svg>` without scripts, which stands in a page as it is: it becomes narrower with the page, turns dark with it (if
    the figure is one of this package's), and has what it shows as its title, for those who do not see it.

    Raises:
        BadInput: something else, or a result of more axes than a picture has.
        ImportError: a kind of figure that is left to plotly's export, without what that needs.
        DiskError: the file cannot be written.

    >>> from pathlib import Path
    >>> from interp_hooks.views import to_svg
    >>> result = patch(model, clean, corrupt, metric, "resid_pre", progress=False)
    >>> svg = to_svg(heatmap(result), "patching.svg")
    >>> svg[:4], svg == Path("patching.svg").read_text(encoding="utf-8")
    ('<svg', True)
    """
    figure = picture(shown)
    try:
        svg = drawn(figure, width, height, alt_text(figure))
    except Undrawable as error:
        svg = _exported(figure, "svg", error, width=width, height=height).decode()
    if path is not None:
        write_text(Path(path), svg)
    return svg


@checked
def to_png(
    shown: Any,
    path: str | Path | None = None,
    *,
    width: Count | None = None,
    height: Count | None = None,
    scale: float = 2.0,
) -> bytes:
    """The same as a PNG, by day, of `scale` image pixels for each of the picture's; it needs `interp-hooks[png]`.

    Raises:
        BadInput: as `to_svg`, or a `scale` that is not above 0.
        ImportError: resvg is not installed, or what `to_svg` says.
        DiskError: the file cannot be written.

    >>> from interp_hooks.views import to_png
    >>> to_png(bars(direct_logit_attribution(model, clean, pairs.answer)))[1:4]
    b'PNG'
    """
    if not scale > 0:
        raise BadInput(f"scale must be above 0, got {scale}")
    figure = picture(shown)
    try:
        svg = drawn(figure, width, height, alt_text(figure))
    except Undrawable as error:
        png = _exported(figure, "png", error, width=width, height=height, scale=scale)
    else:
        png = _rendered(re.sub("<style>.*?</style>", "", svg), scale)
    if path is not None:
        with on_disk(Path(path)):
            Path(path).write_bytes(png)
    return png


def _rendered(svg: str, scale: float) -> bytes:
    try:
        from resvg_py import svg_to_bytes  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "to_png needs resvg_py: pip install interp-hooks[png]; to_svg needs nothing more, and browsers and most "
            "programs read SVG"
        ) from error
    return bytes(svg_to_bytes(svg_string=svg, zoom=scale))


def _exported(figure: go.Figure, form: str, reason: Undrawable, **size: Any) -> bytes:
    """The image that plotly's own export makes."""
    try:
        return figure.to_image(format=form, **size)
    except (ValueError, ImportError, RuntimeError) as error:
        raise ImportError(
            f"interp_hooks does not draw {reason}; plotly's own export does, with kaleido and Chrome: "
            "pip install kaleido, then plotly_get_chrome"
        ) from error
