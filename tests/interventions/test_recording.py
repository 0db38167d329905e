"""Every source is read once, however many runs take values from it, and shows what a pass of its own shows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, HookPoint, Intervention, Mean, Readout, Resample, Run, Site, at
from interp_hooks.errors import BadInput, HookDidNotFire, UnknownHook
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.plans import Planner
from interp_hooks.interventions.recording import Recorder, hook_functions, record, steps_of
from interp_hooks.interventions.sites import Recordings
from tests.experiments.by_hand import (
    LACKS,
    OTHER,
    SITES,
    THIRD,
    TOKENS,
    Reads,
    agree,
    all_logits,
    assert_same,
    left_alone,
    model_of,
    shapes_counted,
    site,
    value_at,
)
from tests.tiny import build, unchecked_types

EVERYWHERE = Readout()
INNER = Run(
    OTHER,
    [
        Intervention(at("z", 0, head=1), Run(THIRD)),
        Intervention(at("z", 0, pos=2), Run(TOKENS), into=at("q_input", 1, head=2)),
        Intervention(at("mlp_out", 1, pos=1), Mean(Run(TOKENS, [Intervention(at("hook_embed"), 0.2)]))),
    ],
)


# -------------------------------------------------------------------------------------------------------------- record


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
def test_a_recording_is_what_a_pass_shows(kind: str) -> None:
    """With the run's own interventions, those at the recorded place included; of all hooks asked for, and no others."""
    model = model_of(kind)
    interventions = [one for one in INNER.interventions if kind != "neox" or one.into is None]
    run = Run(OTHER, interventions, torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]))
    hooks = [site(name, layer).hook for name in SITES if name not in LACKS[kind] for layer in range(3)]
    recorded = record(model, run, hooks)
    assert set(recorded) == set(hooks)
    for hook in hooks:
        ours, theirs = (value.nan_to_num(neginf=1e3) for value in (recorded[hook], value_at(model, run, hook)))
        assert_same(ours, theirs, hook)
    (alone,) = record(model, run, "blocks.1.hook_mlp_out").items()
    assert alone[0] == "blocks.1.hook_mlp_out"


def test_a_recording_stops_where_nothing_more_is_wanted() -> None:
    model = model_of("gpt2")
    with shapes_counted(model, "embed", "blocks.0", "blocks.1", "unembed") as shapes:
        record(model, Run(TOKENS), "hook_embed")
        assert [len(calls) for calls in shapes.values()] == [1, 0, 0, 0]
        record(model, Run(TOKENS), ["blocks.0.attn.hook_z", "hook_embed"])
        assert [len(calls) for calls in shapes.values()] == [2, 1, 0, 0]
        record(model, Run(TOKENS), "ln_final.hook_scale")
    assert [len(calls) for calls in shapes.values()] == [3, 2, 1, 1]


def test_hooks_that_do_not_exist_are_told() -> None:
    with left_alone(model_of("gpt2")), pytest.raises(UnknownHook, match=r"Did you mean blocks\.1\.attn"):
        record(model_of("gpt2"), Run(TOKENS), "blocks.1.attn.hook_zz")


def _with_a_dead_end() -> HookedTransformer:
    """A model with a hook point that no pass comes by."""
    model = build()
    model.blocks[1].hook_unused = HookPoint("batch pos d_model", d_model=12)
    model.setup()
    return model


@pytest.mark.parametrize(
    "run",
    [
        Run(TOKENS, [Intervention(at("blocks.1.hook_unused"), 0.0)]),
        Run(TOKENS, [Intervention(at("blocks.1.hook_unused", pos=4), 0.0)]),
        Run(TOKENS, [Intervention(at("blocks.1.hook_unused", pos=4), Run(OTHER))]),
        Run(TOKENS, [Intervention(at("z", 1), Run(OTHER, [Intervention(at("blocks.1.hook_unused"), 0.0)]))]),
    ],
    ids=["number", "after what is read", "source", "in a source"],
)
@pytest.mark.parametrize("readout", [EVERYWHERE, Readout(pos=2)], ids=["all", "pos 2"])
def test_a_hook_that_the_pass_never_comes_by_is_told(run: Run, readout: Readout) -> None:
    """Also by a run that would not have been computed: that it changes nothing would be a guess."""
    model = _with_a_dead_end()
    with left_alone(model), pytest.raises(HookDidNotFire, match=r"never came by blocks\.1\.hook_unused"):
        evaluate(model, [Run(TOKENS), run], Reads(readout))


