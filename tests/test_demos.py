"""Every script in demos/ runs by itself, in an empty folder, and leaves only what it says."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

STORIES = (Path(__file__).parents[1] / "docs" / "stories.md").read_text(encoding="utf-8")
DEMOS = sorted((Path(__file__).parents[1] / "demos").glob("*.py"))


@cache
def run(demo: Path) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """What it says, and the files that it leaves; run once for all tests."""
    with TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, demo], cwd=folder, capture_output=True, text=True, timeout=900)
        return done, {item.name for item in Path(folder).iterdir()}


def said_by(name: str) -> str:
    return run(next(demo for demo in DEMOS if demo.stem == name))[0].stdout


@pytest.mark.parametrize("demo", DEMOS, ids=lambda path: path.stem)
def test_it_runs(demo: Path):
    done, written = run(demo)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert written
    assert {name for name in written if name.endswith(".html")} == {
        word.rstrip(",") for word in done.stdout.split() if word.rstrip(",").endswith(".html")
    }


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
    (gap,) = re.findall(r"^ +ABC greedy: .* ([\d.]+)$", out, re.MULTILINE)
    movers = r"^L2H3, L2H2, L2H1 +{} +[\d.]+ +[\d.]+ +([\d.]+) "
    repaired = [re.findall(movers.format(method), out, re.MULTILINE)[0] for method in ("resample", "zero")]
    told = re.findall(
        r"(\d+) of (\d+) edges keep (\d+)% .* incomplete by (\d+) logits\. .* self-repair, (\d+)% .* and (\d+)% under",
        " ".join(STORIES.split()),
    )
    percent = [str(round(100 * float(share))) for share in (left, *repaired)]
    assert told == [(edges, of_all, percent[0], str(round(float(gap))), *percent[1:])]
