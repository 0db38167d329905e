"""A training as a figure and as a page: what is drawn, marked and said."""

import json
import re
from pathlib import Path

import pytest
import torch

from interp_hooks import Result
from interp_hooks.errors import BadInput
from interp_hooks.loading.keeping import log_steps
from interp_hooks.studies import PhaseChanges, WatchedTraining, phase_changes
from interp_hooks.views import training_figure, write_training_report
from interp_hooks.views.training_report import headline, ranked, sections, summary
from tests.tiny import unchecked_types

STEPS = log_steps(3000)
U = torch.tensor(STEPS, dtype=torch.float64).log1p()


def logistic(middle: float, size: float = 1.0) -> torch.Tensor:
    return size * ((U - torch.tensor(middle + 1.0).log()) / 0.12).sigmoid()


@pytest.fixture(scope="module")
def watched() -> WatchedTraining:
    """A loss that falls at step 200, when 3 of 7 heads rise, and one that does at step 20; a norm that only grows."""
    heads = torch.stack([logistic(200), 0 * U, logistic(20, 0.8), *([logistic(200, 0.3)] * 2), 0 * U, 0 * U], dim=1)
    axes = {"step": STEPS, "head": ["<b>L0H0", *(f"L0H{head}" for head in range(1, 7))]}
    results = {
        "loss": Result(metric="loss_nats", axes={"step": STEPS}, values=(5 - logistic(200, 3))[:, None]),
        "induction": Result(metric="induction", axes=axes, values=heads[..., None]),
        "norm": Result(metric="norm", axes={"step": STEPS}, values=U[:, None]),
    }
    return WatchedTraining(steps=STEPS, results=results)


@pytest.fixture(scope="module")
def changes(watched: WatchedTraining) -> PhaseChanges:
    return phase_changes(watched)


def test_every_curve_is_drawn_at_its_steps(watched: WatchedTraining, changes: PhaseChanges) -> None:
    drawn = training_figure(watched, changes, top=3)
    lines = {trace.name: trace for trace in drawn.data if trace.name}
    assert list(lines) == ["loss", "induction &lt;b&gt;L0H0", "induction L0H2", "induction L0H3", "norm"]
    assert list(lines["loss"].x) == [1 + step for step in STEPS]
    assert list(lines["loss"].y) == watched["loss"].mean.tolist()
    assert list(lines["induction L0H2"].y) == watched["induction"].mean[:, 2].tolist()
    (others,) = [trace for trace in drawn.data if not trace.name]
    assert len(others.x) == 4 * (len(STEPS) + 1)
    assert others.yaxis == lines["induction L0H2"].yaxis == "y2"
    assert drawn.layout.xaxis.type == "log"
    domains = [drawn.layout[axis].domain for axis in ("yaxis", "yaxis2", "yaxis3")]
    assert domains[0][1] == 1 > domains[0][0] > domains[1][1] > domains[1][0] > domains[2][1]
    assert domains[2][0] == pytest.approx(0, abs=1e-9)


def test_changes_are_marked_where_they_are(watched: WatchedTraining, changes: PhaseChanges) -> None:
    assert [len(event) for event in changes.events()] == [1, 4]
    drawn = training_figure(watched, changes)
    middles = [shape.x0 for shape in drawn.layout.shapes if shape.type == "line"]
    assert middles == pytest.approx([1 + event[0].at for event in changes.events()])
    assert middles == pytest.approx([21, 201], rel=0.15)
    bands = [shape for shape in drawn.layout.shapes if shape.type == "rect"]
    assert sorted(band.yref for band in bands) == ["y domain", "y2 domain", "y2 domain"]
    for band in bands:
        assert band.x0 - 1 in STEPS
        assert band.x1 - 1 in STEPS
    assert len(training_figure(watched).layout.shapes) == 0
    only = training_figure(watched, changes, measures=["norm"])
    assert len(only.layout.shapes) == 0
    assert len(only.data) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(measures=["los"]), "Did you mean loss"),
        (dict(measures=[]), "at least one measure"),
        (dict(top=0), r"a top of 1\.\.5"),
        (dict(top=6), r"a top of 1\.\.5"),
    ],
)
def test_bad_input(options: dict, message: str, watched: WatchedTraining) -> None:
    with unchecked_types(), pytest.raises(BadInput, match=message):
        training_figure(watched, **options)


def test_findings_are_ranked_and_said(watched: WatchedTraining, changes: PhaseChanges) -> None:
    first, second = ranked(changes)
    assert {one.measure for one in first} == {"loss", "induction"}
    said = headline(first)
    assert re.match(r"Change 2, steps \d+ to \d+: ", said)
    assert re.search(r"loss falls from 4\.\d+ to 2\.\d+", said)
    assert "induction <b>L0H0 rises from" in said
    assert headline(second).startswith("Change 1")
    text = summary(watched, changes)
    assert text.index("Change 2") < text.index("Change 1")
    assert f"{len(STEPS)} checkpoints of this training were measured, steps 0 to 3000." in text
    calm = phase_changes(watched, ["norm"])
    assert "Nothing changed abruptly" in summary(watched, calm)


def test_the_page_says_what_changed_and_loads_nothing(
    watched: WatchedTraining, changes: PhaseChanges, tmp_path: Path
) -> None:
    place = write_training_report(tmp_path / "t.html", watched, changes, "a <run>", "interp-hooks training run")
    page = place.read_text(encoding="utf-8")
    assert "<title>What changed in the training of a &lt;run&gt;</title>" in page
    assert "&lt;b&gt;L0H0" in page
    assert "<b>L0H0" not in page
    without_plotly = re.sub(r"<script>/\*\*.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)=", without_plotly.split("</main>")[0])
    parts = {part.heading: part for part in sections(watched, changes, "run", "again")}
    headings = list(parts)
    assert headings[0] == "What changed, and when"
    (second,) = [heading for heading in headings if heading.startswith("Change 2")]
    (first,) = [heading for heading in headings if heading.startswith("Change 1")]
    assert headings.index(second) < headings.index(first)
    evidence = parts[second].table
    assert evidence is not None
    assert evidence["call"].tolist()[0] in ("watched['loss']", "watched['induction']")
    whole = parts["Over the whole training"].table
    assert whole is not None
    assert whole["how"].tolist() == ["change 2", "change 2", "gradually"]
    figures = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert len(figures) == 1
    assert len(json.loads(figures[0])["layout"]["shapes"]) == 5


def test_a_place_that_cannot_be_written(watched: WatchedTraining, changes: PhaseChanges, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no folder"):
        write_training_report(tmp_path / "no" / "t.html", watched, changes, "run")
