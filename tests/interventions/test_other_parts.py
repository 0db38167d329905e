"""Blocks of another kind, and modules spliced in, say by themselves what they write and read; the rest follows.

A recurrent block stands where the second transformer block was; a dictionary splits what the first MLP writes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp_hooks import (
    KL,
    HookedTransformer,
    HookPoint,
    Intervention,
    LogitDiff,
    Run,
    at,
    eap,
    evaluate,
    patch,
    path_patch,
)
from interp_hooks.circuits import ComputationGraph, circuit_metric, mask_gradient
from interp_hooks.errors import BadInput, HookConflict
from interp_hooks.model.components.block import at_positions
from interp_hooks.model.stream import Stop, Stream
from tests.tiny import assert_close, build

TOKENS = torch.tensor([[1, 5, 2, 9, 3], [4, 4, 8, 1, 7]])
OTHER = torch.tensor([[6, 5, 0, 9, 2], [3, 1, 8, 2, 7]])
DIFF = LogitDiff([4, 11], [7, 2])


class Recurrent(nn.Module):
    """A block whose only part is a leaky sum over earlier positions."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.hook_resid_pre = HookPoint("batch pos d_model", d_model=d_model)
        self.hook_mix_in = HookPoint("batch pos d_model", d_model=d_model)
        self.hook_mix = HookPoint("batch pos d_model", d_model=d_model)
        self.hook_resid_post = HookPoint("batch pos d_model", d_model=d_model)
        self.W = nn.Parameter(torch.randn(d_model, d_model, dtype=torch.float64) / d_model**0.5)

    @property
    def device(self) -> torch.device:
        return self.W.device

    def forward(self, resid: Tensor, rotation: Any, visibility: Any, extend: Any, only: Any, *rest: Any) -> Tensor:
        resid = self.hook_resid_pre(resid)
        read = torch.tanh(self.hook_mix_in(resid)) @ self.W
        state, states = torch.zeros_like(read[:, 0]), []
        for pos in range(read.shape[1]):
            state = 0.5 * state + read[:, pos]
            states.append(state)
        post = self.hook_resid_post(resid + self.hook_mix(torch.stack(states, dim=1)))
        return post if only is None else at_positions(post, only)

    def stops(self, prefix: str, layer: int) -> Sequence[Stop]:
        return [
            Stop("read", f"{prefix}.hook_mix_in", layer, (f"r{layer}<mix>",)),
            Stop("write", f"{prefix}.hook_mix", layer, (f"r{layer}",)),
        ]

    def adds(self, hook: str, value: Tensor, parts: Sequence[int]) -> Float[Tensor, "batch pos part d_model"]:
        return value[:, :, None]


