"""What every hook point of every architecture promises; a new point or architecture joins by existing.

1. watching changes no bit              2. it fires exactly once a pass, with the axes it names
3. writing the value back changes nothing    4. a wrong shape is refused with the axis names
5. after an exception nothing is left   6. an in-place edit corrupts nothing that was cached
7. a backward hook gets the gradient that `torch.autograd` computes

Each check is a function, and each has a mutant: a faulty hook point on which it fails. A point is checked alone, since
what else is hooked changes how a pass is computed; blocks that differ in nothing stand for each other, and a pass in
which all points are watched goes over those that nobody checks alone. 4 and 5 are about the point itself, not about
what is computed around it, and edits in place are checked of all points at once in each architecture: so these are
checked alone in three architectures for each name of a point.
"""

import functools
import heapq
import itertools
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, HookPoint
from interp_hooks.errors import BadHookValue, HookConflict, HookDidNotFire
from interp_hooks.hooks.points import Hook
from interp_hooks.hooks.scopes import Scope
from tests.tiny import ARCHITECTURES, assert_close, build, hooked, random_tokens, unchecked_types

# A norm, pattern, sink, per-head result, split input or expert that a function may change is computed in another order
# than its fused kernel; these are sums of a few dozen float64 numbers. All other comparisons are bit by bit.
FUSED = 1e-12
OTHER_PATH = ("hook_scale", "hook_normalized", "hook_attn_scores", "hook_pattern", "hook_result", "hook_attn_in",
              "hook_q_input", "hook_k_input", "hook_v_input", "hook_sink",
              "experts.hook_pre", "experts.hook_pre_linear", "experts.hook_post", "experts.hook_out")  # fmt: skip

BATCH, POS = 2, 5
TOKENS = random_tokens(batch=BATCH, pos=POS, d_vocab=19)


# Converted models that differ from another member by weights alone (biases, tying, grouping) add no points.
CHECKED = [name for name in ARCHITECTURES if name not in ("gpt2-tied-scaled", "llama-biases", "llama-tied-ungrouped")]


def facts_of_a_layer(model: HookedTransformer, layer: int) -> tuple[object, ...]:
    """What the config says of one layer by itself."""
    cfg = model.cfg
    experts = cfg.experts and cfg.experts.layers
    return tuple(repr(fact and fact[layer]) for fact in (cfg.rotary_layers, cfg.window_sizes, experts))


def points_to_check(model: HookedTransformer) -> list[str]:
    """All outside the blocks, and those of one block of each kind, which has others before and after it if any has."""
    kinds = {facts_of_a_layer(model, layer): layer for layer in (2, 0, 1)}
    others = [f"blocks.{layer}." for layer in range(3) if layer not in kinds.values()]
    return [name for name in model.hook_dict if not name.startswith(tuple(others))]


def logits_of(model: HookedTransformer) -> Tensor:
    with torch.no_grad():
        return model(TOKENS)


@functools.cache
def plain_logits(model: HookedTransformer) -> Tensor:
    return logits_of(model)


def assert_unchanged(model: HookedTransformer, name: str, logits: Tensor) -> None:
    plain = plain_logits(model)
    if name.endswith(OTHER_PATH):
        assert_close(logits, plain, FUSED)
    else:
        assert torch.equal(logits, plain)


def watch(model: HookedTransformer, name: str) -> tuple[Tensor, Tensor]:
    """The logits of a pass in which one point is cached, and its value."""
    with torch.no_grad():
        logits, cache = model.run_with_cache(TOKENS, names_filter=name)
    assert list(cache) == [name]
    return logits, cache[name]


def check_watching_changes_nothing(model: HookedTransformer, name: str) -> None:
    logits, _ = watch(model, name)
    assert torch.equal(logits, plain_logits(model))


def sizes_of(point: HookPoint) -> list[int]:
    sizes = {"batch": BATCH, "pos": POS, "query": POS, "key": POS} | point.sizes
    return [sizes[axis] for axis in point.axes]