# --------------------------------------------------------------------------------------------------- sources are shared


def test_a_source_is_read_once() -> None:
    """However many runs, and however many equal descriptions of it: one pass for the source, one for the prompt."""
    model = model_of("gpt2")
    runs = [
        Run(TOKENS, [Intervention(at(name, layer, pos=pos), Run(OTHER))])
        for name in ("q", "attn_out", "mlp_out")
        for layer in range(3)
        for pos in range(5)
    ]
    with shapes_counted(model, "embed", "blocks.0.attn", "blocks.1.attn") as shapes:
        evaluate(model, [Run(TOKENS), Run(OTHER), *runs], Reads(EVERYWHERE))
    assert shapes["embed"] == [(2, 5), (2, 5)]
    assert sorted(rows for rows, _ in shapes["blocks.0.attn"]) == [2, 2, 10], "five of them touch q"
    stacks = sorted(rows for rows, _ in shapes["blocks.1.attn"])
    assert stacks == [2, 2, 40], "all of layer 0 and those that touch q; apart from the last layer's"


def test_sources_of_sources_are_read_once() -> None:
    """Means and resamples of one run, and a run patched from it, share its pass."""
    model = model_of("gpt2")
    third = Run(THIRD)
    inner = Run(OTHER, [Intervention(at("z", 0), third)])
    sources = [inner, Mean(inner), Mean(inner, per_position=True), Resample(inner, torch.tensor([1, 0])), third]
    runs = [Run(TOKENS, [Intervention(at("attn_out", 1), source)]) for source in sources]
    runs += [Run(TOKENS, [Intervention(at("attn_out", 1), source, into=at("mlp_in", 2))]) for source in sources]
    with shapes_counted(model, "embed") as shapes:
        evaluate(model, runs * 2, Reads(EVERYWHERE))
    assert shapes["embed"] == [(2, 5)] * 3, "THIRD, OTHER patched from it, TOKENS"


def test_nothing_is_run_again_for_a_run_without_interventions() -> None:
    model = model_of("gpt2")
    with shapes_counted(model, "embed", "blocks.2") as shapes:
        first, second = evaluate(model, [Run(TOKENS), Run(TOKENS)], all_logits)
    assert shapes == {"embed": [(2, 5)], "blocks.2": [(2, 5)]}
    assert torch.equal(first, second)


ORDER, PER_PROMPT = torch.tensor([0, 1]), torch.tensor([1, 4])


def differing_sources() -> None:
    """Runs that differ in a place, a number, a tensor, an order, a reader or a mask are not taken for each other."""
    z = at("z", 0)
    made = [
        [Intervention(z, 0.0)],
        [Intervention(z, 1.0)],
        [Intervention(at("z", 0, head=1), 0.0)],
        [Intervention(at("z", 0, pos=1), 0.0)],
        [Intervention(at("z", 0, pos=[1]), 0.0), Intervention(at("v", 0), 0.5)],
        [Intervention(at("z", 0, pos=PER_PROMPT), 0.0)],
        [Intervention(at("z", 0, pos=PER_PROMPT - 1), 0.0)],
        [Intervention(z, torch.ones(4, dtype=torch.float64))],
        [Intervention(z, torch.zeros(4, dtype=torch.float64) - 1)],
        [Intervention(z, Resample(Run(THIRD), ORDER))],
        [Intervention(z, Resample(Run(THIRD), 1 - ORDER))],
        [Intervention(z, Mean(Run(THIRD)))],
        [Intervention(z, Mean(Run(THIRD), per_position=True))],
        [Intervention(z, 0.0, mask=0.5)],
        [Intervention(z, 0.0, mask=0.25)],
        [Intervention(z, 0.0, into=at("q_input", 1))],
        [Intervention(z, 0.0, into=at("v_input", 1))],
        [Intervention(z, 0.0, into=at("v_input", 1, head=0))],
        [Intervention(z, 0.0, into=at("v_input", 1), mask=0.5)],
    ]
    inner = [Run(OTHER, one) for one in made]
    inner += [Run(OTHER, (), torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]))]
    agree(model_of("gpt2"), [Run(TOKENS, [Intervention(at("attn_out", 1), source)]) for source in inner], [EVERYWHERE])


