"""A page about two models: what they do differently, ranked, each finding with its evidence and the call that gives it.

The page is one file that opens without a network, as all reports are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.experiments.results.folders import refuse_foreign
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.tables import pd
from interp_hooks.model.tensor_files import on_disk
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.comparisons.batteries import side_by_side
from interp_hooks.studies.comparisons.findings import DIFF, Difference, ModelDiff
from interp_hooks.views.figures import bars, heatmap
from interp_hooks.views.report import Section, write_report
from interp_hooks.views.tokens import shortened, visible

DETAILED = 10  # findings that have a section of their own
LONGEST = 60  # characters of a text in a table
TEXT_COLUMNS = ("before", "span", "token", "prompt", "model text", "other text", "bigram")
UNITS = {  # of the columns of an evidence, by the call that gives it
    "compare_on_tasks": "Accuracy is a share of prompts, a score is in the unit of the task's metric (of logits and "
    "log-probabilities: nats), and an effect in standard deviations.",
    "compare_losses": "What each model pays for a span, and the difference, are in bits; effect and contrast, if they "
    "are there, in standard deviations.",
    "prediction_changes": "Shares are of positions; enrichment is how many times an even share that is.",
    "weight_changes": "A change is relative to the size of the model's own weights.",
    "activation_changes": "A relative difference is in sizes of the model's own activations.",
    "pattern_changes": "A total variation is the share of a token's attention that goes elsewhere.",
    "cross_model_patch": "A fraction of 1 is the whole difference between the models.",
}
PARTS_SHOWN = 20  # bars
PAGE, NUMBERS = "index.html", "numbers"
PROMPTS, WRITTEN = 8, 16  # prompts that both models go on with, and tokens that they write


@checked
def difference_page(
    found: ModelDiff,
    path: str | os.PathLike[str],
    *,
    command: str = "",
    models: tuple[HookedTransformer, HookedTransformer] | None = None,
    texts: pd.DataFrame | None = None,
) -> Path:
    """Write what `diff_models` found as one HTML file that opens offline, and return its path.

    `command` is what a reader can type to make it again, `models` are described if they are given, and `texts` is what
    `side_by_side` gives. An existing file is replaced once the page is complete.

    Raises:
        BadInput: `path` cannot be written.

    >>> from interp_hooks.studies import diff_models
    >>> from interp_hooks.views import difference_page
    >>> difference_page(diff_models(model, model, clean, n=4), "diff.html").name
    'diff.html'
    """
    return write_report(path, f"{found.names[1]} beside {found.names[0]}", _sections(found, command, models, texts))


def write_diff(
    found: ModelDiff,
    models: tuple[HookedTransformer, HookedTransformer],
    out: str | os.PathLike[str],
    command: str = "",
) -> Path:
    """Write a page and the numbers beside it into a folder, and return the path of the page.

    Models that read text go on with a few prompts of the tasks.

    Raises:
        BadInput: the folder holds something else.
    """
    folder = checked_folder(out)
    texts = None
    if found.tasks is not None and models[0].tokenizer is not None:
        prompts = [one for some in found.tasks.prompts.values() for one in some[:2]]
        texts = side_by_side(*models, prompts[:PROMPTS], max_new_tokens=WRITTEN)
    found.save(folder / NUMBERS, overwrite=True)
    return difference_page(found, folder / PAGE, command=command, models=models, texts=texts)


def checked_folder(out: str | os.PathLike[str]) -> Path:
    """A folder for a page and its numbers, which is there or can be made.

    Raises:
        BadInput: it holds something else, or cannot be made.
    """
    folder = Path(out)
    with on_disk(folder):
        there = [one.name for one in folder.iterdir()] if folder.is_dir() else [folder.name] * folder.exists()
        if odd := sorted({*there} - {PAGE, NUMBERS}):
            raise BadInput(f"{folder} holds something else than a diff ({', '.join(odd[:3])}); give another folder")
        refuse_foreign(folder / NUMBERS, DIFF)
        if not folder.absolute().parent.is_dir():
            raise BadInput(f"cannot write {str(folder)!r}: there is no folder {str(folder.absolute().parent)!r}")
        if not folder.exists():  # it can be made, but not before there is something to put there
            folder.mkdir()
            folder.rmdir()
    return folder


def _sections(
    found: ModelDiff,
    command: str,
    models: tuple[HookedTransformer, HookedTransformer] | None,
    texts: pd.DataFrame | None,
) -> Iterator[Section]:
    yield _summary(found)
    shown = dict[str, int]()
    for rank, one in enumerate(found.behaviour[:DETAILED], start=1):
        first = shown.setdefault(f"{one.call}\n{one.evidence.to_csv()}", rank)
        heading = f"{rank}. {_sentence(one)}"
        if first < rank:
            yield Section(heading=heading, text=f"The table is that of finding {first}.", code=one.call)
        else:
            yield Section(heading=heading, text=_units(one), code=one.call, table=_shown(one.evidence))
    yield from _places(found)
    yield from _contexts(found)
    if texts is not None:
        shown = texts.rename(columns={"model": "model text", "other": "other text"})
        yield Section(heading="How each goes on", text="The likeliest tokens after each prompt.", table=_shown(shown))
    if models is not None:
        yield Section(heading="The models", table=_model_table(found.names, models))
    if found.left_out or (found.tasks is not None and found.tasks.left_out):
        yield Section(heading="What was left out", table=_left_out(found))
    if command:
        yield Section(heading="Make this page again", code=command)


def _summary(found: ModelDiff) -> Section:
    text = f"""