def check_it_fires_once_and_writing_back_changes_nothing(model: HookedTransformer, name: str) -> None:
    shapes: list[list[int]] = []
    with torch.no_grad():
        same, nothing = (name, lambda value, hook: value), (name, lambda value, hook: shapes.append([*value.shape]))
        written = model.run_with_hooks(TOKENS, fwd_hooks=[same, nothing])
    assert shapes == [sizes_of(model.hook_dict[name])]
    assert_unchanged(model, name, written)


def check_a_wrong_shape_is_refused(model: HookedTransformer, name: str) -> None:
    axes = model.hook_dict[name].axes
    for wrong in (lambda value: value[:1], lambda value: value[..., None]):
        with pytest.raises(BadHookValue) as refused:
            model.run_with_hooks(TOKENS, fwd_hooks=[(name, lambda value, hook, wrong=wrong: wrong(value))])
        assert name in str(refused.value)
        for axis in axes:
            assert f"{axis}=" in str(refused.value)


class Interruption(RuntimeError):
    """Raised by a hook."""


def check_an_exception_leaves_nothing(model: HookedTransformer, name: str) -> None:
    calls = []

    def fail(value: Tensor, hook: HookPoint) -> None:
        calls.append(hook.name)
        raise Interruption

    with pytest.raises(Interruption):
        model.run_with_hooks(TOKENS, fwd_hooks=[(name, fail)], reset_hooks_end=False)
    assert not [point.name for point in model.hook_points() if point.hooked]
    assert len(calls) == 1


def check_an_edit_in_place_corrupts_nothing_cached(model: HookedTransformer, name: str) -> None:
    """A later hook edits in place; what was stored before and at this point stays, what comes later follows."""
    watched = tuple(point.name for point in model.hook_points() if point.collected or point.name == name)
    clean = untouched(model, watched)
    in_place, logits_in_place = run_watched(model, watched, [name], _halve)
    out_of_place, logits_out_of_place = run_watched(model, watched, [name], _half)
    assert torch.equal(logits_in_place, logits_out_of_place)
    upto = list(clean).index(name) + 1
    for order, key in enumerate(clean):
        assert torch.equal(in_place[key], out_of_place[key]), key
        if order < upto:
            assert torch.equal(in_place[key], clean[key]), key


@functools.cache
def untouched(model: HookedTransformer, watched: tuple[str, ...]) -> dict[str, Tensor]:
    """What watchers see where nobody edits; kept, since it is the same for most points."""
    return run_watched(model, watched)[0]


def run_watched(
    model: HookedTransformer, watched: tuple[str, ...], names: Sequence[str] = (), edit: Callable[..., Any] = print
) -> tuple[dict[str, Tensor], Tensor]:
    """What watchers see that were there before somebody who edits some points, and the logits."""
    stored: dict[str, Tensor] = {}

    def store(value: Tensor, hook: HookPoint) -> None:
        stored[hook.name] = value.detach()

    attached = [model.hook_dict[one].add_hook(store, watches=True) for one in watched]
    try:
        with torch.no_grad():
            logits = model.run_with_hooks(TOKENS, fwd_hooks=[(name, edit) for name in names])
    finally:
        for hook in attached:
            hook.remove()
    return stored, logits


def _halve(value: Tensor, hook: HookPoint) -> None:
    value.mul_(0.5)


def _half(value: Tensor, hook: HookPoint) -> Tensor:
    return value * 0.5


def check_the_gradient_is_autograds(model: HookedTransformer, name: str) -> None:
    sines = name == "hook_pos_embed" and model.cfg.positional_embedding_type == "sinusoidal"  # depend on no parameter
    if sines or ".indexer." in name or name.endswith("hook_index_choice"):
        with pytest.raises(HookDidNotFire, match="needs no gradient"):
            model.run_with_hooks(TOKENS, bwd_hooks=[(name, lambda gradient, hook: None)])
        return
    values, gradients = [], []
    output = model.run_with_hooks(
        TOKENS,
        fwd_hooks=[(name, lambda value, hook: values.append(value))],
        bwd_hooks=[(name, lambda gradient, hook: gradients.append(gradient))],
    )
    (expected,) = torch.autograd.grad(output.square().sum(), values)
    assert len(gradients) == 1
    assert torch.equal(gradients[0], expected)


