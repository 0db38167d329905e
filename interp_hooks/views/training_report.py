"""What changed while a model was trained, as a page that opens offline and as plain text.

The findings come first, ranked: changes that came abruptly, those in which most measures took part before others, then
what moved gradually; each with its numbers and the call that gives them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from interp_hooks.errors.arguments import checked
from interp_hooks.hooks.tables import pd
from interp_hooks.studies.training_runs.changes import PhaseChange, PhaseChanges
from interp_hooks.studies.training_runs.watching import WatchedTraining, curves_of
from interp_hooks.views.demo import version_table
from interp_hooks.views.report import Section, write_report
from interp_hooks.views.training import training_figure

if TYPE_CHECKING:
    from collections.abc import Mapping

SHOWN = 12  # changes of an event in its table
CALLS = """from interp_hooks.studies import phase_changes, training_checkpoints, usual_measures, watch_training

checkpoints = training_checkpoints(NAME)
watched = watch_training(checkpoints, usual_measures(checkpoints[-1].load()))
phase_changes(watched).table()"""


@checked
def write_training_report(
    path: str | os.PathLike[str],
    watched: WatchedTraining,
    changes: PhaseChanges,
    name: str,
    command: str = "",
) -> Path:
    """Write what changed in the training called `name` as one HTML file that loads nothing; returns its path.

    `command` is what a reader can type to make the page again. An existing file is replaced once the page is complete.

    Raises:
        BadInput: `path` cannot be written.

    >>> from interp_hooks.studies import WeightNorms, phase_changes, watch_training
    >>> from interp_hooks.views import write_training_report
    >>> watched = watch_training("mod-add", {"norm": WeightNorms()})
    >>> write_training_report("training.html", watched, phase_changes(watched), "mod-add").name
    'training.html'
    """
    return write_report(path, f"What changed in the training of {name}", sections(watched, changes, name, command))


def sections(watched: WatchedTraining, changes: PhaseChanges, name: str, command: str = "") -> list[Section]:
    """The parts of the page, in reading order."""
    figure = Section(
        heading="The measures over the training",
        text="Dotted lines are where half of a change was done; a grey band lies behind the measures that took part in "
        "it. Steps are on a logarithmic axis. Of a measure with many cells those that moved most have a colour.",
        figure=training_figure(watched, changes if changes.found else None),
    )
    again = [Section(heading="Make this page again", code=command)] if command else []
    parts = [_overview(watched, changes, name), figure, *_events(changes)]
    return [*parts, _whole(watched, changes), _table(watched), _rule(changes), *again, _versions()]


# -------------------------------------------------------------------------------------------------------------- words


def ranked(changes: PhaseChanges) -> list[list[PhaseChange]]:
    """The events, those in which more measures took part first, then those that moved more."""
    return sorted(changes.events(), key=lambda event: (-len({one.measure for one in event}), -event[0].share))


def headline(event: Sequence[PhaseChange]) -> str:
    """An event in a sentence: when, and of every measure the cell that moved most."""
    strongest: Mapping[str, PhaseChange] = {one.measure: one for one in reversed(event)}
    told = [_told(one) for one in sorted(strongest.values(), key=lambda one: -one.share)]
    begin, end = event[0].begin, event[0].end
    return f"Change {event[0].event}, steps {begin} to {end}: {'; '.join(told)}."


def _told(change: PhaseChange) -> str:
    what = " ".join(filter(None, (change.measure.replace("_", " "), change.cell)))
    return f"{what} {'rises' if change.move > 0 else 'falls'} from {change.before:.3g} to {change.after:.3g}"


def _overview(watched: WatchedTraining, changes: PhaseChanges, name: str) -> Section:
    events = ranked(changes)
    steps = watched.steps
    begun = f"{len(steps)} checkpoints of {name} were measured, steps {steps[0]} to {steps[-1]}."
    if not events:
        said = [
            "Nothing changed abruptly: nowhere did a doubling of steps move a measure much more than those beside it."
        ]
    else:
        several = f"{len(events)} changes came abruptly" if len(events) > 1 else "One change came abruptly"
        said = [f"{several}, within about one doubling of steps. In the order of how many measures took part:"]
        said += [headline(event) for event in events]
    code = CALLS.replace("NAME", repr(name))
    return Section(heading="What changed, and when", text="\n\n".join([begun, *said]), code=code)


def _events(changes: PhaseChanges) -> list[Section]:
    """A section for each event, the most telling first, with all its cells as evidence."""
    return [
        Section(
            heading=f"Change {event[0].event}: by step {event[0].at:.0f}, half of it was done",
            text=_shown(event),
            table=_evidence(event[:SHOWN]),
        )
        for event in ranked(changes)
    ]


def _shown(event: Sequence[PhaseChange]) -> str:
    return (
        f"Those {SHOWN} of {len(event)} curves that moved most of their measure's range." if len(event) > SHOWN else ""
    )


def _evidence(event: Sequence[PhaseChange]) -> pd.DataFrame:
    """A row for each change, with the call that gives its curve."""
    rows = [
        (
            one.measure.replace("_", " "),
            one.cell or "-",
            f"{one.begin} to {one.end}",
            one.before,
            one.after,
            f"{one.share:.0%}",
            f"{one.sharpness:.1f}",
            f"{one.z:.0f}",
            f"watched[{one.measure!r}]",
        )
        for one in event
    ]
    columns = ["measure", "cell", "steps", "before", "after", "of its range", "sharpness", "z", "call"]
    return pd.DataFrame(rows, columns=columns)


def _whole(watched: WatchedTraining, changes: PhaseChanges) -> Section:
    """What every measure did over the whole training, and whether any of its cells took part in a change."""
    rows = []
    for name, result in watched.results.items():
        labels, curves = curves_of(result)
        cell = int((curves.amax(0) - curves.amin(0)).argmax())
        events = sorted({one.event for one in changes.found if (one.measure, one.cell) == (name, labels[cell])})
        curve = curves[:, cell]
        found = ", ".join(f"change {event}" for event in events) or "gradually"
        low, high = float(curve.min()), float(curve.max())
        what = name.replace("_", " "), labels[cell] or "-"
        rows.append((*what, float(curve[0]), float(curve[-1]), low, high, found, f"watched[{name!r}]"))
    columns = ["measure", "cell that moved most", "first", "last", "lowest", "highest", "how", "call"]
    text = "From the first checkpoint to the last. Gradually: in no change, however far it went."
    return Section(heading="Over the whole training", text=text, table=pd.DataFrame(rows, columns=columns))


def _table(watched: WatchedTraining) -> Section:
    table = watched.table().rename(columns=lambda column: column.replace("_", " "))
    return Section(heading="Every checkpoint", text="Of each measure the cell that moved most.", table=table)


def _rule(changes: PhaseChanges) -> Section:
    text = f"""
A phase change is a move within one doubling of steps that is at least twice as large as that of the same curve in the
doubling before and in that after (sharpness), seven times as large as the noise (z), and a twentieth of all that the
measure gave. Learning that only slows down, exponentially or by a power law, has a sharpness of at most 1.25.

The noise of a checkpoint is told by how far checkpoints lie from the lines between their neighbours, and by the spread
over rows of tokens. In simulations 0.3% of noisy curves without such a change had one, so that of hundreds of curves
one may be chance; what several measures show at once hardly is.

Sizes are parts of what the measure ranged over: of one that hardly moved, changes are small, too, whatever their share.

Changes between checkpoints more than a doubling of steps apart, and at the very begin and end, are not found.
These are {changes.checkpoints} checkpoints of one training: whether another seed changes then and so, they do not say.
"""
    return Section(heading="How changes were found, and what is missed", text=text)


def _versions() -> Section:
    return Section(heading="Versions", table=version_table())


def summary(watched: WatchedTraining, changes: PhaseChanges) -> str:
    """The findings as plain text."""
    first, *rest = _overview(watched, changes, "this training").text.split("\n\n")
    table = watched.table().to_string(index=False, float_format="{:.4g}".format)
    return "\n\n".join([first, table, *rest])
