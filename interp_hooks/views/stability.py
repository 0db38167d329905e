"""How stable a circuit is, as a picture: how often each edge is found again, and which ablations find it too."""

from __future__ import annotations

import plotly.graph_objects as go

from interp_hooks.circuits.layout import ARROW
from interp_hooks.circuits.stability import Stability
from interp_hooks.errors.arguments import Positive, checked
from interp_hooks.views.adapting import FAINT, INK, MUTED, POSITIVE
from interp_hooks.views.style import figure, plot_height
from interp_hooks.views.tokens import escaped, ticks


@checked
def stability_figure(stability: Stability, *, top: Positive = 40, title: str | None = None) -> go.Figure:
    """A bar for each edge that was found: the share of bootstrap samples that find it, in the order of `table()`.

    Edges of the circuit are blue, others grey; a dashed line is what random circuits of as many edges would give. The
    title says what halves of the prompts have in common, and other ablations, and what exchanged answers still find.

        >>> from interp_hooks.circuits import circuit_stability
        >>> from interp_hooks.views import stability_figure
        >>> stable = circuit_stability(model, pairs, method="eap", n_edges=30, nulls=2, progress=False)
        >>> stability_figure(stable, top=50).write_html("stability.html")

    Raises:
        BadInput: a `top` below 1.
    """
    table = stability.table().head(top)
    names = [ARROW.join(ends) for ends in zip(table["writer"], table["reader"], strict=True)]
    also = [
        ", ".join(one.removeprefix("in ") for one in table.columns if one.startswith("in ") and row[one]) or "none"
        for _, row in table.iterrows()
    ]
    trace = go.Bar(
        x=table["inclusion"].tolist(),
        y=list(range(len(table))),
        orientation="h",
        marker=dict(color=[POSITIVE if inside else MUTED for inside in table["circuit"]]),
        hovertext=[
            f"{escaped(name)}<br>found in {share:.0%} of samples<br>other ablations that find it: {escaped(found)}"
            for name, share, found in zip(names, table["inclusion"], also, strict=True)
        ],
        hoverinfo="text",
    )
    drawn = figure(
        trace,
        title=title or _words(stability),
        height=plot_height(len(table), row=18),
        x_title=f"share of {stability.samples} samples of {stability.prompts} prompts that find the edge",
        y_title="",
        xaxis=dict(range=[0, 1.02], showgrid=True, gridcolor=FAINT, tickformat=".0%"),
        yaxis=ticks(names),
    )
    by_chance = len(stability.circuit) / len(stability.circuit.graph)
    return drawn.add_vline(x=by_chance, line=dict(color=INK, dash="dash", width=1))


def _words(stability: Stability) -> str:
    """What the other questions say, in a line."""
    said = [f"Jaccard of halves {float(stability.halves.mean()):.2f}"]
    said += [f"with {ablation} {shared:.2f}" for ablation, shared in stability.overlap.items()]
    return ", ".join([*said, f"exchanged answers {float(stability.null_strength.mean()):.2f}"])
