"""What a run has to compute is planned as it should be, and nothing else is computed.

Every shortcut is seen to be taken, by the calls of modules that it saves; the mutants at the end, each of which plans
a little too much of one, give other numbers.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, Intervention, LogitDiff, LogProb, Mean, Readout, Run, Site, at
from interp_hooks.errors import BadInput, HookDidNotFire, UnknownHook
from interp_hooks.interventions.engine import Batch, evaluate
from interp_hooks.interventions.plans import Plan, Planner, batches
from interp_hooks.model.stream import STAGES, Stage
from tests.experiments.by_hand import (
    OTHER,
    TOKENS,
    Reads,
    agree,
    model_of,
    rows_counted,
    shapes_counted,
)
from tests.tiny import build, random_tokens, unchecked_types

LAST, EVERYWHERE = Readout(pos=-1), Readout()
LATE = torch.tensor([4, 3])
LONG, LONG_OTHER = (random_tokens(batch=2, pos=9, d_vocab=23, seed=seed) for seed in (4, 5))


def plan_of(kind: str, *sites: Site, readout: Readout = LAST, mask: Tensor | None = None) -> Plan:
    run = Run(TOKENS, [Intervention(site, 0.0) for site in sites], mask)
    return Planner(model_of(kind), readout).plan(run)


# ------------------------------------------------------------------------------------------------------ what is planned

BOTH = {"z", "mlp_out"}
KNOWN: list[tuple[str, str, set[str]]] = [
    ("gpt2", "resid_pre", set()),
    ("gpt2", "blocks.1.ln1.hook_scale", set()),
    ("gpt2", "q_input", set()),
    ("gpt2", "k", set()),
    ("gpt2", "pattern", set()),
    ("gpt2", "z", {"z"}),
    ("gpt2", "result", {"z"}),
    ("gpt2", "attn_out", {"z"}),
    ("gpt2", "resid_mid", {"z"}),
    ("gpt2", "mlp_in", {"z"}),
    ("gpt2", "blocks.1.ln2.hook_scale", {"z"}),
    ("gpt2", "post", {"z"}),
    ("gpt2", "mlp_out", BOTH),
    ("gpt2", "resid_post", BOTH),
    ("neox", "z", BOTH),  # its MLP reads what attention reads, so that nothing of attention comes before it
    ("neox", "attn_out", BOTH),
    ("neox", "mlp_in", {"z"}),
    ("neox", "pre", {"z"}),
    ("neox", "q", set()),
    ("neox", "mlp_out", BOTH),
    ("shared-norm", "blocks.1.ln1.hook_normalized", set()),
    ("shared-norm", "z", BOTH),
    ("attn-only", "z", {"z"}),
    ("attn-only", "resid_post", {"z"}),
    ("output-norms", "blocks.1.ln1_post.hook_scale", {"z"}),
    ("output-norms", "blocks.1.ln2_post.hook_scale", {"z"}),
    ("post-norm", "blocks.1.ln1.hook_scale", set()),
    ("post-norm", "mlp_in", {"z"}),
    ("post-norm", "blocks.1.hook_normalized_resid_post", BOTH),
    ("experts", "blocks.1.mlp.hook_router_logits", {"z"}),
]


@pytest.mark.parametrize(("kind", "name", "known"), KNOWN)
def test_what_of_its_layer_a_run_comes_after(kind: str, name: str, known: set[str]) -> None:
    site = at(name) if "." in name else at(name, 1)
    plan = plan_of(kind, site)
    assert (plan.layer, plan.known) == (1, known)
    assert plan.joins == 1 + bool(known)
    whole = plan_of(kind, site, at("q", 1))
    assert (whole.layer, whole.known, whole.joins) == (1, set(), 1), "the first thing that is touched decides"
    assert plan_of(kind, site, at("q", 2)).known == known, "later layers do not"


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        ([], dict(layer=3, first=0, late=0)),
        ([at("hook_embed")], dict(layer=-1, first=0, late=0)),
        ([at("hook_embed", pos=3)], dict(layer=-1, first=3)),
        ([at("z", 1, pos=-1)], dict(layer=1, first=4, late=0)),
        ([at("z", 1, pos=[3, 4])], dict(layer=1, first=3)),
        ([at("z", 1, pos=LATE)], dict(layer=1, first=3)),
        ([at("pattern", 1, query=2)], dict(layer=1, first=2, extra=4 * 4 * 5)),
        ([at("pattern", 1, key=2)], dict(layer=1, first=0)),
        ([at("z", 0, pos=4), at("mlp_out", 1, pos=1)], dict(layer=0, first=1)),
        ([at("z", 0, pos=4), at("mlp_out", 1)], dict(layer=0, first=0)),
        ([at("z", 2)], dict(layer=2, late=1)),
        ([at("z", 0), at("resid_post", 2)], dict(layer=0, late=1)),
        ([at("unembed.hook_out", pos=4)], dict(layer=3, first=0, late=2)),
        ([at("z", 1, pos=4), at("ln_final.hook_scale", pos=4)], dict(layer=1, first=0, late=2)),
    ],
    ids=str,
)
def test_where_a_run_starts(sites: list[Site], expected: dict[str, Any]) -> None:
    plan = plan_of("gpt2", *sites)
    assert {name: getattr(plan, name) for name in expected} == expected
    assert plan.reaches


@pytest.mark.parametrize(("length", "pos", "first"), [(9, 8, 8), (9, 7, 6), (9, 1, 0), (8, 7, 7), (17, 16, 15)])
def test_first_positions_are_rounded_down_to_eighths(length: int, pos: int, first: int) -> None:
    """So that runs on positions that are close can be stacked."""
    run = Run(torch.zeros(1, length, dtype=torch.long), [Intervention(at("z", 1, pos=pos), 0.0)])
    assert Planner(model_of("gpt2"), LAST).plan(run).first == first


def test_what_is_read_before_a_touched_position_is_computed() -> None:
    """Of two prompts, one is read before the position from which the other one is touched."""
    plan = plan_of("gpt2", at("z", 1, pos=3), readout=Readout(pos=torch.tensor([1, 4])))
    assert (plan.first, plan.reaches) == (1, True)


PADDED = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
READ_AT = torch.tensor([1, 3])
REACH: list[tuple[Site, Readout, bool]] = [
    (at("z", 0, pos=3), Readout(pos=3), True),
    (at("z", 0, pos=4), Readout(pos=3), False),
    (at("z", 0, pos=3), Readout(pos=torch.tensor([1, 2])), False),
    (at("z", 0, pos=3), Readout(pos=READ_AT), True),
    (at("z", 0, pos=torch.tensor([4, 0])), Readout(pos=READ_AT), True),
    (at("resid_pre", 1), Readout(pos=0), True),
    (at("hook_embed", pos=1), Readout(pos=0), False),
    (at("k", 2, pos=1), Readout(pos=3), True),  # of the last layer, what others look at counts,
    (at("v", 2, pos=1), Readout(pos=3), True),
    (at("pattern", 2, key=1), Readout(pos=3), True),
    (at("resid_pre", 2, pos=1), Readout(pos=3), True),
    (at("q", 2, pos=1), Readout(pos=3), False),  # and what stays where it is does not
    (at("q_input", 2, pos=1), Readout(pos=3), False),
    (at("pattern", 2, query=1), Readout(pos=3), False),
    (at("z", 2, pos=[1, 2]), Readout(pos=3), False),
    (at("z", 2, pos=[1, 3]), Readout(pos=3), True),
    (at("mlp_out", 2, pos=-2), Readout(pos=3), True),
    (at("mlp_out", 2, pos=-3), Readout(pos=3), False),
    (at("resid_post", 2, pos=READ_AT), Readout(pos=READ_AT), True),
    (at("resid_post", 2, pos=READ_AT.flip(0)), Readout(pos=READ_AT), False),
    (at("resid_post", 2, pos=1), Readout(pos=READ_AT), True),
    (at("z", 2), Readout(pos=3), True),
    (at("z", 2, head=0), Readout(pos=0), True),
    (at("z", 1, pos=1), Readout(pos=3), True),
]


@pytest.mark.parametrize(("site", "readout", "reaches"), REACH, ids=str)
def test_which_runs_reach_what_is_read(site: Site, readout: Readout, reaches: bool) -> None:
    """No run is said to change nothing that does; where a pass of its own changes nothing, this is known before."""
    plan = plan_of("gpt2", site, readout=readout)
    assert plan.reaches == reaches
    runs = [Run(TOKENS), Run(TOKENS, [Intervention(site, 0.7)])]
    unchanged, changed = evaluate(model_of("gpt2"), runs, Reads(readout), max_memory=0)
    assert torch.allclose(unchanged, changed, rtol=0, atol=1e-9) != reaches
    agree(model_of("gpt2"), runs, [readout])


def test_padding_after_what_is_read_does_not_reach_it() -> None:
    """The last real tokens are the second and the third."""
    assert plan_of("gpt2", at("z", 0, pos=-1), mask=PADDED).reaches
    assert not plan_of("gpt2", at("z", 2, pos=-2), mask=PADDED).reaches, "in the last layer only what is read counts"
    assert plan_of("gpt2", at("z", 2, pos=[-2, -1]), mask=PADDED).reaches
    assert not plan_of("gpt2", at("z", 2, pos=torch.tensor([-2, -3])), mask=PADDED).reaches
    assert plan_of("gpt2", at("z", 2, pos=torch.tensor([-2, -1])), mask=PADDED).reaches
    assert not plan_of("gpt2", at("z", 0, pos=3), mask=PADDED).reaches
    assert plan_of("gpt2", at("z", 0, pos=2), mask=PADDED).reaches
    assert not plan_of("gpt2", at("z", 2, pos=0), mask=PADDED).reaches


def test_only_a_single_plain_intervention_is_judged() -> None:
    """Several may reach further together, and an edge's reader decides."""
    assert plan_of("gpt2", at("z", 0, pos=4), at("z", 1, pos=4), readout=Readout(pos=2)).reaches
    edge = Intervention(at("z", 0, pos=4), 0.0, into=at("q_input", 1))
    assert Planner(model_of("gpt2"), Readout(pos=2)).plan(Run(TOKENS, [edge])).reaches


