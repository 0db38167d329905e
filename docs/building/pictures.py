"""The manual's pictures, drawn by the package and photographed by Chromium: `python docs/building/pictures.py`."""

import subprocess
import tempfile
from pathlib import Path

from plotly.graph_objects import Figure

from interp_hooks import HookedTransformer, circuit_figure, eap, heatmap, ioi_pairs, logit_lens, patch
from interp_hooks.views import lens_figure

PICTURES = Path(__file__).parents[1] / "pictures"


def photograph(figure: Figure, name: str, width: int, height: int) -> None:
    """Write `name`.png, so many pixels wide and high."""
    figure.update_layout(width=width, height=height, autosize=False)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figure.html"
        figure.write_html(page, config={"displayModeBar": False, "staticPlot": True})
        page.write_text(page.read_text(encoding="utf-8").replace("<body>", '<body style="margin:0">'), encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=10000"]
        options += [f"--window-size={width},{height}", f"--screenshot={PICTURES / name}.png"]
        subprocess.run(["chromium", *options, page.as_uri()], check=True, capture_output=True)


def main() -> None:
    """Draw them all."""
    model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
    task = ioi_pairs(model, 32)
    patched = patch(model, task, site="resid_pre", over=("layer", "pos"), progress=False)
    photograph(heatmap(patched, labels={"pos": task.labels}), "patching", 900, 330)
    edges = eap(model, task, positions=task.positions)
    photograph(circuit_figure(edges, top=30), "circuit", 900, 620)
    lens = logit_lens(model, task.clean, pos=None)
    photograph(lens_figure(lens, prompt=0, colour="rank"), "lens", 1100, 390)


if __name__ == "__main__":
    main()
