"""Whatever the engine shares between runs, each run is what a full pass of its own, with plain hooks, gives.

`contract` goes over every source and site on four kinds of models, `varied_runs` over all kinds in every way in which
runs are evaluated; what is a check by itself is a function, so that the mutants at the end can be shown to fail on it.
What is planned, recorded and sent along edges has its own files.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import (
    HookedTransformer,
    Intervention,
    LogitDiff,
    LogProb,
    Mean,
    Readout,
    Resample,
    Run,
    Site,
    at,
)
from interp_hooks.errors import BadInput, HookDidNotFire, MetricError, UnknownHook
from interp_hooks.interventions import engine
from interp_hooks.interventions.engine import Batch, Keeps, evaluate, evaluation
from interp_hooks.model.components.attention import Visibility
from interp_hooks.model.components.block import at_positions
from interp_hooks.model.components.kv_cache import KeyValueCache
from tests.experiments.by_hand import (
    ALSO,
    KINDS,
    LACKS,
    OTHER,
    RTOL,
    SITES,
    THIRD,
    TOKENS,
    ByHand,
    Reads,
    agree,
    all_logits,
    assert_same,
    by_hand,
    left_alone,
    logits_of,
    model_of,
    site,
    value_at,
    word_tokenizer,
)
from tests.interventions.test_plans import mixed_runs
from tests.model.test_progress import Terminal
from tests.tiny import assert_close, build, distance, unchecked_types


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
    {"pos": torch.tensor([-2, -4])},
    {"pos": [-1, -2]},
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


EVERYWHERE, LAST = Readout(), Readout(pos=-1)


def _fitting(model: HookedTransformer, hook: str, source: str) -> list[dict[str, Any]]:
    """Selections by axes that the hook has; one value for each index of the last axis can't also be selected."""
    point = model.hook_dict[hook]
    without = {point.axes[-1]} if source == "tensor" else set[str]()
    if point.sizes.get("head") == 1:  # one for all queries
        without |= {"head"}
    return [select for select in SELECTIONS if set(select) <= set(point.axes) - without]


def contract(kind: str, source: str, names: Sequence[str] = SITES, part: int = 0, parts: int = 1) -> None:
    """Every site and selection, or every n-th, in one call, against a pass of its own; all logits, and the last."""
    model = model_of(kind)
    made: dict[str, Any] = {}
    runs: list[Run] = []
    for name in names:
        hook = site(name, 0).hook
        assert (hook in model.hook_dict) == (name not in LACKS[kind]), name
        for number, select in enumerate([] if name in LACKS[kind] else _fitting(model, hook, source)):
            where = site(name, number % 3, **select)
            if where.hook not in made:
                made[where.hook] = SOURCES[source](model, where.hook)
            runs.append(Run(TOKENS, [Intervention(where, made[where.hook])]))
    agree(model, runs[part % parts :: parts], [EVERYWHERE, LAST])


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_one_pass_with_plain_hooks(kind: str, source: str) -> None:
    """An eighth of the selections for each source and kind: together all of them, for every kind and every source."""
    contract(kind, source, part=list(KINDS).index(kind) + list(SOURCES).index(source), parts=8)


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
    agree(model, runs, [EVERYWHERE, LAST])


@pytest.mark.parametrize("kind", KINDS)
def test_several_interventions_of_a_run(kind: str) -> None:
    several_at_once(kind)


# ----------------------------------------------------------------------------- every kind, in every way of evaluation

