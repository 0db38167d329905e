"""Run notebooks and store what they give, so that it is seen without running them: `make notebooks`.

    python notebooks/store.py                       all notebooks in this folder and below
    python notebooks/store.py notebooks/week/*      some

A figure is stored as SVG with a text for those who do not see it, and beside it in its interactive form where that is
small; else as PNG, which viewers show of notebooks that they do not trust. Exercises run with their solutions; what
their checks say is not stored, since it would stand below a blank. What depends on the machine stays out: paths, times,
versions, progress, warnings, states of widgets.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import plotly.graph_objects as go
import plotly.io

from interp_hooks.views import alt_text, to_png, to_svg

HERE = Path(__file__).parent
FIGURE, SVG, PNG = "application/vnd.plotly.v1+json", "image/svg+xml", "image/png"
KEPT = ("text/plain", "text/html", "text/markdown", "text/latex", SVG, PNG, "image/jpeg")
WIDTH, SHOWN = 440, 560  # pixels of a figure: as it is drawn, for phones; and as it is shown where there is room
INTERACTIVE = 60_000  # bytes of a figure that is stored as such too
MOST = 1_500_000  # bytes of a notebook
QUIET = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
SOLUTION = re.compile(r"```python\n(.*?)\n```", re.DOTALL)
SIDES = ("width", "height")
SIZE = re.compile(" ".join(rf'{side}="(?P<{side}>[\d.]+)"' for side in SIDES))
PATHS = re.compile(r"(?:/(?:home|root|tmp|work|usr|opt|Users|var|content|mnt)/|[A-Z]:\\)[\w./\\-]+")


def executed(path: Path, folder: Path) -> Any:
    """The notebook after it was run in a folder, with all that its kernel gave; exercises run with their solutions.

    An exercise is a cell `exercise-...`, its solution the block of code in the text of the cell `solution-...`.
    """
    notebook = nbformat.read(path, as_version=4)
    sources = {cell.id: cell.source for cell in notebook.cells}
    for cell in notebook.cells:
        solution = SOLUTION.search(sources.get(cell.id.replace("exercise-", "solution-"), ""))
        if cell.cell_type == "code" and cell.id.startswith("exercise-") and solution:
            cell.source = solution.group(1)
    beside = os.pathsep.join(filter(None, [str(path.parent), os.environ.get("PYTHONPATH")]))  # for what it imports
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": folder}}
    )
    client.execute(env=os.environ | QUIET | {"PYTHONPATH": beside})
    for cell in notebook.cells:
        cell.source = sources[cell.id]
    return notebook


def cleaned(notebook: Any) -> Any:
    """The notebook with outputs as they are stored."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, cell in enumerate(cells, start=1):
        cell.execution_count = count
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        said = [] if cell.id.startswith("check-") else cell.outputs
        cell.outputs = [nbformat.from_dict(one) for one in _outputs(said, count)]
    return notebook


def _outputs(outputs: list[Any], count: int) -> Iterator[dict[str, Any]]:
    text = ""
    for output in outputs:
        if output.output_type == "stream":
            text += output.text if output.name == "stdout" else ""
            continue
        if text:
            yield {"output_type": "stream", "name": "stdout", "text": text}
            text = ""
        if output.output_type == "error":
            yield dict(output)
        elif stored := _stored(output.data):
            data, metadata = stored
            found = {"output_type": output.output_type, "data": data, "metadata": metadata}
            yield found | ({"execution_count": count} if output.output_type == "execute_result" else {})
    if text:
        yield {"output_type": "stream", "name": "stdout", "text": text}


def _stored(data: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What is stored of an output, and what is told about it; None of a widget."""
    if FIGURE in data:
        figure = go.Figure(data[FIGURE]["data"], data[FIGURE]["layout"])
        told = alt_text(figure)
        stored = {SVG: _readable(to_svg(figure, width=WIDTH)), "text/plain": told}
        whole = json.loads(plotly.io.to_json(figure))
        if len(json.dumps(whole)) <= INTERACTIVE:
            stored[FIGURE] = whole | {"config": {"responsive": True}}
            return stored, {SVG: {"alt": told}}
        stored[PNG] = base64.b64encode(to_png(figure, width=WIDTH)).decode()
        return stored, {SVG: {"alt": told}, PNG: {"alt": told, "width": SHOWN}}
    kept = {kind: value for kind, value in data.items() if kind in KEPT}
    return (kept, {}) if kept and not any("widget" in kind for kind in data) else None


def _readable(svg: str) -> str:
    """The picture, drawn for a narrow page, so that it is whole and its texts can be read there, and shown larger."""
    return SIZE.sub(lambda size: " ".join(f'{side}="{float(size[side]) * SHOWN / WIDTH:g}"' for side in SIDES), svg, 1)


def store(path: Path) -> int:
    """Run a notebook, store what it gives, and return its size in bytes.

    Raises:
        ValueError: it is larger than is allowed, or tells a path of this machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        notebook = cleaned(executed(path, Path(folder)))
    text = nbformat.writes(notebook) + "\n"
    if paths := told_paths(notebook):
        raise ValueError(f"{path} tells of this machine: {', '.join(sorted(paths)[:3])}")
    if len(text.encode()) > MOST:
        raise ValueError(f"{path} would have {len(text.encode()):,} bytes, {MOST:,} are allowed: draw less")
    path.write_text(text, encoding="utf-8")
    return len(text.encode())


def told_paths(notebook: Any) -> set[str]:
    """Paths of a machine in what a notebook gave."""
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    return set(PATHS.findall(json.dumps(outputs, ensure_ascii=False)))


def main(paths: list[Path]) -> None:
    """Store them all, and say how large they are."""
    for path in paths or sorted(HERE.rglob("*.ipynb")):
        print(f"{path.name}: {store(path):,} bytes", flush=True)


if __name__ == "__main__":
    main([Path(one).resolve() for one in sys.argv[1:]])
