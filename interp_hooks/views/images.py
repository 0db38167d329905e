"""Figures as still images: SVG drawn by this package, PNG made of that, and what a figure shows in words.

    to_svg(figure)    draws heat maps, bars, lines, points and what stands around them; no browser, nothing to install
    to_png(figure)    the same through resvg, a renderer of 3 MB:    pip install interp-hooks[png]

What is not drawn here (3D, maps, boxes, ...) is left to plotly's own export, for which kaleido and Chrome are needed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.model.tensor_files import on_disk, write_text
from interp_hooks.views.alt_texts import alt_text
from interp_hooks.views.drawing.scales import Undrawable
from interp_hooks.views.drawing.sheet import drawn
from interp_hooks.views.pictures import picture


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