@pytest.mark.parametrize("kind", ["bidirectional", "post-norm"])
def test_a_model_that_looks_ahead_has_no_first_position(kind: str) -> None:
    plan = plan_of(kind, at("z", 0, pos=4), readout=Readout(pos=2))
    assert (plan.first, plan.reaches, plan.known) == (0, True, {"z"})


@pytest.mark.parametrize("name", ["hook_embed", "pattern1", "unembed.hook_out"])
def test_beside_other_hooks_everything_is_computed(name: str) -> None:
    model = build()
    site = at("z", 1, pos=4)
    with model.hooks([(name, lambda value, hook: None)]):
        for readout in (LAST, Readout(pos=2)):
            plan = Planner(model, readout).plan(Run(TOKENS, [Intervention(site, 0.0)]))
            assert (plan.layer, plan.first, plan.known, plan.reaches) == (1, 0, set(), True)
    assert Planner(model, LAST).plan(Run(TOKENS, [Intervention(site, 0.0)])).first == 4


def _edge(sender: Site, reader: Site, kind: str = "gpt2") -> Plan:
    return Planner(model_of(kind), LAST).plan(Run(TOKENS, [Intervention(sender, 0.0, into=reader)]))


def test_an_edge_touches_both_its_ends() -> None:
    plan = _edge(at("z", 0, pos=3), at("mlp_in", 1))
    assert (plan.layer, plan.first, plan.known, plan.late) == (0, 3, {"z"}, 0)
    assert _edge(at("z", 0), at("resid_post", 2)).late == 1
    assert _edge(at("z", 2), at("q_input", 2)).known == set()
    assert _edge(at("hook_embed"), at("mlp_in", 0)).layer == -1
    assert _edge(at("z", 1), at("q_input", 2), "output-norms").known == {"z"}
    names = [place.point.name for place in Planner(model_of("output-norms"), LAST).places(
        Intervention(at("z", 1), 0.0, into=at("q_input", 2)))]  # fmt: skip
    assert names == ["blocks.1.attn.hook_z", "blocks.2.hook_q_input", "blocks.1.ln1_post.hook_scale"]