Both models read {found.corpus}. Below, "model" is {found.names[0]} and "other" is {found.names[1]}.

The largest effects come first. An effect is a mean difference in standard deviations (Cohen's d); it is positive where
the other does better, or has more of it. For groups of spans it is the smaller of the difference itself and of how far
it stands out from other spans, for favoured tokens the smaller of two measures as well (see the module
studies.comparisons.findings). Places in the model have no effect of this kind, and come after it.
"""
    if not found.behaviour:
        text += "\n\nNothing that was looked for differs."
    ranked = enumerate(found.behaviour, start=1)
    rows = [(rank, f"{one.effect or 0.0:+.2f}", one.claim) for rank, one in ranked]
    rows += [(len(rows) + rank, "", one.claim) for rank, one in enumerate(found.places, start=1)]
    return Section(
        heading="What is different", text=text, table=pd.DataFrame(rows, columns=["rank", "effect", "finding"])
    )


def _sentence(one: Difference) -> str:
    return one.claim[:1].upper() + one.claim[1:]


def _units(one: Difference) -> str:
    return UNITS.get(one.call.partition("(")[0], "")


def _places(found: ModelDiff) -> Iterator[Section]:
    figures = {}
    if found.weights is not None:
        sizes = replace(
            found.weights,
            metric="relative_change",
            axes={"part": found.weights.axes["part"]},
            values=found.weights.values[:, 0],
        )
        figures["weight_changes"] = bars(sizes, top=min(PARTS_SHOWN, len(sizes.values)))
    if found.patterns is not None:
        figures["pattern_changes"] = heatmap(found.patterns)
    if found.activations is not None:
        places = {"hook": found.activations.axes["hook"], "layer": found.activations.axes["layer"]}
        change = Result(
            metric="relative_difference", axes=places, values=found.activations.values[:, :, 0].transpose(0, 1)
        )
        figures["activation_changes"] = heatmap(change)
    for direction, patched in found.patching.items():
        if not patched.nothing_to_recover:
            into = "model" if direction == "other into model" else "other"
            figures[f"cross_model_patch({into}"] = bars(patched, "recovered_fraction")
    for one in found.places:
        drawn = next((figure for name, figure in figures.items() if one.call.startswith(name)), None)
        table = _shown(one.evidence)
        yield Section(heading=_sentence(one), text=_units(one), code=one.call, table=table, figure=drawn)


def _contexts(found: ModelDiff) -> Iterator[Section]:
    if found.losses is not None:
        for better, worse in (("other", "model"), ("model", "other")):
            table = found.losses.largest(10, better)  # pyright: ignore[reportArgumentType]
            if len(table):
                yield Section(
                    heading=f"What {better} predicts better than {worse} by most",
                    text="Bits that each model pays for a span, and what comes before it.",
                    code=f"compare_losses(model, other, texts).largest(better={better!r})",
                    table=_shown(table),
                )
    if found.predictions is not None and float(found.predictions.mean[0]) > 0:
        yield Section(
            heading="Where predictions differ most",
            text=f"KL(model || other) of what comes next, {float(found.predictions.mean[0]):.3f} nats on average.",
            code="prediction_changes(model, other, texts).contexts()",
            table=_shown(found.predictions.contexts()),
        )
    if found.tasks is not None and bool((found.tasks.result().mean[:, 4] != 0).any()):
        yield Section(
            heading="Prompts that are exceptions",
            text="Prompts on which the difference of scores lies farthest from the median of its task.",
            code="compare_on_tasks(model, other).outliers()",
            table=_shown(found.tasks.outliers()),
        )


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """A table for a page: spaces of tokens visible, long texts shortened; of what comes before, the end is kept."""
    shown = table.copy()
    for column in [one for one in TEXT_COLUMNS if one in shown]:
        texts = shown[column].map(str)
        if column == "before":
            shown[column] = ["…" + text[-LONGEST:] if len(text) > LONGEST else text for text in texts]
        elif column in ("prompt", "model text", "other text"):
            shown[column] = [shortened(text, 2 * LONGEST) for text in texts]
        else:
            shown[column] = [visible(shortened(text, LONGEST)) for text in texts]
    return shown.rename(columns=lambda name: name.replace("_", " "))


def _model_table(names: tuple[str, str], models: tuple[HookedTransformer, HookedTransformer]) -> pd.DataFrame:
    facts: Mapping[str, list[str]] = {
        "layers": [str(one.cfg.n_layers) for one in models],
        "heads per layer": [str(one.cfg.n_heads) for one in models],
        "residual stream": [f"{one.cfg.d_model} wide" for one in models],
        "MLP": ["none" if one.cfg.attn_only else f"{one.cfg.d_mlp} wide" for one in models],
        "vocabulary": [f"{one.cfg.d_vocab} tokens" for one in models],
        "context": [f"{one.cfg.n_ctx} tokens" for one in models],
        "parameters": [f"{one.n_params_total:,}" for one in models],
    }
    return pd.DataFrame([(fact, *values) for fact, values in facts.items()], columns=["fact", *names])


def _left_out(found: ModelDiff) -> pd.DataFrame:
    rows = list(found.left_out.items())
    rows += [] if found.tasks is None else [(f"task: {name}", why) for name, why in found.tasks.left_out.items()]
    return pd.DataFrame(rows, columns=["what", "why"])
