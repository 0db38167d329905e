"""Every notebook runs from top to bottom; in the repository it has no outputs."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install interp-hooks[notebooks]")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install interp-hooks[notebooks]")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install interp-hooks[notebooks]")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
FIGURE = "application/vnd.plotly.v1+json"

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each_notebook
def test_it_has_no_outputs_and_can_be_opened_elsewhere(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert f"/blob/main/notebooks/{path.name})" in notebook.cells[0].source
    assert "google.colab" in code[0].source
    assert "%pip" in code[0].source


@pytest.mark.slow
@each_notebook
# The kernel's own sockets are closed by the garbage collector, and pyzmq tells of it.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_it_runs(path: Path, tmp_path: Path):
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    figures = [output.data[FIGURE] for output in outputs if FIGURE in output.get("data", {})]
    assert len(figures) >= 5
    assert all(figure["data"] for figure in figures)