def test_sources_with_other_interventions_are_other_sources() -> None:
    differing_sources()


def test_sources_have_sources_with_edges() -> None:
    """An edge's sender is recorded from its source; what the reader shows there is not needed."""
    model = model_of("gpt2")
    edge = Intervention(at("z", 1, pos=2), INNER, into=at("v_input", 2))
    runs = [Run(TOKENS, [edge]), Run(TOKENS, [Intervention(at("attn_out", 2), Run(OTHER, [edge]))])]
    agree(model, runs, [EVERYWHERE, Readout(pos=-1)])
    recorder = Recorder(Planner(model, EVERYWHERE))
    recorder.want_start(recorder.planner.plan(runs[0]))
    assert set(recorder.record().runs[INNER.key]) == {"blocks.1.attn.hook_z"}


def test_inputs_are_left_as_they_were() -> None:
    """Neither tokens nor recordings nor source tensors nor masks are written to."""
    model = model_of("gpt2")
    cache = model.run_with_cache(OTHER)[1]
    before = {name: value.clone() for name, value in cache.items()}
    tokens, new, mask = TOKENS.clone(), torch.randn(2, 5, 4, 4, dtype=torch.float64), torch.rand(4, 4)
    kept, kept_mask = new.clone(), mask.clone()
    runs = [
        Run(tokens, [Intervention(at("z", 1), cache), Intervention(at("z", 1, head=0), new[:, :, 0])]),
        Run(tokens, [Intervention(at("z", 1), new), Intervention(at("z", 1, pos=0), 5.0)]),
        Run(tokens, [Intervention(at("resid_pre", 1), cache), Intervention(at("resid_pre", 1, pos=0), 5.0)]),
        Run(tokens, [Intervention(at("z", 1), cache, into=at("v_input", 2), mask=mask), Intervention(at("v", 2), 0.0)]),
    ]
    evaluate(model, runs, all_logits)
    assert torch.equal(tokens, TOKENS)
    assert torch.equal(new, kept)
    assert torch.equal(mask, kept_mask)
    assert all(torch.equal(value, before[name]) for name, value in cache.items())


# --------------------------------------------------------------------------------------------------------------- steps


def test_steps_come_in_the_order_in_which_they_are_written() -> None:
    model = model_of("gpt2")
    planner = Planner(model, EVERYWHERE)
    edge = Intervention(at("z", 0), 0.0, into=at("q_input", 2))
    run = Run(TOKENS, [Intervention(at("z", 1), 1.0), edge, Intervention(at("z", 1, pos=1), 2.0)])
    steps = steps_of(planner, run, Recordings(model))
    z0, z1, q2 = "blocks.0.attn.hook_z", "blocks.1.attn.hook_z", "blocks.2.hook_q_input"
    assert [(step.made, step.hook, step.layer) for step in steps] == [(0, z1, 1), (1, z0, 0), (1, q2, 2), (2, z1, 1)]
    assert [hook for hook, _ in hook_functions([steps], range(1, 3), [{}])] == [z1, q2]
    assert hook_functions([steps], range(3, 4), [{}]) == []


