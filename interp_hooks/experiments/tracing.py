"""Causal tracing: which hidden states bring back what the model knows about a subject?

    clean     the prompt
    corrupt   the same, with Gaussian noise on the token embeddings of its subject
    a cell    the corrupt run in which one state, or a window of layers, is as in the clean run

Every cell sees the same noise. The method is that of Meng et al. 2022 (arxiv.org/abs/2202.05262). Noise takes a model
off the inputs it knows; where there is a counterfactual prompt, `patch` is the cleaner experiment (Zhang and Nanda
2024, arxiv.org/abs/2309.16042).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.experiments.patching import (
    Positions,
    labels_of,
    layers_around,
    named_positions,
    sweep_runs,
    warn_of_lengths,
)
from interp_hooks.experiments.results.record import experiment
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.interventions.metrics import Prob
from interp_hooks.interventions.readout import LAST, MetricLike, Readout, said
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import Intervention, PromptsLike, Run, TaskLike, as_run
from interp_hooks.interventions.sites import at
from interp_hooks.model.padding import counted_back
from interp_hooks.model.stream import Stream
from interp_hooks.model.transformer import HookedTransformer

WINDOWS = {"attn_out": 10, "mlp_out": 10}  # layers restored together; of other sites one, as in the paper
DEVIATIONS = 3.0  # the noise, in standard deviations of the subjects' embeddings
Subject = str | Sequence[str] | Sequence[int] | Tensor


@experiment
@no_gradients
def causal_trace(
    model: HookedTransformer,
    prompts: PromptsLike,
    subject: Subject,
    metric: MetricLike | None = None,
    site: str = "resid_post",
    *,
    window: int | None = None,
    severed: Literal["attn", "mlp"] | None = None,
    noise: float | None = None,
    samples: Count = 10,
    generator: torch.Generator | None = None,
    positions: Positions | None = None,
    layers: Sequence[int] | None = None,
    max_memory: int | None = None,
    progress: bool = True,
    save_to: str | Path | None = None,
) -> Result:
    """Restore `site` at every layer and position of a run whose subject is noise; values are means over `samples`.

    `subject` as in `subject_tokens`; `metric` defaults to the probability of the model's answer to the clean prompt.
    `noise` is a standard deviation (default: 3 times that of the subjects' embeddings, all numbers together). `window`
    layers around each one are restored together (default: 10 of attn_out and mlp_out, otherwise 1). `severed` holds
    what later attention or MLPs write at the restored position as in the corrupt run. `positions` (default: each) names
    columns, an index for all prompts or a tensor [batch] of their own; negative ones count from the last real token.
    `recovered_fraction` is the indirect effect (restored - corrupt) over the total effect (clean - corrupt).

    Raises:
        BadInput: a subject that is not found, a site without positions, a named position that is padding, an option out
            of range.
        UnknownHook: no such site, or `severed` layers that the model does not have.

    >>> trace = causal_trace(model, clean[:1], [1, 3], layers=[0], samples=2, progress=False)
    """
    window, clean = _window(site, window, severed), as_run(model, prompts)
    corrupt = _noised(model, clean, subject_tokens(model, prompts, subject), noise, samples, generator)
    labels = labels_of(model, site, ["layer", "pos"], clean.tokens.shape[1], layers)
    if positions is None:
        warn_of_lengths(clean, ["pos"])
    columns = {pos: pos for pos in labels["pos"]} if positions is None else named_positions(clean, positions)

    def run_at(noised: Run, layer: int, pos: Any) -> Run:
        restored = [at(site, each, pos=columns[pos]) for each in layers_around(layer, window, model.cfg.n_layers)]
        return _restored(model, clean, noised, restored, severed)

    cells = itertools.product(corrupt, labels["layer"], columns)
    compute: dict[str, Any] = dict(max_memory=max_memory, progress=progress, save_to=save_to)
    return sweep_runs(
        model,
        [run_at(noised, layer, pos) for noised, layer, pos in cells],
        Prob(_answer(model, clean)) if metric is None else metric,
        axes={"layer": list(labels["layer"]), "pos": list(columns)},
        baselines={"clean": clean, "corrupt": corrupt},
        scale=("corrupt", "clean"),
        samples=samples,
        **compute,
    )


def _window(site: str, window: int | None, severed: str | None) -> int:
    """How many layers are restored together, once the options are checked."""
    if severed not in (None, "attn", "mlp"):
        raise BadInput(f"severed must be 'attn', 'mlp' or None, got {severed!r}")
    window = WINDOWS.get(site, 1) if window is None else window
    if window < 1:
        raise BadInput(f"window must be at least 1 layer, got {window}")
    return window


def _answer(model: HookedTransformer, clean: Run) -> Tensor:
    """What the model says after the last real token of each prompt."""
    last = Readout(pos=said(model, LAST)).positions(clean)
    return model(clean.tokens, attention_mask=clean.attention_mask, logits_pos=last)[:, 0].argmax(-1)


def _noised(
    model: HookedTransformer,
    clean: Run,
    subject: Bool[Tensor, "batch pos"],
    noise: float | None,
    samples: int,
    generator: torch.Generator | None,
) -> list[Run]:
    """The clean run with other noise on the subject's embeddings in each sample."""
    if samples < 1:
        raise BadInput(f"samples must be at least 1, got {samples}")
    embed = record(model, clean, ["hook_embed"])["hook_embed"]
    std = DEVIATIONS * float(embed[subject].double().std()) if noise is None else noise
    if not std >= 0:
        raise BadInput(f"noise must be a standard deviation, at least 0, got {std}")
    runs = []
    for _ in range(samples):
        drawn = torch.randn(embed.shape, generator=generator, device="cpu" if generator is None else generator.device)
        noised = torch.where(subject[..., None], embed + std * drawn.to(embed), embed)
        runs.append(Run(clean.tokens, [Intervention(at("hook_embed"), noised)], clean.attention_mask))
    return runs


def _restored(model: HookedTransformer, clean: Run, corrupt: Run, sites: Sequence[Any], severed: str | None) -> Run:
    """The corrupt run with some sites from the clean one; it is the corrupt one itself before the first of them."""
    first = model.points(sites[0].hook)[0].layer()
    before = corrupt.interventions if Stream(model).carries else [Intervention(at("resid_pre", first), corrupt)]
    held = [
        Intervention(at(f"{severed}_out", layer, **sites[0].select), corrupt)
        for layer in range(first, model.cfg.n_layers)
        if severed is not None
    ]
    restored = [Intervention(site, clean) for site in sites]  # last, since they win where both are
    return Run(clean.tokens, [*before, *held, *restored], clean.attention_mask)


# ------------------------------------------------------------------------------------------------------------- subjects


@checked
def subject_tokens(model: HookedTransformer, prompts: PromptsLike, subject: Subject) -> Bool[Tensor, "batch pos"]:
    """True at the tokens of the subject, which is given as text, as positions, or as such a mask itself.

    A text, one for all prompts or one for each, is found by its characters: a token counts if it shares one with it.
    Positions are those of all prompts, as a list; negative ones count back from the last real token.

    Raises:
        BadInput: a text that a prompt has never or more than once, a mask that does not fit, an empty subject.
    """
    run = as_run(model, prompts)
    mask = torch.zeros(run.tokens.shape, dtype=torch.bool, device=run.tokens.device)
    if isinstance(subject, Tensor):
        if subject.shape != mask.shape or subject.dtype != torch.bool:
            came = f"{list(subject.shape)} of {subject.dtype}"
            raise BadInput(f"a subject given as a tensor must be a bool mask {list(mask.shape)}, got {came}")
        mask = subject.to(mask.device)
    elif isinstance(subject, str) or any(isinstance(one, str) for one in subject):
        texts, subjects = _texts(prompts, subject)
        for row, (text, name) in enumerate(zip(texts, subjects, strict=True)):
            mask[row, _places(model, run, row, text, name)] = True
    else:
        places = torch.tensor([[int(pos) for pos in subject]], dtype=torch.long, device=mask.device)
        rows = counted_back(places, run.real, "subject position")
        mask[torch.arange(len(mask), device=mask.device)[:, None], rows] = True
    if not bool(mask.any(1).all()):
        raise BadInput(f"prompt {int((~mask.any(1)).nonzero()[0])} has no subject: no token of it is marked")
    return mask


def _texts(prompts: PromptsLike, subject: Any) -> tuple[list[str], list[str]]:
    """Prompts and their subjects, one for each."""
    if isinstance(prompts, Tensor | Run | TaskLike):
        raise BadInput("a subject given as text needs prompts given as text; pass positions, or a mask [batch, pos]")
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    subjects = [subject] * len(texts) if isinstance(subject, str) else list(subject)
    if len(subjects) != len(texts):
        raise BadInput(f"got {len(subjects)} subjects for {len(texts)} prompts")
    return texts, subjects


def _places(model: HookedTransformer, run: Run, row: int, text: str, subject: str) -> Tensor:
    """The positions, in a row of a run, of the tokens that share a character with the subject."""
    if not subject or text.count(subject) != 1:
        raise BadInput(
            f"the subject {subject!r} is {text.count(subject) if subject else 0} times in prompt {row}, {text!r}; "
            "expected once. Pass a mask [batch, pos] to say which tokens are meant"
        )
    special = model.text.prepend_bos and model.text.encloses
    if not model.text.tokenizer.is_fast:
        raise BadInput("this tokenizer does not tell where in the text a token is; pass a mask [batch, pos]")
    encoded = model.text.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    begin = text.index(subject)
    end = begin + len(subject)
    spans = encoded["offset_mapping"]
    touching = [i for i, (first, last) in enumerate(spans) if first < end and last > begin]
    places = run.real[row].nonzero()[:, 0][-len(spans) :]  # a BOS that was put in front has no span
    return places[touching]
