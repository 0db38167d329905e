"""Roles that were built in are found on all prompts, and none where answers are exchanged or nothing repeats."""

from pathlib import Path

import pytest
import torch

from interp_hooks import HookedTransformer, ablate, evaluate, ioi_pairs, tasks
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth import handmade
from interp_hooks.interventions.runs import as_run
from interp_hooks.studies import RoleStability, head_roles, role_stability
from interp_hooks.studies.heads.scenes import Scene
from interp_hooks.studies.heads.stability import _some


@pytest.fixture(scope="module")
def ioi() -> HookedTransformer:
    return HookedTransformer.from_pretrained("ioi-tiny", device="cpu")


def test_induction_heads_that_were_built_are_always_found() -> None:
    model = handmade.induction(d_vocab=31, n_ctx=20).model
    ours = role_stability(
        model, roles=["previous token", "induction"], samples=3, splits=2, nulls=2, n=4, bos=0, progress=False
    )
    where = {(row.role, row.layer, row.head): row.inclusion for row in ours.table().itertuples()}
    assert where == {("previous token", 0, 0): 1.0, ("induction", 1, 0): 1.0}
    assert ours.halves.tolist() == [[1.0, 1.0]] * 2
    assert ours.null.tolist() == [0.0, 0.0]


def test_some_of_a_tasks_prompts_are_a_task_of_these(ioi: HookedTransformer) -> None:
    """The roles of a part of the prompts are those of a task that is made of them."""
    pairs, rows = ioi_pairs(ioi, 8), [5, 1, 1, 6, 0, 2]
    scene = _some(Scene.of(ioi, pairs), torch.tensor(rows), torch.tensor(rows))
    part = tasks.Task(
        name="part",
        clean=[pairs.clean[row] for row in rows],
        corrupt=[pairs.corrupt[row] for row in rows],
        answer=[pairs.answer[row] for row in rows],
        wrong=[pairs.wrong[row] for row in rows],
        metric=type(pairs.metric)([pairs.answer[row] for row in rows], [pairs.wrong[row] for row in rows]),
        positions={name: places[rows] for name, places in pairs.positions.items()},
    )
    other = Scene.of(ioi, part)
    torch.testing.assert_close(scene.scores, other.scores)
    torch.testing.assert_close(scene.attention(("end", 0), ("IO", 0)), other.attention(("end", 0), ("IO", 0)))
    assert scene.answer == other.answer


def test_roles_of_a_task(ioi: HookedTransformer, tmp_path: Path) -> None:
    pairs = ioi_pairs(ioi, 12)
    ours = role_stability(ioi, pairs, roles=["name mover"], samples=3, splits=2, nulls=2, progress=False)
    found = head_roles(ioi, pairs, roles=["name mover"], every_cause=False)
    assert {tuple(cell) for cell in ours.had[0].nonzero().tolist()} == set(found.having("name mover"))
    assert ours.null.tolist() == [0.0, 0.0]
    assert float(ours.inclusion[0][ours.had[0]].mean()) > 0.6
    clean, corrupt = evaluate(ioi, [as_run(ioi, pairs.clean), as_run(ioi, pairs.corrupt)], pairs.metric).mean(-1)
    zero = ablate(ioi, pairs, site="z", method="zero", progress=False).mean
    torch.testing.assert_close(ours.lost["zero"].float(), (clean - zero) / (clean - corrupt), rtol=1e-4, atol=1e-5)
    ours.save(tmp_path / "roles")
    assert repr(RoleStability.load(tmp_path / "roles")) == repr(ours)


def test_bad_input_is_refused(ioi: HookedTransformer) -> None:
    with pytest.raises(BadInput, match="needs a task"):
        role_stability(ioi, ["a text", "another"], progress=False)
    with pytest.raises(BadInput, match="at least 4"):
        role_stability(ioi, ioi_pairs(ioi, 3), progress=False)
    with pytest.raises(BadInput, match="at least 1"):
        role_stability(ioi, ioi_pairs(ioi, 4), samples=0, progress=False)
    with pytest.raises(BadInput, match="there is no role"):
        role_stability(ioi, ioi_pairs(ioi, 4), roles=["king"], progress=False)
