"""What a figure shows, in words, for those who do not see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from interp_hooks.views.drawing.elements import plain
from interp_hooks.views.drawing.surroundings import title_of

NAMED = 8  # traces that a text names
KINDS = {"heatmap": "Heat map", "bar": "Bars", "histogram": "Histogram", "scatter": "Lines", "scattergl": "Lines"}


def alt_text(figure: go.Figure) -> str:
    """What a figure shows, in a line: its title, the kinds of its marks, its axes with their units, and the names.

    >>> from interp_hooks.views import alt_text
    >>> alt_text(heatmap(patch(model, clean, corrupt, metric, "resid_pre", progress=False), title="Patching"))
    'Patching. Heat map. layer against token position. Colour: recovered fraction.'
    """
    told: Mapping[str, Any] = figure.to_plotly_json()
    layout, traces = told.get("layout", {}), [one for one in told["data"] if one.get("visible", True) is True]
    axes = [layout[name] for side in ("yaxis", "xaxis") for name in sorted(layout) if name.startswith(side)]
    coloured = [*traces, *(one.get("marker") or {} for one in traces), layout.get("coloraxis") or {}]
    names = list(dict.fromkeys(one["name"] for one in traces if one.get("name") and one.get("showlegend", True)))
    written = " ".join(_said(note.get("text")) for note in layout.get("annotations") or [])
    said = [
        ("", [title_of(layout)]),
        ("", map(_kind, traces)),
        ("Text: ", [f"{written:.200}"] if written and not any(map(_kind, traces)) else []),
        ("", [" against ".join(dict.fromkeys(filter(None, map(_said, map(title_of, axes)))))]),
        ("Colour: ", (title_of(one.get("colorbar") or {}) for one in coloured)),
        ("Of ", names[:NAMED] if len(names) > 1 else []),
    ]
    lines = [(what, ", ".join(dict.fromkeys(filter(None, map(_said, texts))))) for what, texts in said]
    return ". ".join(f"{what}{line}" for what, line in lines if line) + "."


def _kind(trace: Mapping[str, Any]) -> str:
    """What a trace is called, or '' if nothing of it is seen."""
    if trace.get("hoverinfo") == "skip" or (trace.get("marker") or {}).get("opacity") == 0:
        return ""
    kind, mode = trace.get("type", "scatter"), trace.get("mode") or "lines"
    return "Points" if kind.startswith("scatter") and "lines" not in mode else KINDS.get(kind) or str(kind)


def _said(text: Any) -> str:
    """Text on one line, without its markup."""
    return " ".join(plain(text or "").split()).rstrip(".")
