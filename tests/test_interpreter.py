"""Whatever the interpreter shares between runs, each run is what a full pass of its own, with plain hooks, gives.

`contract` goes over every source and site, on four kinds of models; what is a check by itself is a function, so that
the mutants at the end can be shown to fail on it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import interp_hooks.interpreter as interpreter
from interp_hooks import HookedTransformer, Intervention, LogitDiff, LogProb, Mean, Readout, Resample, Run, Site, at
from interp_hooks.components.attention import Visibility
from interp_hooks.errors import BadInput, HookDidNotFire, MetricError, UnknownHook
from interp_hooks.interpreter import evaluate
from interp_hooks.readout import Metric
from tests.experiments.by_hand import (
    KINDS,
    LACKS,
    OTHER,
    RTOL,
    SITES,
    THIRD,
    TOKENS,
    assert_same,
    left_alone,
    logits_of,
    model_of,
    rows_counted,
    site,
    value_at,
    word_tokenizer,
)
from tests.tiny import assert_close, build, distance, random_tokens, unchecked_types


def all_logits(logits: Tensor) -> Tensor:
    """The metric that leaves nothing out."""
    return logits


@dataclasses.dataclass(frozen=True, eq=False)
class Reads(Metric):
    """A metric that returns all it may read."""

    what: Readout

    @property
    def readout(self) -> Readout:
        return self.what

    def score(self, logits: Tensor) -> Tensor:
        return logits


def last_logit(logits: Tensor) -> Tensor:
    return logits[:, -1, 3]


def logits_together(model: HookedTransformer, runs: list[Run], **options: Any) -> Tensor:
    return evaluate(model, runs, all_logits, **options)


# ------------------------------------------------------------------------------------------------------- the contract

PER_PROMPT, LATE = torch.tensor([1, 4]), torch.tensor([4, 3])
SELECTIONS: list[dict[str, Any]] = [
    {},
    {"head": 1},
    {"head": [0, -1]},
    {"pos": 2},
    {"pos": -1},
    {"pos": [0, 3]},
    {"pos": PER_PROMPT},
    {"pos": PER_PROMPT - 5},
    {"pos": LATE},
    {"pos": -2, "head": 1},
    {"pos": PER_PROMPT, "head": 0},
    {"head": torch.tensor([1, 0])},
    {"query": 2},
    {"query": -1},
    {"query": [1, 3]},
    {"query": PER_PROMPT},
    {"query": LATE},
    {"head": 1, "query": 4, "key": 2},
    {"head": 1, "query": PER_PROMPT},
    {"neuron": 5},
    {"pos": 3, "neuron": [1, 2]},
    {"pos": PER_PROMPT, "neuron": 0},
    {"pos": -1, "d_vocab": 3},
]


def _own_interventions() -> list[Intervention]:
    return [
        Intervention(at("hook_embed", pos=1), 0.3),
        Intervention(at("z", 0, head=1), Run(THIRD)),
        Intervention(at("resid_pre", 2, pos=[0, 2]), Run(THIRD, [Intervention(at("attn_out", 1), 0.1)])),
    ]


def _last_axis(model: HookedTransformer, hook: str) -> int:
    point = model.hook_dict[hook]
    return point.sizes.get(point.axes[-1], TOKENS.shape[1])


A_RUN, CHANGED = Run(OTHER), Run(OTHER, _own_interventions())
MASKED = Run(OTHER, (), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]]))
SOURCES: dict[str, Callable[[HookedTransformer, str], Any]] = {
    "run": lambda model, hook: A_RUN,
    "run with interventions": lambda model, hook: CHANGED,
    "run with an intervention there": lambda model, hook: Run(OTHER, [Intervention(Site(hook=hook), 0.2)]),
    "recorded": lambda model, hook: {hook: value_at(model, A_RUN, hook)},
    "number": lambda model, hook: 0.7,
    "tensor": lambda model, hook: torch.linspace(-1, 1, _last_axis(model, hook), dtype=torch.float64),
    "mean": lambda model, hook: Mean(A_RUN),
    "mean of a masked run": lambda model, hook: Mean(MASKED),
    "mean per position": lambda model, hook: Mean(A_RUN, per_position=True),
    "resample": lambda model, hook: Resample(A_RUN, torch.tensor([1, 0])),
}


def contract(kind: str, source: str, names: Sequence[str] = SITES) -> None:
    """Every site and selection, in one call, against a pass of its own; all logits, and those at one position."""
    model = model_of(kind)
    made: dict[str, Any] = {}
    runs: list[Run] = []
    for name in names:
        hook = site(name, 0).hook
        assert (hook in model.hook_dict) == (name not in LACKS[kind]), name
        if name in LACKS[kind]:
            continue
        fitting = [select for select in SELECTIONS if set(select) <= set(model.hook_dict[hook].axes)]
        if source == "tensor":  # one value for each index of the last axis, which can't also be selected
            fitting = [select for select in fitting if model.hook_dict[hook].axes[-1] not in select]
        if kind in ("neox", "attn-only"):  # their attention is that of the other two; half is enough, and quicker
            fitting = fitting[::2]
        for number, select in enumerate(fitting):
            where = site(name, number % 3, **select)
            if where.hook not in made:
                made[where.hook] = SOURCES[source](model, where.hook)
            runs.append(Run(TOKENS, [Intervention(where, made[where.hook])]))
    with unchecked_types():  # thousands of passes, whose types other tests check
        known: dict[Any, Any] = {}
        expected = torch.stack([logits_of(model, run, known) for run in runs])
        for pos in (None, -1):
            together = evaluate(model, runs, all_logits if pos is None else Reads(Readout(pos=pos)))
            for run, ours, logits in zip(runs, together, expected, strict=True):
                there = logits if pos is None else logits[:, pos]
                assert_same(ours, there, (run.interventions[0].site, "read at", pos))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_one_pass_with_plain_hooks(kind: str, source: str) -> None:
    contract(kind, source)


def several_at_once(kind: str) -> None:
    """Runs with many interventions: on several layers, and twice on one place, where the later one wins."""
    model = model_of(kind)
    inner = Run(
        OTHER, [Intervention(at("z", 0), Run(THIRD)), Intervention(at("attn_out", 1, pos=1), Mean(Run(TOKENS)))]
    )
    z = at("z", 1, head=1)
    runs = [
        Run(TOKENS, [Intervention(at("attn_out", 2), inner), Intervention(at("z", 0, pos=3), Run(OTHER))]),
        Run(TOKENS, [Intervention(z, 0.0), Intervention(z, inner)]),
        Run(TOKENS, [Intervention(z, inner), Intervention(z, 0.0)]),
        Run(TOKENS, [Intervention(z, inner), Intervention(at("z", 1, pos=2), 1.0)]),
        Run(TOKENS, [Intervention(at("pattern", 1, head=0), inner), Intervention(at("v", 1), Run(OTHER))]),
        Run(TOKENS, [Intervention(at("unembed.hook_out", pos=1), inner), Intervention(at("q", 2), 0.5)]),
        Run(TOKENS),
    ]
    for run, ours in zip(runs, logits_together(model, runs), strict=True):
        assert_same(ours, logits_of(model, run), runs.index(run))


@pytest.mark.parametrize("kind", KINDS)
def test_several_interventions_of_a_run(kind: str) -> None:
    several_at_once(kind)


# ------------------------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("kind", KINDS)
def test_patching_a_run_with_itself_changes_nothing(kind: str) -> None:
    model = model_of(kind)
    sites = [site(name, layer) for name in SITES if name not in LACKS[kind] for layer in range(3)]
    runs = [Run(TOKENS), *(Run(TOKENS, [Intervention(one, Run(TOKENS))]) for one in sites)]
    unchanged, *patched = logits_together(model, runs)
    assert_same(unchanged, logits_of(model, Run(TOKENS)))
    for one, ours in zip(sites, patched, strict=True):
        assert_same(ours, unchanged, one)


@pytest.mark.parametrize("layer", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_all_of_the_stream_is_the_other_run(kind: str, layer: int) -> None:
    """Bitwise: a single run has the same shapes as the pass that it is compared with."""
    model = model_of(kind)
    (ours,) = logits_together(model, [Run(TOKENS, [Intervention(at("resid_pre", layer), Run(OTHER))])])
    assert torch.equal(ours, logits_of(model, Run(OTHER)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_future_does_not_reach_the_past(kind: str) -> None:
    model = model_of(kind)
    names = [name for name in SITES if name not in LACKS[kind] and name not in ("pattern", "attn_scores")]
    unchanged = logits_of(model, Run(TOKENS))
    for name in names:
        runs = [Run(TOKENS, [Intervention(site(name, 1, pos=pos), 0.7)]) for pos in range(5)]
        for pos, ours in enumerate(logits_together(model, runs)):
            if pos > 0:
                assert_close(ours[:, :pos], unchanged[:, :pos], RTOL)
            if pos > 0 or name not in ("q", "rot_q", "q_input"):  # with one key to look at, no query matters
                assert distance(ours[:, pos:], unchanged[:, pos:]) > 1e-6, (name, pos)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_attention_add_up(kind: str) -> None:
    """Patching all that something is made of is patching it."""
    model, other = model_of(kind), Run(OTHER)

    def patched(*sites: Site) -> Run:
        return Run(TOKENS, [Intervention(one, other) for one in sites])

    head_by_head = [at("z", 1, head=head) for head in range(4)]
    runs = [
        patched(at("q", 1), at("k", 1)),
        patched(at("pattern", 1)),
        patched(at("pattern", 1), at("v", 1)),
        patched(at("z", 1)),
        patched(*head_by_head),
        patched(at("result", 1)),
        patched(at("attn_out", 1)),
    ]
    qk, pattern, pattern_and_v, z, heads, result, attn_out = logits_together(model, runs)
    assert_close(qk, pattern, RTOL)
    for same in (pattern_and_v, heads, result, attn_out):
        assert_close(same, z, RTOL)
    assert distance(pattern, z) > 1e-6


@pytest.mark.parametrize("kind", ["gpt2", "neox"])
def test_one_head_is_its_pattern_and_values(kind: str) -> None:
    """Only where a head has keys and values to itself."""
    runs = [
        Run(TOKENS, [Intervention(at("pattern", 1, head=2), Run(OTHER)), Intervention(at("v", 1, head=2), Run(OTHER))]),
        Run(TOKENS, [Intervention(at("z", 1, head=2), Run(OTHER))]),
    ]
    parts, whole = logits_together(model_of(kind), runs)
    assert_close(parts, whole, RTOL)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
def test_all_neurons_are_the_mlp(kind: str) -> None:
    """b_out is the same in both runs."""
    sites = [at("post", 1), at("mlp_out", 1)]
    neurons, whole = logits_together(model_of(kind), [Run(TOKENS, [Intervention(one, Run(OTHER))]) for one in sites])
    assert_close(neurons, whole, RTOL)


# ------------------------------------------------------------------------------------------------------------- sharing


def _mixed_runs() -> list[Run]:
    """Runs of prompts of several lengths, masked and not, in an order that no grouping keeps."""
    longer = random_tokens(batch=2, pos=8, d_vocab=23, seed=4)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    prompts = [(TOKENS, None), (longer, None), (TOKENS, mask), (OTHER, None)]
    return [
        Run(tokens, [Intervention(at(name, layer, pos=pos), source)] if layer >= 0 else (), mask)
        for pos in (0, 3)
        for layer in (2, 0, -1, 1)
        for name, source in (("z", 0.1 * pos), ("resid_pre", 0.4), ("mlp_out", Mean(Run(longer))))
        for tokens, mask in prompts
    ]


def keeps_order() -> None:
    """Runs of every prompt and layer, mixed in one call, come back in the order in which they were given."""
    model, runs = model_of("gpt2"), _mixed_runs()
    with unchecked_types():
        ours = evaluate(model, runs, last_logit)
        alone = torch.stack([last_logit(logits_of(model, run)) for run in runs])
    assert_close(ours, alone, RTOL)
    assert len(set(alone.flatten().tolist())) > len(runs), "mixing up two runs would show"


def test_mixed_runs_keep_their_order() -> None:
    keeps_order()


@pytest.mark.parametrize("max_memory", [0, 1, 60_000, 10**12])
def test_memory_changes_no_result(max_memory: int) -> None:
    """At 60 kB a few runs fit together, and the last stack of each group is smaller than the others."""
    model, runs = model_of("gpt2"), _mixed_runs()
    with unchecked_types(), rows_counted(model, "blocks.2.hook_resid_post") as rows:
        ours = evaluate(model, runs, last_logit, max_memory=max_memory)
        default = evaluate(model, runs, last_logit)
    assert_close(ours, default, RTOL)
    largest = max(rows["blocks.2.hook_resid_post"])
    assert largest > 2  # of the second call, two prompts for each run


def _stacks(max_memory: int) -> list[int]:
    """How many prompts went through the last layer together, for 12 runs on 2 prompts that start there."""
    model = model_of("gpt2")
    runs = [
        Run(TOKENS, [Intervention(at("z", 2, head=head), 0.1 * source)]) for head in range(4) for source in range(3)
    ]
    with rows_counted(model, "blocks.2.hook_resid_post") as rows:
        evaluate(model, runs, last_logit, max_memory=max_memory)
    return rows["blocks.2.hook_resid_post"][1:]  # the first is the prompt without interventions


def test_memory_decides_how_many_runs_are_stacked() -> None:
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
        with rows_counted(model, "blocks.2.hook_resid_post") as rows:
            evaluate(model, runs, metric, max_memory=100_000)
        return len(rows["blocks.2.hook_resid_post"])

    fewest = passes("z", LogitDiff([1, 2], [3, 4]))
    assert passes("pattern", LogitDiff([1, 2], [3, 4])) > fewest
    assert passes("z", all_logits) > fewest


EMBED, LAST = "hook_embed", "blocks.2.hook_resid_post"


def test_a_source_is_read_once() -> None:
    """However many runs, and however many equal descriptions of it: one pass for the source, one for the prompt."""
    model = model_of("gpt2")
    runs = [
        Run(TOKENS, [Intervention(at(name, layer, pos=pos), Run(OTHER))])
        for name in ("z", "attn_out", "mlp_out")
        for layer in range(3)
        for pos in range(5)
    ]
    with rows_counted(model, EMBED, LAST) as rows:
        evaluate(model, [Run(TOKENS), Run(OTHER), *runs], last_logit)
    assert rows[EMBED] == [2, 2]
    assert rows[LAST] == [2, 2, 90], "the two recorded to the end, and one stack for all"


def test_sources_of_sources_are_read_once() -> None:
    """Means and resamples of one run, and a run patched from it, share its pass."""
    model = model_of("gpt2")
    third = Run(THIRD)
    inner = Run(OTHER, [Intervention(at("z", 0), third)])
    sources = [inner, Mean(inner), Mean(inner, per_position=True), Resample(inner, torch.tensor([1, 0])), third]
    runs = [Run(TOKENS, [Intervention(at("attn_out", 1), source)]) for source in sources]
    with rows_counted(model, EMBED) as rows:
        evaluate(model, runs * 2, last_logit)
    assert rows[EMBED] == [2, 2, 2], "THIRD, OTHER patched from it, TOKENS"


def test_sources_with_other_interventions_are_other_sources() -> None:
    """Runs that differ in a place, a number, a tensor or an order are not taken for each other."""
    model = model_of("gpt2")
    order, reverse = torch.tensor([0, 1]), torch.tensor([1, 0])
    inner = [
        Run(OTHER, [Intervention(at("z", 0), 0.0)]),
        Run(OTHER, [Intervention(at("z", 0), 1.0)]),
        Run(OTHER, [Intervention(at("z", 0, head=1), 0.0)]),
        Run(OTHER, [Intervention(at("z", 0, pos=1), 0.0)]),
        Run(OTHER, [Intervention(at("z", 0, pos=[1]), 0.0), Intervention(at("v", 0), 0.5)]),
        Run(OTHER, [Intervention(at("z", 0, pos=PER_PROMPT), 0.0)]),
        Run(OTHER, [Intervention(at("z", 0, pos=PER_PROMPT - 1), 0.0)]),
        Run(OTHER, [Intervention(at("z", 0), torch.ones(4, dtype=torch.float64))]),
        Run(OTHER, [Intervention(at("z", 0), torch.zeros(4, dtype=torch.float64) - 1)]),
        Run(OTHER, [Intervention(at("z", 0), Resample(Run(THIRD), order))]),
        Run(OTHER, [Intervention(at("z", 0), Resample(Run(THIRD), reverse))]),
        Run(OTHER, [Intervention(at("z", 0), Mean(Run(THIRD)))]),
        Run(OTHER, [Intervention(at("z", 0), Mean(Run(THIRD), per_position=True))]),
        Run(OTHER, (), torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])),
    ]
    runs = [Run(TOKENS, [Intervention(at("attn_out", 1), source)]) for source in inner]
    ours = logits_together(model, runs)
    for number, run in enumerate(runs):
        assert_same(ours[number], logits_of(model, run), number)


@pytest.mark.parametrize("layer", range(3))
def test_no_run_starts_before_the_first_layer_it_touches(layer: int) -> None:
    """Earlier layers see the prompt once, and the layer itself all the runs in one stack."""
    model = model_of("gpt2")
    runs = [
        Run(TOKENS, [Intervention(at("z", layer, head=head), 0.0), Intervention(at("mlp_out", 2), 0.1)])
        for head in range(4)
    ]
    blocks = [f"blocks.{at_layer}.hook_resid_post" for at_layer in range(3)]
    with rows_counted(model, EMBED, *blocks) as rows:
        evaluate(model, runs, last_logit)
    assert rows[EMBED] == [2]
    for at_layer, block in enumerate(blocks):
        stacked = [count for count in rows[block] if count > 2]
        assert stacked == ([] if at_layer < layer else [8])
        assert rows[block].count(2) <= 1


def test_nothing_is_run_again_for_a_run_without_interventions() -> None:
    model = model_of("gpt2")
    with rows_counted(model, EMBED, LAST) as rows:
        first, second = logits_together(model, [Run(TOKENS), Run(TOKENS)])
    assert rows == {EMBED: [2], LAST: [2]}
    assert torch.equal(first, second)


def test_only_what_is_read_is_unembedded() -> None:
    """A metric of some tokens at one position makes no logits; one that reads a position makes those of one."""
    model = model_of("gpt2")
    runs = [Run(TOKENS, [Intervention(at("z", 2, head=head), 0.0)]) for head in range(4)]
    with model.hooks(fwd_hooks=[("unembed.hook_out", lambda value, hook: shapes.append(list(value.shape)))]):
        shapes: list[list[int]] = []
        evaluate(model, runs, LogitDiff([1, 2], [3, 4]))
        assert shapes == []
        evaluate(model, runs, LogProb([1, 2]))
        assert shapes == [[8, 1, 19]]


# ------------------------------------------------------------------------------------------------------------- readout


LEFT = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]])
RIGHT = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
MASKS = {"whole": None, "left": LEFT, "right": RIGHT}
SOME_TOKENS = torch.tensor([[1, 18, 7], [0, 1, 7]])
READOUTS = [Readout()] + [
    Readout(pos=pos, tokens=tokens)
    for pos in (0, 3, -1, -2, torch.tensor([4, 1]), torch.tensor([-1, 2]))
    for tokens in (None, SOME_TOKENS)
]


def part_of(logits: Tensor, readout: Readout, ends: list[int]) -> Tensor:
    """What a readout reads of full logits; `ends` are how many tokens, padding included, end with a real one."""
    rows = []
    for row, one in enumerate(logits):
        if readout.pos is not None:
            pos = int(torch.as_tensor(readout.pos).expand(2)[row])
            one = one[pos if pos >= 0 else ends[row] + pos]
        rows.append(one if readout.tokens is None else one[..., readout.tokens[row]])
    return torch.stack(rows)


def reads_the_right_place(masked: str, readouts: list[Readout], *more: list[Intervention]) -> None:
    """A restricted readout is that part of the full logits, wherever the run is touched."""
    model, mask = model_of("gpt2"), MASKS[masked]
    ends = [2 if masked == "right" else 5, 5]
    z = [at("z", 1, **select) for select in ({}, {"pos": 3}, {"pos": -1}, {"pos": LATE})]
    touched = [[], *([Intervention(one, value)] for one in z for value in (0.1, 0.2)), *more]
    runs = [Run(TOKENS, interventions, mask) for interventions in touched]
    full = [logits_of(model, run) for run in runs]
    for readout in readouts:
        for run, ours, logits in zip(runs, evaluate(model, runs, Reads(readout)), full, strict=True):
            assert_same(ours, part_of(logits, readout, ends), (run.interventions, readout))


@pytest.mark.parametrize("masked", MASKS)
def test_a_restricted_readout_is_part_of_the_logits(masked: str) -> None:
    reads_the_right_place(masked, READOUTS)


@pytest.mark.parametrize("masked", MASKS)
def test_so_it_is_where_the_final_norm_is_touched(masked: str) -> None:
    """Such runs go through the model's own unembedding, and may start at a late position for another reason."""
    scale, normalized = Site(hook="ln_final.hook_scale"), "ln_final.hook_normalized"
    reads_the_right_place(
        masked,
        READOUTS,
        [Intervention(scale, 0.5)],
        [Intervention(at(normalized, pos=1), 0.1), Intervention(at("q", 0), 0.5)],
        [Intervention(at(normalized, pos=3), 0.1), Intervention(at("z", 1, pos=3), 0.1)],
        [Intervention(at(normalized, pos=-1), 0.1), Intervention(at("resid_pre", 2, pos=4), 0.1)],
    )


