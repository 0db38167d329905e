"""What stands in place of attention: what its hooks mean, what it keeps and writes, and what experiments make of it.

Tiny hybrids with random parameters in float64; layer 1 has attention, the others a mixer of the kind under test.
"""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import (
    HookedTransformer,
    HookPoint,
    Intervention,
    KeyValueCache,
    LogitDiff,
    Run,
    ablate,
    at,
    direct_logit_attribution,
    eap,
    evaluate,
    patch,
    path_patch,
)
from interp_hooks.circuits import ComputationGraph, circuit_metric, mask_gradient
from interp_hooks.errors import BadInput, ConfigError, UnknownHook
from interp_hooks.loading.folding import Processing, process
from interp_hooks.loading.parity import invariants
from interp_hooks.model.components.mixers import OTHERS
from interp_hooks.model.config import HookedTransformerConfig
from interp_hooks.model.mixers_config import OF_ATTENTION, WITH_STATES, MixersConfig
from interp_hooks.model.stream import Stream
from interp_hooks.studies.heads.affinity import weight_composition
from interp_hooks.studies.heads.metrics import metrics_of_batch
from interp_hooks.studies.heads.sources import result_by_source
from tests.tiny import assert_close, build, unchecked_types

TOKENS = torch.tensor([[1, 5, 2, 9, 3, 8, 11, 4, 6], [4, 4, 8, 1, 7, 2, 0, 10, 3]])
OTHER = torch.tensor([[1, 5, 2, 0, 9, 2, 7, 4, 6], [4, 4, 5, 8, 2, 7, 9, 1, 3]])
DIFF = LogitDiff([4, 11], [7, 2])

SIZES: dict[str, dict[str, Any]] = {
    "gated_delta": dict(n_heads=6, n_key_heads=3, d_key=5, d_value=7, taps=3, beta_scale=2.0),
    "kimi_delta": dict(n_heads=6, d_key=5, d_value=7, taps=3, gate_rank=2),
    "gated_convolution": dict(taps=3),
    "mamba2": dict(n_heads=6, n_key_heads=2, d_key=5, d_value=4, taps=3, norm_groups=3, dt_min=0.3, dt_max=1.5),
    "mamba": dict(d_key=5, d_value=14, taps=3, dt_rank=2, part_norm="RMS"),
    "rg_lru": dict(n_heads=6, d_value=3, taps=3),
    "lightning": dict(n_heads=6, n_key_heads=2, d_key=5, d_value=4, norm_groups=3),
    "mixture_of_heads": dict(experts_per_token=2),
    "differential": {},
}
# What is attention, of a kind of its own, has the sizes that the config gives attention.
OF_THE_CONFIG: dict[str, dict[str, Any]] = {
    "mixture_of_heads": dict(n_heads=6, n_key_value_heads=2, positional_embedding_type="rotary"),
    "differential": dict(n_heads=6, n_key_value_heads=2, d_head=8, positional_embedding_type="rotary", rotary_dim=2),
}
every_kind = pytest.mark.parametrize("kind", SIZES)
RECURRENCES = [kind for kind in SIZES if kind in WITH_STATES]
every_recurrence = pytest.mark.parametrize("kind", RECURRENCES)


def hybrid(kind: str, **fields: Any) -> HookedTransformer:
    mixers = MixersConfig(layers=(kind, "attention", kind), **SIZES[kind])  # pyright: ignore[reportArgumentType]
    defaults = dict(normalization_type="RMS", positional_embedding_type="none", gated_mlp=True, gated_attn=True)
    return build(**dict(mixers=mixers) | defaults | OF_THE_CONFIG.get(kind, {}) | fields)


@functools.cache
def shared(kind: str) -> HookedTransformer:
    return hybrid(kind)


def activations(model: HookedTransformer, tokens: Tensor, **options: Any) -> dict[str, Tensor]:
    options = dict(names_filter=lambda name: True, return_cache_object=False) | options
    return model.run_with_cache(tokens, **options)[1]


