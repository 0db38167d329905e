"""What a head writes at a position, split over the tokens from which it comes.

    result[q] = sum over keys j of A[q, j] v[j] W_O

The split is exact, and so is that of the head's direct effect on a logit, for which the final norm has the scale of the
run. Summed over the tokens of a subject and over those of a relation it says from which of the two a head recalls a
fact (Geva et al. 2023, arxiv.org/abs/2304.14767; Chughtai et al. 2024, arxiv.org/abs/2402.07321).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import about
from interp_hooks.experiments.results.record import experiment, on_data
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import no_gradients, study
from interp_hooks.interventions.readout import LAST, Readout, for_each_prompt, said
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import OF_TASK, PromptsLike, Run, as_run
from interp_hooks.interventions.sites import Recording
from interp_hooks.model.cache.frozen_norm import FrozenNorm
from interp_hooks.model.components.block import at_positions
from interp_hooks.model.padding import counted_back
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.heads.attending import refuse_unweighted

Places = int | Sequence[int] | Tensor
"""Positions of all prompts; a tensor [prompt] or [prompt, n] of each prompt's own, or a mask [prompt, pos]."""


@experiment
@on_data
@no_gradients
def direct_effect_by_source(
    model: HookedTransformer,
    prompts: PromptsLike,
    answer: Any = OF_TASK,
    wrong: Any = OF_TASK,
    *,
    groups: Mapping[str, Places] | None = None,
    pos: int | Tensor = LAST,
) -> Result:
    """What every head adds directly to an answer's logit (minus the wrong answer's), by the token it comes from.

    The result's axes are layer, head and source; the effects of a head's sources sum to its direct effect, that of
    `direct_logit_attribution(unit="head")`. Sources are positions, or named `groups` of positions and "other", all the
    rest. Of a task, answer and wrong answer are the task's. Logits are read at one position of each prompt.

    Raises:
        BadInput: answers that do not fit, a group outside the prompts, or groups that share a position.

    >>> effects = direct_effect_by_source(model, clean, pairs.answer, pairs.wrong, groups={"IO": pairs.positions["IO"]})
    >>> effects.axes["source"]
    ['IO', 'other']
    """
    if answer is None:
        raise BadInput("answer is needed: the token, for all prompts or for each, whose logit is split")
    run = as_run(model, prompts)
    with about("answer"):
        onto = logit_directions(model, answer, len(run.tokens))
    if wrong is not None:
        with about("wrong"):
            onto = onto - logit_directions(model, wrong, len(run.tokens))
    effects = HeadsAt.of(model, run, pos).effects(onto)  # layer head key prompt
    if groups is None:
        labels: list[Any] = list(range(run.tokens.shape[1]))
    else:
        masks = masks_of(run, groups)
        labels = list(masks)
        effects = torch.einsum("lhkb,sbk->lhsb", effects, torch.stack(list(masks.values())).to(effects))
    axes = {"layer": range(model.cfg.n_layers), "head": range(model.cfg.n_heads), "source": labels}
    return Result(metric="direct_effect", axes=axes, values=effects.cpu())