def test_one_function_serves_the_stacked_runs() -> None:
    """Each run's part of the rows is changed by that run's steps alone, and what changed is told run by run."""
    model = model_of("gpt2")
    planner, point = Planner(model, EVERYWHERE), model.hook_dict["blocks.1.attn.hook_z"]
    runs = [
        Run(TOKENS, [Intervention(at("z", 1, head=0), 1.0), Intervention(at("z", 1, head=0), 2.0)]),
        Run(TOKENS, [Intervention(at("z", 0), 5.0)]),
        Run(TOKENS, [Intervention(at("z", 1, head=3), 0.0), Intervention(at("z", 1, pos=1), 3.0)]),
    ]
    steps = [steps_of(planner, run, Recordings(model)) for run in runs]
    changed: list[dict[int, Tensor]] = [{} for _ in runs]
    ((hook, function),) = hook_functions(steps, range(1, 2), changed)
    value = torch.zeros(6, 5, 4, 4, dtype=torch.float64)
    given = function(value, hook=point)
    expected = torch.zeros_like(value)
    expected[:2, :, 0] = 2.0
    expected[4:, 1] = 3.0
    assert hook == point.name
    assert torch.equal(given, expected)
    assert [{made: bool(did) for made, did in one.items()} for one in changed] == [
        {0: True, 1: True},
        {},
        {0: False, 1: True},
    ]


# ------------------------------------------------------------------------------------------------------------- mutants


def _forgets_the_interventions_of_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "key", Run.prompt_key)


def _forgets_the_readers_of_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Intervention, "key", property(lambda self: (self.site.key, self.source, id(self.mask))))


def _forgets_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(self: Intervention) -> Any:
        return (self.site.key, str(self.source), None if self.into is None else self.into.key)

    monkeypatch.setattr(Intervention, "key", property(key))


def _forgets_what_a_site_selects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Site, "key", property(lambda self: (self.hook,)))


def _leaves_every_prompt_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Resample, "made_of", lambda self, value: value)


def _mixes_up_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def functions(steps: Any, layers: range, changed: Any) -> Any:
        return hook_functions(steps[::-1], layers, changed[::-1])

    monkeypatch.setattr("interp_hooks.interventions.engine.hook_functions", functions)


def _drops_earlier_interventions(monkeypatch: pytest.MonkeyPatch) -> None:
    def last_of(planner: Any, run: Run, *rest: Any) -> Any:
        return steps_of(planner, Run(run.tokens, run.interventions[-1:], run.attention_mask), *rest)

    monkeypatch.setattr("interp_hooks.interventions.engine.steps_of", last_of)


def _records_without_interventions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp_hooks.interventions.recording.steps_of", lambda *arguments: [])


def several_at_once() -> None:
    z = [at("z", 1, head=head) for head in range(2)]
    runs = [Run(TOKENS, [Intervention(z[0], INNER), Intervention(z[1], 0.1 * number)]) for number in range(3)]
    agree(model_of("gpt2"), runs, [EVERYWHERE])


MUTANTS: list[tuple[Callable[[pytest.MonkeyPatch], None], Callable[[], None]]] = [
    (_forgets_the_interventions_of_sources, differing_sources),
    (_forgets_the_readers_of_edges, differing_sources),
    (_forgets_masks, differing_sources),
    (_forgets_what_a_site_selects, differing_sources),
    (_leaves_every_prompt_in_its_place, differing_sources),
    (_mixes_up_rows, several_at_once),
    (_drops_earlier_interventions, several_at_once),
    (_records_without_interventions, several_at_once),
]


@pytest.mark.parametrize(("mutate", "check"), MUTANTS, ids=[mutate.__name__ for mutate, _ in MUTANTS])
def test_mutants_are_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], check: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    check()
    mutate(monkeypatch)
    with unchecked_types(), pytest.raises((AssertionError, BadInput, HookDidNotFire, KeyError)):
        check()