@pytest.mark.parametrize("touched", ["ln_final.hook_scale", "blocks.1.attn.hook_z"])
def test_some_tokens_at_all_positions_can_be_read(touched: str) -> None:
    reads_the_right_place("whole", [Readout(tokens=SOME_TOKENS)], [Intervention(Site(hook=touched), 0.5)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", MASKS)
def test_runs_touched_at_late_positions(masked: str, kind: str) -> None:
    """With keys and values of earlier positions taken from elsewhere, sources, masks and rotations still line up."""
    model, mask, first = model_of(kind), MASKS[masked], Run(OTHER, (), MASKS[masked])
    changed = Run(OTHER, [Intervention(at("z", 0, pos=2), Run(THIRD))], mask)
    sources = [first, changed, 0.3, Mean(first), Mean(first, per_position=True), Resample(first, torch.tensor([1, 0]))]
    names = ["hook_embed", "resid_pre", "k", "v", "q", "z", "k_input", "result", "attn_out"]
    sites = [site(name, layer, pos=pos) for name in names for layer in range(3) for pos in (3, -1, [2, 4], LATE)]
    sites += [at("pattern", layer, query=query) for layer in range(3) for query in (3, -1, [2, 4], LATE)]
    runs = [Run(TOKENS, [Intervention(one, sources[i % len(sources)])], mask) for i, one in enumerate(sites)]
    runs.append(Run(TOKENS, [Intervention(sites[5], first), Intervention(sites[-2], changed)], mask))
    ends = [2 if masked == "right" else 5, 5]
    with unchecked_types():
        known: dict[Any, Any] = {}
        full = [logits_of(model, run, known) for run in runs]
        for readout in (Readout(pos=-1), Readout(pos=3), Readout(pos=torch.tensor([4, 2]))):
            for run, ours, logits in zip(runs, evaluate(model, runs, Reads(readout)), full, strict=True):
                assert_same(ours, part_of(logits, readout, ends), (run.interventions, readout))


@pytest.mark.parametrize(("pos", "first"), [(-1, 4), (4, 4), (3, 3), ([3, 4], 3), (LATE, 3)], ids=str)
def test_only_positions_that_can_change_are_computed(pos: Any, first: int) -> None:
    """From the first touched one on, rounded down to a quarter of the prompt."""
    model = model_of("gpt2")
    computed: list[int] = []
    runs = [Run(TOKENS, [Intervention(at("z", 1, pos=pos, head=head), 0.0)]) for head in range(4)]
    counter = model.blocks[1].register_forward_hook(lambda block, read, written: computed.append(written.shape[1]))
    try:
        evaluate(model, runs, Reads(Readout(pos=-1)))
        touched, before = computed[-1], len(computed)
        evaluate(model, runs, all_logits)
    finally:
        counter.remove()
    assert 5 - first <= touched <= 5 - first + 1
    assert computed[before:][-1] == 5, "every position is read"


def test_a_model_that_looks_ahead_is_computed_whole() -> None:
    model = build(attention_dir="bidirectional")
    runs = [Run(TOKENS, [Intervention(at("z", layer, pos=4), Run(OTHER))]) for layer in range(3)]
    for run, ours in zip(runs, evaluate(model, runs, Reads(Readout(pos=-1))), strict=True):
        assert_same(ours, logits_of(model, run)[:, -1])


@pytest.mark.parametrize(("pos", "length"), [(3, 2), (3, 3), (4, 1)])
def test_a_shorter_source_is_refused_at_late_positions_too(pos: int, length: int) -> None:
    """Also where it is as long as the part of the prompt that has to be computed."""
    sources = [Run(OTHER[:, :length]), {"blocks.1.attn.hook_z": value_at(model_of("gpt2"), Run(OTHER[:, :length]),
               "blocks.1.attn.hook_z")}]  # fmt: skip
    for source in sources:
        run = Run(TOKENS, [Intervention(at("z", 1, pos=pos), source)])
        with pytest.raises(BadInput, match=f"pos={length}, .*pos=5, "):
            evaluate(model_of("gpt2"), [run], Reads(Readout(pos=-1)))


def test_ones_own_hooks_see_whole_prompts() -> None:
    """A hook attached before may name positions; they mean the same in every run."""
    model = build()

    def edit(value: Tensor, hook: Any) -> None:
        value[:, 0, 0] += 3.0

    model.add_hook("attn_out1", edit)
    runs = [Run(TOKENS, [Intervention(at("z", layer, pos=4), 0.0)]) for layer in range(3)]
    for run, ours in zip(runs, evaluate(model, runs, Reads(Readout(pos=-1))), strict=True):
        assert_same(ours, logits_of(model, run)[:, -1])


def test_the_metric_called_on_logits_reads_the_same() -> None:
    model = model_of("gpt2")
    for metric in (LogitDiff([1, 2], [3, 4]), LogProb([1, 2], pos=2), LogitDiff([1, 2], [3, 4], pos=PER_PROMPT)):
        (evaluated,) = evaluate(model, [Run(TOKENS)], metric)
        assert_close(metric(logits_of(model, Run(TOKENS))), evaluated, RTOL)


def padding_is_not_read(mask: Tensor) -> None:
    """A padded prompt gives what it gives alone, patched from a padded run, and -1 is its last real token."""
    model = model_of("gpt2")
    short = slice(3, 5) if mask is LEFT else slice(0, 2)
    metric = LogitDiff([1, 2], [3, 4])

    def pair(clean: Tensor, corrupt: Tensor, mask: Tensor | None) -> list[Run]:
        return [
            Run(clean, (), mask),
            Run(clean, [Intervention(at("z", 1, head=1), Run(corrupt, (), mask))], mask),
            Run(clean, [Intervention(at("attn_out", 2), Run(corrupt, (), mask))], mask),
            Run(clean, [Intervention(at("mlp_out", 0), Mean(Run(corrupt, (), mask)))], mask),
        ]

    padded = evaluate(model, pair(TOKENS, OTHER, mask), metric)
    first = evaluate(model, pair(TOKENS[:1, short], OTHER[:1, short], None), LogitDiff([1], [3]))
    assert_close(padded[:3, :1], first[:3], RTOL)
    second = evaluate(model, pair(TOKENS[1:], OTHER[1:], None), LogitDiff([2], [4]))
    assert_close(padded[:3, 1:], second[:3], RTOL)
    # The mean is over both prompts, so that it has to be put together from the two alone
    values = [value_at(model, Run(one), "blocks.0.hook_mlp_out") for one in (OTHER[:1, short], OTHER[1:])]
    mean = torch.cat([value[0] for value in values]).mean(0)
    alone = Run(TOKENS[:1, short], [Intervention(at("mlp_out", 0), mean)])
    assert_close(padded[3:, :1], evaluate(model, [alone], LogitDiff([1], [3])), RTOL)


@pytest.mark.parametrize("mask", [LEFT, RIGHT], ids=["left", "right"])
def test_padding_is_not_read(mask: Tensor) -> None:
    padding_is_not_read(mask)


def test_padding_that_the_model_finds_by_itself_is_not_read() -> None:
    """A left-padding model masks padding tokens without being told; a run that starts at a layer must agree."""
    model = HookedTransformer(build().cfg, word_tokenizer(), "left")
    model.load_state_dict(build().state_dict())
    tokens = torch.tensor([[1, 1, 0, 7, 8], [0, 5, 6, 7, 8]])
    runs = [Run(tokens, [Intervention(at("z", layer, head=1), 0.0)]) for layer in range(3)]
    ours = logits_together(model, [Run(tokens), *runs])
    for run, logits in zip([Run(tokens), *runs], ours, strict=True):
        expected = logits_of(model, run)
        assert_same(logits[0, 2:], expected[0, 2:])
        assert_same(logits[1], expected[1])


@pytest.mark.parametrize("pos", [5, -6, torch.tensor([0, 5]), torch.tensor([-6, 0])], ids=str)
def test_a_position_outside_the_prompt_is_refused(pos: Any) -> None:
    with pytest.raises(BadInput, match="out of range for prompts of 5 tokens"):
        evaluate(model_of("gpt2"), [Run(TOKENS)], Reads(Readout(pos=pos)))


def test_a_position_before_a_short_prompt_is_refused() -> None:
    """The first prompt has two real tokens, so none is the third from its end, wherever its padding is."""
    for mask in (LEFT, RIGHT):
        with pytest.raises(BadInput, match="out of range"):
            evaluate(model_of("gpt2"), [Run(TOKENS, (), mask)], Reads(Readout(pos=-3)))


def test_positions_for_another_number_of_prompts_are_refused() -> None:
    with pytest.raises(BadInput):
        evaluate(model_of("gpt2"), [Run(TOKENS)], Reads(Readout(pos=torch.tensor([0, 1, 2]))))


# ------------------------------------------------------------------------------------------------ nothing stays behind


def _failing(logits: Tensor) -> Tensor:
    raise ZeroDivisionError


def _not_a_tensor(logits: Tensor) -> float:
    return 0.0


def _nan(logits: Tensor) -> Tensor:
    return logits[:, -1, 0] * torch.nan


GOOD = Intervention(at("z", 0), Run(OTHER))
BAD: dict[str, tuple[list[Intervention], Any, type[Exception], str]] = {
    "metric raises": ([GOOD], _failing, ZeroDivisionError, ""),
    "metric gives no tensor": ([GOOD], _not_a_tensor, MetricError, "must return a tensor.*got float"),
    "metric gives nan": ([GOOD], _nan, MetricError, r"nan for run \d: \[nan, nan\]"),
    "misspelt site": ([GOOD, Intervention(at("zz", 1), 0.0)], last_logit, UnknownHook, "Did you mean blocks.1.attn"),
    "no such layer": ([GOOD, Intervention(at("z", 3), 0.0)], last_logit, UnknownHook, "no hook point 'blocks.3"),
    "axis": ([GOOD, Intervention(at("z", 1, query=0), 0.0)], last_logit, BadInput, "batch, pos, head, d_head.*'query'"),
    "head": ([GOOD, Intervention(at("z", 1, head=4), 0.0)], last_logit, BadInput, "head=4 is out of range.*has 4"),
    "position": ([GOOD, Intervention(at("z", 1, pos=-6), 0.0)], last_logit, BadInput, "pos=-6 is out of range.*has 5"),
    "one of several": (
        [GOOD, Intervention(at("z", 1, pos=[1, 7]), 0.0)],
        last_logit,
        BadInput,
        "pos=7 is out of range",
    ),
    "one prompt's": (
        [GOOD, Intervention(at("z", 1, pos=torch.tensor([5, 0])), 0.0)],
        last_logit,
        BadInput,
        "pos=5 is out of range",
    ),
    "indices of other prompts": (
        [GOOD, Intervention(at("z", 1, pos=torch.tensor([0, 1, 2])), 0.0)],
        last_logit,
        BadInput,
        r"one index for each of 2 prompts; got shape \[3\]",
    ),
    "source of a wrong shape": (
        [GOOD, Intervention(at("z", 1, head=0), torch.zeros(3))],
        last_logit,
        BadInput,
        r"has shape \[3\], the place it goes to \[2, 5, 4\]",
    ),
    "shorter source": (
        [GOOD, Intervention(at("z", 1), Run(OTHER[:, :4]))],
        last_logit,
        BadInput,
        "the source has .batch=2, pos=4, .*, the run .batch=2, pos=5, ",
    ),
    "source of one prompt": ([GOOD, Intervention(at("z", 1), Run(OTHER[:1]))], last_logit, BadInput, "batch=1, pos=5"),
    "source of one token": (
        [GOOD, Intervention(at("z", 1), Run(OTHER[:, :1]))],
        last_logit,
        BadInput,
        "batch=2, pos=1",
    ),
    "shorter mean": (
        [GOOD, Intervention(at("z", 1), Mean(Run(OTHER[:, :4]), per_position=True))],
        last_logit,
        BadInput,
        "pos=4",
    ),
    "mean of shorter patterns": (
        [GOOD, Intervention(at("pattern", 1), Mean(Run(OTHER[:, :4])))],
        last_logit,
        BadInput,
        "query=4",
    ),
    "resample of too few": (
        [GOOD, Intervention(at("z", 1), Resample(Run(OTHER), torch.tensor([0])))],
        last_logit,
        BadInput,
        "batch=1",
    ),
    "resample outside": (
        [GOOD, Intervention(at("z", 1), Resample(Run(OTHER), torch.tensor([0, 2])))],
        last_logit,
        BadInput,
        "",
    ),
    "recording that lacks it": ([GOOD, Intervention(at("z", 1), {})], last_logit, UnknownHook, "blocks.1.attn.hook_z"),
    "site of a source": (
        [Intervention(at("attn_out", 1), Run(OTHER, [Intervention(at("z", 0, head=9), 0.0)]))],
        last_logit,
        BadInput,
        "head=9 is out of range",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_mistakes_are_told_and_leave_the_model_alone(what: str) -> None:
    interventions, metric, error, message = BAD[what]
    model = model_of("gpt2")
    with left_alone(model), unchecked_types(), pytest.raises(error, match=f"(?s){message}"):
        evaluate(model, [Run(TOKENS), Run(TOKENS, interventions)], metric)


def test_no_runs_are_refused() -> None:
    with pytest.raises(BadInput, match="at least one run"):
        evaluate(model_of("gpt2"), [], last_logit)


def test_which_run_is_nan_is_told() -> None:
    runs = [Run(TOKENS, [Intervention(at("z", layer), value)]) for value in (0.0, torch.nan) for layer in (2, 0, 1)]
    with pytest.raises(MetricError, match=r"nan for run (3|4|5)"):
        evaluate(model_of("gpt2"), runs, last_logit)


def test_tokens_and_masks_that_do_not_fit_are_refused() -> None:
    model = model_of("gpt2")
    with left_alone(model), unchecked_types():
        with pytest.raises(BadInput, match=r"attention_mask must be \[batch, pos\] = \[2, 5\], got \[2, 4\]"):
            evaluate(model, [Run(TOKENS, [GOOD], torch.ones(2, 4))], last_logit)
        with pytest.raises(BadInput, match=r"token ids must be 0\.\.22"):
            evaluate(model, [Run(TOKENS + 23)], last_logit)
        with pytest.raises(BadInput, match="without any real token"):
            evaluate(model, [Run(TOKENS, (), torch.tensor([[0] * 5, [1] * 5]))], last_logit)


def test_a_metric_whose_shape_changes_is_refused() -> None:
    """Two runs can't be one tensor if one of them has a number for each prompt and the other has one for all."""

    calls = iter(range(2))

    def changing(logits: Tensor) -> Tensor:
        return logits[:, -1, 0] if next(calls) else logits[0, -1, 0]

    with pytest.raises(MetricError):
        evaluate(model_of("gpt2"), [Run(TOKENS), Run(TOKENS)], changing)


@pytest.mark.parametrize("gradients", [True, False])
def test_gradient_mode_is_restored(gradients: bool) -> None:
    seen = []

    def metric(logits: Tensor) -> Tensor:
        seen.append((torch.is_grad_enabled(), logits.requires_grad))
        return last_logit(logits)

    with torch.set_grad_enabled(gradients):
        scores = evaluate(model_of("gpt2"), [Run(TOKENS, [GOOD])], metric)
        assert torch.is_grad_enabled() is gradients
    assert seen == [(False, False)]
    assert not scores.requires_grad


def test_inputs_are_left_as_they_were() -> None:
    """Neither tokens nor recordings nor source tensors are written to."""
    model = model_of("gpt2")
    cache = model.run_with_cache(OTHER)[1]
    before = {name: value.clone() for name, value in cache.items()}
    tokens, new = TOKENS.clone(), torch.randn(2, 5, 4, 4, dtype=torch.float64)
    kept = new.clone()
    runs = [
        Run(tokens, [Intervention(at("z", 1), cache), Intervention(at("z", 1, head=0), new[:, :, 0])]),
        Run(tokens, [Intervention(at("z", 1), new), Intervention(at("z", 1, pos=0), 5.0)]),
        Run(tokens, [Intervention(at("resid_pre", 1), cache), Intervention(at("resid_pre", 1, pos=0), 5.0)]),
    ]
    evaluate(model, runs, last_logit)
    assert torch.equal(tokens, TOKENS)
    assert torch.equal(new, kept)
    assert all(torch.equal(value, before[name]) for name, value in cache.items())


def test_ones_own_hooks_work_and_stay() -> None:
    """What was attached to the model before is part of it: it acts on every run, and is there afterwards."""
    model = build()
    model.add_hook("z0", lambda value, hook: value * 0.5)
    model.add_hook("attn_out2", lambda value, hook: value + 1, is_permanent=True)
    runs = [Run(TOKENS), *(Run(TOKENS, [Intervention(at("z", layer, head=1), Run(OTHER))]) for layer in range(3))]
    with left_alone(model):
        ours = logits_together(model, runs)
    for run, logits in zip(runs, ours, strict=True):
        assert_same(logits, logits_of(model, run))
    assert distance(ours[0], logits_of(model_of("gpt2"), Run(TOKENS))) > 1e-3
    assert sum(len(point.hooks) for point in model.hook_points()) == 2


def test_progress_is_shown_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(model_of("gpt2"), [Run(TOKENS)], last_logit)
    assert capsys.readouterr().err == ""
    evaluate(model_of("gpt2"), [Run(TOKENS)] * 3, last_logit, progress=True)
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_models_stay_in_their_dtype(dtype: torch.dtype) -> None:
    """Sources of float64 are cast to what they replace; 2e-2 is a few roundings of bfloat16 along three layers."""
    model, precise = build(dtype=dtype), model_of("gpt2")
    runs = [
        Run(TOKENS, [Intervention(at("z", 1, head=1), Run(OTHER)), Intervention(at("pattern", 2), Mean(Run(OTHER)))]),
        Run(TOKENS, [Intervention(at("mlp_out", 1), torch.ones(12, dtype=torch.float64))]),
    ]
    ours = logits_together(model, runs)
    assert ours.dtype == dtype
    assert_close(ours, logits_together(precise, runs), 1e-5 if dtype == torch.float32 else 5e-2)


# ------------------------------------------------------------------------------------------------------------- mutants


def _starts_elsewhere(monkeypatch: pytest.MonkeyPatch, layer_of: Callable[[HookedTransformer, Run, int], int]) -> None:
    right = interpreter._starts

    def starts(model: HookedTransformer, runs: list[Run], readout: Readout) -> list[interpreter.Start]:
        return [
            start._replace(layer=layer_of(model, run, start.layer))
            for run, start in zip(runs, right(model, runs, readout), strict=True)
        ]

    monkeypatch.setattr(interpreter, "_starts", starts)


def _starts_a_layer_late(monkeypatch: pytest.MonkeyPatch) -> None:
    _starts_elsewhere(monkeypatch, lambda model, run, layer: min(layer + 1, model.cfg.n_layers))


def _starts_where_the_last_intervention_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def last(model: HookedTransformer, run: Run, layer: int) -> int:
        return max((interpreter._layer(model, one.site.hook) for one in run.interventions), default=layer)

    _starts_elsewhere(monkeypatch, last)


def _mixes_up_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    right = interpreter._hooks

    def hooks(touched: Any, stacked: int, *rest: Any) -> Any:
        return right([(stacked - 1 - place, one) for place, one in touched], stacked, *rest)

    monkeypatch.setattr(interpreter, "_hooks", hooks)


def _forgets_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """In runs that do not begin with the tokens."""
    right = HookedTransformer.forward

    def forward(self: HookedTransformer, *inputs: Any, **options: Any) -> Any:
        if options.get("start_at_layer") is not None:
            options["attention_mask"] = None
        return right(self, *inputs, **options)

    monkeypatch.setattr(HookedTransformer, "forward", forward)


def _averages_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Mean.recorded_value

    def recorded_value(self: Mean, value: Tensor, point: Any) -> Tensor:
        unmasked = Mean(Run(self.run.tokens, self.run.interventions), self.per_position)
        return right(unmasked, value, point)

    monkeypatch.setattr(Mean, "recorded_value", recorded_value)


def _keeps_every_prompt_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Resample, "recorded_value", lambda self, value, point: value)


def _reads_one_position_early(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Readout.positions
    monkeypatch.setattr(Readout, "positions", lambda self, run: (right(self, run) - 1).clamp(min=0))


def _counts_back_from_the_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Readout.positions
    monkeypatch.setattr(Readout, "positions", lambda self, run: right(self, Run(run.tokens)))


def _computes_too_few_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    right = interpreter._first_position

    def late(model: HookedTransformer, run: Run, read_from: int) -> int:
        return max(2, right(model, run, read_from))

    monkeypatch.setattr(interpreter, "_first_position", late)


def _sorts_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """And forgets to put their results back into the order in which the runs were given."""
    right = interpreter._execute
    monkeypatch.setattr(interpreter, "_execute", lambda *arguments: right(*arguments).flip(0))


def _takes_all_prompts_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "prompt_key", property(lambda self: tuple(self.tokens.shape)))


def _drops_earlier_interventions(monkeypatch: pytest.MonkeyPatch) -> None:
    right = interpreter._by_layer

    def by_layer(model: HookedTransformer, runs: list[Run]) -> Any:
        return right(model, [dataclasses.replace(run, interventions=list(run.interventions)[-1:]) for run in runs])

    monkeypatch.setattr(interpreter, "_by_layer", by_layer)


def _asks_the_last_layer_for_the_position_before(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Visibility.only
    monkeypatch.setattr(Visibility, "only", lambda self, rows: right(self, (rows - 1).clamp(min=0)))


def _lets_runs_join_with_another_position(monkeypatch: pytest.MonkeyPatch) -> None:
    right = interpreter.at_positions
    monkeypatch.setattr(interpreter, "at_positions", lambda stream, rows: right(stream, (rows - 1).clamp(min=0)))


def _forgets_the_interventions_of_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "key", Run.prompt_key)


MUTANTS: list[tuple[Callable[[pytest.MonkeyPatch], None], Callable[[], None]]] = [
    (_starts_a_layer_late, lambda: contract("gpt2", "run", ["z"])),
    (_starts_where_the_last_intervention_is, lambda: several_at_once("gpt2")),
    (_mixes_up_rows, lambda: contract("llama", "recorded", ["q"])),
    (_mixes_up_rows, keeps_order),
    (_forgets_the_mask, lambda: padding_is_not_read(LEFT)),
    (_averages_padding, lambda: contract("neox", "mean of a masked run", ["mlp_out"])),
    (_averages_padding, lambda: padding_is_not_read(RIGHT)),
    (_keeps_every_prompt_in_its_place, lambda: contract("gpt2", "resample", ["pattern"])),
    (_reads_one_position_early, lambda: reads_the_right_place("whole", READOUTS)),
    (_counts_back_from_the_padding, lambda: reads_the_right_place("right", READOUTS)),
    (_computes_too_few_positions, lambda: reads_the_right_place("whole", [Readout(pos=-1)])),
    (_sorts_runs, keeps_order),
    (_takes_all_prompts_for_one, keeps_order),
    (_drops_earlier_interventions, lambda: several_at_once("attn-only")),
    (_asks_the_last_layer_for_the_position_before, lambda: reads_the_right_place("whole", [Readout(pos=-1)])),
    (_lets_runs_join_with_another_position, lambda: reads_the_right_place("whole", [Readout(pos=-1)])),
    (_forgets_the_interventions_of_sources, lambda: several_at_once("gpt2")),
]


@pytest.mark.parametrize(("mutate", "check"), MUTANTS, ids=[mutate.__name__ for mutate, _ in MUTANTS])
def test_mutants_are_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], check: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a late start has passed by raises by itself, which is as good as a wrong number."""
    check()
    mutate(monkeypatch)
    with unchecked_types(), pytest.raises((AssertionError, HookDidNotFire, IndexError)):
        check()