CHECKS = {
    "watching changes nothing": check_watching_changes_nothing,
    "it fires once, and writing back changes nothing": check_it_fires_once_and_writing_back_changes_nothing,
    "a wrong shape is refused": check_a_wrong_shape_is_refused,
    "an exception leaves nothing": check_an_exception_leaves_nothing,
    "an edit in place corrupts nothing cached": check_an_edit_in_place_corrupts_nothing_cached,
    "the gradient is autograd's": check_the_gradient_is_autograds,
}


ALONE_IN_THREE = ("a wrong shape is refused", "an exception leaves nothing", "an edit in place corrupts nothing cached")


@functools.cache
def drawn_for(label: str, point: str) -> list[str]:
    """Three architectures, drawn by name from those that have such a point in some block."""
    having = [name for name in CHECKED if point in map(without_layer, points_to_check(hooked(name)))]
    return heapq.nsmallest(3, having, key=lambda name: zlib.crc32(f"{label}: {point} of {name}".encode()))


def without_layer(name: str) -> str:
    return re.sub(r"\d+", "i", name)


@pytest.mark.parametrize("architecture", CHECKED)
def test_contract(architecture: str) -> None:
    model, wrong = hooked(architecture), []
    with unchecked_types():  # a few thousand passes, whose types the tests below check
        for label, name in itertools.product(CHECKS, points_to_check(model)):
            if label in ALONE_IN_THREE and architecture not in drawn_for(label, without_layer(name)):
                continue
            try:
                CHECKS[label](model, name)
            except (AssertionError, pytest.fail.Exception) as failure:
                wrong.append(f"{label}: {name}: {failure}")
    assert not wrong, "\n".join(wrong)
    assert torch.equal(logits_of(model), plain_logits(model))


@pytest.mark.parametrize("architecture", CHECKED)
def test_edits_in_place_at_all_points_are_those_out_of_place(architecture: str) -> None:
    model = hooked(architecture)
    watched = tuple(point.name for point in model.hook_points() if point.collected)
    in_place, logits_in_place = run_watched(model, watched, watched, _halve)
    out_of_place, logits_out_of_place = run_watched(model, watched, watched, _half)
    assert list(in_place) == list(out_of_place)
    for key, value in out_of_place.items():
        assert torch.equal(in_place[key], value), key
    assert torch.equal(logits_in_place, logits_out_of_place)


@pytest.mark.parametrize("architecture", CHECKED)
def test_watching_everything_changes_nothing(architecture: str) -> None:
    """Of all blocks, at once; every value has the axes of its point."""
    model = hooked(architecture)
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            logits, cache = model.run_with_cache(TOKENS, names_filter=lambda name: True)
            assert torch.equal(logits, model(TOKENS))
    assert set(cache) == set(model.hook_dict)
    for name, value in cache.items():
        assert list(value.shape) == sizes_of(model.hook_dict[name]), name


# ------------------------------------------------------------------------------------------------------------- mutants


def _runs_twice(self: HookPoint, value: Tensor, _: Sequence[Hook]) -> Tensor:
    for hook in list(self.hooks) * 2:
        hook.reached += 1
        value = hook(value)
    return value


def _adds_epsilon(self: HookPoint, value: Tensor, _: Sequence[Hook]) -> Tensor:
    for hook in self.hooks:
        hook.reached += 1
        value = hook(value)
    return value + 1e-9


def _accepts_anything(self: HookPoint, returned: Tensor, like: Tensor) -> Tensor:
    return returned if returned.shape == like.shape else like


