"""The manual's pictures, drawn anew: `python docs/building/pictures.py`.

Those of `docs/pictures.md` are what the code of that page draws; the others are photographed by Chromium.
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path

from plotly.graph_objects import Figure

from interp_hooks import HookedTransformer, circuit_figure, eap, heatmap, ioi_pairs, logit_lens, patch
from interp_hooks.views import lens_figure

PICTURES = Path(__file__).resolve().parents[1] / "pictures"
PAGE = PICTURES.with_suffix(".md")


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


def draw_page() -> None:
    """Run the code of the page of pictures where these lie."""
    os.chdir(PICTURES)
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        exec(compile(block, str(PAGE), "exec"), names)


def main() -> None:
    """Draw them all."""
    draw_page()
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