def test_an_edge_into_earlier_positions_starts_there() -> None:
    """Where its reader is changed, if that is before the sender is: with nothing, but at these positions."""
    model = model_of("gpt2")
    sites = [at("z", 0, pos=8), at("z", 0, pos=[5, 6, 8])]
    runs = [
        Run(LONG, [Intervention(site, Run(LONG_OTHER), into=at(reader, 1, pos=pos))])
        for site in sites
        for reader in ("mlp_in", "k_input")
        for pos in (0, 1, 6, [3, 8])
    ]
    agree(model, runs, [LAST])


def test_a_misspelt_site_is_told_before_anything_is_computed() -> None:
    model = model_of("gpt2")
    with shapes_counted(model, "embed") as shapes, pytest.raises(UnknownHook):
        evaluate(model, [Run(TOKENS), Run(TOKENS, [Intervention(at("zz", 1), 0.0)])], Reads(EVERYWHERE))
    assert shapes == {"embed": []}


# --------------------------------------------------------------------------------------------------- what is computed


def _modules(layer: int) -> list[str]:
    return [f"blocks.{layer}.attn", f"blocks.{layer}.mlp"]


def _stacked(counts: list[tuple[int, int]]) -> list[int]:
    """The rows of calls that served several runs; each prompt has two."""
    return [rows for rows, _ in counts if rows > 2]


