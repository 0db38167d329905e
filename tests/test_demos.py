"""Every script in demos/ runs by itself, in an empty folder, and leaves only what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
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


def test_what_scrubbing_recovers_is_what_the_readme_says(tmp_path: Path):
    """Of the best head, of both, and of the two others."""
    demo = next(demo for demo in DEMOS if demo.stem == "scrubbing_induction")
    done = subprocess.run([sys.executable, demo], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    table = re.findall(r"^ *(.*\S) +-?[\d.]+ +([\d.]+) +[\d.]+ +[\d.]+$", done.stdout, re.MULTILINE)
    one, _, both, others, _ = (round(100 * float(recovered)) for _, recovered in table)
    told = re.findall(r"one head that tells what was before:\n(\d+)%.*both of them: (\d+)%.*others: (\d+)%", README)
    assert [tuple(map(int, figures)) for figures in told] == [(one, both, others)]
