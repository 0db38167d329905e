"""Along an edge goes what the sender adds to the stream, to one reader alone: as written out by hand, as sums have it,
and as gradients have it.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, Intervention, LogitDiff, Mean, Readout, Resample, Run, Site, at
from interp_hooks.errors import BadInput, UnknownHook
from interp_hooks.experiments.differentiable import Objective, differentiable
from interp_hooks.hooks.root_module import HookPoint
from interp_hooks.interventions.edges import Edge
from interp_hooks.interventions.engine import evaluate, evaluation
from interp_hooks.model.stream import Stream
from tests.experiments.by_hand import (
    ALSO,
    KINDS,
    OTHER,
    RTOL,
    THIRD,
    TOKENS,
    Reads,
    agree,
    all_logits,
    assert_same,
    left_alone,
    logits_of,
    value_at,
    written,
)
from tests.experiments.gates import linear, micro
from tests.tiny import CUSTOM, assert_close, build, distance, unchecked_types

CAPPED: dict[str, Any] = dict(attn_scores_soft_cap=2.0, output_logits_soft_cap=3.0, n_key_value_heads=2)
ADDITIVE: dict[str, dict[str, Any]] = {
    **KINDS,
    **{kind: CUSTOM[kind] for kind in ("no-norm", "bidirectional", "alibi-windows", "sinks-capped", "output-norms")},
    **{kind: CUSTOM[kind] for kind in ("only-output-norms", "shared-norm", "experts")},
    "shortformer": ALSO["shortformer"],
    "gemma2": CUSTOM["output-norms"] | CAPPED | dict(rotary_layers=(), gated_mlp=True),
    "output-biases": dict(norm_placement="pre_and_output", normalization_type="LN", n_key_value_heads=2),
    "parallel-grouped": dict(parallel_attn_mlp=True, parallel_shared_norm=True, n_key_value_heads=1),
}
WITH_OUTPUT_NORMS = ["output-norms", "only-output-norms", "gemma2", "output-biases"]
EVERYWHERE, LAST = Readout(), Readout(pos=-1)
DIFF = LogitDiff([4, 11], [7, 2])
CLEAN = Run(OTHER)


@functools.cache
def model_of(kind: str) -> HookedTransformer:
    return build(**ADDITIVE[kind])


def senders_of(model: HookedTransformer, layer: int, mlp: bool = False) -> list[str]:
    """Everything that is added to the stream before a layer's attention, or its MLP, reads it."""
    found = ["blocks.0.hook_resid_pre"]
    for earlier in range(layer):
        found += [f"blocks.{earlier}.attn.hook_z", f"blocks.{earlier}.hook_mlp_out"]
    if mlp and not model.cfg.parallel_attn_mlp:
        found.append(f"blocks.{layer}.attn.hook_z")
    return [hook for hook in found if hook in model.hook_dict]


def readers_of(model: HookedTransformer) -> dict[str, list[str]]:
    """The senders before every reader."""
    readers: dict[str, list[str]] = {}
    for layer in range(model.cfg.n_layers):
        for name in ("hook_q_input", "hook_k_input", "hook_v_input", "hook_mlp_in"):
            if (hook := f"blocks.{layer}.{name}") in model.hook_dict:
                readers[hook] = senders_of(model, layer, name == "hook_mlp_in")
    last = model.cfg.n_layers - 1
    return readers | {f"blocks.{last}.hook_resid_post": senders_of(model, last + 1)}


def edge(sender: Site | str, reader: Site | str, source: Any = CLEAN, mask: Any = None) -> Intervention:
    return Intervention(_site(sender), source, into=_site(reader), mask=mask)


def _site(one: Site | str) -> Site:
    return one if isinstance(one, Site) else Site(hook=one)


# ------------------------------------------------------------------------------------------------------------- by hand

PER_PROMPT = torch.tensor([1, 3])
INNER = Run(OTHER, [Intervention(at("z", 0, head=1), Run(THIRD)), edge(at("z", 0), at("v_input", 1), Run(THIRD))])
MASKED = Run(TOKENS, (), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]]))