@pytest.mark.parametrize(
    ("kind", "name", "attention", "mlp"),
    [
        ("gpt2", "q", 1, 1),
        ("gpt2", "z", 0, 1),
        ("gpt2", "resid_mid", 0, 1),
        ("gpt2", "mlp_out", 0, 0),
        ("gpt2", "resid_post", 0, 0),
        ("neox", "attn_out", 0, 0),
        ("neox", "pre", 0, 1),
        ("neox", "k", 1, 1),
        ("post-norm", "resid_mid", 0, 1),
        ("post-norm", "resid_post", 0, 0),
        ("experts", "mlp_out", 0, 0),
    ],
)
@pytest.mark.parametrize("readout", [EVERYWHERE, LAST], ids=["all", "last"])
def test_what_is_known_is_not_computed(kind: str, name: str, attention: int, mlp: int, readout: Readout) -> None:
    """In the layer that is touched; later ones are computed, earlier ones only for the prompt itself."""
    model = model_of(kind)
    runs = [Run(TOKENS, [Intervention(at(name, 1), 0.1 * number)]) for number in range(4)]
    with shapes_counted(model, *_modules(0), *_modules(1), *_modules(2)) as shapes:
        evaluate(model, runs, Reads(readout))
    calls = [len(_stacked(shapes[module])) for layer in range(3) for module in _modules(layer)]
    assert calls == [0, 0, attention, mlp, 1, 1]


def test_a_run_that_reaches_nothing_is_not_computed() -> None:
    """Only the prompt, and what the source has there."""
    model = model_of("gpt2")
    runs = [Run(TOKENS, [Intervention(at("z", 1, head=head, pos=3), Run(OTHER))]) for head in range(4)]
    with shapes_counted(model, "embed", *_modules(0), *_modules(1)) as shapes:
        evaluate(model, runs, Reads(Readout(pos=2)))
    assert all(len(calls) == 2 and not _stacked(calls) for calls in shapes.values())


def test_runs_that_touch_the_last_layer_are_kept_apart() -> None:
    """The others' last layer has only the position that is read; what is touched there has all of them."""
    model = model_of("gpt2")
    sites = [at(name, layer, head=head) for layer in (1, 2) for name in ("z", "q") for head in range(3)]
    with shapes_counted(model, "blocks.2.mlp") as shapes:
        evaluate(model, [Run(TOKENS, [Intervention(site, 0.0)]) for site in sites], Reads(LAST))
    assert sorted(set(shapes["blocks.2.mlp"])) == [(2, 5), (6, 5), (12, 1)]


@pytest.mark.parametrize("layer", range(3))
def test_no_run_starts_before_the_first_layer_it_touches(layer: int) -> None:
    """Earlier layers see the prompt once, and the layer itself all the runs in one stack."""
    model = model_of("gpt2")
    runs = [
        Run(TOKENS, [Intervention(at("q", layer, head=head), 0.0), Intervention(at("mlp_out", 2), 0.1)])
        for head in range(4)
    ]
    blocks = [f"blocks.{at_layer}" for at_layer in range(3)]
    with shapes_counted(model, "embed", *blocks) as shapes:
        evaluate(model, runs, Reads(EVERYWHERE))
    assert shapes["embed"] == [(2, 5)]
    for at_layer, block in enumerate(blocks):
        assert _stacked(shapes[block]) == ([] if at_layer < layer else [8])
        assert shapes[block].count((2, 5)) <= 1


