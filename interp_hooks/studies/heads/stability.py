"""Would heads have the same roles again? The questions of `circuits.stability`, asked of `head_roles`.

other prompts        how often each head has its role on prompts drawn anew, and what halves have in common
another ablation     what is lost if the head is ablated by zero, by its mean, or by its counterpart
the truth of scores  what the role's cause says, beside what is lost with the counterpart
a null               prompts scored by the answers of others; of random tokens, ones that do not repeat
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.circuits.stability import FEWEST, exchanged, jaccard
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, Positive
from interp_hooks.experiments.ablation import ablate
from interp_hooks.experiments.results.kept import Kept
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.prompts import MetricOf, run_of
from interp_hooks.interventions.readout import Metric
from interp_hooks.interventions.runs import PromptsLike
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.heads.roles import HeadRoles, Role, chosen_roles, scored
from interp_hooks.studies.heads.scenes import Scene, heads_apart


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RoleStability(Kept):
    """How stable the roles of heads are, by the four questions above. Prints as a summary and its table.

    `had` [role, layer, head] are the roles on all prompts, `cause` their second scores, `inclusion` the share of
    `samples` of prompts in which each is found, and `halves` [split, role] what two halves of the prompts have in
    common (Jaccard; of random tokens, two new draws). `lost` is by ablation the share of the metric's difference from
    the counterparts that is lost without each head, [layer, head], and `null` [null] how many roles are found where
    there should be none.
    """

    roles: Sequence[str]
    samples: int
    had: Bool[Tensor, "role layer head"]
    cause: Float[Tensor, "role layer head"]
    inclusion: Float[Tensor, "role layer head"]
    halves: Float[Tensor, "split role"]
    lost: Mapping[str, Float[Tensor, "layer head"]]
    null: Float[Tensor, " null"]

    def table(self) -> pd.DataFrame:
        """A row for each head and role that was found in some sample: most often found first.

        Columns: whether it `has` the role on all prompts, `inclusion`, its `cause`, and what is `lost` by ablation.
        """
        rows = [
            dict(layer=layer, head=head, role=self.roles[role], has=bool(self.had[role, layer, head]))
            | dict(inclusion=float(self.inclusion[role, layer, head]), cause=float(self.cause[role, layer, head]))
            | {f"lost by {name}": float(lost[layer, head]) for name, lost in self.lost.items()}
            for role, layer, head in (self.had | (self.inclusion > 0)).nonzero().tolist()
        ]
        columns = ["layer", "head", "role", "has", "inclusion", "cause", *(f"lost by {one}" for one in self.lost)]
        table = pd.DataFrame(rows, columns=columns)
        return table.sort_values("inclusion", ascending=False, kind="stable").reset_index(drop=True)

    def summary(self) -> pd.DataFrame:
        """A row for each role: heads that have it, their mean inclusion, the mean Jaccard of halves; then the null."""
        rows: list[tuple[str, float, float, float]] = [
            (
                name,
                float(self.had[at].sum()),
                float(self.inclusion[at][self.had[at]].mean()),
                float(self.halves[:, at].mean()),
            )
            for at, name in enumerate(self.roles)
        ]
        rows.append(("any, by the null", float(self.null.mean()), float("nan"), float("nan")))
        return pd.DataFrame(rows, columns=["role", "heads", "inclusion", "Jaccard of halves"])

    def __repr__(self) -> str:
        return f"{self.summary().to_string(index=False)}\n{self.table().to_string(index=False, max_rows=30)}"


@study
def role_stability(
    model: HookedTransformer,
    prompts: PromptsLike | None = None,
    *,
    roles: Sequence[str | Role] | None = None,
    samples: Positive = 20,
    splits: Positive = 5,
    nulls: Positive = 3,
    n: Count = 16,
    subseq_len: int | None = None,
    bos: int | None = None,
    generator: torch.Generator | None = None,
    every_cause: bool = False,
    progress: bool = True,
) -> RoleStability:
    """Look for the roles of heads again: on other prompts, beside other ablations, and where there should be none.

    Prompts are a task, of which `samples` are drawn with replacement, or by default rows of random tokens that come
    twice, which are drawn anew. `roles`, `n`, `subseq_len`, `bos` and `every_cause` are those of `head_roles`.

    Raises:
        BadInput: prompts that are no task, fewer than 4 of them, or what `head_roles` refuses.

    >>> from interp_hooks.studies import role_stability
    >>> stable = role_stability(model, roles=["induction"], samples=2, splits=1, nulls=1, n=4, progress=False)
    >>> stable.summary()["role"].tolist()
    ['induction', 'any, by the null']
    """
    with heads_apart(model):

        def repetition() -> Scene:
            return Scene.repetition(model, n, subseq_len, generator, bos)

        scene = repetition() if prompts is None else Scene.of(model, prompts)
        if scene.corrupt is None or not isinstance(scene.metric, Metric):
            raise BadInput("stability needs a task, whose prompts have counterparts and a metric; got prompts alone")
        scene = replace(scene, every_cause=every_cause, metric=scene.metric.on(model))
        asked, count = chosen_roles(scene, roles), len(scene.clean.tokens)
        if count < FEWEST:
            raise BadInput(f"stability over prompts needs at least {FEWEST} of them, got {count}")
        with progress_bar(total=1 + samples + 2 * splits + nulls, progress=progress, unit="search") as bar:

            def found(rows: Int[Tensor, " prompt"]) -> Bool[Tensor, "role layer head"]:
                return found_in(repetition() if scene.repeats else _some(scene, rows, rows))

            def found_in(one: Scene) -> Bool[Tensor, "role layer head"]:
                bar.update()
                return _had(scored(replace(one, every_cause=every_cause, paths={}), asked))

            whole = scored(scene, asked)
            bar.update()
            had = _had(whole)
            inclusion = torch.zeros(had.shape, dtype=torch.float64)
            for _ in range(samples):
                inclusion += found(torch.randint(count, (count,), generator=generator)).double() / samples
            halves = []
            for _ in range(splits):
                order = torch.randperm(count, generator=generator)
                one, other = (found(rows) for rows in (order[: count // 2], order[count // 2 :]))
                halves.append([jaccard(*both) for both in zip(one, other, strict=True)])
            null = [float(found_in(_null(scene, generator)).sum()) for _ in range(nulls)]
        return RoleStability(
            roles=[role.name for role in asked],
            samples=samples,
            had=had,
            cause=whole.cause.double(),
            inclusion=inclusion.clamp(max=1.0),
            halves=torch.tensor(halves, dtype=torch.float64),
            lost=_lost(scene),
            null=torch.tensor(null, dtype=torch.float64),
        )


def _had(found: HeadRoles) -> Bool[Tensor, "role layer head"]:
    """Which heads have which roles."""
    had = torch.zeros(found.attention.shape, dtype=torch.bool)
    for at, role in enumerate(found.roles):
        for cell in found.having(role.name):
            had[(at, *cell)] = True
    return had


def _some(scene: Scene, rows: Int[Tensor, " prompt"], answers: Int[Tensor, " prompt"]) -> Scene:
    """Some of a scene's prompts, with the answers of these or others."""
    assert isinstance(scene.metric, Metric)
    metric = MetricOf(scene.metric.on(scene.model), rows, answers, len(scene.clean.tokens))
    return replace(
        scene,
        clean=run_of(scene.model, scene.clean, rows),
        corrupt=run_of(scene.model, scene.counterpart, rows),
        metric=metric,
        positions={name: places[rows.to(places.device)] for name, places in scene.positions.items()},
        answer=_of_rows(scene.answer, answers),
        wrong=_of_rows(scene.wrong, answers),
        paths={},
    )