@study
def result_by_source(
    model: HookedTransformer, prompts: PromptsLike, layer: int, head: int, *, pos: int | Tensor = LAST
) -> Float[Tensor, "prompt source d_model"]:
    """What a head writes at one position of each prompt, by the token it comes from; summed over tokens, its result.

    Raises:
        BadInput: there is no such head, or a position outside the prompts.

    >>> result_by_source(model, clean, 2, 3).shape
    torch.Size([4, ..., 128])
    """
    if not (0 <= layer < model.cfg.n_layers and 0 <= head < model.cfg.n_heads):
        raise BadInput(f"there is no head {head} in layer {layer}")
    heads = HeadsAt.of(model, as_run(model, prompts), pos)
    attention, values = heads.attention(layer)[:, head], heads.values(layer)[:, :, head]
    return attention[..., None] * (values @ model.whole(model.blocks[layer].attn.W_O)[head])


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadsAt:
    """The attention of one position of each prompt, the values, and the scales of the norms that are on the way out."""

    model: HookedTransformer
    recorded: Recording
    rows: Int[Tensor, "batch 1"]

    @classmethod
    def of(cls, model: HookedTransformer, run: Run, pos: int | Tensor) -> HeadsAt:
        """Those of a run, with its interventions; raises BadInput as `refuse_unweighted`."""
        refuse_unweighted(model)
        wanted = ("attn.hook_pattern", "attn.hook_v", "ln1_post.hook_scale", "ln_final.hook_scale")
        names = [point.name for point in model.hook_points() if point.name.endswith(wanted)]
        rows = Readout(pos=said(model, pos)).positions(run)
        return cls(model=model, recorded=record(model, run, names), rows=rows)

    def attention(self, layer: int) -> Float[Tensor, "batch head key"]:
        """What the position pays to each key."""
        pattern = self.recorded[f"blocks.{layer}.attn.hook_pattern"]
        return at_positions(pattern.transpose(1, 2), self.rows)[:, 0]

    def values(self, layer: int) -> Float[Tensor, "batch key head d_head"]:
        """The value of every key, of each head its own."""
        v = self.recorded[f"blocks.{layer}.attn.hook_v"]
        return v.repeat_interleave(self.model.cfg.n_heads // v.shape[2], dim=2)

    def norm(self, norm: Any, name: str) -> FrozenNorm | None:
        """A norm with its scale at the position, if anything is normalized there."""
        if norm.kind is None:
            return None
        return FrozenNorm.of(norm, at_positions(self.recorded[f"{name}.hook_scale"], self.rows)[:, 0])

    def effects(self, onto: Float[Tensor, "batch d_model"]) -> Float[Tensor, "layer head key batch"]:
        """The direct effect of every head from every key, on what `onto` reads after the final norm."""
        last = self.norm(self.model.ln_final, "ln_final")
        onto = onto if last is None else last.pulled_back(onto) / last.scale
        found = []
        for layer, block in enumerate(self.model.blocks):
            own = self.norm(block.ln1_post, f"blocks.{layer}.ln1_post")
            reads = (onto if own is None else own.pulled_back(onto) / own.scale) * block.residual_scale
            through = torch.einsum("hkd,bd->bhk", self.model.whole(block.attn.W_O).detach().to(reads), reads)
            values = torch.einsum("bjhk,bhk->hjb", self.values(layer).to(through), through)
            found.append(values * self.attention(layer).to(through).permute(1, 2, 0))
        return torch.stack(found)


def one_token_each(model: HookedTransformer, tokens: Any, batch: int) -> Int[Tensor, " batch"]:
    """The ids of one token of each prompt; of several, [prompt, n], the first one's."""
    ids = model.token_ids(tokens)
    return for_each_prompt(ids[:, 0] if ids.ndim == 2 else ids.reshape(-1), batch, "answer")


def logit_directions(model: HookedTransformer, tokens: Any, batch: int) -> Float[Tensor, "batch d_model"]:
    """The columns of W_U for one token of each prompt; of several, [prompt, n], the first one's.

    Raises:
        BadInput: another number of tokens than of prompts, or a masked-LM head.
    """
    if model.cfg.mlm_head:
        raise BadInput("a masked-LM head is not linear, so that a logit is no sum over parts of the stream")
    ids = one_token_each(model, tokens, batch)
    W_U = model.W_U.detach()
    return W_U.T[ids.to(W_U.device)].to(torch.promote_types(W_U.dtype, torch.float32)) * model.cfg.logits_scale


def masks_of(run: Run, groups: Mapping[str, Places]) -> dict[str, Bool[Tensor, "batch pos"]]:
    """Which positions of each prompt are in each group, and as "other" which real ones are in none.

    Raises:
        BadInput: a position outside the prompts, a group called "other", or groups that share a position.
    """
    real, masks = run.real, {}
    for name, places in groups.items():
        given = torch.as_tensor(places, device=real.device)
        if given.dtype == torch.bool:
            if given.shape != real.shape:
                raise BadInput(
                    f"the mask of {name!r} must be [prompt, pos] = {list(real.shape)}, got {list(given.shape)}"
                )
            masks[name] = given & real
            continue
        each = isinstance(places, Tensor) and given.ndim >= 1 and len(given) == len(real)
        listed = given.reshape(len(real), -1) if each else given.reshape(1, -1)
        with about(f"the group {name!r}"):
            masks[name] = torch.zeros_like(real).scatter(1, counted_back(listed, real), True)
    if "other" in masks:
        raise BadInput("'other' is what is in no group; call the group something else")
    together = torch.stack(list(masks.values())).sum(0) if masks else torch.zeros_like(real).long()
    if bool((together > 1).any()):
        raise BadInput("groups share a position, so that their effects would not sum to the head's")
    return masks | {"other": real & (together == 0)}