def various_edges(kind: str) -> list[Run]:
    """Every kind of sender, reader, source, selection and mask, on prompts with and without padding."""
    model = model_of(kind)
    groups = model.cfg.n_key_value_heads
    cache = model.run_with_cache(OTHER, names_filter=lambda name: "z" in name or "scale" in name)[1]
    order = torch.tensor([1, 0])
    z0, z1 = at("z", 0), at("z", 1)
    made = [
        edge(at("z", 0, head=1), at("q_input", 1, head=2)),
        edge(at("z", 0, head=[0, -1]), at("q_input", 2, head=-2), mask=0.5),
        edge(z0, at("k_input", 1, head=0), INNER),
        edge(z1, at("k_input", 2), cache, mask=torch.rand(4, groups)),
        edge(z1, at("v_input", 2), Mean(Run(THIRD)), mask=torch.rand(4, 1)),
        edge(z0, at("v_input", 2), Resample(CLEAN, order), mask=torch.rand(groups)),
        edge(at("z", 1, head=[2, 1]), at("q_input", 2, head=[3, 0]), 0.0, mask=torch.tensor([[1.0, 0.0], [0.5, 2.0]])),
        edge(at("z", 0, head=3, pos=3), at("resid_post", 2), Mean(CLEAN, per_position=True)),
        edge(at("z", 2), at("resid_post", 2), torch.linspace(-1, 1, 4, dtype=torch.float64)),
        edge(at("z", 2, head=1, pos=-1), at("resid_post", 2)),
        edge(at("z", 0, pos=PER_PROMPT), at("q_input", 1)),
        edge(at("z", 0, head=0, pos=[2, 4]), at("v_input", 2, head=0)),
        edge(z0, at("q_input", 1, pos=[1, 3], head=1)),
        edge(z1, at("v_input", 2, pos=PER_PROMPT)),
        edge(at("attn_out", 0), at("k_input", 2), mask=torch.rand(1, groups)),
        edge(at("attn_out", 1, pos=3), at("q_input", 2), Mean(CLEAN)),
        edge(at("blocks.0.hook_resid_pre"), at("v_input", 2), INNER),
        edge(at("blocks.0.hook_resid_pre", pos=4), at("q_input", 0, head=1), 0.0),
    ]
    if not model.cfg.attn_only:
        made += [
            edge(z0, at("mlp_in", 1), mask=torch.rand(4, 1)),
            edge(at("z", 0, head=2, pos=4), at("mlp_in", 2), mask=-1.0),
            edge(at("mlp_out", 0), at("mlp_in", 1, pos=3)),
            edge(at("mlp_out", 1, pos=PER_PROMPT), at("q_input", 2, head=[1, 2]), INNER),
            edge(at("mlp_out", 2), at("resid_post", 2), 0.3),
        ]
        if not model.cfg.parallel_attn_mlp:
            made += [edge(at("z", 1), at("mlp_in", 1)), edge(at("attn_out", 2), at("mlp_in", 2), Mean(CLEAN))]
    if model.cfg.embed_norm_type is None:
        made += [edge(hook, at("k_input", 1)) for hook in Stream(model).embeddings]
    runs = [Run(TOKENS, [one], MASKED.attention_mask if number % 3 == 0 else None) for number, one in enumerate(made)]
    runs += [
        Run(TOKENS, [made[0], made[1], made[2]]),
        Run(TOKENS, [Intervention(at("z", 0, head=1), 0.3), made[0], Intervention(at("q_input", 1, head=2), 0.1)]),
        Run(TOKENS, [made[0], Intervention(at("z", 1), Run(THIRD)), made[5]]),
        Run(TOKENS, [Intervention(at("attn_out", 1), Run(OTHER, [made[0], made[6]]))]),
    ]
    return runs


def edges_by_hand(kind: str, *readouts: Readout, max_memory: int | None = None) -> None:
    model, runs = model_of(kind), various_edges(kind)
    agree(model, runs, readouts, max_memory=max_memory)


@pytest.mark.parametrize("kind", ADDITIVE)
def test_an_edge_is_its_computation_by_hand(kind: str) -> None:
    edges_by_hand(kind, EVERYWHERE, LAST)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_it_is_the_same_alone_and_beside_other_hooks(kind: str) -> None:
    edges_by_hand(kind, LAST, max_memory=0)
    with model_of(kind).hooks([("pattern1", lambda value, hook: None)]):
        edges_by_hand(kind, LAST)


@pytest.mark.parametrize("pos", [torch.tensor([4, 2]), 3])
def test_other_positions_can_be_read(pos: Any) -> None:
    edges_by_hand("gpt2", Readout(pos=pos))


# ---------------------------------------------------------------------------------------------- sums of edges are known