class Dictionary(nn.Module):
    """Features of an MLP's output, and what they leave out of it."""

    def __init__(self, d_model: int, features: int) -> None:
        super().__init__()
        self.hook_acts = HookPoint("batch pos feature", feature=features)
        self.hook_error = HookPoint("batch pos d_model", d_model=d_model)
        self.W_enc = nn.Parameter(torch.randn(d_model, features, dtype=torch.float64))
        self.W_dec = nn.Parameter(torch.randn(features, d_model, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        acts = torch.relu(x @ self.W_enc)
        error = self.hook_error(x - acts @ self.W_dec)
        return self.hook_acts(acts) @ self.W_dec + error

    def stops(self, prefix: str, layer: int) -> Sequence[Stop]:
        features = tuple(f"m{layer}.f{feature}" for feature in range(len(self.W_dec)))
        return [
            Stop("write", f"{prefix}.hook_error", layer, (f"m{layer}.error",)),
            Stop("write", f"{prefix}.hook_acts", layer, features),
        ]

    def adds(self, hook: str, value: Tensor, parts: Sequence[int]) -> Float[Tensor, "batch pos part d_model"]:
        if not hook.endswith("hook_acts"):
            return value[:, :, None]
        return value[..., parts, None] * self.W_dec[parts]


def recurrent() -> HookedTransformer:
    model = build()
    torch.manual_seed(1)
    model.blocks[1] = Recurrent(model.cfg.d_model)  # pyright: ignore[reportIndexIssue]
    model.setup()
    return model


def spliced() -> HookedTransformer:
    model = build()
    torch.manual_seed(1)
    model.splice("mlp_out0", Dictionary(model.cfg.d_model, 5), name="dictionary")
    return model


MODELS: dict[str, Callable[[], HookedTransformer]] = {"recurrent": recurrent, "spliced": spliced}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> HookedTransformer:
    return MODELS[request.param]()


def test_they_are_parts_of_the_graph() -> None:
    graph = ComputationGraph(recurrent())
    assert ("r1", "m2") in graph.edges
    assert ("m0", "r1<mix>") in graph.edges
    assert ("r1", "r1<mix>") not in graph.edges
    graph = ComputationGraph(spliced())
    assert ("m0.f3", "a1.h0<k>") in graph.edges
    assert ("m0.error", "logits") in graph.edges
    assert "m0" not in graph.writers
    assert graph.nodes_of("m0") == ["m0.error", *(f"m0.f{feature}" for feature in range(5))]


def test_no_edge_is_the_other_run_and_all_edges_are_this_one(model: HookedTransformer) -> None:
    graph = ComputationGraph(model)
    ends = evaluate(model, [Run(TOKENS), Run(OTHER)], DIFF)
    assert_close(circuit_metric(model, graph.circuit(), TOKENS, OTHER, DIFF), ends[0], 1e-9)
    assert_close(circuit_metric(model, graph.circuit([]), TOKENS, OTHER, DIFF), ends[1], 1e-9)


def test_attributions_of_edges_are_gradients_of_masks(model: HookedTransformer) -> None:
    ours, masks = (method(model, TOKENS, OTHER, DIFF) for method in (eap, mask_gradient))
    assert ours.scores is not None
    assert masks.scores is not None
    assert_close(ours.scores.matrix, masks.scores.matrix, 1e-9)
    assert float(ours.scores.matrix.abs().max()) > 1e-3


def test_one_edge_reaches_its_reader_alone(model: HookedTransformer) -> None:
    """Half of what the part writes elsewhere, into layer 2's MLP and nowhere else, by hand."""
    stream = Stream(model)
    (new,) = [stop for stop in stream.stops if stop.hook.endswith(("hook_mix", "hook_acts"))]
    here, there = ({}, {})
    for tokens, values in ((TOKENS, here), (OTHER, there)):
        values.update(model.run_with_cache(tokens, names_filter=new.hook, return_cache_object=False)[1])
    every = list(range(len(new.names)))
    changes = stream.added(new.hook, there[new.hook], every) - stream.added(new.hook, here[new.hook], every)
    part = int(changes.detach().abs().sum((0, 1, 3)).argmax())
    change = changes[:, :, part]
    expected = model.run_with_hooks(TOKENS, fwd_hooks=[("mlp_in2", lambda value, hook: value + 0.5 * change)])
    axis = {} if len(new.names) == 1 else {"feature": part}
    edge = Intervention(at(new.hook, **axis), Run(OTHER), into=at("mlp_in", 2), mask=0.5)
    found = evaluate(model, [Run(TOKENS, [edge])], lambda logits: logits)[0]
    assert_close(found, expected, 1e-9)
    assert float((expected - model(TOKENS)).detach().abs().max()) > 1e-6


def test_runs_are_planned_as_if_each_were_a_pass(model: HookedTransformer) -> None:
    hooks = [name for name in model.hook_dict if name.endswith(("resid_pre", "mlp_out", "hook_mix", "hook_acts"))]
    assert any(name.endswith(("hook_mix", "hook_acts")) for name in hooks)
    runs = [Run(TOKENS, [Intervention(at(hook, pos=pos), Run(OTHER))]) for hook in hooks for pos in (0, 3, 4)]
    found = evaluate(model, runs, DIFF)
    for run, scores in zip(runs, found, strict=True):
        (made,) = run.interventions
        pos = made.site.select["pos"]
        new = model.run_with_cache(OTHER, names_filter=made.site.hook, return_cache_object=False)[1][made.site.hook]

        def put(value: Tensor, hook: HookPoint, new: Tensor = new, pos: int = pos) -> None:
            value[:, pos] = new[:, pos]

        assert_close(scores, DIFF(model.run_with_hooks(TOKENS, fwd_hooks=[(made.site.hook, put)])), 1e-9)


def test_patching_finds_the_named_part() -> None:
    model = recurrent()
    by_layer = patch(model, TOKENS, OTHER, DIFF, "resid_pre", over=("layer",), progress=False)
    assert_close(by_layer.values[0], by_layer.baselines["clean"], 1e-9)


def test_paths_pass_by_a_block_that_is_frozen() -> None:
    """Heads of layer 0 to the logits, with what the recurrent block writes held as it was."""
    model = recurrent()
    base = model.run_with_cache(OTHER, return_cache_object=False)[1]
    z = model.run_with_cache(TOKENS, return_cache_object=False)[1]["blocks.0.attn.hook_z"]

    def send(value: Tensor, hook: HookPoint) -> None:
        value[:, :, 1] = z[:, :, 1]

    held = ["blocks.1.hook_mix", "blocks.2.hook_attn_out"]
    hooks: list[Any] = [(name, lambda value, hook: base[hook.name]) for name in held]
    expected = DIFF(model.run_with_hooks(OTHER, fwd_hooks=[("z0", send), *hooks]))
    found = path_patch(model, TOKENS, OTHER, DIFF, at("z", 0, head=1), progress=False)
    assert_close(found.values, expected, 1e-9)
    sent = path_patch(model, TOKENS, OTHER, DIFF, at("blocks.1.hook_mix"), receivers=at("mlp_in", 2), progress=False)
    assert float((sent.values - sent.baselines["corrupt"]).abs().max()) > 1e-6


@pytest.mark.parametrize("mlps", ["recompute", "freeze"])
def test_paths_from_a_feature(mlps: Any) -> None:
    """One feature of the dictionary to the logits, all attention held as it was, and the other MLPs with it or not."""
    model = spliced()
    acts = "blocks.0.hook_mlp_out.dictionary.hook_acts"
    base, new = (model.run_with_cache(tokens, return_cache_object=False)[1] for tokens in (OTHER, TOKENS))

    def send(value: Tensor, hook: HookPoint) -> None:
        value[:, :, 2] = new[acts][:, :, 2]

    held = [f"blocks.{layer}.hook_{what}_out" for layer in (1, 2) for what in ["attn", *["mlp"] * (mlps == "freeze")]]
    hooks: list[Any] = [(name, lambda value, hook: base[hook.name]) for name in held]
    expected = DIFF(model.run_with_hooks(OTHER, fwd_hooks=[(acts, send), *hooks]))
    found = path_patch(model, TOKENS, OTHER, DIFF, at(acts, feature=2), mlps=mlps, progress=False)
    assert_close(found.values, expected, 1e-9)
    heads = path_patch(model, TOKENS, OTHER, DIFF, at("z", 0, head=1), mlps=mlps, progress=False)
    z = new["blocks.0.attn.hook_z"]

    def send_head(value: Tensor, hook: HookPoint) -> None:
        value[:, :, 1] = z[:, :, 1]

    first = [("mlp_out0", lambda value, hook: base["blocks.0.hook_mlp_out"])] if mlps == "freeze" else []
    assert_close(heads.values, DIFF(model.run_with_hooks(OTHER, fwd_hooks=[("z0", send_head), *first, *hooks])), 1e-9)


def test_a_module_elsewhere_is_no_part_of_a_path() -> None:
    model = spliced()
    with (
        model.splice("resid_pre1", nn.Identity()),
        pytest.raises(HookConflict, match=r"one is at blocks\.1\.hook_resid_pre"),
    ):
        path_patch(model, TOKENS, OTHER, DIFF, progress=False)


def test_a_module_that_does_not_say_what_it_writes_is_refused() -> None:
    model = build()
    with model.splice("mlp_out0", nn.Identity()), pytest.raises(BadInput, match="does not say what it writes"):
        ComputationGraph(model)


def test_a_metric_of_other_kinds_runs_too(model: HookedTransformer) -> None:
    assert float(patch(model, TOKENS, OTHER, KL(TOKENS), over=("layer",), progress=False).values[0].abs().max()) < 1e-9


def test_only_what_changes_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 5,000 features, edges into one reader write out those that are sent and differ, and give the same logits."""
    model = build()
    torch.manual_seed(2)
    wide = Dictionary(model.cfg.d_model, 5000)
    model.splice("mlp_out0", wide, name="dictionary")
    acts = "blocks.0.hook_mlp_out.dictionary.hook_acts"
    here, there = (model.run_with_cache(tokens)[1][acts].detach() for tokens in (TOKENS, OTHER))
    sent = (there != here).flatten(0, 1).any(0).nonzero()[:, 0].tolist()[:7]
    silent = (there == here).flatten(0, 1).all(0).nonzero()[:, 0].tolist()[:3]
    assert len(silent) == 3, "some feature is 0 in both runs"
    asked: list[int] = []
    adds = Dictionary.adds

    def watched(self: Dictionary, hook: str, value: Tensor, parts: Sequence[int]) -> Tensor:
        asked.append(len(parts))
        return adds(self, hook, value, parts)

    monkeypatch.setattr(Dictionary, "adds", watched)
    change = (there - here)[:, :, sent] @ wide.W_dec[sent]
    expected = model.run_with_hooks(TOKENS, fwd_hooks=[("mlp_in2", lambda value, hook: value + change)])
    edge = Intervention(at(acts, feature=[*silent, *sent]), Run(OTHER), into=at("mlp_in", 2))
    assert_close(evaluate(model, [Run(TOKENS, [edge])], lambda logits: logits)[0], expected, 1e-9)
    assert asked == [len(sent)]
    weights = torch.rand(len(silent) + len(sent), 1, dtype=torch.float64)
    change = ((there - here)[:, :, sent] * weights[len(silent) :, 0]) @ wide.W_dec[sent]
    expected = model.run_with_hooks(TOKENS, fwd_hooks=[("mlp_in2", lambda value, hook: value + change)])
    edge = Intervention(at(acts, feature=[*silent, *sent]), Run(OTHER), into=at("mlp_in", 2), mask=weights)
    assert_close(evaluate(model, [Run(TOKENS, [edge])], lambda logits: logits)[0], expected, 1e-9)
