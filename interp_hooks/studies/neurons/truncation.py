"""Which tokens of an example a unit needs, by what its activation at the last token becomes without them.

    truncated_prompt     the shortest end of the prompt that keeps half of the activation
    token_importance     1 - activation with token i replaced / activation: 1 where the unit needs it, 0 where not
    minimal_example      tokens are deleted as long as half stays: in the end none of them can be left out
    and_ness             f(AB) - f(A) - f(B) + f(neither): what two tokens do together that neither does alone

Each step is one batch of prompts. A BOS at the beginning stays, and so does the position that is looked at: the last.
Replaced tokens become another token, or the mean embedding of the vocabulary, or are deleted, so that those after them
move up. (Foote et al. 2023, arxiv.org/abs/2305.19911, prune and replace in this way.)

`random_direction` is the control: a unit that reads the same input as a layer's neurons, in no direction in particular.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.corpus.packing import leads
from interp_hooks.corpus.units import Units
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.hooks.modes import study
from interp_hooks.interventions.runs import Intervention, Run
from interp_hooks.interventions.sites import at
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.neurons.contexts import measured, split_by_size, stacked

Replacement = int | Literal["mean", "delete"]
"""What stands where a token is taken away: a token id, the mean embedding, or nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shortened:
    """A prompt that was made shorter, what the unit's activation at its last token is, and what it was.

    `places` says where its tokens stood in the prompt.
    """

    tokens: Int[Tensor, " pos"]
    places: Int[Tensor, " pos"]
    activation: float
    whole: float

    @property
    def kept(self) -> float:
        """The share of the activation that is left."""
        return self.activation / self.whole


@study
def truncated_prompt(
    model: HookedTransformer, unit: Units, tokens: Int[Tensor, " pos"], *, keep: float = 0.5
) -> Shortened:
    """The shortest end of a prompt, after BOS, that keeps the share `keep` of a unit's activation at the last token.

    Raises:
        BadInput: `keep` outside 0..1, no tokens, or an activation of 0.

    >>> from interp_hooks.studies import neuron, truncated_prompt
    >>> truncated_prompt(model, neuron(1, 3), model.to_tokens(clean)[0]).places.shape
    torch.Size([...])
    """
    whole, first = _whole(model, unit, tokens, keep)
    places = torch.arange(len(tokens))
    for lengths in torch.arange(1, len(tokens) - first).split(BLOCK):
        masks = (places < first) | (places >= len(tokens) - lengths[:, None])
        values = _kept(model, unit, tokens, masks)
        if len(enough := (values / whole >= keep).nonzero()):
            best = int(enough[0])
            return _shortened(tokens, masks[best], float(values[best]), whole)
    return _shortened(tokens, torch.ones(len(tokens), dtype=torch.bool), whole, whole)


@study
def minimal_example(
    model: HookedTransformer, unit: Units, tokens: Int[Tensor, " pos"], *, keep: float = 0.5
) -> Shortened:
    """Tokens of a prompt of which none can be deleted without losing more than `1 - keep` of a unit's activation.

    It begins with the shortest end of the prompt that keeps as much, and deletes the token that costs least as long as
    enough is left. Other tokens may do as well: this is one of possibly several such sets.

    Raises:
        BadInput: as `truncated_prompt`.

    >>> from interp_hooks.studies import minimal_example, neuron
    >>> minimal_example(model, neuron(1, 3), model.to_tokens(clean)[0]).kept >= 0.5
    True
    """
    whole, first = _whole(model, unit, tokens, keep)
    found = truncated_prompt(model, unit, tokens, keep=keep)
    kept, value = torch.isin(torch.arange(len(tokens)), found.places), found.activation
    while int(kept[first:].sum()) > 1:
        deletable = [place for place in kept.nonzero()[:, 0].tolist() if place >= first]
        masks = kept.repeat(len(deletable), 1)
        masks[torch.arange(len(deletable)), torch.tensor(deletable)] = False
        values = _kept(model, unit, tokens, masks) / whole
        best = int(values.argmax())
        if values[best] < keep:
            break
        kept, value = masks[best], float(values[best]) * whole
    return _shortened(tokens, kept, value, whole)


@study
def token_importance(
    model: HookedTransformer, unit: Units, tokens: Int[Tensor, " pos"], *, replacement: Replacement = "mean"
) -> Float[Tensor, " pos"]:
    """How much of a unit's activation at the last token each token carries: 1 - activation without it / activation.

    nan for a BOS at the beginning, which is never replaced.

    Raises:
        BadInput: an unknown replacement, no tokens, or an activation of 0.

    >>> from interp_hooks.studies import neuron, token_importance
    >>> token_importance(model, neuron(1, 3), model.to_tokens(clean)[0]).shape
    torch.Size([...])
    """
    whole, first = _whole(model, unit, tokens)
    places = torch.arange(first, len(tokens))
    replaced = torch.zeros(len(places), len(tokens), dtype=torch.bool)
    replaced[torch.arange(len(places)), places] = True
    found = torch.full((len(tokens),), torch.nan, dtype=torch.float64)
    found[first:] = 1 - responses(model, unit, tokens, replaced, replacement) / whole
    return found