def _logits(model: HookedTransformer, *runs: Run) -> Tensor:
    with unchecked_types():  # in every kind of model; that of one is checked
        return evaluate(model, runs, all_logits)


@pytest.mark.parametrize("kind", ADDITIVE)
def test_all_edges_into_a_reader_are_its_input_in_the_other_run(kind: str) -> None:
    """Sent from a run that no other edge changes, so that every share counts; of all heads, and of one."""
    model = model_of(kind)
    readers = readers_of(model)
    edges = [Run(TOKENS, [edge(sender, reader) for sender in senders]) for reader, senders in readers.items()]
    patches = [Run(TOKENS, [Intervention(_site(reader), CLEAN)]) for reader in readers]
    for reader, ours, theirs in zip(readers, *_logits(model, *edges, *patches).chunk(2), strict=True):
        assert_same(ours, theirs, reader)
    one = [Site(hook=reader, select={"head": 0}) for reader in readers if "head" in model.hook_dict[reader].axes]
    edges = [Run(TOKENS, [edge(sender, into) for sender in readers[into.hook]]) for into in one]
    patches = [Run(TOKENS, [Intervention(into, CLEAN)]) for into in one]
    for into, ours, theirs in zip(one, *_logits(model, *edges, *patches).chunk(2), strict=True):
        assert_same(ours, theirs, into)


@pytest.mark.parametrize("kind", ADDITIVE)
def test_all_edges_are_the_other_run(kind: str) -> None:
    """With every edge taken from the clean run, nothing of the corrupt one is left in the logits."""
    model = model_of(kind)
    whole = Run(TOKENS, [edge(sender, reader) for reader, senders in readers_of(model).items() for sender in senders])
    clean, corrupt = logits_of(model, CLEAN), logits_of(model, Run(TOKENS))
    for ours in _logits(model, whole, Run(TOKENS), whole)[::2]:
        assert_same(ours, clean)
    assert distance(corrupt, clean) > 1e-3


@pytest.mark.parametrize("kind", ADDITIVE)
def test_all_edges_of_one_run_from_itself_are_nothing(kind: str) -> None:
    model = model_of(kind)
    whole = [edge(one, reader, Run(TOKENS)) for reader, senders in readers_of(model).items() for one in senders]
    (ours,) = _logits(model, Run(TOKENS, whole))
    assert_same(ours, logits_of(model, Run(TOKENS)))


@pytest.mark.parametrize("kind", ADDITIVE)
def test_edges_to_all_that_comes_after_are_a_patch(kind: str) -> None:
    """Of a head alone only where no norm stands between it and the stream."""
    model = model_of(kind)
    sites = [_site(hook) for hook in senders_of(model, 2, mlp=True)]
    if kind not in WITH_OUTPUT_NORMS:
        sites += [at("z", 0, head=1), at("z", 1, head=[0, 3]), at("z", 0, head=2, pos=3)]
    edges = [
        Run(TOKENS, [edge(one, reader) for reader, senders in readers_of(model).items() if one.hook in senders])
        for one in sites
    ]
    patches = [Run(TOKENS, [Intervention(one, CLEAN)]) for one in sites]
    for one, ours, theirs in zip(sites, *_logits(model, *edges, *patches).chunk(2), strict=True):
        assert_same(ours, theirs, one)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_a_mask_of_heads_is_that_of_its_single_edges(kind: str) -> None:
    """Rows are the sender's heads, columns the reader's, both as they are listed."""
    model = model_of(kind)
    groups = model.cfg.n_key_value_heads
    mask = torch.rand(4, groups, dtype=torch.float64)
    whole = edge(at("z", 0), at("k_input", 2), mask=mask)
    singles = [
        edge(at("z", 0, head=sender), at("k_input", 2, head=reader), mask=mask[sender, reader])
        for sender in range(4)
        for reader in range(groups)
    ]
    senders, readers = [2, 0], [groups - 1, 0]
    listed = edge(at("z", 0, head=senders), at("k_input", 2, head=readers), mask=mask[senders][:, readers])
    chosen = [singles[groups * sender + reader] for sender in senders for reader in readers]
    runs = [[whole], singles, [listed], chosen]
    ours, one_by_one, some, chosen_ones = evaluate(model, [Run(TOKENS, one) for one in runs], all_logits)
    assert_same(ours, one_by_one)
    assert_same(some, chosen_ones)
    assert distance(ours, some) > 1e-6


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_a_mask_of_0_is_no_edge(kind: str) -> None:
    model = model_of(kind)
    zeros = [edge(at("z", 0), at("q_input", 1), mask=mask) for mask in (0, 0.0, torch.zeros(4, 4))]
    scores, changed = evaluation(model, [Run(TOKENS), *(Run(TOKENS, [one]) for one in zeros)], all_logits)
    for score in scores:
        assert_same(score, scores[0])
    assert changed == [[], [False], [False], [False]]
    ((whole, ones),) = evaluate(
        model, [Run(TOKENS, [edge(at("z", 0), at("q_input", 1), mask=mask)]) for mask in (None, 1.0)], all_logits
    )[None]
    assert_same(whole, ones)


