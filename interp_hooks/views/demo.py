"""Indirect object identification from prompts to a report: which parts of a model find who gets the gift?

    ioi_pairs --> patch resid_pre --> patch z --> direct attribution --> pattern of the strongest head --> report

`ioi_report` makes the measurements and keeps them as `Result`s; `sections` and `summary` write about them.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from interp_hooks import __version__
from interp_hooks.experiments.patching import patch
from interp_hooks.experiments.results.result import Result
from interp_hooks.experiments.task import Task
from interp_hooks.hooks.tables import pd
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.logit_attribution import direct_logit_attribution
from interp_hooks.tasks.ioi_text import ioi_pairs
from interp_hooks.views.attention import attention_pattern
from interp_hooks.views.figures import bars, heatmap
from interp_hooks.views.report import Section, write_report
from interp_hooks.views.tokens import visible

SHOWN_HEADS = 12  # bars of the figure
SHOWN_ROWS = 5  # of each table
DOES_THE_TASK = 0.75  # below this accuracy on clean prompts the report says that there is little to explain
RIGHT = {"clean": 1, "corrupt": -1}  # the sign of the logit difference when the answer is right


@dataclass(frozen=True, kw_only=True, eq=False)
class IOIReport:
    """The measurements of `ioi_report`. Differences are logit(IO) - logit(S) in nats, at the last token."""

    model: HookedTransformer
    pairs: Task
    resid: Result
    heads: Result
    components: Result
    head_effects: Result
    top_head: tuple[int, int]
    pattern: Float[Tensor, "query key"]
    tokens: list[str]

    def write(
        self, path: str | os.PathLike[str], command: str = "", wiki: str | os.PathLike[str] | None = None
    ) -> Path:
        """Write the HTML report, with a link to the first page of a wiki of the model, if there is one.

        `command` is what a reader can type to make it again.
        """
        link = None if wiki is None else os.path.relpath(wiki, Path(path).resolve().parent).replace(os.sep, "/")
        return write_report(path, f"Indirect object identification in {self.name}", sections(self, command, link))

    @property
    def name(self) -> str:
        return self.model.cfg.model_name

    @property
    def head_name(self) -> str:
        layer, head = self.top_head
        return f"L{layer}H{head}"

    def accuracy(self, prompts: str) -> float:
        """The share of "clean" or "corrupt" prompts in which the right name gets the larger logit."""
        return (self.resid.baselines[prompts] * RIGHT[prompts] > 0).double().mean().item()


def ioi_report(model: HookedTransformer, *, prompts: int = 32, seed: int = 0, progress: bool = False) -> IOIReport:
    """Look for the parts of a model that tell the indirect object from the subject.

    Raises:
        NoTokenizer, TokenError: the model reads no text, or its tokenizer splits the names.
    """
    pairs = ioi_pairs(model, prompts, seed=seed)
    prompts_and_metric, answers = (pairs.clean, pairs.corrupt, pairs.metric), (pairs.clean, pairs.answer, pairs.wrong)
    resid = patch(model, *prompts_and_metric, "resid_pre", progress=progress)
    heads = patch(model, *prompts_and_metric, "z", over=("layer", "head"), progress=progress)
    components = direct_logit_attribution(model, *answers)
    head_effects = only_heads(direct_logit_attribution(model, *answers, unit="head"))
    layer, head = divmod(int(head_effects.mean.abs().argmax()), model.cfg.n_heads)
    _, cache = model.run_with_cache(pairs.clean[0], names_filter=f"blocks.{layer}.attn.hook_pattern")
    return IOIReport(
        model=model,
        pairs=pairs,
        resid=resid,
        heads=heads,
        components=components,
        head_effects=head_effects,
        top_head=(layer, head),
        pattern=cache["pattern", layer][0, head],
        tokens=model.to_str_tokens(pairs.clean[0]),
    )


def only_heads(effects: Result) -> Result:
    """Direct effects by head alone, without "remainder" and "bias", the last two."""
    return replace(effects, axes={"head": effects.axes["head"][:-2]}, values=effects.values[:-2])


# ------------------------------------------------------------------------------------------------------------ tables


def baseline_table(report: IOIReport) -> pd.DataFrame:
    """The logit difference and the accuracy on clean and corrupt prompts."""
    rows = []
    for prompts in RIGHT:
        values = report.resid.baselines[prompts].double()
        error = values.std().item() / len(values) ** 0.5 if len(values) > 1 else float("nan")
        rows.append((prompts, values.mean().item(), error, f"{report.accuracy(prompts):.0%}"))
    return pd.DataFrame(rows, columns=["prompts", "logit_diff", "standard_error", "right_answers"])


def position_table(report: IOIReport) -> pd.DataFrame:
    """The strongest cells of the residual stream, with the token at their position."""
    table = report.resid.top(SHOWN_ROWS)
    table.insert(2, "token", [visible(report.pairs.labels[int(pos)]) for pos in table["pos"]])
    return table


def prompt_table(report: IOIReport) -> pd.DataFrame:
    """The first pair of prompts with its answers."""
    pairs = report.pairs
    clean, corrupt = (pairs.clean[0], pairs.answer[0].strip()), (pairs.corrupt[0], pairs.wrong[0].strip())
    return pd.DataFrame([("clean", *clean), ("corrupt", *corrupt)], columns=["", "prompt", "answer"])


def model_table(report: IOIReport) -> pd.DataFrame:
    """What kind of model was measured, and how large it is."""
    cfg = report.model.cfg
    parameters = sum(weight.numel() for weight in report.model.parameters())
    kv_heads = "" if cfg.n_key_value_heads == cfg.n_heads else f", {cfg.n_key_value_heads} of them for keys and values"
    rows = [
        ("model", report.name),
        ("architecture", cfg.original_architecture or "custom"),
        ("layers", cfg.n_layers),
        ("heads per layer", f"{cfg.n_heads}{kv_heads}, each {cfg.d_head} wide"),
        ("residual stream", f"{cfg.d_model} wide"),
        ("MLP", "none" if cfg.attn_only else f"{cfg.d_mlp} wide, {cfg.act_fn}"),
        ("positions", f"{cfg.positional_embedding_type.replace('standard', 'learned')}, at most {cfg.n_ctx} tokens"),
        ("vocabulary", f"{cfg.d_vocab} tokens"),
        ("parameters", f"{parameters:,} ({str(cfg.dtype).removeprefix('torch.')}, {cfg.device})"),
    ]
    return pd.DataFrame([(fact, str(value)) for fact, value in rows], columns=["fact", "value"])


def version_table() -> pd.DataFrame:
    """The versions of Python and of the packages that the numbers depend on."""
    packages = {name: version(name) for name in ("torch", "transformers", "plotly")}
    rows = {"interp_hooks": __version__, **packages, "Python": platform.python_version()}
    return pd.DataFrame(list(rows.items()), columns=["package", "version"])


def summary(report: IOIReport) -> str:
    """The main numbers as plain text."""
    parts = [
        f"{report.name}: {len(report.pairs.clean)} pairs of prompts such as\n  {report.pairs.clean[0]!r}",
        ("logit(IO) - logit(S) in nats, without any patching", baseline_table(report)),
        ("heads by direct effect on it", report.head_effects.top(SHOWN_ROWS)),
        ("heads by patching z from clean into corrupt", report.heads.top(SHOWN_ROWS)),
        ("places by patching resid_pre from clean into corrupt", position_table(report)),
        *caveats(report),
    ]
    texts = [part if isinstance(part, str) else f"{part[0]}\n{_as_text(part[1])}" for part in parts]
    return "\n\n".join(texts)


def _as_text(table: pd.DataFrame) -> str:
    return table.to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="-")


# ------------------------------------------------------------------------------------------------------------- words


def caveats(report: IOIReport) -> list[str]:
    """Notes that a reader needs before believing the figures; usually there are none."""
    found = []
    if note := report.resid.note:
        found.append(f"Note: {note}. The patching figures show the logit difference itself.")
    if report.accuracy("clean") < DOES_THE_TASK:
        found.append(
            f"Note: the model prefers the right name in {report.accuracy('clean'):.0%} of the clean prompts, and "
            "guessing gives 50%. It hardly does this task, so the figures show the methods, not a solution to explain."
        )
    if len(report.pairs.clean) == 1:
        found.append("Note: from a single pair of prompts no standard error can be told.")
    return found


def sections(report: IOIReport, command: str = "", wiki: str | None = None) -> list[Section]:
    """The report's parts, in reading order; `wiki` is where a wiki's first page is, from the report's folder."""
    measured = [part(report) for part in (_task, _resid, _heads, _components, _direct, _pattern)]
    model = Section(heading="The model", table=model_table(report))
    again = [Section(heading="Make this report again", code=command)] if command else []
    return [
        *measured,
        *([] if wiki is None else [_wiki(wiki)]),
        model,
        Section(heading="Versions", table=version_table()),
        *again,
    ]