def test_runs_join_on_the_way() -> None:
    """One stack grows from layer to layer: by runs that start there, and by those that know a part of it."""
    model = model_of("gpt2")
    runs = [Run(TOKENS, [Intervention(at(name, layer), 0.1)]) for layer in range(3) for name in ("q", "z", "mlp_out")]
    runs += [Run(TOKENS)]
    with shapes_counted(model, *_modules(0), *_modules(1), *_modules(2)) as shapes:
        evaluate(model, runs, Reads(EVERYWHERE))
    rows = {module: sorted(rows for rows, _ in calls) for module, calls in shapes.items()}
    assert rows == {
        "blocks.0.attn": [2, 2],  # the prompt, and the run that touches q
        "blocks.0.mlp": [2, 2, 2],  # and the one that touches z
        "blocks.1.attn": [2, 8],  # the three of layer 0, and q
        "blocks.1.mlp": [2, 2, 8],
        "blocks.2.attn": [2, 2, 12],  # apart from the six, those that touch the last layer
        "blocks.2.mlp": [2, 2, 2, 12],
    }


@pytest.mark.parametrize(("pos", "first"), [(-1, 4), (4, 4), (3, 3), ([3, 4], 3), (LATE, 3)], ids=str)
def test_only_positions_that_can_change_are_computed(pos: Any, first: int) -> None:
    model = model_of("gpt2")
    runs = [Run(TOKENS, [Intervention(at("q", 1, pos=pos, head=head), 0.0)]) for head in range(4)]
    with shapes_counted(model, "blocks.1") as shapes:
        evaluate(model, runs, Reads(LAST))
        assert shapes["blocks.1"] == [(2, 5), (8, 5 - first)]
        evaluate(model, runs, Reads(EVERYWHERE))
    assert shapes["blocks.1"][-1] == (8, 5), "every position is read"


def test_only_what_is_read_is_unembedded() -> None:
    """A metric of some tokens at one position makes no logits; one that reads a position makes those of one."""
    model = model_of("gpt2")
    runs = [Run(TOKENS, [Intervention(at("z", 2, head=head), 0.0)]) for head in range(4)]
    with shapes_counted(model, "unembed") as shapes:
        evaluate(model, runs, LogitDiff([1, 2], [3, 4]))
        assert shapes["unembed"] == []
        evaluate(model, runs, LogProb([1, 2]))
    assert shapes["unembed"] == [(8, 1)]


# ------------------------------------------------------------------------------------------------------------- batches


def mixed_runs() -> list[Run]:
    """Runs of prompts of several lengths, masked and not, in an order that no grouping keeps."""
    longer = LONG[:, :8]
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    prompts = [(TOKENS, None), (longer, None), (TOKENS, mask), (OTHER, None)]
    return [
        Run(tokens, [Intervention(at(name, layer, pos=pos), source)] if layer >= 0 else (), mask)
        for pos in (0, 3)
        for layer in (2, 0, -1, 1)
        for name, source in (("z", 0.1 * pos), ("resid_pre", 0.4), ("mlp_out", Mean(Run(longer))))
        for tokens, mask in prompts
    ]


@pytest.mark.parametrize("max_memory", [0, 60_000, 10**12])
def test_every_run_is_in_one_batch_with_others_like_it(max_memory: int) -> None:
    model, runs = model_of("gpt2"), mixed_runs()
    for readout in (LAST, EVERYWHERE):
        planner = Planner(model, readout)
        plans = [planner.plan(run) for run in runs]
        together = list(batches(model, plans, readout, max_memory))
        assert sorted(place for places in together for place in places) == list(range(len(runs)))
        for places in together:
            members = [plans[place] for place in places]
            assert len({(plan.run.prompt_key, plan.first, plan.late) for plan in members}) == 1
            assert [plan.joins for plan in members] == sorted(plan.joins for plan in members)
        assert max_memory != 0 or all(len(places) == 1 for places in together)
        assert max_memory != 10**12 or len(together) == len(
            {(plan.run.prompt_key, plan.first, plan.late) for plan in plans}
        )