def test_what_is_lost_in_rounding_has_not_changed() -> None:
    """The reader's input is the same number as before."""
    run = Run(TOKENS, [edge(at("z", 0), at("mlp_in", 1), mask=1e-30)])
    assert evaluation(model_of("gpt2"), [run], all_logits).changed == [[False]]


def test_edges_along_a_model_worked_out_on_paper() -> None:
    """The corrupt run with edges taken from the clean one, in a network of two layers of two numbers each."""
    model = micro()
    clean, corrupt = Run(torch.tensor([[0]])), torch.tensor([[1]])
    to_end = edge(at("z", 0, head=1), at("resid_post", 1), clean)
    between = [edge(at("z", 0, head=0), at(f"{part}_input", 1, head=1), clean) for part in "qkv"]
    begin = [edge("hook_embed", at(f"{part}_input", 0, head=0), clean) for part in "qkv"]
    runs = [[], [to_end], [to_end, *between], [to_end, *between, *begin]]
    logits = evaluate(model, [Run(corrupt, one) for one in runs], all_logits)
    assert logits[:, 0, 0].tolist() == [[-25, -49], [-19, -41], [-13, -25], [-9, -13]]


# ----------------------------------------------------------------------------------------------------------- gradients


def _masked_edges(model: HookedTransformer, source: Any) -> dict[tuple[str, str], Intervention]:
    """Every edge, with a mask of 0 for each pair of heads that asks for its gradient."""
    edges = {}
    for reader, senders in readers_of(model).items():
        for sender in senders:
            shape = [model.hook_dict[hook].sizes.get("head", 1) for hook in (sender, reader)]
            mask = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
            edges[sender, reader] = edge(sender, reader, source, mask)
    return edges


def _attributed(model: HookedTransformer, source: Any = CLEAN, *more: Intervention) -> dict[tuple[str, str], Tensor]:
    """The gradient of the metric with respect to each mask, [sender's heads, reader's heads]."""
    edges = _masked_edges(model, source)
    scores = evaluate(model, [Run(TOKENS, [*edges.values(), *more])], DIFF)
    masks = [made.mask for made in edges.values() if isinstance(made.mask, Tensor)]
    return dict(zip(edges, torch.autograd.grad(scores.sum(), masks), strict=True))


def _added(model: HookedTransformer, run: Run, hook: str) -> Tensor:
    """What a sender adds to the stream in a run, for each head, but for constants."""
    scale = Stream(model).scale_of(hook)
    value = value_at(model, run, hook)
    return written(model, hook, value, None if scale is None else value_at(model, run, scale))


