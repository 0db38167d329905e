"""What neurons add to logits where they are active: their effect on the vocabulary, times what they are there.

    boost[token] = mean over top contexts of  post / scale of the final norm  *  effect[token]

in logits, less the mean over all tokens. It has the sign and size that the weights alone do not tell, and says whether
the neuron raises the token that really follows. It is the neuron's direct logit attribution: see
`direct_logit_attribution(..., unit="neuron")`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.corpus.reducers.top import Side
from interp_hooks.corpus.scanning import Scan
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, refuse_outside
from interp_hooks.experiments.results.shown import Shown
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.recording import record
from interp_hooks.model.token_text import names_of
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.directions import unembedding
from interp_hooks.studies.neurons.contexts import Contexts, Found, split_by_size, stacked, together, top_contexts
from interp_hooks.studies.neurons.vocabulary import effect_of
from interp_hooks.studies.neurons.weights import Neurons, neurons_of


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LogitBoost(Shown):
    """What units (layer, neuron) add to logits on average over their top contexts, [unit, k] for the tokens at both
    ends; `next_boost` is what they add to the token that follows each context, by unit, `activation` what they are
    there, and `scale` what the norms divide them by.
    """

    units: Sequence[tuple[int, int]]
    top: Int[Tensor, "unit k"]
    top_boosts: Float[Tensor, "unit k"]
    bottom: Int[Tensor, "unit k"]
    bottom_boosts: Float[Tensor, "unit k"]
    next_tokens: Sequence[Int[Tensor, " _"]]
    next_boost: Sequence[Float[Tensor, " _"]]
    activation: Sequence[Float[Tensor, " _"]]
    scale: Sequence[Float[Tensor, " _"]]
    text_of: Callable[[int], str]

    def table(self) -> pd.DataFrame:
        """A row for each unit: the mean boost of the next token, and the tokens at both ends with their mean boosts."""
        rows: list[dict[str, Any]] = []
        for place, (layer, neuron) in enumerate(self.units):
            following = self.next_boost[place]
            row: dict[str, Any] = dict(layer=layer, neuron=neuron, n=len(following))
            row["activation"] = float(self.activation[place].mean()) if len(following) else float("nan")
            row["next_boost"] = float(following.mean()) if len(following) else float("nan")
            for name, ids, values in (
                ("boosted", self.top, self.top_boosts),
                ("lowered", self.bottom, self.bottom_boosts),
            ):
                row[name] = [self.text_of(id) for id in ids[place].tolist()]
                row[f"{name}_logits"] = values[place].tolist()
            rows.append(row)
        return pd.DataFrame(rows)


@study
def logit_boost(
    model: HookedTransformer,
    scan: Scan,
    units: Sequence[tuple[int, int]],
    *,
    k: Count = 10,
    n_contexts: Count = 8,
    side: Side = "largest",
    before: Count | None = None,
) -> LogitBoost:
    """What each of some neurons (layer, neuron) adds to logits, averaged over its `n_contexts` top contexts.

    `side` "smallest" takes those where it is smallest, of a scan with `TopK(neurons(), side="smallest")`.

    Raises:
        BadInput: units that the scan did not measure, a scan without `TopK(neurons())`, or a model in which logits are
            not linear in what neurons write.

    >>> from interp_hooks.corpus import scan
    >>> from interp_hooks.studies import logit_boost, neuron_reducers
    >>> found = scan(model, clean, neuron_reducers(k=3), progress=False)
    >>> logit_boost(model, found, [(1, 3)], k=2).table()["boosted"].map(len).tolist()
    [2]
    """
    if model.cfg.norm_placement == "post":
        raise BadInput("a post-norm model normalizes its stream after every addition: neurons add nothing to logits")
    if not units:
        raise BadInput("units must be (layer, neuron) pairs, got none")
    found, onto = Found(scan), unembedding(model)
    refuse_outside("k", k, 1, onto.shape[1], "the size of the vocabulary")
    options: dict[str, Any] = dict(k=n_contexts, side=side, before=before)
    examples = [top_contexts(model, found, layer, neuron, **options).followed() for layer, neuron in units]
    shown = _activations_and_scales(model, units, examples)
    groups = {layer: neurons_of(model, layer)[0] for layer, _ in units}
    parts = [
        _boosted(groups[layer], neuron, onto, one, *values, k)
        for (layer, neuron), one, values in zip(units, examples, shown, strict=True)
    ]
    stacks = {name: torch.stack([part[name] for part in parts]) for name in _PER_TOKEN}
    return LogitBoost(
        units=[(int(layer), int(neuron)) for layer, neuron in units],
        next_tokens=[one.next_tokens for one in examples],
        next_boost=[part["next"] for part in parts],
        activation=[activation for activation, _ in shown],
        scale=[scale for _, scale in shown],
        text_of=cache(names_of(model)),
        **stacks,
    )


_PER_TOKEN = ("top", "top_boosts", "bottom", "bottom_boosts")


def _boosted(
    group: Neurons, neuron: int, onto: Tensor, contexts: Contexts, activation: Tensor, scale: Tensor, k: int
) -> dict[str, Tensor]:
    """What one neuron adds to the tokens at both ends on average, and to the next token of each context."""
    effect, factor = effect_of(group, neuron, onto).double().cpu(), activation / scale
    mean = factor.mean() * effect if len(factor) else torch.full_like(effect, torch.nan)
    top, bottom = mean.topk(k), mean.topk(k, largest=False)
    return {
        "top": top.indices,
        "top_boosts": top.values,
        "bottom": bottom.indices,
        "bottom_boosts": bottom.values,
        "next": factor * effect[contexts.next_tokens],
    }


def _activations_and_scales(
    model: HookedTransformer, units: Sequence[tuple[int, int]], examples: Sequence[Contexts]
) -> list[tuple[Float[Tensor, " _"], Float[Tensor, " _"]]]:
    """Of every unit its activation in each of its contexts, and what the norms on its way to the logits divide by."""
    owners = [unit for unit, one in zip(units, examples, strict=True) for _ in range(len(one))]
    rows = together(examples)
    activations, scales = [torch.zeros(0, dtype=torch.float64)], [torch.zeros(0, dtype=torch.float64)]
    for group in split_by_size(rows.rows):
        chosen, of = rows.chosen(group), [owners[row] for row in group]
        activation, scale = _read(model, chosen, of)
        activations.append(activation)
        scales.append(scale)
    sizes = [len(one) for one in examples]
    return list(zip(torch.cat(activations).split(sizes), torch.cat(scales).split(sizes), strict=True))


def _read(
    model: HookedTransformer, contexts: Contexts, of: Sequence[tuple[int, int]]
) -> tuple[Float[Tensor, " context"], Float[Tensor, " context"]]:
    """The same for contexts that are read in one pass, each with its own unit."""
    layers, last = sorted({layer for layer, _ in of}), f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    posts = {layer: neurons_of(model, layer)[0].hook for layer in layers}
    norms: dict[int, Any] = {layer: model.blocks[layer].get_submodule("ln2_post") for layer in layers}
    after = {layer: f"blocks.{layer}.ln2_post.hook_scale" for layer in layers if norms[layer].kind is not None}
    shown = record(model, stacked(model, contexts.rows), [last, *posts.values(), *after.values()])
    each, at = torch.arange(len(contexts)), contexts.at.to(model.device)
    final: Any = model.ln_final
    scale = torch.ones(len(contexts), dtype=torch.float64)
    if final.kind is not None:
        scale = final.statistics(shown[last][each, at])[1][:, 0].double().cpu()
    activation = torch.zeros(len(contexts), dtype=torch.float64)
    for row, (layer, neuron) in enumerate(of):
        activation[row] = shown[posts[layer]][row, at[row]].flatten()[neuron]
        if layer in after:
            scale[row] *= float(shown[after[layer]][row, at[row], 0])
    return activation, scale
