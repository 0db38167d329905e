"""Every notebook runs from top to bottom, and what is stored in it is what it gives: figures as still images too.

Cells run in this process, and one notebook in a kernel, as `make notebooks` runs them all. The training week runs in
`test_week`, where its exercises are tried.
"""

import base64
import math
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import plotly.graph_objects as go
import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install interp-hooks[notebooks]")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install interp-hooks[notebooks]")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install interp-hooks[notebooks]")

from tests.notebook_shell import fresh_shell  # noqa: E402

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
WEEK = sorted((ROOT / "notebooks" / "week").glob("*.ipynb"))
NUMBER = re.compile(r"[-−]?\d+(?:\.(\d+))?(?:e[-+]?\d+)?")
TOLERANCE = 2e-3  # relative; or two units of the last digit that is written

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def _storing() -> ModuleType:
    spec = spec_from_file_location("store", ROOT / "notebooks" / "store.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


STORE = _storing()


def code_of(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def same(one: str, other: str) -> bool:
    """Whether two texts are the same, but for spaces and the last digits of numbers with a point."""

    def close(a: re.Match[str], b: re.Match[str]) -> bool:
        if a.group(1) is None or b.group(1) is None:
            return a.group() == b.group()
        first, second = (float(found.group().replace("−", "-")) for found in (a, b))
        unit = 2.01 * 10.0 ** -min(len(a.group(1)), len(b.group(1)))
        return ("e" not in a.group() and abs(first - second) < unit) or math.isclose(first, second, rel_tol=TOLERANCE)

    texts = [NUMBER.sub("0", one).split(), NUMBER.sub("0", other).split()]
    numbers = [list(NUMBER.finditer(text)) for text in (one, other)]
    return texts[0] == texts[1] and all(close(a, b) for a, b in zip(*numbers, strict=True))


def told(cell: Any) -> list[str]:
    """What a cell gave, in words: its text, and of figures what they show."""
    return [output.text if output.output_type == "stream" else output.data["text/plain"] for output in cell.outputs]


@each_notebook
def test_it_can_be_opened_elsewhere(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = code_of(notebook)
    assert f"/blob/main/{path.relative_to(ROOT).as_posix()})" in notebook.cells[0].source
    assert "google.colab" in code[0].source
    assert "%pip" in code[0].source


@each_notebook
def test_what_it_gives_is_stored(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = code_of(notebook)
    assert path.stat().st_size <= STORE.MOST
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)], "make notebooks stores what it gives"
    assert not STORE.told_paths(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert set(notebook.metadata.language_info) == {"name"}
    assert not any(set(cell.metadata) - {"tags"} for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert not [kind for output in outputs for kind in output.get("data", {}) if "widget" in kind]
    figures = [output for output in outputs if STORE.SVG in output.get("data", {})]
    assert len(figures) >= 3
    assert all(STORE.SVG in output.data for output in outputs if STORE.FIGURE in output.get("data", {}))
    for figure in figures:
        picture = ElementTree.fromstring(figure.data[STORE.SVG])
        assert figure.metadata[STORE.SVG]["alt"] == picture.get("aria-label") == picture[0].text
        assert len(picture.findall(".//{*}text")) > 2


def assert_as_stored(path: Path, now: Any) -> None:
    """What its cells give now is what the notebook holds."""
    for before, after in zip(code_of(nbformat.read(path, as_version=4)), code_of(STORE.cleaned(now)), strict=True):
        assert len(told(before)) == len(told(after)), before.source
        for one, other in zip(told(before), told(after), strict=True):
            assert same(one, other), f"{before.source}\n\nstored:\n{one}\n\nnow:\n{other}"


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path not in WEEK], ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")  # warnings are shown to a reader, and not stored
def test_it_gives_what_is_stored(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = nbformat.read(path, as_version=4)
    with fresh_shell(monkeypatch) as shell:
        for cell in code_of(notebook):
            cell.outputs = shell.run(cell.source)
    assert_as_stored(path, notebook)


@pytest.mark.slow
# The kernel's own sockets are closed by the garbage collector, and pyzmq tells of it.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_kernel_gives_it_too(tmp_path: Path) -> None:
    """Of a day: there the solutions stand in for the exercises, and checks lie beside the notebook."""
    assert_as_stored(WEEK[0], STORE.executed(WEEK[0], tmp_path))


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("loss 1.234 nats", "loss  1.235 nats", True),
        ("loss 1.234", "loss 1.239", False),
        ("12 edges", "13 edges", False),
        ("12 edges", "12 nodes", False),
        ("1.50e-08", "1.501e-08", True),
        ("1.5e-08", "3.5e-08", False),
        ("[0.5, 0.25]", "[0.5]", False),
        ("1234.5", "1236.1", True),
    ],
)
def test_texts_are_compared_up_to_their_last_digits(one: str, other: str, alike: bool) -> None:
    assert same(one, other) == alike


def test_what_depends_on_the_machine_is_not_stored() -> None:
    figure = go.Figure(go.Bar(x=["a", "b"], y=[1, 2]), layout=dict(title="Two"))
    data = {STORE.FIGURE: figure.to_plotly_json(), "text/html": "<script>megabytes</script>"}
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "0%|"}
    new = nbformat.v4
    cell = new.new_code_cell("show()", metadata={"execution": {"iopub.status.busy": "2026-01-01"}, "tags": ["a"]})
    cell.outputs = [
        new.new_output("stream", name="stdout", text="one\n"),
        new.new_output("stream", name="stderr", text="/home/me/x.py:1: UserWarning"),
        new.new_output("stream", name="stdout", text="two\n"),
        new.new_output("display_data", data=widget),
        new.new_output("display_data", data=data),
        new.new_output("execute_result", data={"text/plain": "3"}, execution_count=17),
    ]
    notebook = new.new_notebook(cells=[cell], metadata={"language_info": {"name": "python", "version": "3.11.7"}})
    stored = STORE.cleaned(notebook)
    nbformat.validate(stored)
    text, drawn, number = stored.cells[0].outputs
    assert text.text == "one\ntwo\n"
    assert set(drawn.data) == {STORE.SVG, STORE.FIGURE, "text/plain"}
    picture = ElementTree.fromstring(drawn.data[STORE.SVG])
    _, _, width, height = map(float, picture.get("viewBox", "").split())
    assert width == 440, "its texts can be read on phones"
    assert [float(picture.get(side, 0)) for side in ("width", "height")] == pytest.approx(
        [560, height * 560 / 440], 1e-3
    )
    assert "max-width:100%" in picture.get("style", "")
    assert drawn.metadata[STORE.SVG]["alt"] == drawn.data["text/plain"] == "Two. Bars."
    assert (number.data["text/plain"], number.execution_count) == ("3", 1)
    assert stored.cells[0].metadata == {"tags": ["a"]}
    assert "version" not in stored.metadata.language_info
    assert not STORE.told_paths(stored)


def test_a_path_of_the_machine_is_found_and_refused(tmp_path: Path) -> None:
    cell = nbformat.v4.new_code_cell("print()")
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stdout", text=f"saved to {tmp_path}/result and blocks/0/x\n")
    ]
    assert STORE.told_paths(nbformat.v4.new_notebook(cells=[cell])) == {f"{tmp_path}/result"}


def test_a_large_figure_is_stored_as_a_picture_alone() -> None:
    many = go.Figure(go.Scatter(y=[0.123456789 + n for n in range(9000)], text=["a text"] * 9000, mode="lines"))
    data, metadata = STORE._stored({STORE.FIGURE: many.to_plotly_json()})
    assert set(data) == {STORE.SVG, STORE.PNG, "text/plain"}
    assert base64.b64decode(data[STORE.PNG])[1:4] == b"PNG"
    assert metadata[STORE.SVG]["alt"] == metadata[STORE.PNG]["alt"] == data["text/plain"]