def _stacks(max_memory: int) -> list[int]:
    """How many prompts went through the last layer together, for 12 runs on 2 prompts that start there."""
    model = model_of("gpt2")
    runs = [
        Run(TOKENS, [Intervention(at("q", 2, head=head), 0.1 * source)]) for head in range(4) for source in range(3)
    ]
    with shapes_counted(model, "blocks.2.mlp") as shapes:
        evaluate(model, runs, Reads(EVERYWHERE), max_memory=max_memory)
    return [rows for rows, _ in shapes["blocks.2.mlp"]][1:]  # the first is the prompt, left alone


def test_memory_decides_how_many_runs_are_stacked() -> None:
    """At 60 kB a few fit together."""
    assert _stacks(1) == [2] * 12
    assert _stacks(10**12) == [24]
    some = _stacks(60_000)
    assert sum(some) == 24
    assert 2 < max(some) < 24


def test_a_larger_readout_or_a_pattern_leaves_less_room() -> None:
    """Logits of all positions, and patterns, count as memory."""
    model = model_of("gpt2")

    def passes(name: str, metric: Any) -> int:
        runs = [Run(TOKENS, [Intervention(at(name, 2, head=head % 4), 0.0)]) for head in range(12)]
        with shapes_counted(model, "blocks.2.mlp") as shapes:
            evaluate(model, runs, metric, max_memory=75_000)
        return len(shapes["blocks.2.mlp"])

    fewest = passes("q", LogitDiff([1, 2], [3, 4]))
    assert passes("pattern", LogitDiff([1, 2], [3, 4])) > fewest
    assert passes("q", Reads(EVERYWHERE)) > fewest


def test_other_hooks_see_the_stacked_runs() -> None:
    model = model_of("gpt2")
    runs = [Run(TOKENS, [Intervention(at("z", 1, head=head), 0.0)]) for head in range(4)]
    with rows_counted(model, "blocks.2.hook_resid_post") as rows:
        evaluate(model, runs, Reads(EVERYWHERE))
    assert rows["blocks.2.hook_resid_post"] == [8]


# ------------------------------------------------------------------------------------------------------------- mutants


def _replanned(monkeypatch: pytest.MonkeyPatch, **fields: Callable[[Plan], Any]) -> None:
    right = Planner.plan

    def plan(self: Planner, run: Run) -> Plan:
        planned = right(self, run)
        return dataclasses.replace(planned, **{name: field(planned) for name, field in fields.items()})

    monkeypatch.setattr(Planner, "plan", plan)


def _starts_a_layer_late(monkeypatch: pytest.MonkeyPatch) -> None:
    _replanned(monkeypatch, layer=lambda plan: min(plan.layer + 1, 3), known=lambda plan: frozenset())


def _starts_where_the_last_intervention_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def last(plan: Plan) -> int:
        return max((int(made.site.hook.split(".")[1]) for made in plan.run.interventions), default=plan.layer)

    _replanned(monkeypatch, layer=last, known=lambda plan: frozenset())


def _starts_a_position_late(monkeypatch: pytest.MonkeyPatch) -> None:
    _replanned(monkeypatch, first=lambda plan: plan.first and min(plan.first + 1, 4))


def _forgets_that_a_query_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    _replanned(monkeypatch, known=lambda plan: frozenset({"z"}) if 0 <= plan.layer < 3 else plan.known)


def _forgets_that_the_mlp_reads_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    _replanned(monkeypatch, known=lambda plan: frozenset({"z", "mlp_out"}) if "z" in plan.known else plan.known)


