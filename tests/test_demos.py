"""Every script in demos/ runs by itself, in an empty folder, and leaves only what it says."""

import subprocess
import sys
from pathlib import Path

import pytest

DEMOS = sorted((Path(__file__).parents[1] / "demos").glob("*.py"))


def test_there_are_demos():
    assert DEMOS


@pytest.mark.parametrize("demo", DEMOS, ids=lambda path: path.stem)
def test_it_runs(demo: Path, tmp_path: Path):
    done = subprocess.run([sys.executable, demo], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    written = {item.name for item in tmp_path.iterdir()}
    assert written
    assert {name for name in written if name.endswith(".html")} == {
        word.rstrip(",") for word in done.stdout.split() if word.rstrip(",").endswith(".html")
    }