def edge_attribution(kind: str) -> None:
    """The gradient with respect to a mask is (what the sender adds there - here) * dm/d(input of the reader)."""
    model, run = model_of(kind), Run(TOKENS)
    readers = readers_of(model)
    gradients = differentiable(Objective(model=model, metric=DIFF, run=run), run, list(readers)).gradients()
    attributed = _attributed(model)
    changes = {one: _added(model, CLEAN, one) - _added(model, run, one) for one, _ in attributed}
    largest = max(float(found.abs().max()) for found in attributed.values())
    for (sender, reader), found in attributed.items():
        gradient = gradients[reader] if gradients[reader].ndim == 4 else gradients[reader][:, :, None]
        by_definition = torch.einsum("bpsd,bprd->sr", changes[sender], gradient)
        assert float((found - by_definition).abs().max()) < RTOL * largest, (sender, reader)
    for reader, senders in readers.items():  # what all send is what there is
        total = sum((attributed[one, reader].sum(0) for one in senders), torch.zeros(()))
        stream = value_at(model, CLEAN, reader) - value_at(model, run, reader)
        to_input = (stream * gradients[reader]).sum((0, 1, -1)).reshape(-1)
        assert float((total - to_input).abs().max()) < RTOL * largest, reader


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "output-biases"])
def test_the_gradient_of_masks_is_edge_attribution(kind: str) -> None:
    edge_attribution(kind)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_it_is_the_finite_difference(kind: str) -> None:
    """Along one direction through all masks at once, at 0 and away from it."""
    model = model_of(kind)
    edges = list(_masked_edges(model, CLEAN).values())
    directions = [torch.randn(made.mask.shape, dtype=torch.float64) for made in edges if isinstance(made.mask, Tensor)]

    def score(along: Tensor) -> Tensor:
        made = [
            Intervention(one.site, CLEAN, into=one.into, mask=along * direction)
            for one, direction in zip(edges, directions, strict=True)
        ]
        return evaluate(model, [Run(TOKENS, made)], DIFF).sum()

    for start in (0.0, 0.1):
        along = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(score(along), along)
        step = 1e-5
        up, down = (float(score(torch.tensor(start + one, dtype=torch.float64))) for one in (step, -step))
        assert abs((up - down) / (2 * step) - float(gradient)) < 1e-6 * max(1.0, abs(float(gradient)))


@pytest.mark.parametrize("kind", ["gpt2", "neox", "gemma2", "no-norm"])
def test_edges_into_the_final_stream_sum_to_the_difference(kind: str) -> None:
    """Of a metric that is linear in it: with the scale of the final norm kept, and no cap."""
    fields: dict[str, Any] = ADDITIVE[kind] | dict(output_logits_soft_cap=0.0)
    model = build(**fields)
    scale = "ln_final.hook_scale"
    kept = [Intervention(Site(hook=scale), value_at(model, Run(TOKENS), scale))] if scale in model.hook_dict else []
    found = _attributed(model, CLEAN, *kept)
    total = sum(float(one.sum()) for (_, reader), one in found.items() if reader.endswith("resid_post"))
    clean, corrupt = evaluate(model, [Run(tokens, kept) for tokens in (OTHER, TOKENS)], DIFF).sum(1).tolist()
    assert total == pytest.approx(clean - corrupt, rel=1e-9)


def test_in_a_linear_network_attribution_is_patching() -> None:
    """Of every pair of heads; an edge that no value reads has no effect, as uniform attention asks nobody."""
    model = linear()
    base = float(evaluate(model, [Run(TOKENS)], DIFF).sum())
    ends: list[tuple[Site, Site]] = []
    found: list[float] = []
    for (sender, reader), effects in _attributed(model).items():
        for s, r in itertools.product(*map(range, effects.shape)):
            ends.append((_one_head(model, sender, s), _one_head(model, reader, r)))
            found.append(float(effects[s, r]))
    patched = evaluate(model, [Run(TOKENS, [edge(*one)]) for one in ends], DIFF).sum(1) - base
    assert_close(patched, torch.tensor(found, dtype=torch.float64), RTOL)
    silent = [into.hook.endswith(("q_input", "k_input")) for _, into in ends]
    assert not any(itertools.compress(found, silent))
    assert sum(abs(value) > 1e-6 for value in found) > 30


def _one_head(model: HookedTransformer, hook: str, head: int) -> Site:
    return Site(hook=hook, select={"head": head} if "head" in model.hook_dict[hook].axes else {})


# ------------------------------------------------------------------------------------------------ which edges there are


def test_a_graph_of_the_size_of_gpt2_has_as_many_edges_as_published() -> None:
    """157 senders and 32,491 edges, counted in the order in which a pass comes by; EAP's released code counts so."""
    model = build(n_layers=12, n_heads=12, d_model=24, d_head=2, d_mlp=4, dtype=torch.float32)
    nodes = [*readers_of(model), *senders_of(model, 12)]
    passed = list(model.run_with_cache(TOKENS, names_filter=nodes, return_cache_object=False)[1])
    senders = {hook: model.hook_dict[hook].sizes.get("head", 1) for hook in senders_of(model, 12)}
    edges, stream = 0, Stream(model)
    for number, reader in enumerate(passed):
        if reader in stream.receivers:
            before = [hook for hook in passed[:number] if hook in senders]
            for sender in before:
                stream.check_edge(sender, reader)
            edges += model.hook_dict[reader].sizes.get("head", 1) * sum(senders[hook] for hook in before)
    assert sum(senders.values()) == 157
    assert edges == 32_491


