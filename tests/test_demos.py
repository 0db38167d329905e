"""Every script in demos/ runs in an empty folder, and leaves only what it says.

They run in this process, which has imported torch already, each in a namespace of its own; one runs by itself.
"""

import os
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
import torch

from tests.tiny import unchecked_types

STORIES = (Path(__file__).parents[1] / "docs" / "stories.md").read_text(encoding="utf-8")
DEMOS = sorted((Path(__file__).parents[1] / "demos").glob("*.py"))


@cache
def run(demo: Path) -> tuple[str, set[str]]:
    """What it says, and the files that it leaves; run once for all tests of a process."""
    said, here = StringIO(), Path.cwd()
    with (
        TemporaryDirectory() as folder,
        patch.object(sys, "argv", [str(demo)]),
        redirect_stdout(said),
        torch.random.fork_rng(),
        torch.enable_grad(),
        unchecked_types(),
    ):
        os.chdir(folder)
        try:
            runpy.run_path(str(demo), run_name="__main__")
        finally:
            os.chdir(here)
        return said.getvalue(), {item.name for item in Path(folder).iterdir()}


def said_by(name: str) -> str:
    return run(next(demo for demo in DEMOS if demo.stem == name))[0]


@pytest.mark.parametrize("demo", DEMOS, ids=lambda path: path.stem)
def test_it_runs(demo: Path):
    said, written = run(demo)
    assert written
    assert {name for name in written if name.endswith(".html")} == {
        word.rstrip(",") for word in said.split() if word.rstrip(",").endswith(".html")
    }


def test_by_itself_it_says_the_same(tmp_path: Path):
    demo = next(demo for demo in DEMOS if demo.stem == "attention_knockout")
    done = subprocess.run([sys.executable, demo], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert (done.stdout, {item.name for item in tmp_path.iterdir()}) == run(demo)


@pytest.mark.parametrize(
    ("name", "claims", "told"),
    [
        (  # the best head, both, and the two others
            "scrubbing_induction",
            (0, 2, 3),
            r"One head that tells what was before: (\d+)% recovered; both of them: (\d+)%; the two others: (\d+)%",
        ),
        (  # count; horizon, then count; both, then exchanged
            "brackets",
            (1, 2, 3),
            r"of the horizon: (\d+)% recovered; if the latter may know .* too: (\d+)%; the two exchanged: (\d+)%",
        ),
    ],
)
def test_what_scrubbing_recovers_is_what_the_manual_says(name: str, claims: tuple[int, ...], told: str):
    table = re.findall(r"^ *.*\S +-?[\d.]+ +([\d.]+) +[\d.]+ +[\d.]+$", said_by(name), re.MULTILINE)
    figures = [round(100 * float(table[claim])) for claim in claims]
    assert [list(map(int, one)) for one in re.findall(told, " ".join(STORIES.split()))] == [figures]


def test_the_circuit_of_ioi_is_what_the_manual_says():
    out = said_by("ioi_circuit")
    edges, left = re.findall(r"^ +S2->IO +size .* (\d+) +([\d.]+) +[\d.]+ +[\d.]+ +-?[\d.]+$", out, re.MULTILINE)[0]
    (of_all,) = re.findall(r"of (\d+) edges; measured", out)
    (gap,) = re.findall(r"^ +ABC +greedy: .* ([\d.]+)$", out, re.MULTILINE)
    movers = r"^L2H3, L2H2, L2H1 +{} +[\d.]+ +[\d.]+ +([\d.]+) "
    repaired = [re.findall(movers.format(method), out, re.MULTILINE)[0] for method in ("resample", "zero")]
    told = re.findall(
        r"(\d+) of (\d+) edges keep (\d+)% .* incomplete by (\d+) logits\. .* self-repair, (\d+)% .* and (\d+)% under",
        " ".join(STORIES.split()),
    )
    percent = [str(round(100 * float(share))) for share in (left, *repaired)]
    assert told == [(edges, of_all, percent[0], str(round(float(gap))), *percent[1:])]