def _gives_the_tensor_itself(self: Hook, value: Tensor, _: Callable[[Tensor], Tensor]) -> Tensor:
    returned = self.fn(value, hook=self.point)
    return value if returned is None else self.point.checked(returned, like=value)


def _stays(self: HookedTransformer, scope: Scope, *_: bool) -> None:
    """A call that leaves its functions attached, however it ended."""
    HookPoint.attach([hook for hooks in scope.hooks.values() for hook in hooks])


def _doubles_gradients(self: HookPoint, value: Tensor, backward: list[Hook]) -> Tensor:
    def show_doubled(gradient: Tensor) -> None:
        for hook in backward:
            hook(2 * gradient)

    value = value.view_as(value)
    value.register_hook(show_doubled)
    return value


def _has_one_axis_too_many(self: HookPoint, value: Tensor, _: Sequence[Hook]) -> Tensor:
    for hook in self.hooks:
        hook.reached += 1
        hook(value[None])
    return value


MUTANTS = [
    ("watching changes nothing", HookPoint, "_run", _adds_epsilon),
    ("it fires once, and writing back changes nothing", HookPoint, "_run", _runs_twice),
    ("it fires once, and writing back changes nothing", HookPoint, "_run", _has_one_axis_too_many),
    ("it fires once, and writing back changes nothing", HookPoint, "_run", _adds_epsilon),
    ("a wrong shape is refused", HookPoint, "checked", _accepts_anything),
    ("an exception leaves nothing", HookedTransformer, "_leave", _stays),
    ("an edit in place corrupts nothing cached", Hook, "__call__", _gives_the_tensor_itself),
    ("the gradient is autograd's", HookPoint, "_listen_to_gradient", _doubles_gradients),
]