def _wiki(place: str) -> Section:
    text = "What every head and every neuron of the model is for, as far as examples, weights and ablations tell."
    return Section(heading="Every head and neuron", text=text, link=("Open the wiki", place))


def _task(report: IOIReport) -> Section:
    text = f"""
Two people are introduced, one of them acts, and the sentence stops where the other one has to be named. The right
answer is the name that came once (the indirect object, IO); the wrong one is the name that came twice (the subject, S).
Naming IO in place of S at the second mention gives the corrupt prompt, whose right answer is S.

All numbers below come from {len(report.pairs.clean)} such pairs of one sentence pattern, with names, places and objects
drawn at random. The measure is logit(IO) - logit(S) at the last token, in nats: positive where the model prefers IO.
"""
    baselines = " ".join(
        f"On the {prompts} prompts it is {report.resid.baselines[prompts].mean().item():.2f} on average, and the right "
        f"name gets the larger logit in {report.accuracy(prompts):.0%} of them."
        for prompts in RIGHT
    )
    return Section(
        heading="The task", text="\n\n".join([text, baselines, *caveats(report)]), table=prompt_table(report)
    )


def _resid(report: IOIReport) -> Section:
    text = f"""
The model read the corrupt prompt, and at one layer and one token position the residual stream that enters the layer
was replaced by the one from the clean prompt. Each cell is one such experiment. {_scale_text(report.resid)}

Read the map from the top (layer 0, where the embeddings enter) to the bottom. Where a column is blue, that position
carries, at that depth, what tells the two prompts apart; where the blue moves to another column, attention has moved
the information. A label in angle brackets is a word that differs between prompts; "·" is the space before a word.
"""
    return Section(
        heading="Where the answer is: patching the residual stream",
        text=text,
        figure=heatmap(report.resid, labels={"pos": report.pairs.labels}),
    )