def test_every_kind_is_tested() -> None:
    assert {*SIZES, "none"} == {*OTHERS}


# -------------------------------------------------------------------------------------------------------------- hooks


@every_kind
def test_looking_changes_nothing_and_hooks_mean_what_they_say(kind: str) -> None:
    model = shared(kind)
    looked, found = model.run_with_cache(TOKENS, names_filter=lambda name: True, return_cache_object=False)
    assert_close(looked, model(TOKENS), 1e-12)
    written = found["blocks.0.attn.hook_result"].sum(2) + model.blocks[0].attn.b_O
    assert_close(written, found["blocks.0.hook_attn_out"], 1e-12)
    for promise, error in invariants(model, TOKENS).items():
        assert error < 1e-10, promise


@every_recurrence
def test_the_state_at_a_position(kind: str) -> None:
    """What a cache holds after some tokens is the state that the hook shows there."""
    model, cache = shared(kind), KeyValueCache()
    every = activations(model, TOKENS)["blocks.2.attn.hook_state"]
    model(TOKENS[:, :6], past_kv_cache=cache)
    state = cache.state(2, lambda *stored: pytest.fail("the state is there"))
    assert state is not None
    assert_close(state.reshape(every[:, 5].shape), every[:, 5], 1e-12)
    later = activations(model, TOKENS[:, 6:], past_kv_cache=cache.prefix(6))
    assert_close(later["blocks.2.attn.hook_state"], every[:, 6:], 1e-12)
    anew = cache.prefix(4)
    assert_close(activations(model, TOKENS[:, 4:], past_kv_cache=anew)["blocks.2.attn.hook_state"], every[:, 4:], 1e-12)
    assert_close(activations(model, TOKENS, pos_slice=[3])["blocks.2.attn.hook_state"][:, 0], every[:, 3], 1e-12)