def _of_rows(answers: Any, rows: Int[Tensor, " prompt"]) -> Any:
    """The answers of some prompts; one that is for all of them stays as it is."""
    if isinstance(answers, Tensor):
        return answers[rows.to(answers.device)] if answers.ndim else answers
    return [answers[row] for row in rows.tolist()] if isinstance(answers, list | tuple) else answers


def _null(scene: Scene, generator: torch.Generator | None) -> Scene:
    """Prompts with the answers of others; of random tokens, ones that do not repeat."""
    count = len(scene.clean.tokens)
    if scene.repeats:
        return replace(scene, clean=scene.counterpart, corrupt=scene.clean, paths={})
    return _some(scene, torch.arange(count), exchanged(count, generator))


def _lost(scene: Scene) -> dict[str, Float[Tensor, "layer head"]]:
    """The share of the difference that is lost if one head writes 0, its mean, or what it writes in the counterpart."""
    clean, corrupt = evaluate(scene.model, [scene.clean, scene.counterpart], scene.asked).mean(-1).double().cpu()
    methods: dict[str, Any] = {"counterpart": scene.counterpart, "zero": "zero", "mean": "mean"}
    lost = {}
    for name, method in methods.items():
        after = ablate(scene.model, scene.clean, scene.asked, "z", method=method, progress=False).mean.double().cpu()
        lost[name] = (clean - after) / (clean - corrupt)
    return lost
