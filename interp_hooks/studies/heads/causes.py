"""The second criterion of a role, what a head causes: a number for every head, as a share of what there is to cause.

Each function gives a criterion: what it makes of a scene, of the roles that were found before, and of the heads that
meet the first criterion. Where a cause takes a run for each head, it is looked for in these alone, and nan elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_hooks.experiments.patching import Direction
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import Intervention
from interp_hooks.interventions.sites import at
from interp_hooks.studies.directions import unembedding
from interp_hooks.studies.heads.looks import Found, heads_of, run_without
from interp_hooks.studies.heads.scenes import Scene
from interp_hooks.studies.heads.sources import HeadsAt, direct_effect_by_source, logit_directions

Cause = Callable[[Scene, Found, Bool[Tensor, "layer head"]], Tensor]
LOWEST = 10  # tokens that count as lowered most, or a hundredth of a small vocabulary
ASKED = 200  # queries at which a head's logits are made


def by_path(*hooks: str, place: str | None = None, sign: int = 1, direction: Direction = "noise") -> Cause:
    """What is lost if the head reaches later heads' inputs, or the logits, as it does in the counterpart.

    Inputs are at a named place, or everywhere. With `sign=-1`, what is gained. With "denoise", what the counterpart
    wins if the head reaches them as in the prompts, which shows also where several heads do the same.
    """

    def share(scene: Scene, found: Found, heads: Tensor) -> Float[Tensor, "layer head"]:
        some = None if scene.every_cause or hooks == ("logits",) else heads
        return sign * scene.moved_by_paths(hooks, None if place is None else (place, 0), direction, some)

    return share


def by_itself(direction: Direction = "noise") -> Cause:
    """What is lost if the head writes what it writes in the counterpart.

    With "denoise", what the counterpart wins if the head writes what it writes in the prompts.
    """
    return lambda scene, found, heads: scene.moved_by(heads, direction)


def by_route(metric: str, hook: str, other: str) -> Cause:
    """How much more of the head's attention of a kind is lost if one of its own inputs is made as in the counterpart
    than if the other is: "q_input" and "k_input"."""

    def share(scene: Scene, found: Found, heads: Tensor) -> Float[Tensor, "layer head"]:
        lost = (scene.attention_lost(metric, one, heads).clamp(0.0, 1.0) for one in (hook, other))
        return next(lost) - next(lost)

    return share


def from_source(group: str, query: str) -> Cause:
    """How much of the metric the head adds directly to the answer from the tokens at a named position."""

    def share(scene: Scene, found: Found, heads: Tensor) -> Float[Tensor, "layer head"]:
        if not scene.works:
            return scene.unknown
        groups, pos = {group: scene.place((group, 0))}, scene.place((query, 0))
        effects = direct_effect_by_source(scene.model, scene.clean, scene.answer, scene.wrong, groups=groups, pos=pos)
        return effects.mean[:, :, 0] / scene.scores[0].mean().cpu()

    return share


def from_both(group: str, other: str, query: str) -> Cause:
    """How much of the metric the head adds directly to the answer from each of two named positions: the smaller part,
    twice."""
    causes = [from_source(name, query) for name in (group, other)]
    return lambda scene, found, heads: 2 * torch.minimum(*(cause(scene, found, heads) for cause in causes))


def by_mean(query: str) -> Cause:
    """What the counterpart wins if the head writes, at a named position, its mean over the prompts.

    The mean is the same for all prompts: what it wins cannot come from what a single prompt asks about.
    """

    def share(scene: Scene, found: Found, heads: Tensor) -> Float[Tensor, "layer head"]:
        place, rows = scene.place((query, 0)), torch.arange(len(scene.clean.tokens))
        names = [f"blocks.{layer}.attn.hook_z" for layer in heads.any(1).nonzero()[:, 0].tolist()]
        z = record(scene.model, scene.clean, names) if names else {}

        def mean(layer: int, head: int) -> Intervention:
            value = z[f"blocks.{layer}.attn.hook_z"][rows, place, head].mean(0)
            return Intervention(at("z", layer, head=head, pos=place), value)

        return scene.moved_to(heads, mean, "denoise")

    return share


def instead_of(role: str, query: str) -> Cause:
    """How much of the direct effect of the heads of another role the head adds once these write only their mean.

    Both runs are read with the final norm's scale of the clean one.
    """

    def share(scene: Scene, found: Found, heads: Tensor) -> Float[Tensor, "layer head"]:
        run, out = run_without(scene, found, role), heads_of(found, role)
        if run is None:
            return scene.unknown
        pos, batch = scene.place((query, 0)), len(scene.clean.tokens)
        onto = logit_directions(scene.model, scene.answer, batch)
        onto = onto if scene.wrong is None else onto - logit_directions(scene.model, scene.wrong, batch)
        before, after = (HeadsAt.of(scene.model, one, pos) for one in (scene.clean, run))
        scales = {name: value for name, value in before.recorded.items() if name.endswith("hook_scale")}
        after = replace(after, recorded={**after.recorded, **scales})
        own, then = (one.effects(onto).sum(2).mean(-1).cpu() for one in (before, after))
        return ((then - own) / own[out].sum()).masked_fill(out, 0.0)

    return share


def lowers_predicted() -> Cause:
    """The share of queries at which the head's direct effect lowers the predicted token as it does hardly any other.

    These are the queries whose predicted token stands in the prompt already, and hardly any other means that the token
    is among the ten whose logits the head lowers most, or the lowest hundredth of a small vocabulary.
    """

    def share(scene: Scene, found: Found, heads: Tensor) -> Float[Tensor, "layer head"]:
        model, rows = scene.model, scene.unknown
        lowest = max(1, min(LOWEST, model.cfg.d_vocab_out // 100))
        layers = heads.any(1).nonzero()[:, 0].tolist()
        z = record(model, scene.clean, [f"blocks.{layer}.attn.hook_z" for layer in layers]) if layers else {}
        for layer in layers:
            wanted, likeliest = scene.predicted[layer]
            queries = wanted.any(-1)
            predicted, written = likeliest[queries][:ASKED], z[f"blocks.{layer}.attn.hook_z"][queries]
            onto = unembedding(model, layer)
            for head in heads[layer].nonzero()[:, 0].tolist():
                W_O = model.whole(model.blocks[layer].attn.W_O)[head].detach().to(onto)
                logits = written[:ASKED, head].to(onto) @ W_O @ onto
                below = (logits <= logits.gather(1, predicted[:, None])).sum(-1) - 1
                rows[layer, head] = (below < lowest).double().mean()
        return rows

    return share
