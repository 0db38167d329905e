"""The first criterion of a role, where a head attends: a number for every head, 1 perfect and 0 that of uniform
attention.

Each function gives a criterion: what it makes of a scene, and of the roles that were found before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.interventions.runs import Intervention, Mean, Run
from interp_hooks.interventions.sites import at
from interp_hooks.studies.heads.scenes import Place, Scene
from interp_hooks.studies.heads.vocabulary import relation_scores

Found = Mapping[str, Tensor]
"""Of the roles that were looked for before, which heads [layer, head] have them."""
Looks = Callable[[Scene, Found], Tensor]


def looks_like(metric: str) -> Looks:
    """Attends as one of the `TARGETS` of the attention metrics says."""
    return lambda scene, found: scene.metrics.corrected(metric).nan_to_num(0.0)


def looks_from(query: str, key: str, *, after: int = 0) -> Looks:
    """Attends from one named position to another, or to the token so many `after` it."""
    return partial(_from, query=(query, 0), key=(key, after), without=None)


def looks_when_without(role: str, query: str, key: str) -> Looks:
    """The same in a run in which the heads that have another role write only their mean."""
    return partial(_from, query=(query, 0), key=(key, 0), without=role)


def _from(scene: Scene, found: Found, query: Place, key: Place, without: str | None) -> Float[Tensor, "layer head"]:
    run = None if without is None else run_without(scene, found, without)
    if run is None and without is not None:
        return scene.unknown
    return above_uniform(_paid(scene, query, key, run), scene.uniform(query).mean().cpu())


def _paid(scene: Scene, query: Place, key: Place, run: Run | None = None) -> Float[Tensor, "layer head"]:
    """What every head pays from one place to another, as a mean over prompts."""
    return scene.attention(query, key, run).mean(-1).cpu()


def above_uniform(paid: Tensor, uniform: float | Tensor) -> Tensor:
    """What is paid above chance, as a part of what a perfect head pays above it."""
    return (paid - uniform) / (1 - uniform)


def looks_at_all(query: str, keys: str) -> Looks:
    """Attends from one named position to those that have a common name and a number: "label1", "label2", ..."""

    def share(scene: Scene, found: Found) -> Float[Tensor, "layer head"]:
        names = [name for name in scene.positions if name.startswith(keys) and name[len(keys) :].isdigit()]
        paid = torch.stack([_paid(scene, (query, 0), (name, 0)) for name in names]).sum(0)
        return above_uniform(paid, len(names) * scene.uniform((query, 0)).mean().cpu())

    return share


def looks_at_both(query: str, key: str, other: str) -> Looks:
    """Attends from one named position to two others alike: the smaller part counts, twice."""

    def share(scene: Scene, found: Found) -> Float[Tensor, "layer head"]:
        least = torch.stack([_paid(scene, (query, 0), (name, 0)) for name in (key, other)]).amin(0)
        return above_uniform(2 * least, 2 * scene.uniform((query, 0)).mean().cpu())

    return share


def looks_first(query: str, key: str) -> Looks:
    """Attends more to one named position than to any other token: the share of prompts in which it does."""

    def share(scene: Scene, found: Found) -> Float[Tensor, "layer head"]:
        rows, q, k = torch.arange(len(scene.clean.tokens)), scene.place((query, 0)), scene.place((key, 0))
        most = torch.stack([pattern[rows, :, q].argmax(-1) for pattern in scene.patterns()])  # layer prompt head
        hits, chance = (most == k[:, None]).double().mean(1).cpu(), float(scene.uniform((query, 0)).mean())
        return above_uniform(hits, chance)

    return share


def maps_to_answer(item: str) -> Looks:
    """Its weights map the token at a named position to the answer, as their likeliest output (not where it attends)."""

    def share(scene: Scene, found: Found) -> Float[Tensor, "layer head"]:
        model, rows = scene.model, torch.arange(len(scene.clean.tokens))
        given = scene.clean.tokens[rows, scene.place((item, 0))]
        pairs = list(zip(given.tolist(), model.token_ids(scene.answer).reshape(-1).tolist(), strict=True))
        return above_uniform(relation_scores(model, pairs, k=1).mean, 1 / model.cfg.d_vocab_out)

    return share


def to_predicted() -> Looks:
    """Attends to tokens that the stream before its layer predicts, as a logit lens reads it, and that stand already."""

    def share(scene: Scene, found: Found) -> Float[Tensor, "layer head"]:
        rows = []
        seen = (scene.clean.real.cumsum(1)[:, :, None]).clamp(min=1)
        for pattern, (wanted, _) in zip(scene.patterns(), scene.predicted, strict=True):
            asks = wanted.any(-1)
            paid = (pattern * wanted[:, None]).sum(-1).transpose(1, 2)[asks].mean(0)
            uniform = (wanted / seen).sum(-1)[asks].mean()
            rows.append(above_uniform(paid, uniform).cpu())
        return torch.stack(rows).nan_to_num(0.0)

    return share


def run_without(scene: Scene, found: Found, role: str) -> Run | None:
    """The clean run in which the heads of a role write their mean over prompts, or None if there are no such heads.

    Raises:
        BadInput: the role was not looked for.
    """
    heads = heads_of(found, role)
    if not bool(heads.any()):
        return None
    run = scene.clean
    mean = Mean(run, per_position=bool(run.real.all()))
    changes = [Intervention(at("z", layer, head=head), mean) for layer, head in heads.nonzero().tolist()]
    return Run(run.tokens, changes, run.attention_mask)


def heads_of(found: Found, role: str) -> Bool[Tensor, "layer head"]:
    """Which heads have a role that was looked for before.

    Raises:
        BadInput: it was not.
    """
    if role not in found:
        raise BadInput(f"this role is told from the heads that are {role!r}: ask for that role too, before this one")
    return found[role]