def _heads(report: IOIReport) -> Section:
    text = f"""
The same experiment with one attention head at a time: its output z, at all positions, comes from the clean prompt while
everything else reads the corrupt one. {_scale_text(report.heads)}

A blue head carries information that by itself moves the model towards the clean answer, directly or through later
layers. A red one moves it away. Heads that only work together show less here than their share.
"""
    return Section(heading="Which heads carry it: patching each head", text=text, figure=heatmap(report.heads))


def _scale_text(result: Result) -> str:
    if result.note:
        return "Shown is the mean logit difference of the patched run, as no recovered fraction is defined here."
    return "A recovered fraction of 0 means that nothing changed, 1 that the clean prompt's answer came back in full."


def _components(report: IOIReport) -> Section:
    found = report.components
    own, total = (found.baselines[name].mean().item() for name in ("model", found.parts_of or "model"))
    whole = f"the model's {own:.2f} nats"
    if found.parts_of == "before_cap":
        whole = f"{total:.2f} nats, of which the soft cap on the model's logits leaves {own:.2f}"
    text = f"""
The final residual stream is the sum of what the embeddings and every sublayer wrote to it, so the logit difference can
be split exactly into their direct contributions. On the clean prompts the bars add up to {whole}.
They run in the order of the model, embeddings at the top; thin lines are the standard error over prompts.

This sees only what goes straight to the output. A part that works through a later one has no bar of its own.
"""
    return Section(
        heading="Who writes the answer: direct attribution by sublayer", text=text, figure=bars(report.components)
    )


def _direct(report: IOIReport) -> Section:
    shown = min(SHOWN_HEADS, len(report.head_effects.axes["head"]))
    text = f"""
The same split by attention head: the {shown} whose direct effect is largest in size, L2H3 being head 3 of layer 2.
Blue heads write IO more than S, red ones the opposite; thin lines are the standard error over prompts.
"""
    return Section(
        heading="Who writes the answer: direct attribution by head",
        text=text,
        figure=bars(report.head_effects, top=SHOWN_HEADS),
    )


def _pattern(report: IOIReport) -> Section:
    index = report.head_effects.axes["head"].index(report.head_name)
    effect = report.head_effects.mean[index].item()
    key = int(report.pattern[-1].argmax())
    text = f"""
{report.head_name} has the largest direct effect, {effect:+.2f} nats on average. This is where it looks in the first
clean prompt: each row is one token, and the row's colours say how its attention is spread over the tokens.

The bottom row is the token that has to be continued. It attends most to "{visible(report.tokens[key])}" at position
{key}, with probability {report.pattern[-1, key].item():.2f}.
"""
    return Section(
        heading=f"What the strongest head looks at: attention of {report.head_name}",
        text=text,
        figure=attention_pattern(report.pattern, report.tokens),
    )
