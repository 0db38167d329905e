"""What each head is for, by two criteria: where it attends, and what happens without it.

A head has a role if it meets both criteria, and is a candidate for it if it meets one. Attention is less what uniform
attention pays, as a part of what a perfect head pays: 1 perfect, 0 uniform. What a head causes is the share that is
lost of the difference between prompts and counterparts, unless the role says otherwise.

    random tokens that come twice    previous token, duplicate token, induction (classic or pointer)
    a task with named positions      IO, S1, S2, end: the roles of Wang et al. 2022 (arxiv.org/abs/2211.00593)
                                     subject, relation, end: recall of facts      item, end: successor
                                     key, value, end: retrieval
                                     label1, label2, ..., end: function vector (Todd et al. 2024,
                                     arxiv.org/abs/2310.15213), of examples whose labels are exchanged in the corrupt
                                     prompts
    any prompts                      copy suppression (McDougall et al. 2023, arxiv.org/abs/2310.04625)

A classic induction head finds the earlier copy by what the previous-token head wrote to its keys; a pointer head has
the position of the copy in its query, and looks one further (which needs learned positions). So the one loses its
attention with the keys of prompts that do not repeat, the other with their queries: what they cause is the share of
attention that is lost by the one, less that by the other. Where the position embeddings that keys see change places,
the one goes with the tokens, the other with the positions (`follows_positions`).

Roles are data: to ask for one of your own, pass a `Role` in `roles=`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_hooks.errors import BadInput, nearest
from interp_hooks.errors.arguments import Count
from interp_hooks.experiments.results.shown import Shown
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.runs import PromptsLike
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.heads.causes import (
    Cause,
    by_itself,
    by_mean,
    by_path,
    by_route,
    from_both,
    from_source,
    instead_of,
    lowers_predicted,
)
from interp_hooks.studies.heads.looks import (
    Looks,
    looks_at_all,
    looks_at_both,
    looks_first,
    looks_from,
    looks_like,
    looks_when_without,
    maps_to_answer,
    to_predicted,
)
from interp_hooks.studies.heads.scenes import Scene, heads_apart


@dataclass(frozen=True, kw_only=True)
class Role:
    """What a head of some kind does: where it `looks`, what it `causes`, and the least of each that counts.

    `needs` are the positions that a task must name; "repeats" stands for random tokens that come twice.
    """

    name: str
    needs: tuple[str, ...] = ()
    looks: Looks
    causes: Cause
    least: tuple[float, float] = (0.3, 0.05)

    def fits(self, scene: Scene) -> bool:
        """Whether a scene has what the role needs."""
        return set(self.needs) <= {*scene.positions, *(["repeats"] if scene.repeats else [])}


REPEATS, IOI, FACT = ("repeats",), ("IO", "S1", "S2", "end"), ("subject", "relation", "end")
ROLES: tuple[Role, ...] = (
    Role(name="previous token", needs=REPEATS, looks=looks_like("previous_token"), causes=by_path("k_input")),
    Role(
        name="duplicate token",
        needs=REPEATS,
        looks=looks_like("duplicate_token"),
        causes=by_path("q_input", "v_input"),
    ),
    Role(name="induction", needs=REPEATS, looks=looks_like("induction"), causes=by_itself("denoise")),
    Role(
        name="classic induction",
        needs=REPEATS,
        looks=looks_like("induction"),
        causes=by_route("induction", "k_input", "q_input"),
        least=(0.3, 0.5),
    ),
    Role(
        name="pointer induction",
        needs=REPEATS,
        looks=looks_like("induction"),
        causes=by_route("induction", "q_input", "k_input"),
        least=(0.3, 0.5),
    ),
    Role(name="name mover", needs=IOI, looks=looks_from("end", "IO"), causes=by_path("logits")),
    Role(name="negative name mover", needs=IOI, looks=looks_from("end", "IO"), causes=by_path("logits", sign=-1)),
    Role(
        name="backup name mover",
        needs=IOI,
        looks=looks_when_without("name mover", "end", "IO"),
        causes=instead_of("name mover", "end"),
    ),
    Role(name="suppression of S", needs=IOI, looks=looks_from("end", "S2"), causes=by_path("logits")),
    Role(name="S-inhibition", needs=IOI, looks=looks_from("end", "S2"), causes=by_path("q_input", place="end")),
    Role(name="duplicate of S", needs=IOI, looks=looks_from("S2", "S1"), causes=by_path("v_input", place="S2")),
    Role(
        name="induction to S",
        needs=IOI,
        looks=looks_from("S2", "S1", after=1),
        causes=by_path("v_input", place="S2"),
    ),
    Role(name="subject recall", needs=FACT, looks=looks_from("end", "subject"), causes=from_source("subject", "end")),
    Role(
        name="relation recall",
        needs=FACT,
        looks=looks_from("end", "relation"),
        causes=from_source("relation", "end"),
    ),
    Role(
        name="mixed recall",
        needs=FACT,
        looks=looks_at_both("end", "subject", "relation"),
        causes=from_both("subject", "relation", "end"),
    ),
    Role(name="function vector", needs=("label1", "end"), looks=looks_at_all("end", "label"), causes=by_mean("end")),
    Role(name="successor", needs=("item", "end"), looks=maps_to_answer("item"), causes=by_path("logits")),
    Role(
        name="retrieval",
        needs=("key", "value", "end"),
        looks=looks_first("end", "value"),
        causes=by_itself(),
        least=(0.1, 0.05),
    ),
    Role(name="copy suppression", looks=to_predicted(), causes=lowers_predicted(), least=(0.2, 0.5)),
)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HeadRoles(Shown):
    """How every head does by both criteria of every role that was asked for. Prints as its table.

    `attention` and `cause` are [role, layer, head]; nan where a number has no meaning: the model does not do what is
    asked of it, or the cause was not looked for, since the head does not attend so.
    """

    _printed = 40

    roles: Sequence[Role]
    attention: Float[Tensor, "role layer head"]
    cause: Float[Tensor, "role layer head"]

    def having(self, role: str) -> list[tuple[int, int]]:
        """The heads that have a role, strongest cause first."""
        at = self._index(role)
        cells = self._both(at).nonzero().tolist()
        return sorted(((layer, head) for layer, head in cells), key=lambda cell: -float(self.cause[at][cell]))

    def table(self, candidates: bool = True) -> pd.DataFrame:
        """A row for each head and role that it has, or is a candidate for, with both scores and their thresholds.

        A head that attends as the role does, and causes the opposite, is no candidate.
        """
        rows = []
        for at, role in enumerate(self.roles):
            looks, causes = self._passes(at)
            for layer, head in (looks | causes if candidates else looks & causes).nonzero().tolist():
                scores = [float(of[at, layer, head]) for of in (self.attention, self.cause)]
                verdict = "role" if looks[layer, head] & causes[layer, head] else "candidate"
                rows.append((layer, head, role.name, *scores, *role.least, verdict))
        columns = ["layer", "head", "role", "attention", "cause", "attention_least", "cause_least", "verdict"]
        return pd.DataFrame(rows, columns=columns)

    def _index(self, role: str) -> int:
        names = [one.name for one in self.roles]
        if role not in names:
            raise BadInput(f"the role {role!r} was not looked for; these were: {', '.join(names)}")
        return names.index(role)

    def _passes(self, at: int) -> tuple[Bool[Tensor, "layer head"], Bool[Tensor, "layer head"]]:
        least = self.roles[at].least
        return (self.attention[at] >= least[0]) & ~(self.cause[at] <= -least[1]), self.cause[at] >= least[1]

    def _both(self, at: int) -> Bool[Tensor, "layer head"]:
        looks, causes = self._passes(at)
        return looks & causes


@study
def head_roles(
    model: HookedTransformer,
    prompts: PromptsLike | None = None,
    *,
    roles: Sequence[str | Role] | None = None,
    n: Count = 16,
    subseq_len: int | None = None,
    bos: int | None = None,
    generator: torch.Generator | None = None,
    every_cause: bool = True,
) -> HeadRoles:
    """Which heads have which roles on a task, on prompts, or by default on random tokens that come twice.

    By default all roles are looked for whose positions the task names. Random tokens are `n` rows of `subseq_len`
    different ones (at most 50), twice, after a BOS if the model's prompts have one, or after `bos`. Keys and values
    that heads share are taken apart for as long as this takes, so that each head's can be changed alone. Paths into
    other heads take a run for each head; with `every_cause=False` for each head that attends as the role does, so that
    no candidate is found by its cause alone.

    Raises:
        BadInput: an unknown role, or one that the prompts cannot show.

    >>> found = head_roles(model, pairs, roles=["name mover"])
    >>> found.table()["role"].unique().tolist()
    ['name mover']
    """
    if n < 2:
        raise BadInput(f"n must be at least 2, got {n}")
    with heads_apart(model):
        scene = Scene.repetition(model, n, subseq_len, generator, bos) if prompts is None else Scene.of(model, prompts)
        scene = replace(scene, every_cause=every_cause)
        asked = chosen_roles(scene, roles)
        return scored(scene, asked)


def chosen_roles(scene: Scene, roles: Iterable[str | Role] | None) -> list[Role]:
    """The roles to look for in a scene.

    Raises:
        BadInput: an unknown role, or one that the scene cannot show.
    """
    known = {role.name: role for role in ROLES}
    if roles is None:
        return [role for role in ROLES if role.fits(scene)]
    asked = []
    for one in roles:
        if isinstance(one, str) and one not in known:
            raise BadInput(f"there is no role {one!r}; there are {', '.join(known)}.{nearest(one, known)}")
        role = known[one] if isinstance(one, str) else one
        if not role.fits(scene):
            shown = ", ".join(scene.positions) or ("random tokens that come twice" if scene.repeats else "none")
            raise BadInput(f"the role {role.name!r} needs {', '.join(role.needs)}; the prompts have {shown}")
        asked.append(role)
    return asked


def scored(scene: Scene, roles: Sequence[Role]) -> HeadRoles:
    """Both scores of every head for each of the roles, which may build on those before them."""
    found: dict[str, Tensor] = {}
    attention, cause = [], []
    for role in roles:
        looks = role.looks(scene, found).float().cpu()
        causes = role.causes(scene, found, looks >= role.least[0]).float().cpu()
        found[role.name] = (looks >= role.least[0]) & (causes >= role.least[1])
        attention.append(looks)
        cause.append(causes)
    empty = torch.zeros(0, scene.model.cfg.n_layers, scene.model.cfg.n_heads)
    stacked = [torch.stack(scores) if scores else empty for scores in (attention, cause)]
    return HeadRoles(roles=list(roles), attention=stacked[0], cause=stacked[1])


@study
def follows_positions(
    model: HookedTransformer,
    *,
    n: Count = 16,
    subseq_len: int | None = None,
    bos: int | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "layer head"]:
    """Whether an induction head goes with the number of a position (1) or with what stands there (0).

    On random tokens that come twice, the head's keys are made in a run in which each token of the first copy has the
    position embedding of the next one; queries and values are not. Of what the head then pays to the token after the
    earlier copy, and to that which has its position embedding now, this is the part that goes to the latter. It says
    something of heads that do attend so (`head_roles`).

    Raises:
        BadInput: the model adds no positions to its stream, so that no head can point at one.

    >>> follows_positions(model, n=4).shape
    torch.Size([3, 4])
    """
    if "hook_pos_embed" not in model.hook_dict or not model.adds_positions:
        raise BadInput("this model adds no position embeddings to its stream, so that no head can go by them")
    return Scene.repetition(model, n, subseq_len, generator, bos).moved_with_positions()