@pytest.mark.parametrize(("label", "where", "method", "faulty"), MUTANTS)
def test_each_check_fails_on_a_mutant(
    label: str, where: type, method: str, faulty: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    CHECKS[label](build(), "blocks.1.hook_resid_mid")
    model = build()
    plain_logits(model)
    monkeypatch.setattr(where, method, faulty)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        CHECKS[label](model, "blocks.1.hook_resid_mid")


@pytest.mark.parametrize("name", OTHER_PATH)
def test_a_point_that_takes_the_other_path_for_who_only_looks_is_noticed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a kernel cannot be looked into, looking would change bits if the pass went on with what is shown."""
    architecture = "experts" if "experts" in name else "sinks-capped" if "sink" in name else "neox"
    model = hooked(architecture)
    point = next(one for one in model.hook_dict if one.endswith(name))
    check_watching_changes_nothing(model, point)
    monkeypatch.setattr(Hook, "takes_part", True)
    with pytest.raises(AssertionError):
        check_watching_changes_nothing(model, point)


def test_every_check_has_a_mutant() -> None:
    assert {label for label, *_ in MUTANTS} == set(CHECKS)


# ----------------------------------------------------------------------------------------------------- names and order

BLOCK = ["hook_resid_pre", "ln1.hook_scale", "ln1.hook_normalized", "attn.hook_q", "attn.hook_k", "attn.hook_v",
         "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z", "hook_attn_out", "hook_resid_mid",
         "ln2.hook_scale", "ln2.hook_normalized", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out",
         "hook_resid_post"]  # fmt: skip
ENDS = (["hook_embed", "hook_pos_embed"],
        ["ln_final.hook_scale", "ln_final.hook_normalized", "unembed.hook_in", "unembed.hook_out"])  # fmt: skip
ON_DEMAND = ["hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input", "attn.hook_result", "hook_mlp_in"]


def in_every_block(names: list[str]) -> list[str]:
    return [f"blocks.{layer}.{name}" for layer in range(3) for name in names]


def test_a_gpt2_cache_has_the_fields_names_in_order_of_execution() -> None:
    _, cache = hooked("gpt2").run_with_cache(TOKENS)
    assert list(cache) == [*ENDS[0], *in_every_block(BLOCK), *ENDS[1]]


def test_what_is_made_on_demand_stands_in_order_too() -> None:
    _, cache = hooked("gpt2").run_with_cache(TOKENS, names_filter=lambda name: True)
    block = [name.removeprefix("blocks.1.") for name in cache if name.startswith("blocks.1.")]
    assert sorted(block) == sorted(BLOCK + ON_DEMAND)
    assert block.index("hook_resid_pre") < min(block.index(name) for name in ON_DEMAND)
    assert block.index("attn.hook_z") < block.index("attn.hook_result") < block.index("hook_attn_out")
    assert block.index("hook_resid_mid") < block.index("hook_mlp_in") < block.index("ln2.hook_scale")


SHAPES = {
    "hook_embed": "b p d", "blocks.0.hook_resid_pre": "b p d", "blocks.0.hook_attn_in": "b p h d",
    "blocks.0.hook_q_input": "b p h d", "blocks.0.hook_k_input": "b p g d", "blocks.0.hook_v_input": "b p g d",
    "blocks.0.ln1.hook_scale": "b p 1", "blocks.0.ln1.hook_normalized": "b p d", "blocks.0.attn.hook_q": "b p h k",
    "blocks.0.attn.hook_k": "b p g k", "blocks.0.attn.hook_v": "b p g k", "blocks.0.attn.hook_rot_q": "b p h k",
    "blocks.0.attn.hook_rot_k": "b p g k", "blocks.0.attn.hook_attn_scores": "b h p p",
    "blocks.0.attn.hook_pattern": "b h p p", "blocks.0.attn.hook_z": "b p h k", "blocks.0.attn.hook_result": "b p h d",
    "blocks.0.hook_attn_out": "b p d", "blocks.0.hook_resid_mid": "b p d", "blocks.0.hook_mlp_in": "b p d",
    "blocks.0.ln2.hook_scale": "b p 1", "blocks.0.mlp.hook_pre": "b p m", "blocks.0.mlp.hook_pre_linear": "b p m",
    "blocks.0.mlp.hook_post": "b p m", "blocks.0.hook_mlp_out": "b p d", "blocks.0.hook_resid_post": "b p d",
    "ln_final.hook_scale": "b p 1", "unembed.hook_in": "b p d", "unembed.hook_out": "b p v",
}  # fmt: skip


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "llama", "attn-only"])
def test_shapes_are_the_fields(architecture: str) -> None:
    model = hooked(architecture)
    cfg = model.cfg
    size = {"b": BATCH, "p": POS, "d": cfg.d_model, "h": cfg.n_heads, "g": cfg.n_key_value_heads, "k": cfg.d_head,
            "m": cfg.d_mlp, "v": cfg.d_vocab_out, "1": 1}  # fmt: skip
    _, cache = model.run_with_cache(TOKENS, names_filter=lambda name: name in SHAPES)
    assert len(cache) > 15
    for name, value in cache.items():
        assert list(value.shape) == [size[axis] for axis in SHAPES[name].split()], name


def test_what_an_architecture_lacks_has_no_hook_point() -> None:
    def lacks(architecture: str) -> set[str]:
        names = set(hooked(architecture).hook_dict)
        return {name.removeprefix("blocks.0.") for name in SHAPES if name not in names}

    assert lacks("gpt2") == {"attn.hook_rot_q", "attn.hook_rot_k", "mlp.hook_pre_linear"}
    assert lacks("neox") == {"hook_resid_mid", "mlp.hook_pre_linear"}
    assert lacks("llama") == {"hook_attn_in"}, "query heads that share keys share their input too"
    mlp = {"hook_resid_mid", "hook_mlp_in", "ln2.hook_scale", "mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post",
           "hook_mlp_out"}  # fmt: skip
    assert lacks("attn-only") == {"attn.hook_rot_q", "attn.hook_rot_k", *mlp}
    norms = {"ln1.hook_scale", "ln1.hook_normalized", "ln2.hook_scale", "ln_final.hook_scale"}
    assert norms <= lacks("no-norm")


# -------------------------------------------------------------------------------------------------------- split inputs

SPLIT = ["blocks.1.hook_q_input", "blocks.1.hook_k_input", "blocks.1.hook_v_input"]


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "llama", "no-norm"])
def test_hooking_all_inputs_with_the_identity_changes_nothing(architecture: str) -> None:
    model = hooked(architecture)
    names = [name for name in (*SPLIT, "blocks.1.hook_attn_in") if name in model.hook_dict]
    with torch.no_grad():
        logits = model.run_with_hooks(TOKENS, fwd_hooks=[(name, lambda value, hook: value) for name in names])
    assert_close(logits, logits_of(model), FUSED)


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "llama"])
@pytest.mark.parametrize("reader", ["q", "k", "v"])
def test_a_split_input_reaches_its_own_reader_and_head_alone(architecture: str, reader: str) -> None:
    """Putting another run's stream into one head's input gives that head's q (k, v) of the other run."""
    model, head = hooked(architecture), 1
    source, target = f"blocks.1.hook_{reader}_input", f"blocks.1.attn.hook_{reader}"
    other = random_tokens(batch=BATCH, pos=POS, d_vocab=19, seed=1)
    with torch.no_grad():
        _, elsewhere = model.run_with_cache(other, names_filter=[source, target])
        _, here = model.run_with_cache(TOKENS, names_filter=["q1", "k1", "v1"])

    def put(value: Tensor, hook: HookPoint) -> Tensor:
        value[:, :, head] = elsewhere[source][:, :, head]
        return value

    with torch.no_grad(), model.hooks(fwd_hooks=[(source, put)]):
        _, patched = model.run_with_cache(TOKENS, names_filter=["q1", "k1", "v1"])
    expected = {name: value.clone() for name, value in here.items()}
    expected[target][:, :, head] = elsewhere[target][:, :, head]
    for name in expected:
        assert_close(patched[name], expected[name], FUSED)


def test_attn_in_is_the_input_of_all_three_readers() -> None:
    model = hooked("gpt2")
    noise = torch.randn(BATCH, POS, 3, 24, dtype=torch.float64)
    with torch.no_grad():
        at_once = model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.1.hook_attn_in", lambda value, hook: value + noise)])
        one_by_one = model.run_with_hooks(TOKENS, fwd_hooks=[(name, lambda v, hook: v + noise) for name in SPLIT])
    assert torch.equal(at_once, one_by_one)


@pytest.mark.parametrize("norm_point", ["hook_scale", "hook_normalized"])
@pytest.mark.parametrize("reader", [*SPLIT, "blocks.1.hook_attn_in"])
def test_changing_shared_statistics_beside_a_split_input_is_a_conflict(norm_point: str, reader: str) -> None:
    model = hooked("gpt2")
    changed = (f"blocks.1.ln1.{norm_point}", lambda value, hook: value * 2)
    watched = (reader, lambda value, hook: None)
    with pytest.raises(HookConflict, match=rf"blocks\.1\.ln1\.{norm_point}"):
        model.run_with_hooks(TOKENS, fwd_hooks=[watched, changed])
    with torch.no_grad():
        assert_close(
            model.run_with_hooks(TOKENS, fwd_hooks=[watched, (changed[0], lambda value, hook: None)]),
            logits_of(model),
            FUSED,
        )


def test_a_gradient_of_shared_statistics_beside_a_split_input_is_not_silently_missing() -> None:
    """The readers then have statistics of their own, so that no gradient ever reaches the shared ones."""
    with pytest.raises((HookConflict, HookDidNotFire), match=r"blocks\.1\.ln1\.hook_scale"):
        build().run_with_hooks(
            TOKENS,
            fwd_hooks=[("blocks.1.hook_q_input", lambda value, hook: None)],
            bwd_hooks=[("blocks.1.ln1.hook_scale", lambda gradient, hook: None)],
        )
