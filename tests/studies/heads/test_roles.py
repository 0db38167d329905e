"""Heads that have a role by construction have it, and no other head has one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, LogitDiff, Task, ioi_pairs
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth import (
    copy_suppression,
    function_vector,
    mixed_recall,
    name_movers,
    pointer_induction,
    successor,
)
from interp_hooks.ground_truth.handmade import induction
from interp_hooks.ground_truth.planted import planted_fact
from interp_hooks.studies.heads.causes import by_path
from interp_hooks.studies.heads.looks import looks_from, looks_like
from interp_hooks.studies.heads.roles import ROLES, HeadRoles, Role, follows_positions, head_roles
from interp_hooks.studies.heads.scenes import Scene
from interp_hooks.tasks import key_value_recall
from tests.tiny import build, unchecked_types


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def on_repetition(model: HookedTransformer) -> HeadRoles:
    return head_roles(model, n=6, bos=0, generator=seeded())


def fact_of_one_relation() -> tuple[HookedTransformer, Task]:
    """The questions of `planted_fact` about the first relation, which head 1.0 answers from the last name."""
    known = planted_fact()
    clean, corrupt = (torch.as_tensor(prompts) for prompts in (known.task.clean, known.task.corrupt))
    rows = clean[:, -1] == clean[0, -1]
    answer, wrong = known.task.answer[rows, -1], known.task.wrong[rows, -1]
    return known.model, Task(
        name="fact",
        clean=clean[rows],
        corrupt=corrupt[rows],
        answer=answer,
        wrong=wrong,
        metric=LogitDiff(answer, wrong),
        positions={name: torch.full_like(answer, at) for name, at in (("subject", 2), ("relation", 3), ("end", 3))},
    )


def recall() -> tuple[HookedTransformer, Task]:
    return induction(21, 12).model, key_value_recall(16, 10, 10, pairs=4)


def of(known: Any) -> HeadRoles:
    return head_roles(known.model, known.task)


WHO_HAS_IT: dict[str, tuple[Callable[[], HeadRoles], dict[str, tuple[int, int]]]] = {
    "classic induction": (
        lambda: on_repetition(induction(30, 20).model),
        {"previous token": (0, 0), "induction": (1, 0), "classic induction": (1, 0)},
    ),
    "pointer induction": (
        lambda: on_repetition(pointer_induction(30, 20).model),
        {"duplicate token": (0, 0), "induction": (1, 0), "pointer induction": (1, 0)},
    ),
    "name movers": (
        lambda: of(name_movers()),
        {
            "duplicate of S": (0, 0),
            "S-inhibition": (1, 0),
            "name mover": (2, 0),
            "negative name mover": (2, 1),
            "backup name mover": (3, 0),
        },
    ),
    "name mover alone": (
        lambda: of(name_movers(negative=False, backup=False)),
        {"duplicate of S": (0, 0), "S-inhibition": (1, 0), "name mover": (2, 0)},
    ),
    "backup alone": (
        lambda: of(name_movers(negative=False)),
        {"duplicate of S": (0, 0), "S-inhibition": (1, 0), "name mover": (2, 0), "backup name mover": (3, 0)},
    ),
    "suppression of S": (
        lambda: head_roles(
            name_movers(False, False, suppressor=True).model, name_movers().task, roles=["suppression of S"]
        ),
        {"suppression of S": (3, 1)},
    ),
    "copy suppression": (lambda: of(copy_suppression()), {"copy suppression": (0, 0)}),
    "successor": (lambda: of(successor()), {"successor": (0, 0)}),
    "retrieval": (lambda: head_roles(*recall(), roles=["retrieval"]), {"retrieval": (1, 0)}),
    "function vector": (lambda: of(function_vector()), {"function vector": (1, 0)}),
    "mixed recall": (
        lambda: head_roles(mixed_recall().model, mixed_recall().task, roles=["mixed recall"]),
        {"mixed recall": (0, 0)},
    ),
    "facts": (lambda: head_roles(*fact_of_one_relation(), roles=["subject recall"]), {"subject recall": (1, 0)}),
}
AT_LEAST = {  # causes that are not 1: others share in them, or work against them
    "suppression of S": {"suppression of S": 0.5},
    "name movers": {"name mover": 2.0, "S-inhibition": 2.0},
    "backup alone": {"S-inhibition": 1.5},
}


@pytest.mark.parametrize("name", WHO_HAS_IT)
def test_a_head_that_was_built_for_a_role_has_it_and_no_other_head_does(name: str) -> None:
    found, expected = WHO_HAS_IT[name][0](), WHO_HAS_IT[name][1]
    having = {role.name: found.having(role.name) for role in found.roles}
    assert {role: heads for role, heads in having.items() if heads} == {role: [head] for role, head in expected.items()}
    for role, head in expected.items():
        at = [one.name for one in found.roles].index(role)
        assert found.attention[at][head] == pytest.approx(1, abs=1e-5)
        cause = float(found.cause[at][head])
        if role in AT_LEAST.get(name, {}):
            assert cause >= AT_LEAST[name][role] - 1e-5
        else:
            assert cause == pytest.approx(1, abs=1e-5)


def test_the_two_kinds_of_induction_differ_by_their_route_alone() -> None:
    for model, classic, pointer in ((induction(30, 20).model, 1, 0), (pointer_induction(30, 20).model, 0, 1)):
        found = on_repetition(model)
        cause = {role.name: float(found.cause[at, 1, 0]) for at, role in enumerate(found.roles)}
        assert cause["classic induction"] == pytest.approx(classic - pointer, abs=1e-5)
        assert cause["pointer induction"] == pytest.approx(pointer - classic, abs=1e-5)
        goes = follows_positions(model, n=4, bos=0, generator=seeded())
        assert float(goes[1, 0]) == pytest.approx(pointer, abs=1e-6)
        assert float(goes[1, 1]) == pytest.approx(0.5), "uniform attention goes with both"


@pytest.mark.parametrize(("name", "kind"), [("induction-2l", "classic induction"), ("ioi-tiny", "pointer induction")])
def test_trained_models_have_one_kind_each(name: str, kind: str) -> None:
    """Without MLPs between, and with a previous-token head, or with a duplicate-token head and learned positions."""
    model = HookedTransformer.from_pretrained(name, device="cpu")
    roles = ["induction", "classic induction", "pointer induction"]
    found = head_roles(model, n=4, subseq_len=12, roles=roles, generator=seeded())
    assert {layer for layer, _ in found.having("induction")} == {1}
    other = ({*roles[1:]} - {kind}).pop()
    assert sorted(found.having(kind)) == sorted(found.having("induction")) != []
    assert found.having(other) == []
    goes = follows_positions(model, n=4, subseq_len=12, generator=seeded())[1]
    assert bool(((goes > 0.9) if kind == "pointer induction" else (goes < 0.1)).all())


@pytest.mark.parametrize("fields", [{}, dict(n_key_value_heads=2, positional_embedding_type="rotary")], ids=str)
def test_a_random_model_has_no_roles(fields: dict[str, Any]) -> None:
    model = build(n_ctx=21, d_vocab=40, d_vocab_out=40, **fields)
    groups = model.cfg.n_key_value_heads
    found = on_repetition(model)
    assert not [role.name for role in found.roles if found.having(role.name)]
    assert model.cfg.n_key_value_heads == groups, "keys and values are shared again"
    known = name_movers()
    model = build(n_ctx=7, d_vocab=10, d_vocab_out=10, **fields)
    found = head_roles(model, known.task)
    assert found.table(candidates=False).empty


def test_what_a_model_does_not_do_has_no_cause() -> None:
    """Where prompts and counterparts score alike there is nothing to lose, and heads can be candidates at most."""
    known = name_movers()
    with torch.no_grad():
        known.model.unembed.W_U.zero_()
    found = head_roles(known.model, known.task, roles=["S-inhibition", "name mover"])
    assert bool(found.cause.isnan().all())
    assert found.table()["verdict"].tolist() == ["candidate", "candidate", "candidate"]
    assert found.having("name mover") == []


def test_the_table_says_what_is_met() -> None:
    found = of(name_movers())
    table = found.table()
    assert table.columns.tolist() == [
        *("layer", "head", "role", "attention", "cause", "attention_least", "cause_least", "verdict")
    ]
    roles = table[table["verdict"] == "role"]
    assert len(roles) == 5
    assert bool((roles["attention"] >= roles["attention_least"]).all())
    assert bool((roles["cause"] >= roles["cause_least"]).all())
    # a name mover attends as a negative one does, and causes the opposite
    negative = table[table["role"] == "negative name mover"]
    assert (negative["layer"].tolist(), negative["head"].tolist()) == ([2], [1])
    assert "name mover" in repr(found)


def test_a_role_of_your_own() -> None:
    known = name_movers()
    towards_and = Role(
        name="looks at S1 from the end", needs=("S1", "end"), looks=looks_from("end", "S1"), causes=by_path("logits")
    )
    found = head_roles(known.model, known.task, roles=[towards_and, "name mover"])
    assert found.having("looks at S1 from the end") == []
    assert found.having("name mover") == [(2, 0)]
    strict = Role(
        name="strict", needs=("IO", "end"), looks=looks_from("end", "IO"), causes=by_path("logits"), least=(0.3, 2.5)
    )
    assert head_roles(known.model, known.task, roles=[strict]).having("strict") == []


def test_prompts_alone_show_copy_suppression_and_nothing_else() -> None:
    known = copy_suppression()
    tokens = torch.cat((torch.zeros(8, 1).long(), torch.randint(1, 12, (8, 9), generator=seeded())), dim=1)
    found = head_roles(known.model, tokens)
    assert [role.name for role in found.roles] == ["copy suppression"]
    assert found.having("copy suppression") == [(0, 0)]
    with pytest.raises(BadInput, match="needs repeats; the prompts have none"):
        head_roles(known.model, tokens, roles=["induction"])


def test_the_repetition_is_the_whole_difference() -> None:
    model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
    scene = Scene.repetition(model, 5, 7, seeded(), None)
    assert scene.corrupt is not None
    clean, corrupt = scene.clean.tokens, scene.corrupt.tokens
    start = clean.shape[1] - 14
    assert torch.equal(clean[:, start : start + 7], clean[:, start + 7 :])
    assert torch.equal(clean[:, start + 7 :], corrupt[:, start + 7 :])
    for row, other in zip(clean, corrupt, strict=True):
        assert not set(row[start:].tolist()) & set(other[start : start + 7].tolist())
    logits: Tensor = model(clean).detach().log_softmax(-1)
    expected = logits[:, start + 7 : -1].gather(-1, clean[:, start + 8 :, None])[..., 0].mean(1)
    assert torch.allclose(scene.scores[0], expected, atol=1e-4)


def test_ioi_in_a_trained_model() -> None:
    model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
    found = head_roles(model, ioi_pairs(model, 8), roles=["name mover", "S-inhibition", "duplicate of S"])
    assert found.having("duplicate of S") == [(0, 0)]
    assert (2, 2) in found.having("name mover")
    assert {layer for layer, _ in found.having("S-inhibition")} == {1}


def test_what_is_refused() -> None:
    known = name_movers()
    backwards: Any = ["backup name mover"]
    lonely = Role(name="lonely", needs=("repeats",), looks=looks_like("inductoin"), causes=by_path("logits"))
    for call, message in (
        (lambda: head_roles(known.model, known.task, roles=["name moover"]), "Did you mean name mover"),
        (lambda: head_roles(known.model, known.task, roles=["induction"]), "needs repeats; the prompts have IO, S1"),
        (lambda: head_roles(known.model, known.task, roles=backwards), "ask for that role too"),
        (lambda: head_roles(known.model, known.task, roles=[lonely]), "'lonely' needs repeats"),
        (lambda: head_roles(known.model, n=1), "n must be at least 2"),
        (lambda: head_roles(known.model, subseq_len=9), "subseq_len must be"),
        (lambda: follows_positions(build(positional_embedding_type="rotary")), "no position embeddings"),
        (lambda: of(known).having("induction"), "was not looked for"),
    ):
        with unchecked_types(), pytest.raises(BadInput, match=message):
            call()
    assert len({role.name for role in ROLES}) == len(ROLES)