@study
def and_ness(
    model: HookedTransformer,
    unit: Units,
    tokens: Int[Tensor, " pos"],
    places: Sequence[int],
    *,
    replacement: Replacement = "mean",
) -> float:
    """What some tokens of a prompt do to a unit together, beyond what fewer of them do.

    For two tokens A and B it is f(AB) - f(A) - f(B) + f(neither), where f(A) is the activation at the last token with
    all other `places` replaced; for more, the sum over all their subsets, with the sign of how many are replaced. It is
    the whole activation for an AND, minus it for an OR, and 0 where each adds its own part.

    Raises:
        BadInput: no, repeated, more than 10 places or ones outside the prompt, or an unknown replacement.

    >>> from interp_hooks.studies import and_ness, neuron
    >>> value = and_ness(model, neuron(1, 3), model.to_tokens(clean)[0], (2, 5))
    """
    inside = all(0 <= place < len(tokens) for place in places)
    if not 1 <= len(set(places)) == len(places) <= MOST_PLACES or not inside:
        raise BadInput(f"places must be 1 to {MOST_PLACES} different ones below {len(tokens)}, got {list(places)}")
    subsets = torch.tensor(list(itertools.product((False, True), repeat=len(places))))
    replaced = torch.zeros(len(subsets), len(tokens), dtype=torch.bool)
    replaced[:, list(places)] = subsets
    signs = 1 - 2 * (subsets.sum(1) % 2)
    return float((signs * responses(model, unit, tokens, replaced, replacement)).sum())


@checked
def random_direction(model: HookedTransformer, layer: int, generator: torch.Generator | None = None) -> Units:
    """A unit that reads a random unit vector of what the neurons of a layer read: the control for a neuron.

    Its value is the normalized input of the MLP times that vector, without an activation function.

    >>> from interp_hooks.studies import random_direction, truncated_prompt
    >>> control = random_direction(model, 1, torch.Generator().manual_seed(0))
    >>> shortest = truncated_prompt(model, control, model.to_tokens(clean)[0])
    """
    vector = torch.randn(model.cfg.d_model, generator=generator, dtype=torch.float64)
    vector = (vector / vector.norm()).to(model.device, model.dtype)

    def read(shown: Any, model: HookedTransformer, layer: int | None) -> Float[Tensor, "row pos 1"]:
        assert layer is not None
        return model.norm_reading(layer, mlp=True).fused(shown["mlp_in"]) @ vector[:, None]

    return Units("random direction", ("mlp_in",), of=read, layers=(layer,))


BLOCK = 16  # ends of a prompt that are tried at once
MOST_PLACES = 10


def responses(
    model: HookedTransformer,
    unit: Units,
    tokens: Int[Tensor, " pos"],
    replaced: Bool[Tensor, "variant pos"],
    replacement: Replacement,
) -> Float[Tensor, " variant"]:
    """A unit's activation at the last token of each variant of a prompt, in which some tokens are replaced.

    Raises:
        BadInput: an unknown replacement.
    """
    if replacement == "delete":
        return _kept(model, unit, tokens, ~replaced)
    if replacement != "mean" and (isinstance(replacement, str) or not 0 <= replacement < model.cfg.d_vocab):
        raise BadInput(
            f"replacement must be 'mean', 'delete' or a token id below {model.cfg.d_vocab}, got {replacement!r}"
        )
    rows = tokens.cpu().expand(len(replaced), -1)
    if isinstance(replacement, int):
        return _at_last(model, unit, list(rows.masked_fill(replaced, replacement)))
    mean = mean_embedding(model)
    found = []
    for group in split_by_size(list(rows)):
        mask = replaced[group][..., None].to(model.device)
        given = rows[group].to(model.device)
        run = Run(given, [Intervention(at("hook_embed"), mean, mask=mask.to(mean))], torch.ones_like(given))
        found.append(measured(model, unit, run)[:, -1])
    return torch.cat(found).double().cpu()


def mean_embedding(model: HookedTransformer) -> Float[Tensor, " d_model"]:
    """The mean over the vocabulary of what tokens are embedded as."""
    total = sum(
        model.embed(part[None].to(model.device))[0].double().sum(0)
        for part in torch.arange(model.cfg.d_vocab).split(4096)
    )
    return (torch.as_tensor(total) / model.cfg.d_vocab).to(model.dtype)


def _kept(
    model: HookedTransformer, unit: Units, tokens: Int[Tensor, " pos"], kept: Bool[Tensor, "variant pos"]
) -> Float[Tensor, " variant"]:
    """A unit's activation at the last token of what is left of a prompt; 0 where that is nothing."""
    rows = [tokens.cpu()[one] for one in kept]
    found = torch.zeros(len(rows), dtype=torch.float64)
    some = [number for number, row in enumerate(rows) if len(row)]
    found[some] = _at_last(model, unit, [rows[number] for number in some])
    return found


def _at_last(model: HookedTransformer, unit: Units, rows: Sequence[Int[Tensor, " _"]]) -> Float[Tensor, " row"]:
    found = [torch.zeros(0, dtype=torch.float64)]
    for group in split_by_size(rows):
        values = measured(model, unit, stacked(model, [rows[number] for number in group]))
        last = torch.tensor([len(rows[number]) - 1 for number in group], device=values.device)
        found.append(values[torch.arange(len(last)), last].double().cpu())
    return torch.cat(found)


def _whole(model: HookedTransformer, unit: Units, tokens: Tensor, keep: float = 0.5) -> tuple[float, int]:
    """A unit's activation at the end of the whole prompt, and how many tokens stay at its beginning."""
    if not 0 < keep <= 1:
        raise BadInput(f"keep must lie between 0 and 1, got {keep}")
    first = int(leads(model, tokens))
    if len(tokens) <= first:
        raise BadInput("expected a prompt of at least one token beside BOS")
    whole = float(_at_last(model, unit, [tokens.cpu()])[0])
    if whole == 0:
        raise BadInput("the unit's activation at the last token is 0, so that there is nothing to keep")
    return whole, first


def _shortened(tokens: Tensor, kept: Bool[Tensor, " pos"], activation: float, whole: float) -> Shortened:
    return Shortened(tokens=tokens.cpu()[kept], places=kept.nonzero()[:, 0], activation=activation, whole=whole)