MORE_SITES = (
    *("resid_post", "mlp_in", "k_input", "v_input", "rot_k", "blocks.{layer}.ln1.hook_scale"),
    *("blocks.{layer}.ln2.hook_normalized", "blocks.{layer}.ln1_post.hook_scale", "blocks.{layer}.ln2_post.hook_scale"),
    *("blocks.{layer}.hook_normalized_resid_post", "blocks.{layer}.mlp.hook_router_logits", "hook_token_type_embed"),
)
ALL_KINDS = list(LACKS)
PROMPT = TOKENS % 19  # every token that follows another one is in the output vocabulary
LEFT = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]])
RIGHT = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
MASKS = {"whole": None, "left": LEFT, "right": RIGHT}
SOME_TOKENS = torch.tensor([[1, 18, 7], [0, 1, 7]])
ALL_READOUTS = [
    EVERYWHERE,
    LAST,
    Readout(pos=torch.tensor([4, 2])),
    Readout(pos=3, tokens=SOME_TOKENS),
    Readout(tokens=SOME_TOKENS),
    Readout(next_tokens=True),
]


def varied_runs(kind: str) -> list[Run]:
    """Sites, selections, sources, layers, masks and padding go round at different paces, so that all of them meet."""
    model = model_of(kind)
    runs = [Run(PROMPT, (), mask) for mask in MASKS.values()]
    made: dict[Any, Any] = {}
    for number, name in enumerate([*SITES, *MORE_SITES] * 2):
        layer, source = (number + number // 7) % 3, list(SOURCES)[number % len(SOURCES)]
        where = site(name.format(layer=layer), layer)
        if where.hook not in model.hook_dict:
            continue
        fitting = _fitting(model, where.hook, source)
        where = Site(hook=where.hook, select=fitting[(5 * number) % len(fitting)])
        if (where.hook, source) not in made:
            made[where.hook, source] = SOURCES[source](model, where.hook)
        part = 0.3 if number % 4 == 0 and name != "attn_scores" else None  # some scores are infinite
        intervention = Intervention(where, made[where.hook, source], mask=part)
        runs.append(Run(PROMPT, [intervention], list(MASKS.values())[number % 7 % 3]))
    return runs


@functools.cache
def _expected(kind: str) -> tuple[list[Run], list[ByHand]]:
    runs, known = varied_runs(kind), dict[Any, Any]()
    with unchecked_types():
        return runs, [by_hand(model_of(kind), run, known) for run in runs]


@contextlib.contextmanager
def watched(model: HookedTransformer, hooks: Sequence[str]) -> Iterator[None]:
    """Somebody looks at these hooks, which makes what they show explicit, and leaves less to share."""
    seen: list[Tensor] = []
    with model.hooks([(hook, lambda value, hook: seen.append(value)) for hook in hooks]):
        yield
    assert seen or not hooks


WATCHED = {
    "nobody looks": [],
    "patterns are looked at": [f"pattern{layer}" for layer in range(3)],
    "the embeddings are looked at": ["hook_embed"],
}


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_reads_what_its_passes_give(kind: str) -> None:
    """All logits, and one of the other readouts."""
    runs, expected = _expected(kind)
    another = ALL_READOUTS[1 + ALL_KINDS.index(kind) % (len(ALL_READOUTS) - 1)]
    agree(model_of(kind), runs, [EVERYWHERE, another], expected)


@pytest.mark.parametrize("looking", WATCHED)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_in_every_way(kind: str, looking: str) -> None:
    """A third of the runs one at a time, the others with somebody looking."""
    third = slice(list(WATCHED).index(looking), None, 3)
    runs, expected = (everything[third] for everything in _expected(kind))
    max_memory = 0 if looking == "nobody looks" else None
    with watched(model_of(kind), WATCHED[looking]):
        agree(model_of(kind), runs, [LAST], expected, max_memory=max_memory)


@pytest.mark.parametrize("kind", ["llama", "output-norms"])
def test_in_float32_it_is_as_close_as_float32_is(kind: str) -> None:
    """Some roundings of 1e-7, three layers long, of logits whose parts cancel."""
    model = build(**(ALSO | KINDS)[kind], dtype=torch.float32)
    runs = [run for run in varied_runs(kind) if not any(isinstance(one.source, Mapping) for one in run.interventions)]
    known: dict[Any, Any] = {}
    with unchecked_types():
        expected = [by_hand(model, run, known) for run in runs]
    agree(model, runs, [EVERYWHERE, LAST], expected, within=1e-4)


# ------------------------------------------------------------------------------------------------- what has changed


def test_it_is_told_what_changed_a_value() -> None:
    """Of each intervention in the order in which they are written, as that left the value for the next one."""
    model = model_of("gpt2")
    z, q = at("z", 1, head=1), at("q", 2, pos=4)
    own = value_at(model, Run(TOKENS), "blocks.0.attn.hook_z")
    runs = [
        Run(TOKENS),
        Run(TOKENS, [Intervention(z, 0.0), Intervention(z, 0.0)]),
        Run(TOKENS, [Intervention(z, 0.0), Intervention(z, 1.0), Intervention(z, 1.0)]),
        Run(TOKENS, [Intervention(at("mlp_out", 2), 1.0), Intervention(at("z", 0), own)]),
        Run(TOKENS, [Intervention(at("z", 0), own), Intervention(at("mlp_out", 2), 1.0, mask=0.0)]),
        Run(TOKENS, [Intervention(at("z", 0), Run(OTHER), into=at("q_input", 1)), Intervention(q, 1.0)]),
        Run(TOKENS, [Intervention(at("z", 0), own, into=at("q_input", 1)), Intervention(q, 1.0, mask=0)]),
        Run(TOKENS, [Intervention(at("pattern", 1, query=0), Run(OTHER))]),  # there is only one key to look at
        Run(TOKENS, [Intervention(at("unembed.hook_out"), 1.0)]),
    ]
    told = [
        *([], [True, False], [True, True, False], [True, False], [False, False], [True, True], [False, False]),
        *([False], [True]),
    ]
    for max_memory in (0, None):
        for readout in (EVERYWHERE, LAST):
            assert evaluation(model, runs, Reads(readout), max_memory=max_memory).changed == told
    agree(model, runs, [EVERYWHERE, LAST])


def test_it_is_told_of_runs_that_reach_nothing() -> None:
    """They change the value where it is, though nothing that is read."""
    model = model_of("gpt2")
    own = value_at(model, Run(TOKENS), "blocks.1.attn.hook_z")
    sources = [0.0, own, own[:, 4], Run(OTHER), Mean(Run(OTHER))]
    sites = [at("z", 1, pos=4)] * 5
    runs = [Run(TOKENS, [Intervention(*made)]) for made in zip(sites, sources, strict=True) if made[1] is not own]
    runs += [Run(TOKENS, [Intervention(at("z", 1, pos=4), Run(TOKENS))])]
    scores, changed = evaluation(model, runs, Reads(Readout(pos=2)))
    assert changed == [[True], [False], [True], [True], [False]]
    for score in scores:
        assert_same(score, scores[0])


@pytest.mark.parametrize(
    "intervention",
    [
        Intervention(at("z", 1, pos=4, head=9), 0.0),
        Intervention(at("z", 1, pos=4), torch.zeros(3)),
        Intervention(at("z", 1, pos=4), Run(OTHER[:, :4])),
        Intervention(at("z", 1, pos=5), 0.0),
        Intervention(at("z", 1, pos=4, query=1), 0.0),
        Intervention(at("z", 1, pos=4), 0.0, mask=torch.zeros(3)),
    ],
)
def test_mistakes_are_told_where_nothing_is_computed_too(intervention: Intervention) -> None:
    with pytest.raises(BadInput):
        evaluate(model_of("gpt2"), [Run(TOKENS, [intervention])], Reads(Readout(pos=2)))


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


def keeps_order() -> None:
    """Runs of every prompt and layer, mixed in one call, come back in the order in which they were given."""
    model, runs = model_of("gpt2"), mixed_runs()
    with unchecked_types():
        ours = evaluate(model, runs, last_logit)
        alone = torch.stack([last_logit(logits_of(model, run)) for run in runs])
    assert_close(ours, alone, RTOL)
    assert len(set(alone.flatten().tolist())) > len(runs), "mixing up two runs would show"


def test_mixed_runs_keep_their_order() -> None:
    keeps_order()


@pytest.mark.parametrize("max_memory", [0, 60_000])
def test_memory_changes_no_result(max_memory: int) -> None:
    """At 60 kB a few runs fit together, and the last stack of each group is smaller than the others."""
    model, runs = model_of("gpt2"), mixed_runs()
    with unchecked_types():
        ours, did = evaluation(model, runs, last_logit, max_memory=max_memory)
        default, did_by_default = evaluation(model, runs, last_logit)
    assert_close(ours, default, RTOL)
    assert did == did_by_default


def test_what_is_valid_alone_is_valid_together() -> None:
    """One run touches a norm's statistics, another the input of a reader of that norm: no pass can do both."""
    runs = [
        Run(TOKENS, [Intervention(at("q_input", 1), 0.1)]),
        Run(TOKENS, [Intervention(at("blocks.1.ln1.hook_scale"), 0.5)]),
        Run(TOKENS, [Intervention(at("z", 0), Run(OTHER), into=at("v_input", 1))]),
    ]
    agree(model_of("gpt2"), runs, [EVERYWHERE, LAST])


def _out_of_memory(monkeypatch: pytest.MonkeyPatch, above: int) -> list[int]:
    """Have batches of more than so many runs run out of memory on the way; how many were tried at once."""
    right, tried = Batch.execute, list[int]()

    def execute(self: Batch) -> Any:
        tried.append(len(self.plans))
        given = right(self)
        if len(self.plans) > above:
            raise torch.OutOfMemoryError
        return given

    monkeypatch.setattr(Batch, "execute", execute)
    return tried


@pytest.mark.parametrize("above", [1, 3])
def test_what_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch, above: int) -> None:
    """Same numbers in the same order, each run once, and nothing of what had been done half is left."""
    model, runs = model_of("gpt2"), mixed_runs()
    with unchecked_types():
        expected = evaluation(model, runs, last_logit)
        tried = _out_of_memory(monkeypatch, above)
        ours = evaluation(model, runs, last_logit)
    assert_close(ours.scores, expected.scores, RTOL)
    assert ours.changed == expected.changed
    assert max(tried) > above
    assert sum(size for size in tried if size <= above) == len(runs)


