"""Direct logit attribution: a logit, or a difference of two, split into what each part of the model adds to it.

The final norm's scale is held as it was in the run, so that the split of what was written to the final stream is exact;
it does not see what later layers make of a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import about
from interp_hooks.experiments.results.record import experiment, on_data
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.interventions.readout import LAST, Readout, for_each_prompt, said
from interp_hooks.interventions.runs import PromptsLike, Run, TaskLike, as_run
from interp_hooks.model.cache.activation_cache import ActivationCache
from interp_hooks.model.inputs import counts_back
from interp_hooks.model.stream import ADDED
from interp_hooks.model.transformer import HookedTransformer

Unit = Literal["component", "layer", "head", "neuron"]
READ = {  # what each unit is made of
    "component": ("embed", "0.hook_resid_pre", *(f"hook_{label}" for label in ADDED), "ln_final.hook_scale"),
    "layer": ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "ln_final.hook_scale"),
    "head": ("hook_z", "hook_resid_post", "ln1_post.hook_scale", "ln_final.hook_scale"),
    "neuron": ("mlp.hook_post", "hook_resid_post", "ln2_post.hook_scale", "ln_final.hook_scale"),
}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DirectLogitAttribution(Result):
    """The result of `direct_logit_attribution`: a `Result` whose only axis is the part of the model."""

    @property
    def attribution(self) -> Float[Tensor, "part prompt"]:
        """The direct effect of each part."""
        return self.values

    @property
    def labels(self) -> list[str]:
        """The names of the parts."""
        return list(*self.axes.values())


@experiment
def direct_logit_attribution(
    model: HookedTransformer,
    input: PromptsLike | None = None,
    answer_tokens: Any = None,
    incorrect_tokens: Any = None,
    *,
    unit: Unit = "component",
    pos: int | Tensor = LAST,
    cache: ActivationCache | None = None,
    attention_mask: Tensor | None = None,
) -> DirectLogitAttribution:
    """Split an answer's logit (minus the incorrect answer's, if given) into what each part of the model adds to it.

    Of a task, both answers are the task's, unless others are given.

    `unit` chooses the parts: embeddings and sublayers ("component": "embed", "0_attn_out", "0_mlp_out", ...), heads
    ("head": "L0H3", ..., and "remainder" for everything else) or neurons ("neuron": "L0N17", ..., "remainder"), of
    which no vector is made. The last part, "bias", is what the final norm's bias and b_U add. Parts sum to the logit
    (difference), which is the baseline "model". With `unit="layer"` there is a row for the stream before each sublayer,
    "0_pre", "0_mid", ..., "final_post"; these do not sum: "final_post" and "bias" alone do. Logits are read at one
    position of each prompt, `pos`.

    In a model with a soft cap on its logits, parts sum to the logit (difference) before the cap: the result's metric is
    "logit_before_cap" ("logit_diff_before_cap"), its baseline "before_cap" is that sum, and "model" what the cap makes
    of it, which is what the model says and metrics such as `LogitDiff` read.

    Use a difference of two answers, or a centred unembedding: a part that raises all logits alike has an effect here,
    and none on any probability. With `cache`, the activations of all positions, the model is not run again; such a
    result cannot be rerun. `attention_mask` [batch, pos] is 1 for the real tokens of an input that is ids.

    >>> effects = direct_logit_attribution(model, pairs, unit="head")
    >>> effects.top(3)["head"].tolist()
    ['L1H2', 'L2H3', 'L2H2']

    Raises:
        BadInput: an unknown unit, a position outside the prompts, answers that do not fit them, neither prompts nor a
            cache, or a cache without what is read.
    """
    if answer_tokens is None and isinstance(input, TaskLike):
        task: Any = input
        answer_tokens, incorrect_tokens = task.answer, task.wrong
    if answer_tokens is None:
        raise BadInput("answer_tokens is needed: the token, for all prompts or for each, whose logit is split")
    with about("answer_tokens"):
        answer = model.token_ids(answer_tokens).reshape(-1)
    with about("incorrect_tokens"):
        wrong = None if incorrect_tokens is None else model.token_ids(incorrect_tokens).reshape(-1)
    if cache is None and input is not None:
        return attributed(model, as_run(model, input, attention_mask), answer, wrong, unit, said(model, pos))
    if cache is None or input is not None:
        raise BadInput("give either prompts to run or cache=, the activations of a run")
    return _attribution(_read_from(cache, pos, READ[unit]), answer, wrong, unit)


@on_data
def attributed(
    model: HookedTransformer,
    run: Run,
    answer: Int[Tensor, " answer"],
    wrong: Int[Tensor, " wrong"] | None,
    unit: Unit,
    pos: int | Tensor,
) -> DirectLogitAttribution:
    """`direct_logit_attribution`, given a run in place of prompts."""
    return _attribution(cache_at(model, run, pos, READ[unit]), answer, wrong, unit)


@no_gradients
def _attribution(cache: ActivationCache, answer: Tensor, wrong: Tensor | None, unit: Unit) -> DirectLogitAttribution:
    """The direct effects of the parts in a cache that holds a single position."""
    prompts = len(next(iter(cache.values())))
    with about("answer_tokens"):
        answer = for_each_prompt(answer, prompts, "answer")
    with about("incorrect_tokens"):
        wrong = None if wrong is None else for_each_prompt(wrong, prompts, "answer")
    parts: Tensor | None = None
    if unit == "component":
        parts, labels = cache.decompose_resid(return_labels=True)
    elif unit == "layer":
        parts, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    elif unit == "head":
        parts, labels = cache.stack_head_results(return_labels=True, incl_remainder=True)
    else:
        labels = _neuron_labels(cache.known_model)

    def effects_on(token: Tensor, other: Tensor | None = None) -> Float[Tensor, "part prompt"]:
        if parts is None:
            return _neuron_effects(cache, token, other)
        return cache.logit_attrs(parts, token, other, include_bias=True)[..., 0]

    def whole(effects: Float[Tensor, "part prompt"]) -> Float[Tensor, " prompt"]:
        return effects[-2:].sum(0) if unit == "layer" else effects.sum(0)

    effects, metric, parts_of = effects_on(answer, wrong), "logit" if wrong is None else "logit_diff", "model"
    baselines, unembed = {"model": whole(effects)}, cache.known_model.unembed
    if unembed.soft_cap:
        own = unembed.capped(whole(effects_on(answer)))
        own = own if wrong is None else own - unembed.capped(whole(effects_on(wrong)))
        metric, parts_of, baselines = f"{metric}_before_cap", "before_cap", {"model": own, "before_cap": whole(effects)}
    axes = {unit: [*labels, "bias"]}
    return DirectLogitAttribution(metric=metric, axes=axes, values=effects, baselines=baselines, parts_of=parts_of)


def _neuron_labels(model: HookedTransformer) -> list[str]:
    cfg = model.cfg
    return [f"L{layer}N{neuron}" for layer in range(cfg.n_layers) for neuron in range(cfg.d_mlp_at(layer))] + [
        "remainder"
    ]


def _neuron_effects(
    cache: ActivationCache, token: Int[Tensor, " prompt"], other: Int[Tensor, " prompt"] | None
) -> Float[Tensor, "part prompt"]:
    """What all neurons, the rest of the stream and the biases add to a logit, less that of another token.

    Neurons are projected onto the direction of the answer, those of all prompts that have the same one at once.
    """
    model, W_U = cache.known_model, cache.known_model.W_U.detach()
    asked = torch.stack((token, token if other is None else other), dim=1)
    answers, which = asked.unique(dim=0, return_inverse=True)
    found: Tensor | None = None
    for number, (one, wrong) in enumerate(answers):
        rows = (which == number).nonzero()[:, 0]
        of = ActivationCache({name: value[rows.to(value.device)] for name, value in cache.items()}, model)
        onto = (W_U[:, one] if other is None else W_U[:, one] - W_U[:, wrong]) * model.cfg.logits_scale
        parts = of.stack_neuron_results(incl_remainder=True, apply_ln=True, project_output_onto=onto)[..., 0]
        parts = parts[:-1] if model.ln_final.b is not None else parts  # the norm's bias is part of the constant below
        stream = of[f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"]
        constant = of.logit_attrs(
            torch.zeros_like(stream)[None], one, None if other is None else wrong, include_bias=True
        )[1, :, 0]
        effects = torch.cat((parts, constant[None]))
        found = effects.new_zeros(len(effects), len(token)) if found is None else found
        found[:, rows] = effects
    assert found is not None
    return found


def cache_at(model: HookedTransformer, run: Run, pos: int | Tensor, names: tuple[str, ...]) -> ActivationCache:
    """The activations whose names end with one of `names`, at one position of each prompt; the position axis stays.

    A pass of its own, since it shows the final norm without unembedding anything.
    """
    rows = Readout(pos=said(model, pos)).positions(run)
    with torch.no_grad():
        _, stored = model.run_with_cache(
            run.tokens,
            attention_mask=run.attention_mask,
            return_type=None,
            names_filter=lambda name: name.endswith(names),
            return_cache_object=False,
        )
    return _at(model, stored, rows)


def _read_from(cache: ActivationCache, pos: int | Tensor, names: tuple[str, ...]) -> ActivationCache:
    """The same as `cache_at`, from a cache of all positions."""
    stored = {name: value for name, value in cache.items() if name.endswith(names)}
    stored = stored if cache.has_batch_dim else {name: value[None] for name, value in stored.items()}
    if not stored:
        raise BadInput(f"the cache has nothing that ends with one of {', '.join(names)}")
    batch, length = next(iter(stored.values())).shape[:2]
    real = cache.real if counts_back(pos) else None
    run = Run(torch.zeros(batch, length, dtype=torch.long), (), None if real is None else real.reshape(batch, length))
    return _at(cache.known_model, stored, Readout(pos=said(cache.known_model, pos)).positions(run))


def _at(model: HookedTransformer, stored: Mapping[str, Tensor], rows: Int[Tensor, "batch 1"]) -> ActivationCache:
    each = torch.arange(len(rows))[:, None]
    return ActivationCache(
        {name: value[each.to(value.device), rows.to(value.device)] for name, value in stored.items()}, model
    )