def _refused(kind: str, made: Intervention, message: str, error: type[Exception] = BadInput) -> None:
    model = build(**(CUSTOM | ADDITIVE)[kind])
    runs = [Run(TOKENS), Run(TOKENS, [Intervention(at("z", 0), CLEAN)]), Run(TOKENS, [made])]
    for readout in (EVERYWHERE, LAST):
        with left_alone(model), unchecked_types(), pytest.raises(error, match=message):
            evaluate(model, runs, Reads(readout))


Z0, Q1 = at("z", 0), at("q_input", 1)
REFUSED: dict[str, tuple[str, Intervention, str]] = {
    "reader of the same layer": ("gpt2", edge(at("z", 1), Q1), "reads the stream before blocks.1.attn.hook_z writes"),
    "reader of an earlier layer": ("gpt2", edge(at("z", 2), Q1), "blocks.1.hook_q_input reads the stream before"),
    "its own MLP": ("gpt2", edge(at("mlp_out", 1), at("mlp_in", 1)), "blocks.1.hook_mlp_in reads the stream before"),
    "parallel MLP": ("neox", edge(at("z", 1), at("mlp_in", 1)), "blocks.1.hook_mlp_in reads the stream before"),
    "post-norm": ("post-norm", edge(Z0, Q1), "normalizes the stream itself"),
    "positions beside the stream": ("shortformer", edge("hook_pos_embed", Q1), "hook_pos_embed cannot send"),
    "normalized embeddings": (
        "only-output-norms",
        edge("hook_embed", Q1),
        "hook_embed cannot send",
    ),
    "the stream": ("gpt2", edge(at("resid_mid", 0), Q1), r"blocks\.0\.hook_resid_mid cannot send"),
    "a later stream": ("gpt2", edge(at("resid_pre", 1), at("q_input", 2)), r"blocks\.1\.hook_resid_pre cannot send"),
    "a pattern": ("gpt2", edge(at("pattern", 0), Q1), "hook_pattern cannot send"),
    "what a query is": ("gpt2", edge(Z0, at("q", 1)), r"blocks\.1\.attn\.hook_q cannot be what an edge leads into"),
    "a stream on the way": ("gpt2", edge(Z0, at("resid_post", 1)), "hook_resid_post cannot be what an edge leads into"),
    "sender's head": ("gpt2", edge(at("z", 0, head=4), Q1), "head=4 is out of range: blocks.0.attn.hook_z has 4"),
    "one of its heads": ("gpt2", edge(at("z", 0, head=[0, -5]), Q1), "head=-5 is out of range"),
    "reader's head": ("llama", edge(Z0, at("k_input", 1, head=2)), "head=2 is out of range: .*k_input has 2"),
    "sender's position": ("gpt2", edge(at("z", 0, pos=5), Q1), "pos=5 is out of range"),
    "reader's position": ("gpt2", edge(Z0, at("q_input", 1, pos=5)), "pos=5 is out of range"),
    "heads of each prompt": ("gpt2", edge(at("z", 0, head=torch.tensor([0, 1])), Q1), "selected by head= .*and pos="),
    "a part of heads": ("gpt2", edge(at("z", 0, d_head=1), Q1), "selected by head= .*and pos="),
    "a part of a reader": ("gpt2", edge(Z0, at("q_input", 1, d_model=1)), "selected by head= .*and pos="),
    "a part of an MLP's": ("gpt2", edge(Z0, at("mlp_in", 1, d_model=1)), "d_model|selected by"),
    "a head of an MLP": ("gpt2", edge(Z0, at("mlp_in", 1, head=1)), "head"),
    "a head of the stream": ("gpt2", edge(Z0, at("resid_post", 2, head=1)), "head"),
    "mask of other heads": (
        "gpt2",
        edge(Z0, Q1, mask=torch.ones(4, 3)),
        r"mask of the edge from .*z has shape \[4, 3\]; expected a number or .* = \[4, 4\]",
    ),
    "mask of grouped heads": ("llama", edge(Z0, at("v_input", 1), mask=torch.ones(4, 4)), r"= \[4, 2\]"),
    "mask of chosen heads": ("gpt2", edge(at("z", 0, head=[0, 1]), Q1, mask=torch.ones(4, 4)), r"= \[2, 4\]"),
    "mask of an MLP": ("gpt2", edge(at("mlp_out", 0), at("mlp_in", 1), mask=torch.ones(4)), r"= \[1, 1\]"),
    "source of another shape": ("gpt2", edge(Z0, Q1, torch.zeros(3)), r"shape \[3\]"),
    "shorter source": ("gpt2", edge(Z0, Q1, Run(OTHER[:, :4])), "pos=4"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_edge_is_refused(what: str) -> None:
    """And the model is left as it was."""
    _refused(*REFUSED[what])


def test_misspelt_ends_are_told() -> None:
    _refused("gpt2", edge(at("zz", 0), Q1), "Did you mean", UnknownHook)
    _refused("gpt2", edge(Z0, at("q_inputs", 1)), "Did you mean", UnknownHook)
    _refused("latent", edge(Z0, Q1), "no hook point", UnknownHook)


def test_recordings_need_the_scale_of_a_norm_that_a_head_passes() -> None:
    model = model_of("gemma2")
    cache = model.run_with_cache(OTHER, names_filter="blocks.0.attn.hook_z")[1]
    with pytest.raises(UnknownHook, match=r"ln1_post\.hook_scale was not cached"):
        evaluate(model, [Run(TOKENS, [edge(Z0, Q1, cache)])], all_logits)


# ------------------------------------------------------------------------------------------------------------- mutants


def _is_not_cut_at_the_first_position(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Edge.__init__

    def init(self: Edge, stream: Any, made: Any, recordings: Any, first: int) -> None:
        right(self, stream, made, recordings, 0)

    monkeypatch.setattr(Edge, "__init__", init)


def _swaps_senders_and_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Edge._weight
    monkeypatch.setattr(Edge, "_weight", lambda self, readers, like: right(self, readers, like).T)


def _sends_along_all_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Edge._weight
    monkeypatch.setattr(Edge, "_weight", lambda self, readers, like: torch.ones_like(right(self, readers, like)))


def _forgets_the_biases_of_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Stream.added

    def added(self: Stream, sender: str, *arguments: Any) -> Tensor:
        bias = self.model.blocks[self.place(sender).layer].attn.b_O
        kept = bias.data.clone()
        bias.data.zero_()
        found = right(self, sender, *arguments)
        bias.data.copy_(kept)
        return found

    monkeypatch.setattr(Stream, "added", added)


def _normalizes_by_the_scale_of_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Edge, "_scale_elsewhere", lambda self, scale, point: scale)


def _sends_every_position(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Edge.send

    def send(self: Edge, value: Tensor, point: HookPoint) -> None:
        select = {axis: wanted for axis, wanted in self.made.site.select.items() if axis != "pos"}
        self.made = Intervention(Site(hook=self.made.site.hook, select=select), self.made.source, into=self.made.into)
        right(self, value, point)

    monkeypatch.setattr(Edge, "send", send)


def _forgets_the_multiplier(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Stream.added

    def added(self: Stream, *arguments: Any) -> Tensor:
        return right(self, *arguments) / self.model.cfg.residual_scale

    monkeypatch.setattr(Stream, "added", added)


MUTANTS: list[tuple[Callable[[pytest.MonkeyPatch], None], Callable[[], None]]] = [
    (_is_not_cut_at_the_first_position, lambda: edges_by_hand("gpt2", LAST)),
    (_swaps_senders_and_readers, lambda: edges_by_hand("gpt2", EVERYWHERE)),
    (_swaps_senders_and_readers, lambda: edge_attribution("gpt2")),
    (_sends_along_all_edges, lambda: edges_by_hand("llama", EVERYWHERE)),
    (_forgets_the_biases_of_shares, lambda: edges_by_hand("output-biases", EVERYWHERE)),
    (_normalizes_by_the_scale_of_here, lambda: edges_by_hand("gemma2", EVERYWHERE)),
    (_sends_every_position, lambda: edges_by_hand("gpt2", EVERYWHERE)),
    (_forgets_the_multiplier, lambda: edges_by_hand("output-norms", EVERYWHERE)),
]


@pytest.mark.parametrize(("mutate", "check"), MUTANTS, ids=[mutate.__name__ for mutate, _ in MUTANTS])
def test_mutants_are_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], check: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a mutant makes impossible raises by itself, which is as good as a wrong number."""
    check()
    mutate(monkeypatch)
    with unchecked_types(), pytest.raises((AssertionError, BadInput, IndexError, RuntimeError)):
        check()