def _forgets_who_reads_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a parallel block, an MLP that is touched itself."""
    monkeypatch.setitem(STAGES, Stage.MLP, ())
    monkeypatch.setitem(STAGES, Stage.MIXED, ("attn.hook_z", "hook_mlp_in", "mlp."))


def _takes_known_values_of_the_first_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Batch._through

    def through(self: Batch, stream: Tensor, start: int, stop: int, members: range, known: Any = None) -> Tensor:
        if known is not None:
            whole = {what: self.unchanged[f"blocks.{start}.attn.hook_z"] for what in known if what == "z"}
            known |= {what: value[:, : stream.shape[1]].repeat(len(members), 1, 1, 1) for what, value in whole.items()}
        return right(self, stream, start, stop, members, known)

    monkeypatch.setattr(Batch, "_through", through)


def _reads_a_position_early(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Planner._cannot_reach
    monkeypatch.setattr(Planner, "_cannot_reach", lambda self, run, reads: right(self, run, [pos - 1 for pos in reads]))


def _thinks_that_keys_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp_hooks.model.stream.OF_QUERIES", ("attn.hook_k",))


def _looks_ahead_in_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Planner.__init__

    def init(self: Planner, model: HookedTransformer, readout: Readout) -> None:
        right(self, model, readout)
        self.causal = True

    monkeypatch.setattr(Planner, "__init__", init)


def _does_not_mind_other_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Planner.__init__

    def init(self: Planner, model: HookedTransformer, readout: Readout) -> None:
        right(self, model, readout)
        self.alone = self.causal = True

    monkeypatch.setattr(Planner, "__init__", init)


def _does_not_sort_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsorted(model: Any, plans: Any, readout: Any, max_memory: int) -> Any:
        return [sorted(places) for places in batches(model, plans, readout, max_memory)]

    monkeypatch.setattr("interp_hooks.interventions.engine.batches", unsorted)


def _stacks_different_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "prompt_key", property(lambda self: tuple(self.tokens.shape)))


def _checked(*sites: Site, kind: str = "gpt2", readout: Readout = LAST) -> Callable[[], None]:
    def check() -> None:
        agree(model_of(kind), [Run(TOKENS, [Intervention(site, 0.7)]) for site in sites], [readout])

    return check


def _two_at_once() -> None:
    run = Run(TOKENS, [Intervention(at("q", 0), 0.7), Intervention(at("q", 1), 0.3)])
    agree(model_of("gpt2"), [run], [EVERYWHERE])


def _beside_a_hook() -> None:
    model = build()

    def edit(value: Tensor, hook: Any) -> None:
        value[:, 0, 0] += 3.0

    with model.hooks([("mlp_out1", edit)]):
        agree(model, [Run(TOKENS, [Intervention(at("z", 1, pos=4), 0.7)])], [LAST])


def _of_several_prompts() -> None:
    runs = [Run(tokens, [Intervention(at("z", 1), 0.7)]) for tokens in (TOKENS, OTHER)]
    agree(model_of("gpt2"), runs, [LAST])


MUTANTS: list[tuple[Callable[[pytest.MonkeyPatch], None], Callable[[], None]]] = [
    (_starts_a_layer_late, _checked(at("z", 1))),
    (_starts_where_the_last_intervention_is, _two_at_once),
    (_starts_a_position_late, _checked(at("z", 1, pos=2))),
    (_forgets_that_a_query_is_touched, _checked(at("q", 1))),
    (_forgets_that_the_mlp_reads_the_stream, _checked(at("resid_mid", 1))),
    (_forgets_who_reads_the_stream, _checked(at("mlp_in", 1), kind="neox")),
    (_takes_known_values_of_the_first_positions, _checked(at("z", 1, pos=3, head=0))),
    (_reads_a_position_early, _checked(at("z", 1, pos=3), readout=Readout(pos=3))),
    (_reads_a_position_early, _checked(at("mlp_out", 2, pos=LATE), readout=Readout(pos=LATE))),
    (_thinks_that_keys_stay_where_they_are, _checked(at("k", 2, pos=1))),
    (_looks_ahead_in_no_model, _checked(at("z", 0, pos=4), kind="bidirectional", readout=Readout(pos=2))),
    (_looks_ahead_in_no_model, _checked(at("z", 0, pos=3), kind="post-norm")),
    (_does_not_mind_other_hooks, _beside_a_hook),
    (_does_not_sort_batches, _checked(at("q", 1), at("q", 0), readout=EVERYWHERE)),
    (_stacks_different_prompts, _of_several_prompts),
]


@pytest.mark.parametrize(("mutate", "check"), MUTANTS, ids=[mutate.__name__ for mutate, _ in MUTANTS])
def test_mutants_are_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], check: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a late start has passed by raises by itself, which is as good as a wrong number."""
    check()
    mutate(monkeypatch)
    with unchecked_types(), pytest.raises((AssertionError, BadInput, HookDidNotFire, IndexError, RuntimeError)):
        check()