def test_a_run_that_does_not_fit_alone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("gpt2")
    tried = _out_of_memory(monkeypatch, 0)
    with left_alone(model), pytest.raises(torch.OutOfMemoryError):
        evaluate(model, [Run(TOKENS, [Intervention(at("z", 1), float(number))]) for number in range(4)], last_logit)
    assert tried == [4, 2, 1]


class _Kept(Keeps):
    """Keeps everything in memory, and counts the batches."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, list[bool]]] = {}
        self.batches = 0

    @property
    def known(self) -> Mapping[int, tuple[Tensor, list[bool]]]:
        return dict(self.kept)

    def add(self, finished: Mapping[int, tuple[Tensor, list[bool]]]) -> None:
        assert not set(finished) & set(self.kept), "no run is computed again"
        self.kept |= finished
        self.batches += 1


def test_what_was_finished_before_is_not_computed_again() -> None:
    """Every batch is handed over as soon as it is done, and runs keep their places."""
    model, runs = model_of("gpt2"), mixed_runs()
    with unchecked_types():
        expected = evaluation(model, runs, last_logit)
        keeps, metrics = _Kept(), iter([last_logit] * 30 + [_failing])
        with pytest.raises(ZeroDivisionError):
            evaluation(model, runs, lambda logits: next(metrics)(logits), keeps=keeps, max_memory=60_000)
        done = len(keeps.kept)
        assert 0 < done <= 30
        ours = evaluation(model, runs, last_logit, keeps=keeps)
    assert len(keeps.kept) == len(runs)
    assert_close(ours.scores, expected.scores, RTOL)
    assert ours.changed == expected.changed
    again = evaluation(model, runs, _failing, keeps=keeps)
    assert torch.equal(again.scores, ours.scores)


# ----------------------------------------------------------------------------------------------------------- gradients


def test_scores_have_the_gradient_of_their_masks_and_sources() -> None:
    """Of several runs, stacked, that share them; with respect to the finite difference."""
    model, metric = model_of("gpt2"), Reads(Readout(pos=-1, tokens=SOME_TOKENS))
    mask = torch.tensor([0.3, 0.8], dtype=torch.float64)
    source = torch.linspace(-1, 1, 4, dtype=torch.float64)
    own = value_at(model, Run(TOKENS), "blocks.1.hook_resid_pre")

    def score(mask: Tensor, source: Tensor) -> Tensor:
        made = [
            [Intervention(at("z", 1, head=[0, 2], pos=3), Run(OTHER), mask=mask[:, None])],
            [Intervention(at("q", 0), source), Intervention(at("mlp_out", 1), Mean(Run(OTHER)), mask=mask[0])],
            [Intervention(at("resid_pre", 1), own, mask=mask[1]), Intervention(at("z", 2, head=1), source)],
            [Intervention(at("z", 0, head=1), Run(OTHER), into=at("v_input", 2, head=[1, 3]), mask=mask)],
            [],
        ]
        weights = torch.arange(1.0, 6.0, dtype=torch.float64)
        scores = evaluate(model, [Run(TOKENS, one) for one in made], metric)
        return (scores.flatten(1).sum(1) * weights).sum()

    with left_alone(model):
        asking = mask.clone().requires_grad_(), source.clone().requires_grad_()
        gradients = torch.autograd.grad(score(*asking), asking)
        assert all(weight.grad is None for weight in model.parameters())
    step = 1e-5
    for given, gradient in zip((mask, source), gradients, strict=True):
        for place in range(len(given)):
            moved = [given.clone(), given.clone()]
            moved[0][place] += step
            moved[1][place] -= step
            up, down = (score(one, source) if given is mask else score(mask, one) for one in moved)
            assert abs(float((up - down) / (2 * step) - gradient[place])) < 1e-6 * float(gradient.abs().max() + 1)


# ------------------------------------------------------------------------------------------------------------- readout


READOUTS = [Readout()] + [
    Readout(pos=pos, tokens=tokens)
    for pos in (0, 3, -1, -2, torch.tensor([4, 1]), torch.tensor([-1, 2]))
    for tokens in (None, SOME_TOKENS)
]


def reads_the_right_place(masked: str, readouts: list[Readout], *more: list[Intervention]) -> None:
    """A restricted readout is that part of the full logits, wherever the run is touched."""
    model, mask = model_of("gpt2"), MASKS[masked]
    z = [at("z", 1, **select) for select in ({}, {"pos": 3}, {"pos": -1}, {"pos": LATE})]
    touched = [[], *([Intervention(one, value)] for one in z for value in (0.1, 0.2)), *more]
    runs = [Run(TOKENS, interventions, mask) for interventions in touched]
    agree(model, runs, readouts)


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
    runs = runs[(list(KINDS).index(kind) + list(MASKS).index(masked)) % 4 :: 4]
    runs.append(Run(TOKENS, [Intervention(sites[5], first), Intervention(sites[-2], changed)], mask))
    agree(model, runs, [Readout(pos=pos) for pos in (-1, 3, torch.tensor([4, 2]))])


@pytest.mark.parametrize(("pos", "length"), [(3, 2), (3, 3), (4, 1)])
def test_a_shorter_source_is_refused_at_late_positions_too(pos: int, length: int) -> None:
    """Also where it is as long as the part of the prompt that has to be computed."""
    sources = [Run(OTHER[:, :length]), {"blocks.1.attn.hook_z": value_at(model_of("gpt2"), Run(OTHER[:, :length]),
               "blocks.1.attn.hook_z")}]  # fmt: skip
    for source in sources:
        run = Run(TOKENS, [Intervention(at("z", 1, pos=pos), source)])
        with pytest.raises(BadInput, match=f"pos={length}, .*pos=5, "):
            evaluate(model_of("gpt2"), [run], Reads(Readout(pos=-1)))


HOOKS_BEFORE = ["hook_embed", "attn_out1", "z2", "resid_post2", "ln_final.hook_normalized", "unembed.hook_out"]


@pytest.mark.parametrize("name", HOOKS_BEFORE)
def test_ones_own_hooks_see_whole_prompts(name: str) -> None:
    """A hook attached before may name positions; they mean the same in every run, whatever is read."""
    model = build()

    def edit(value: Tensor, hook: Any) -> None:
        value[:, 0, 0] += 3.0
        value[:, 3] -= 0.5

    model.add_hook(name, edit)
    runs = [Run(TOKENS), *(Run(TOKENS, [Intervention(at("z", layer, pos=4), 0.0)]) for layer in range(3))]
    agree(model, runs, [LAST, Readout(pos=3), Readout(pos=0, tokens=SOME_TOKENS), EVERYWHERE])


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
    model = HookedTransformer(build().cfg, word_tokenizer("a"), default_padding_side="left")
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
    "mean of one position": (
        [GOOD, Intervention(at("z", 1), Mean(Run(OTHER[:, :1]), per_position=True))],
        last_logit,
        BadInput,
        "pos=1",
    ),
    "mean of patterns of one token": (
        [GOOD, Intervention(at("pattern", 1), Mean(Run(OTHER[:, :1])))],
        last_logit,
        BadInput,
        "query=1",
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


def test_progress_is_shown_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    evaluate(model_of("gpt2"), [Run(TOKENS)], last_logit)
    assert terminal.getvalue() == ""
    evaluate(model_of("gpt2"), [Run(TOKENS)] * 3, last_logit, progress=True)
    assert "3/3" in terminal.getvalue()


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


def _forgets_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """In runs that do not begin with the tokens."""
    right = HookedTransformer.forward

    def forward(self: HookedTransformer, *inputs: Any, **options: Any) -> Any:
        if options.get("start_at_layer") is not None:
            options["attention_mask"] = None
        return right(self, *inputs, **options)

    monkeypatch.setattr(HookedTransformer, "forward", forward)


def _averages_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Mean.made_of

    def made_of(self: Mean, *arguments: Any) -> Tensor:
        return right(Mean(self.run, self.per_position, ["bos"]), *arguments)

    monkeypatch.setattr(Mean, "made_of", made_of)


def _leaves_every_prompt_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Resample, "made_of", lambda self, value: value)


def _mixes_up_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Batch.execute

    def execute(self: Batch) -> Any:
        self.steps.reverse()
        return right(self)

    monkeypatch.setattr(Batch, "execute", execute)


def _tells_changes_of_other_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Batch.execute

    def execute(self: Batch) -> Any:
        logits, changed = right(self)
        return logits, changed[::-1]

    monkeypatch.setattr(Batch, "execute", execute)


def _tells_changes_in_the_order_of_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "interp_hooks.interventions.engine.sorted", lambda things, **options: list(things), raising=False
    )


def _reads_one_position_early(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Readout.positions
    monkeypatch.setattr(Readout, "positions", lambda self, run: (right(self, run) - 1).clamp(min=0))


def _counts_back_from_the_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Readout.positions
    monkeypatch.setattr(Readout, "positions", lambda self, run: right(self, Run(run.tokens)))


def _sees_the_keys_of_another_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    right = KeyValueCache.prefix

    def prefix(self: KeyValueCache, *arguments: Any) -> KeyValueCache:
        part = right(self, *arguments)
        part._layers = {layer: (keys.flip(0), values.flip(0)) for layer, (keys, values) in part._layers.items()}
        return part

    monkeypatch.setattr(KeyValueCache, "prefix", prefix)


def _sorts_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """And forgets to put their results back into the order in which the runs were given."""
    right = Batch.execute

    def execute(self: Batch) -> Any:
        logits, changed = right(self)
        return logits[::-1], changed

    monkeypatch.setattr(Batch, "execute", execute)


def _asks_the_last_layer_for_the_position_before(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Visibility.only
    monkeypatch.setattr(Visibility, "only", lambda self, rows: right(self, (rows - 1).clamp(min=0)))


def _lets_runs_join_with_another_position(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "at_positions", lambda stream, rows: at_positions(stream, (rows - 1).clamp(min=0)))


def _makes_all_of_every_change(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Intervention.write

    def write(self: Intervention, *arguments: Any) -> Tensor:
        return right(Intervention(self.site, self.source, self.along), *arguments)

    monkeypatch.setattr(Intervention, "write", write)


def _known_reads(*readouts: Readout) -> Callable[[], None]:
    def check() -> None:
        runs, expected = _expected("gpt2")
        agree(model_of("gpt2"), runs, readouts, expected)

    return check


def _late_runs() -> None:
    sites = [at("q", 1, pos=pos) for pos in (2, 3)]
    agree(model_of("gpt2"), [Run(TOKENS, [Intervention(one, 0.7)]) for one in sites], [LAST])


def _several_that_change() -> None:
    z = [at("z", 2), at("z", 0)]
    own = value_at(model_of("gpt2"), Run(TOKENS), "blocks.0.attn.hook_z")
    made = [[Intervention(z[0], 1.0), Intervention(z[1], own)], [Intervention(z[0], 1.0)]]
    agree(model_of("gpt2"), [Run(TOKENS, one) for one in made], [EVERYWHERE])


MUTANTS: list[tuple[Callable[[pytest.MonkeyPatch], None], Callable[[], None]]] = [
    (_mixes_up_rows, lambda: contract("llama", "recorded", ["q"])),
    (_mixes_up_rows, keeps_order),
    (_forgets_the_mask, lambda: padding_is_not_read(LEFT)),
    (_averages_padding, lambda: contract("neox", "mean of a masked run", ["mlp_out"])),
    (_averages_padding, lambda: padding_is_not_read(RIGHT)),
    (_leaves_every_prompt_in_its_place, lambda: contract("gpt2", "resample", ["pattern"])),
    (_reads_one_position_early, lambda: reads_the_right_place("whole", READOUTS)),
    (_counts_back_from_the_padding, lambda: reads_the_right_place("right", READOUTS)),
    (_sees_the_keys_of_another_prompt, _late_runs),
    (_sorts_runs, keeps_order),
    (_tells_changes_of_other_runs, _several_that_change),
    (_tells_changes_in_the_order_of_the_pass, _several_that_change),
    (_asks_the_last_layer_for_the_position_before, lambda: reads_the_right_place("whole", [LAST])),
    (_lets_runs_join_with_another_position, lambda: reads_the_right_place("whole", [LAST])),
    (_makes_all_of_every_change, _known_reads(EVERYWHERE)),
]


@pytest.mark.parametrize(("mutate", "check"), MUTANTS, ids=[mutate.__name__ for mutate, _ in MUTANTS])
def test_mutants_are_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], check: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a mutant makes impossible raises by itself, which is as good as a wrong number."""
    check()
    mutate(monkeypatch)
    with unchecked_types(), pytest.raises((AssertionError, HookDidNotFire, IndexError, KeyError)):
        check()