@every_recurrence
def test_an_edit_of_the_equivalent_attention_is_one_of_values(kind: str) -> None:
    """What one token gives another, taken away, is a head's reading without it; and so for the state at a place."""
    model = shared(kind)
    found = activations(model, TOKENS)
    matrix, v = (found[f"blocks.0.attn.hook_{name}"] for name in ("mixing", "v"))
    v = v.repeat_interleave(matrix.shape[1] // v.shape[2], dim=2)
    value = v[:, 2, 1]  # of the second head (or channel), at the third token

    def cut(value: Tensor, hook: HookPoint) -> None:
        value[:, 1, 5, 2] = 0.0

    hooks = ["blocks.0.attn.hook_mixed"]
    seen: dict[str, Tensor] = {}
    look: Any = (hooks[0], lambda value, hook: seen.update({hook.name: value}))
    model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.0.attn.hook_mixing", cut), look])
    expected = found[hooks[0]].clone()
    expected[:, 5, 1] -= matrix[:, 1, 5, 2].reshape(-1, *[1] * (value.ndim - 1)) * value
    assert_close(seen[hooks[0]], expected, 1e-10)

    def forget(value: Tensor, hook: HookPoint) -> None:
        value[:, 4] = 0.0

    model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.0.attn.hook_state", forget), look])
    expected = found[hooks[0]].clone()
    expected[:, 4] = 0.0
    assert_close(seen[hooks[0]], expected, 1e-10)


# ----------------------------------------------------------------------------------------------------------- decoding


@every_kind
def test_caches_can_be_cut_copied_and_read_on(kind: str) -> None:
    model, whole = shared(kind), shared(kind)(TOKENS)
    cache = KeyValueCache()
    model(TOKENS[:, :5], past_kv_cache=cache)
    held = cache.prefix(3, copies=2)
    twice = torch.cat((TOKENS, TOKENS))
    assert_close(model(twice[:, 3:], past_kv_cache=held), torch.cat((whole, whole))[:, 3:], 1e-12)
    held.unfreeze()
    for place in range(3, 7):
        assert_close(model(twice[:, place : place + 1], past_kv_cache=held)[:2, 0], whole[:, place], 1e-12)
    assert_close(model(TOKENS[:, 5:], past_kv_cache=cache), whole[:, 5:], 1e-12)  # which the copies left alone


@every_kind
def test_padding(kind: str) -> None:
    model, real = shared(kind), torch.ones_like(TOKENS).bool()
    real[0, :3] = real[1, :1] = False
    for mask in (real, real.flip(1)):
        padded = model(TOKENS, attention_mask=mask)
        for row in range(2):
            assert_close(padded[row][mask[row]], model(TOKENS[row][mask[row]][None])[0], 1e-12)
    if kind in OF_ATTENTION:
        return
    between = torch.tensor([[1, 1, 0, 1, 1, 1, 1, 1, 1]]).expand(2, -1)
    with pytest.raises(BadInput, match="padding stands between the real tokens"):
        model(TOKENS, attention_mask=between)
    with pytest.raises(BadInput, match="give each document a row of its own"):
        model(TOKENS, documents=torch.zeros_like(TOKENS))


# -------------------------------------------------------------------------------------------------------- experiments


@every_kind
def test_it_is_a_part_of_the_graph(kind: str) -> None:
    model = shared(kind)
    graph, heads = ComputationGraph(model), model.blocks[0].heads
    assert ("a0.h0", "a2<in>") in graph.edges
    assert ("m1", "a2<in>") in graph.edges
    assert (f"a2.h{heads - 1}", "m2") in graph.edges
    assert ("a2.h0", "a2<in>") not in graph.edges
    assert graph.nodes_of("a2<in>") == [f"a2.h{head}" for head in range(heads)]


@every_kind
def test_no_edge_is_the_other_run_and_all_edges_are_this_one(kind: str) -> None:
    model = shared(kind)
    graph = ComputationGraph(model)
    ends = evaluate(model, [Run(TOKENS), Run(OTHER)], DIFF)
    assert_close(circuit_metric(model, graph.circuit(), TOKENS, OTHER, DIFF), ends[0], 1e-9)
    assert_close(circuit_metric(model, graph.circuit([]), TOKENS, OTHER, DIFF), ends[1], 1e-9)
    ours, masks = (method(model, TOKENS, OTHER, DIFF) for method in (eap, mask_gradient))
    assert ours.scores is not None
    assert masks.scores is not None
    assert_close(ours.scores.matrix, masks.scores.matrix, 1e-9)
    assert float(ours.scores.matrix.abs().max()) > 1e-3


@every_kind
def test_an_edge_into_it_reaches_it_alone(kind: str) -> None:
    model = shared(kind)
    change = activations(model, OTHER)["blocks.0.hook_mlp_out"] - activations(model, TOKENS)["blocks.0.hook_mlp_out"]
    expected = model.run_with_hooks(TOKENS, fwd_hooks=[("mixer_in2", lambda value, hook: value + 0.5 * change)])
    edge = Intervention(at("mlp_out", 0), Run(OTHER), into=at("mixer_in", 2), mask=0.5)
    found = evaluate(model, [Run(TOKENS, [edge])], lambda logits: logits)[0]
    assert_close(found, expected, 1e-9)
    assert float((expected - model(TOKENS)).detach().abs().max()) > 1e-6


@every_kind
def test_runs_are_planned_as_if_each_were_a_pass(kind: str) -> None:
    """Patched at every hook of a layer, at three positions, against one pass with a hook."""
    model = shared(kind)
    points = [
        point
        for point in model.hook_points()
        if point.name.startswith(("blocks.0.", "blocks.2.")) and point.axes[1:2] == ("pos",)
    ]
    other = activations(model, OTHER)
    runs = [Run(TOKENS, [Intervention(at(point.name, pos=pos), Run(OTHER))]) for point in points for pos in (2, 5, 8)]
    found = evaluate(model, runs, DIFF)
    for run, scores in zip(runs, found, strict=True):
        (made,) = run.interventions

        def put(value: Tensor, hook: HookPoint, pos: int = made.site.select["pos"]) -> None:
            value[:, pos] = other[hook.name][:, pos]

        assert_close(scores, DIFF(model.run_with_hooks(TOKENS, fwd_hooks=[(made.site.hook, put)])), 1e-9)


@every_kind
def test_sweeps_over_its_heads(kind: str) -> None:
    model = shared(kind)
    z = activations(model, TOKENS)
    found = patch(model, TOKENS, OTHER, DIFF, "z", over=("layer", "head"), layers=[0, 2], progress=False)
    zeroed = ablate(model, TOKENS, DIFF, layers=[0, 2], progress=False)
    for row, layer in enumerate((0, 2)):
        for head in range(model.blocks[layer].heads):

            def put(value: Tensor, hook: HookPoint, head: int = head) -> None:
                value[:, :, head] = z[hook.name][:, :, head]

            def zero(value: Tensor, hook: HookPoint, head: int = head) -> None:
                value[:, :, head] = 0.0

            name = f"z{layer}"
            assert_close(found.values[row, head], DIFF(model.run_with_hooks(OTHER, fwd_hooks=[(name, put)])), 1e-9)
            assert_close(zeroed.values[row, head], DIFF(model.run_with_hooks(TOKENS, fwd_hooks=[(name, zero)])), 1e-9)
    if model.blocks[0].heads != model.cfg.n_heads:
        with pytest.raises(BadInput, match=r"layers differ in their number of heads at z .*layers=\[0, 2\]"):
            patch(model, TOKENS, OTHER, DIFF, "z", over=("layer", "head"), progress=False)


@every_kind
def test_direct_effects_of_heads_add_up(kind: str) -> None:
    model = shared(kind)
    found = direct_logit_attribution(model, TOKENS, [4, 11], [7, 2], unit="head")
    assert_close(found.values.sum(0), DIFF(model(TOKENS)), 1e-9)
    assert [label for label in found.labels if label.startswith("L0H")] == [
        f"L0H{head}" for head in range(model.blocks[0].heads)
    ]


@every_kind
def test_paths_through_it(kind: str) -> None:
    """A head of layer 0 to the last layer's mixer, and to the logits, with what it writes held as it was."""
    model = shared(kind)
    base, z = activations(model, OTHER), activations(model, TOKENS)["blocks.0.attn.hook_z"]

    def send(value: Tensor, hook: HookPoint) -> None:
        value[:, :, 0] = z[:, :, 0]

    def hold(value: Tensor, hook: HookPoint) -> Tensor:
        return base[hook.name]

    held = [(f"attn_out{layer}", hold) for layer in (1, 2)]
    expected = DIFF(model.run_with_hooks(OTHER, fwd_hooks=[("z0", send), *held]))
    found = path_patch(model, TOKENS, OTHER, DIFF, at("z", 0, head=0), progress=False)
    assert_close(found.values, expected, 1e-9)
    seen: dict[str, Tensor] = {}
    look: Any = ("mixer_in2", lambda value, hook: seen.update(read=value))
    model.run_with_hooks(OTHER, fwd_hooks=[("z0", send), held[0], look])
    expected = DIFF(model.run_with_hooks(OTHER, fwd_hooks=[("mixer_in2", lambda value, hook: seen["read"])]))
    found = path_patch(model, TOKENS, OTHER, DIFF, at("z", 0, head=0), receivers=at("mixer_in", 2), progress=False)
    assert_close(found.values, expected, 1e-9)


@every_kind
def test_a_model_that_trains(kind: str) -> None:
    """Weights to begin with give a loss that can be lowered, and gradients reach every weight that can matter."""
    model = HookedTransformer(hybrid(kind).cfg.replace(seed=0, dtype=torch.float32, init_weights=True))
    loss = model(TOKENS % 19, return_type="loss")
    loss.backward()
    silent = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not [name for name in silent if "W" in name]


def test_layers_that_are_one_thing_each() -> None:
    """A layer with an MLP alone, one with attention alone, and one with both: what is not there adds nothing."""
    kinds, mlps = ("none", "attention", "mamba2"), (True, False, True)
    model = hybrid("mamba2", mixers=MixersConfig(layers=kinds, mlps=mlps, **SIZES["mamba2"]), normalization_type="LN")
    with torch.no_grad():
        model.blocks[0].attn.b_O.zero_()  # of which checkpoints have none
        model.blocks[1].mlp.get_parameter("b_out").zero_()
    found = activations(model, TOKENS)
    for silent in ("blocks.0.hook_attn_out", "blocks.1.hook_mlp_out"):
        assert not found[silent].any()
    assert_close(
        found["blocks.0.hook_resid_post"], found["blocks.0.hook_resid_pre"] + found["blocks.0.hook_mlp_out"], 1e-12
    )
    cache = KeyValueCache()
    model(TOKENS[:, :4], past_kv_cache=cache)
    assert_close(model(TOKENS[:, 4:], past_kv_cache=cache), model(TOKENS)[:, 4:], 1e-12)
    graph, ours, masks = (
        ComputationGraph(model),
        *(method(model, TOKENS, OTHER, DIFF) for method in (eap, mask_gradient)),
    )
    assert not [writer for writer in graph.writers if writer.startswith("a0.")]
    assert ours.scores is not None
    assert masks.scores is not None
    assert_close(ours.scores.matrix, masks.scores.matrix, 1e-9)
    parts = direct_logit_attribution(model, TOKENS, [4, 11], [7, 2], unit="head")
    assert_close(parts.values.sum(0), DIFF(model(TOKENS)), 1e-9)
    assert "fold_ln: applied" in process(model, Processing())
    assert_close(DIFF(model(TOKENS)), parts.values.sum(0), 1e-9)
    with pytest.raises(BadInput, match=r"layers \[1\] have no MLP"):
        _ = model.W_in


def test_a_stream_that_is_normalized_after_each_addition() -> None:
    """What is written is scaled before it is added, the embeddings have an eps of their own, and caches are read on."""
    model = hybrid(
        "lightning",
        norm_placement="post",
        residual_scale=0.3,
        eps=1e-3,
        embed_norm_type="RMS",
        embed_norm_eps=0.1,
    )
    found, block = activations(model, TOKENS), model.blocks[0]
    embedded = found["hook_embed"]
    by_hand = embedded * torch.rsqrt(embedded.square().mean(-1, keepdim=True) + 0.1) * model.ln_embed.w
    assert_close(found["blocks.0.hook_resid_pre"], by_hand, 1e-12)
    written = torch.einsum("bphk,hkd->bpd", found["blocks.0.attn.hook_z"], block.attn.W_O) + block.attn.b_O
    assert_close(found["blocks.0.hook_attn_out"], 0.3 * written, 1e-12)
    middle = found["blocks.0.hook_resid_pre"] + 0.3 * written
    middle = middle * torch.rsqrt(middle.square().mean(-1, keepdim=True) + 1e-3) * block.ln1.w
    assert_close(found["blocks.0.hook_resid_post"], middle + 0.3 * block.mlp(middle), 1e-12)
    for promise, error in invariants(model, TOKENS).items():
        assert error < 1e-10, promise
    cache = KeyValueCache()
    model(TOKENS[:, :4], past_kv_cache=cache)
    assert_close(model(TOKENS[:, 4:], past_kv_cache=cache), model(TOKENS)[:, 4:], 1e-12)


def test_the_first_token_of_a_text_is_written_whole() -> None:
    """By an RG-LRU, wherever padding has put it: as the recurrence of the paper, token by token."""
    model, real = shared("rg_lru"), torch.ones_like(TOKENS).bool()
    real[1, :3] = False
    found = activations(model, TOKENS, attention_mask=real)
    v, gate, log_decay, mixed = (found[f"blocks.2.attn.hook_{name}"] for name in ("v", "in_gate", "log_decay", "mixed"))
    for row, start in ((0, 0), (1, 3)):
        state = gate[row, start] * v[row, start]
        for place in range(start, TOKENS.shape[1]):
            if place > start:
                decay = log_decay[row, place].exp()
                state = decay * state + (1 - decay**2).sqrt() * gate[row, place] * v[row, place]
            assert_close(mixed[row, place], state, 1e-12)


# ---------------------------------------------------------------------------------------------------------- bad input


@every_kind
def test_what_it_has_not_is_refused(kind: str) -> None:
    model = shared(kind)
    with pytest.raises(UnknownHook, match=r"In layers 0, 2 stands .* in place of attention"):
        model.run_with_cache(TOKENS, names_filter="q_input0")
    with pytest.raises(UnknownHook, match="in place of attention"):
        patch(model, TOKENS, OTHER, DIFF, "q_input", over=("layer", "head"), progress=False)
    with pytest.raises(BadInput, match=r"only layers \[1\] of this model have plain attention"):
        _ = model.W_Q
    for study in (
        lambda: result_by_source(model, TOKENS, 0, 0),
        lambda: metrics_of_batch(model, Run(TOKENS)),
        lambda: weight_composition(model, "Q"),
    ):
        with pytest.raises(BadInput, match=r"layer 0 mixes tokens by .*, not by plain attention; layers \[1\]"):
            study()
    assert Stream(model).sublayers(0) == {"attn_out": "blocks.0.hook_attn_out", "mlp_out": "blocks.0.hook_mlp_out"}


def test_configs() -> None:
    sizes = dict(n_layers=2, d_model=12, n_ctx=8, n_heads=3, d_vocab=20, act_fn="gelu")
    mixers = MixersConfig(layers=("gated_delta", "attention"), **SIZES["gated_delta"])
    cfg = HookedTransformerConfig(**sizes, mixers=mixers)
    assert HookedTransformerConfig.from_dict(cfg.to_dict()) == cfg
    for wrong, said in (
        (dict(layers=("delta",)), r"layers must be a tuple of .*got tuple"),
        (dict(layers=("gated_delta",), d_key=0), "d_key must be positive"),
        (dict(layers=("gated_delta",), n_key_heads=4), "does not divide"),
        (dict(layers=("mamba2",), norm_groups=4), "does not divide"),
        (dict(layers=("mamba2",), dt_min=2.0, dt_max=1.0), "must be above dt_min"),
        (dict(layers=("mamba2",), norm_placement="post"), "norm_placement must be "),
    ):
        with unchecked_types(), pytest.raises(ConfigError, match=said):
            MixersConfig(**SIZES["gated_delta"] | wrong)
    for fields, said in (
        (dict(mixers=MixersConfig(layers=("gated_delta",), **SIZES["gated_delta"])), "must have 2 entries"),
        (dict(mixers=MixersConfig(layers=("none", "attention")), norm_placement="post"), "not normalized itself"),
        (dict(mixers=mixers, attention_dir="bidirectional"), "causal"),
        (dict(mixers=mixers, positional_embedding_type="shortformer"), "no shortformer"),
    ):
        with pytest.raises(ConfigError, match=said):
            HookedTransformerConfig(**sizes | fields)
    with pytest.raises(ConfigError, match="must have 2 entries or none"):
        MixersConfig(layers=("none", "attention"), mlps=(True,))
    with pytest.raises(ConfigError, match="no fields but"):
        HookedTransformerConfig.from_dict(sizes | dict(mixers=dict(layers=["attention"], state=3)))
