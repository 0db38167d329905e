"""Functions that a user attached while an experiment runs count once, in every way in which a run is computed.

What is right is one full pass for each run, from the tokens, with the user's functions and then the interventions,
written by hand.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import (
    HookedTransformer,
    HookPoint,
    Intervention,
    LogitDiff,
    LogProb,
    Run,
    ablate,
    at,
    attribution_patch,
    evaluate,
    optimal_ablation,
    patch,
    patch_along,
    steer,
)
from interp_hooks.circuits import ComputationGraph
from interp_hooks.circuits.masked_edges import MaskedEdges
from interp_hooks.compat import patching
from tests.tiny import build, random_tokens

KINDS: dict[str, dict[str, Any]] = {
    "standard": {},
    "shortformer": dict(positional_embedding_type="shortformer"),
    "parallel": dict(parallel_attn_mlp=True, positional_embedding_type="rotary"),
}
CLEAN, CORRUPT = random_tokens(batch=2, pos=5, d_vocab=23, seed=1), random_tokens(batch=2, pos=5, d_vocab=23, seed=2)
ANSWERS = LogitDiff(torch.tensor([3, 4]), torch.tensor([5, 6]))
RIGHT = LogProb(torch.tensor([3, 4]))
CLOSE = dict(rtol=0, atol=1e-10)


def user_function(draw: random.Random) -> Callable[..., Tensor]:
    """Something that twice is not what it is once; of each row and position its own."""
    factor, shift = draw.uniform(0.5, 1.5), draw.uniform(-1, 1)

    def change(value: Tensor, hook: HookPoint) -> Tensor:
        by_position = torch.arange(value.shape[1], dtype=value.dtype).reshape(1, -1, *[1] * (value.ndim - 2))
        return value * factor + shift * (1 + by_position)

    return change


@contextmanager
def attached(model: HookedTransformer, points: Sequence[str], draw: random.Random) -> Iterator[None]:
    """Each by `add_hook` or for the block."""
    with ExitStack() as stack:
        for name in points:
            change = user_function(draw)
            if draw.random() < 0.5:
                stack.enter_context(model.hooks(fwd_hooks=[(name, change)]))
            else:
                (handle,) = model.add_hook(name, change)
                stack.callback(handle.remove)
        yield


def some_points(model: HookedTransformer, draw: random.Random) -> list[str]:
    """Mostly the entries of layers, from which passes go on."""
    entries = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]
    others = [
        "hook_embed", "hook_pos_embed", "blocks.1.attn.hook_z", "blocks.1.hook_attn_out", "blocks.0.hook_mlp_out",
        "blocks.2.hook_resid_post", "ln_final.hook_normalized", "unembed.hook_in", "unembed.hook_out",
        "blocks.1.hook_q_input", "blocks.1.attn.hook_q",
    ]  # fmt: skip
    others = [name for name in others if name in model.hook_dict]
    return [*draw.sample(entries, draw.choice([0, 1, 1, 2])), *draw.sample(others, draw.choice([0, 0, 1, 2]))]


def full_pass(model: HookedTransformer, run: Run) -> Tensor:
    """The logits of one pass over a run, from its tokens."""

    def writer(made: Intervention, source: Tensor | float) -> Callable[..., None]:
        def write(value: Tensor, hook: HookPoint) -> None:
            place: list[Any] = [slice(None)] * value.ndim
            for axis, index in made.site.select.items():
                place[hook.axes.index(axis)] = index
            value[tuple(place)] = source if isinstance(source, float) else source[tuple(place)]

        return write

    hooks = []
    for made in run.interventions:
        (point,) = model.points(made.site.hook)
        source: Any = made.source
        if isinstance(source, Run):
            assert not source.interventions
            source = model.run_with_cache(source.tokens, names_filter=point.name)[1][point.name]
        hooks.append((point.name, writer(made, source)))
    return model.run_with_hooks(run.tokens, fwd_hooks=hooks)


def some_run(model: HookedTransformer, draw: random.Random) -> Run:
    made = []
    for _ in range(draw.choice([0, 1, 1, 1, 2])):
        site, layer = (
            draw.choice(["resid_pre", "resid_mid", "z", "mlp_out", "q", "resid_post", "attn_out"]),
            draw.randrange(3),
        )
        where: dict[str, int] = {"pos": draw.randrange(5)} if draw.random() < 0.7 else {}
        if site in ("z", "q"):
            where["head"] = draw.randrange(model.cfg.n_heads)
        if f"blocks.{layer}.hook_{site}" not in model.hook_dict and site == "resid_mid":
            site = "resid_pre"
        made.append(Intervention(at(site, layer, **where), draw.choice([0.0, Run(CORRUPT)])))
    return Run(CLEAN, made)


@pytest.mark.parametrize("kind", KINDS)
def test_random_runs_beside_random_functions(kind: str) -> None:
    model, draw = build(**KINDS[kind]), random.Random(kind)
    metrics: list[Any] = [ANSWERS, lambda logits: logits[:, -1] + logits[:, 1]]
    for _ in range(6):
        runs = [some_run(model, draw) for _ in range(5)]
        metric = draw.choice(metrics)
        points = some_points(model, draw)
        with attached(model, points, draw):
            found = evaluate(model, runs, metric)
            expected = torch.stack([metric(full_pass(model, run).detach()) for run in runs])
        torch.testing.assert_close(found, expected, **CLOSE, msg=lambda message: f"{points}: {message}")


PLACES = [
    ("standard", "resid_pre2"),
    ("standard", "unembed.hook_out"),
    ("standard", "ln_final.hook_normalized"),
    ("shortformer", "resid_pre1"),
    ("shortformer", "hook_pos_embed"),
]


@pytest.fixture(params=PLACES, ids="-".join)
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def model(place: tuple[str, str]) -> HookedTransformer:
    return build(**KINDS[place[0]])


@pytest.fixture
def point(place: tuple[str, str]) -> str:
    return place[1]


def by_hand(model: HookedTransformer, run: Run) -> Tensor:
    return ANSWERS(full_pass(model, run).detach())


def test_patching_and_ablating(model: HookedTransformer, point: str) -> None:
    with attached(model, [point], random.Random(0)):
        patched = patch(model, CLEAN, CORRUPT, ANSWERS, "attn_out", over=("layer", "pos")).values
        zeroed = ablate(model, CLEAN, ANSWERS, "z", over=("layer", "head"), method="zero").values
        for layer in range(3):
            for pos in range(5):
                cell = Run(CORRUPT, [Intervention(at("attn_out", layer, pos=pos), Run(CLEAN))])
                torch.testing.assert_close(patched[layer, pos], by_hand(model, cell), **CLOSE)
            for head in range(4):
                cell = Run(CLEAN, [Intervention(at("z", layer, head=head), 0.0)])
                torch.testing.assert_close(zeroed[layer, head], by_hand(model, cell), **CLOSE)


@pytest.mark.parametrize(("site", "direction"), [("resid_pre", "denoise"), ("z", "noise")])
def test_patching_along_directions(model: HookedTransformer, point: str, site: str, direction: Any) -> None:
    """By hand: the user's functions first, and of what they leave one component is the other run's."""
    width = model.cfg.d_head if site == "z" else model.cfg.d_model
    basis, _ = torch.linalg.qr(torch.arange(2 * width, dtype=torch.float64).cos().reshape(width, 2))
    base, other = (CORRUPT, CLEAN) if direction == "denoise" else (CLEAN, CORRUPT)
    with attached(model, [point], random.Random(0)):
        found = patch_along(
            model, CLEAN, CORRUPT, ANSWERS, basis.T, site, over=("layer", "pos"), direction=direction, progress=False
        )
        for layer in range(3):
            (there,) = model.points(f"{site}{layer}")
            new = model.run_with_cache(other, names_filter=there.name)[1][there.name]
            for pos in range(5):

                def swap(value: Tensor, hook: HookPoint, pos: int = pos, new: Tensor = new) -> None:
                    value[:, pos] += (new[:, pos] - value[:, pos]) @ basis @ basis.T

                logits = model.run_with_hooks(base, fwd_hooks=[(there.name, swap)])
                torch.testing.assert_close(found.values[layer, pos], ANSWERS(logits).detach(), **CLOSE)


@pytest.mark.parametrize("kind", ["standard", "shortformer"])
def test_under_steering(kind: str) -> None:
    model = build(**KINDS[kind])
    vector = torch.linspace(-1, 1, 12, dtype=torch.float64)
    with steer(model, vector, "resid_pre2", coefficient=2.0, positions=slice(1, None)):
        patched = patch(model, CLEAN, CORRUPT, ANSWERS, "attn_out", over=("layer",)).values

    def add(value: Tensor, hook: HookPoint) -> None:
        value[:, 1:] += 2 * vector

    with model.hooks(fwd_hooks=[("resid_pre2", add)]):
        cells = [Run(CORRUPT, [Intervention(at("attn_out", layer), Run(CLEAN))]) for layer in range(3)]
        expected = torch.stack([by_hand(model, cell) for cell in cells])
    torch.testing.assert_close(patched, expected, **CLOSE)


def test_the_fields_own_patching_loop(model: HookedTransformer, point: str) -> None:
    def metric(logits: Tensor) -> Tensor:
        return ANSWERS(logits).mean()

    with attached(model, [point], random.Random(0)):
        cache = model.run_with_cache(CLEAN)[1]
        found = patching.generic_activation_patch(
            model,
            CORRUPT,
            cache,
            metric,
            patching.layer_pos_patch_setter,
            "attn_out",
            index_axis_names=("layer", "pos"),
        )
        cells = [
            Run(CORRUPT, [Intervention(at("attn_out", layer, pos=pos), Run(CLEAN))])
            for layer in range(3)
            for pos in range(5)
        ]
        expected = torch.stack([by_hand(model, cell).mean() for cell in cells])
    torch.testing.assert_close(found.detach().flatten(), expected, **CLOSE)


def test_circuits(model: HookedTransformer, point: str) -> None:
    """A circuit without the edges into the last layer and the logits begins late."""
    graph = ComputationGraph(model)
    kept = graph.exists.clone()
    late = [reader for reader, name in enumerate(graph.readers) if name.startswith("m2") or name == "logits"]
    kept[:, late] = False
    with attached(model, [point], random.Random(0)):
        found = MaskedEdges(model, Run(CLEAN), Run(CORRUPT), ANSWERS).of_kept(kept[None])[0]
        sent = [
            Intervention(at(stop.hook), Run(CORRUPT), into=at(into))
            for into in ("mlp_in2", "resid_post2")
            for stop in graph_senders(model, into)
        ]
        expected = evaluate(model, [Run(CLEAN, sent)], lambda logits: ANSWERS(logits))[0]
    torch.testing.assert_close(found, expected, **CLOSE)


def graph_senders(model: HookedTransformer, into: str) -> list[Any]:
    from interp_hooks.model.stream import Stream

    stream = Stream(model)
    before = {"mlp_in2": ("blocks.2.attn.hook_z",), "resid_post2": ("blocks.2.attn.hook_z", "blocks.2.hook_mlp_out")}
    senders = [stop for stop in stream.stops if stop.does == "write" and stop.names]
    return [stop for stop in senders if stop.layer < 2 or stop.hook in before[into]]


def test_constants_that_are_learned(model: HookedTransformer, point: str) -> None:
    """Without a step of learning the constant is the mean, and the loss is that of ablating by it."""
    with attached(model, [point], random.Random(0)):
        found = optimal_ablation(model, CLEAN, RIGHT, "attn_out", over=("layer",), steps=0, progress=False).values
        means = ablate(model, CLEAN, RIGHT, "attn_out", over=("layer",), method="mean").values
    torch.testing.assert_close(found, means, **CLOSE)


def test_queries_that_are_estimated(model: HookedTransformer, point: str) -> None:
    """With qk_fix the estimate of one head's query is exact up to the pattern, and linear from there."""
    with attached(model, [point], random.Random(0)):
        found = attribution_patch(model, CLEAN, CORRUPT, ANSWERS, "q", over=("layer", "head"), qk_fix=True).values
        expected = []
        for layer in range(3):
            name, pattern = f"blocks.{layer}.attn.hook_q", f"blocks.{layer}.attn.hook_pattern"
            new = model.run_with_cache(CLEAN, names_filter=name)[1][name]
            for head in range(4):

                def put(value: Tensor, hook: HookPoint, head: int = head, new: Tensor = new) -> None:
                    value[:, :, head] = new[:, :, head]

                values: list[Tensor] = []
                keep = (pattern, lambda value, hook, values=values: values.append(value))
                model.run_with_hooks(CORRUPT, fwd_hooks=[(name, put), keep])
                logits = model.run_with_hooks(CORRUPT, fwd_hooks=[keep])
                (gradient,) = torch.autograd.grad(ANSWERS(logits).sum(), [values[1]])
                change = ((values[0] - values[1]) * gradient)[:, head].detach().flatten(1).sum(1)
                expected.append(ANSWERS(logits).detach() + change)
    torch.testing.assert_close(found, torch.stack(expected).unflatten(0, (3, 4)), **CLOSE)