# ------------------------------------------------------------------------------------- what is there anyway is not put


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many runs go through each stretch of blocks."""
    seen: list[int] = []
    through = Batch._through

    def counted(batch: Batch, stream: Tensor, start: int, stop: int, members: range, *given: Any) -> Tensor:
        seen.append(len(members))
        return through(batch, stream, start, stop, members, *given)

    monkeypatch.setattr(Batch, "_through", counted)
    return seen


def grid_at(hook: str, source: Any, length: int) -> list[Run]:
    axis = "query" if hook == "pattern" else "pos"
    return [Run(TOKENS, [Intervention(at(hook, 0, **{axis: pos}), source)]) for pos in range(length)]


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("hook", ["resid_pre", "z", "k", "mlp_out", "pattern"])
def test_positions_at_which_both_prompts_agree_are_not_computed(hook: str, cached: bool, computed: list[int]) -> None:
    model = build(n_layers=2)
    length = TOKENS.shape[1]
    other = TOKENS.clone()
    other[0, 2], other[1, 3] = (other[0, 2] + 1) % 11, (other[1, 3] + 1) % 11
    source = model.run_with_cache(other)[1] if cached else Run(other)
    runs = grid_at(hook, source, length)
    scores, (_, *changed) = evaluation(model, [Run(TOKENS), *runs], all_logits)
    assert [did for (did,) in changed[:4]] == [False, False, True, True]
    assert max(computed) == length - 2
    plain, *scores = scores
    for pos, score in enumerate(scores):
        assert_close(score, logits_of(model, runs[pos]), RTOL)
        assert pos >= 2 or torch.equal(score, plain)


def test_a_cache_of_which_a_value_was_changed_is_put_there(computed: list[int]) -> None:
    model, length = build(n_layers=2), TOKENS.shape[1]
    cache = model.run_with_cache(TOKENS)[1]
    cache["blocks.0.attn.hook_z"][1, 2, 0, 0] += 0.5
    runs = grid_at("z", cache, length)
    several = [Run(TOKENS, [Intervention(at("z", layer, pos=2), cache) for layer in range(2)])]
    scores, changed = evaluation(model, [*runs, *several], all_logits)
    assert [did for (did,) in changed[:length]] == [pos == 2 for pos in range(length)]
    assert changed[length:] == [[True, True]]
    for run, score in zip([*runs, *several], scores, strict=True):
        assert_close(score, logits_of(model, run), RTOL)


def test_a_cache_in_a_model_that_somebody_hooks_is_put_there() -> None:
    model = build(n_layers=2)
    cache = model.run_with_cache(TOKENS)[1]
    with model.hooks([("z0", lambda value, hook: value + 1)]):
        _, changed = evaluation(model, grid_at("z", cache, TOKENS.shape[1]), all_logits)
    assert all(did for (did,) in changed)


def test_a_prefix_says_nothing_where_tokens_see_what_follows(computed: list[int]) -> None:
    model = build(n_layers=2, attention_dir="bidirectional")
    other = TOKENS.clone()
    other[:, -1] = (other[:, -1] + 1) % 11
    _, changed = evaluation(model, grid_at("z", Run(other), TOKENS.shape[1]), all_logits)
    assert all(did for (did,) in changed)
    assert max(computed) == TOKENS.shape[1]


def test_a_source_that_is_changed_within_the_shared_beginning_has_other_values(computed: list[int]) -> None:
    model = build(n_layers=2)
    other = TOKENS.clone()
    other[:, -1] = (other[:, -1] + 1) % 11
    source = Run(other, [Intervention(at("resid_pre", 0, pos=1), 0.5)])
    runs = grid_at("z", source, TOKENS.shape[1])
    scores, changed = evaluation(model, runs, all_logits)
    assert [did for (did,) in changed] == [False] + [True] * (TOKENS.shape[1] - 1)
    for run, score in zip(runs, scores, strict=True):
        assert_close(score, logits_of(model, run), RTOL)


def test_what_would_change_nothing_has_a_gradient_all_the_same() -> None:
    mask = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    run = Run(TOKENS, [Intervention(at("z", 0, pos=0), Run(TOKENS.clone()), mask=mask)])
    (gradient,) = torch.autograd.grad(evaluate(build(n_layers=2), [run], all_logits).sum(), mask)
    assert abs(float(gradient)) < 1e-9


def test_what_would_change_nothing_is_refused_all_the_same_if_it_does_not_fit() -> None:
    model = build(n_layers=2)
    with pytest.raises(BadInput, match="out of range"):
        evaluate(model, [Run(TOKENS, [Intervention(at("z", 0, pos=0, head=9), Run(TOKENS))])], all_logits)
