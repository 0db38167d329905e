"""Identities that every transformer of this kind satisfies, whatever its weights.

They tie hook points to each other and to the logits, so that a name that means something else than it says shows here.
All weights are random and float64; each identity holds to rounding, 1e-10 of the largest value. Each is a function, and
each has a mutant of the package on which it fails.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import interp_hooks.model.components.mixer as mixer_module
from interp_hooks import HookedTransformer, HookPoint
from interp_hooks.hooks.points import HookFn
from interp_hooks.model.components.attention import Attention, Visibility
from interp_hooks.model.components.block import TransformerBlock
from interp_hooks.model.components.norm import Norm
from interp_hooks.model.components.positions import Rotation, rotate
from interp_hooks.model.inputs import Inputs
from tests.tiny import assert_close, build, distance, our_logits, random_tokens, unchecked_types

RTOL = 1e-10

AXES: dict[str, dict[str, dict[str, Any]]] = {
    "norm": {kind or "no-norm": dict(normalization_type=kind) for kind in ("LN", "RMS", "LNPre", "RMSPre", None)},
    "positions": {
        "standard": {},
        "rotary": dict(positional_embedding_type="rotary"),
        "partial-rotary": dict(positional_embedding_type="rotary", rotary_dim=2, rotary_adjacent_pairs=True),
        "no-positions": dict(positional_embedding_type="none"),
    },
    "heads": {"ungrouped": {}, "grouped": dict(n_key_value_heads=2)},
    "mlp": {"plain": {}, "gated": dict(gated_mlp=True, act_fn="silu"), "attn-only": dict(attn_only=True)},
    "residual": {"serial": {}, "parallel": dict(parallel_attn_mlp=True)},
    "direction": {"causal": {}, "bidirectional": dict(attention_dir="bidirectional")},
}


def _covering() -> dict[str, dict[str, Any]]:
    """A few architectures such that every two values of two axes meet in at least one of them: always the next one
    that brings most new pairs."""

    def pairs(values: tuple[str, ...]) -> set[tuple[tuple[str, str], ...]]:
        return set(itertools.combinations(zip(AXES, values, strict=True), 2))

    possible = [v for v in itertools.product(*AXES.values()) if not {"attn-only", "parallel"} <= set(v)]
    missing, chosen = set().union(*map(pairs, possible)), {}
    while missing:
        best = max(possible, key=lambda values: len(pairs(values) & missing))
        missing -= pairs(best)
        chosen["-".join(best)] = functools.reduce(
            dict.__or__, (AXES[axis][value] for axis, value in zip(AXES, best, strict=True))
        )
    return chosen


ARCHITECTURES = _covering()
TOKENS = random_tokens(batch=2, pos=6, d_vocab=23)
OTHER = random_tokens(batch=2, pos=6, d_vocab=23, seed=1)


@functools.cache
def model_of(name: str) -> HookedTransformer:
    return build(**ARCHITECTURES[name])


@functools.lru_cache(maxsize=4)
def cached(model: HookedTransformer, tokens: Tensor) -> dict[str, Tensor]:
    """Every activation of a pass, what is made on demand included; nobody may change them."""
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=lambda name: not name.endswith(("_input", "attn_in")))
    return dict(cache)


def with_hooks(model: HookedTransformer, tokens: Tensor, *hooks: tuple[str, HookFn]) -> Tensor:
    with torch.no_grad():
        return model.run_with_hooks(tokens, fwd_hooks=list(hooks))


def put(value: Tensor) -> HookFn:
    return lambda _, hook: value


def put_heads(value: Tensor, heads: list[int], axis: int) -> HookFn:
    """Replace some heads only."""

    def hook_fn(current: Tensor, hook: HookPoint) -> Tensor:
        index = torch.tensor(heads)
        return current.index_copy(axis, index, value.index_select(axis, index))

    return hook_fn


# ----------------------------------------------------------------------------------------------------------- identities


def A1_the_stream_is_the_sum_of_what_is_written(model: HookedTransformer) -> None:
    cfg, cache = model.cfg, cached(model, TOKENS)
    plain = dict(model.run_with_cache(TOKENS, names_filter=lambda name: name.endswith(("_out", "resid_post")))[1])
    stream = cache["hook_embed"]
    if cfg.positional_embedding_type == "standard":
        stream = stream + cache["hook_pos_embed"]
    for layer, block in enumerate(model.blocks):
        at = f"blocks.{layer}."
        assert_close(cache[at + "hook_resid_pre"], stream, RTOL)
        stream = stream + plain[at + "hook_attn_out"]
        if not cfg.attn_only:
            if not cfg.parallel_attn_mlp:
                assert_close(cache[at + "hook_resid_mid"], stream, RTOL)
            stream = stream + plain[at + "hook_mlp_out"]
        assert_close(plain[at + "hook_resid_post"], stream, RTOL)
        assert_close(plain[at + "hook_attn_out"], cache[at + "attn.hook_result"].sum(2) + block.attn.b_O, RTOL)


def A2_patching_a_run_with_itself_changes_nothing(model: HookedTransformer) -> None:
    cache, logits = cached(model, TOKENS), our_logits(model, TOKENS)
    for name in ("hook_embed", "blocks.1.attn.hook_q", "blocks.1.attn.hook_z", "blocks.2.hook_resid_post"):
        # Only what is on the path of a fused pass, whose roundings the cached ones share up to here
        _, fused = model.run_with_cache(TOKENS, names_filter=name)
        assert torch.equal(with_hooks(model, TOKENS, (name, put(fused[name]))), logits)
        assert torch.equal(with_hooks(model, TOKENS, (name, lambda value, hook: None)), logits)
        assert torch.equal(with_hooks(model, TOKENS, (name, lambda value, hook: value[:0].sum() + value)), logits)
    for name in cache:
        if not name.startswith(("blocks.0.", "blocks.2.")):  # the middle one stands for its neighbours
            assert_close(with_hooks(model, TOKENS, (name, put(cache[name]))), logits, RTOL)


def A3_another_runs_stream_gives_its_logits(model: HookedTransformer) -> None:
    clean = our_logits(model, TOKENS)
    for layer in range(model.cfg.n_layers):
        name = f"blocks.{layer}.hook_resid_pre"
        _, cache = model.run_with_cache(TOKENS, names_filter=name)
        assert torch.equal(with_hooks(model, OTHER, (name, put(cache[name]))), clean)
        assert torch.equal(our_logits(model, cache[name], start_at_layer=layer), clean)
        assert torch.equal(our_logits(model, TOKENS, stop_at_layer=layer), cache[name])


def A4_the_future_does_not_reach_the_past(model: HookedTransformer) -> None:
    causal, position = model.cfg.attention_dir == "causal", 3
    clean = our_logits(model, TOKENS)
    for name in ("hook_embed", "blocks.0.hook_resid_pre", "blocks.1.attn.hook_k", "blocks.1.hook_attn_out"):

        def disturb(value: Tensor, hook: HookPoint) -> Tensor:
            value[:, position] += torch.randn(value[:, position].shape, dtype=value.dtype)
            return value

        patched = with_hooks(model, TOKENS, (name, disturb))
        before, after = distance(patched[:, :3], clean[:, :3]), distance(patched[:, 3:], clean[:, 3:])
        assert after > 1e-6, "the patch does something"
        if causal:
            assert before <= RTOL
        else:
            assert before > 1e-10, "everybody sees everybody"


def A5_a_pattern_is_its_queries_and_keys(model: HookedTransformer) -> None:
    cfg, other, at = model.cfg, cached(model, OTHER), "blocks.1.attn."
    per_group = cfg.n_heads // cfg.n_key_value_heads
    group = cfg.n_key_value_heads - 1
    heads = list(range(group * per_group, (group + 1) * per_group))  # all that share one key and value head

    def patch(*names: str) -> Tensor:
        hooks = []
        for name in names:
            grouped = name in ("hook_k", "hook_v")
            axis = 1 if name == "hook_pattern" else 2
            hooks.append((at + name, put_heads(other[at + name], [group] if grouped else heads, axis)))
        return with_hooks(model, TOKENS, *hooks)

    assert_close(patch("hook_q", "hook_k"), patch("hook_pattern"), RTOL)
    assert_close(patch("hook_pattern", "hook_v"), patch("hook_z"), RTOL)
    all_z = with_hooks(model, TOKENS, (at + "hook_z", put(other[at + "hook_z"])))
    assert_close(
        all_z, with_hooks(model, TOKENS, ("blocks.1.hook_attn_out", put(other["blocks.1.hook_attn_out"]))), RTOL
    )
    assert distance(patch("hook_z"), our_logits(model, TOKENS)) > 1e-6, "the patches do something"


def A6_softmax_ignores_a_constant_per_query(model: HookedTransformer) -> None:
    cache, logits = cached(model, TOKENS), our_logits(model, TOKENS)
    for layer in range(model.cfg.n_layers):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"]
        assert_close(pattern.sum(-1), torch.ones_like(pattern[..., 0]), RTOL)
        assert bool((pattern >= 0).all())
        if model.cfg.attention_dir == "causal":
            assert not pattern.triu(1).any()
    constant = torch.randn(2, 4, 6, 1, dtype=torch.float64)
    assert_close(
        with_hooks(model, TOKENS, ("blocks.1.attn.hook_attn_scores", lambda value, hook: value + constant)),
        logits,
        RTOL,
    )
    without = build(**_fields(model))
    with torch.no_grad():
        for block in without.blocks:
            block.attn.b_K.zero_()
    changed = distance(our_logits(without, TOKENS), logits)
    if model.cfg.positional_embedding_type == "rotary":
        assert changed > 1e-6, "a rotated constant depends on the distance"
    else:
        assert changed <= RTOL, "a key bias adds the same to all scores of a query"


def A7_value_biases_are_a_constant(model: HookedTransformer) -> None:
    folded = build(**_fields(model))
    per_group = model.cfg.n_heads // model.cfg.n_key_value_heads
    with torch.no_grad():
        for block in folded.blocks:
            attn = block.attn
            attn.b_O += sum(attn.b_V[head // per_group] @ attn.W_O[head] for head in range(model.cfg.n_heads))
            attn.b_V.zero_()
    assert_close(our_logits(folded, TOKENS), our_logits(model, TOKENS), RTOL)


def A8_direct_effects_sum_to_the_logit_difference(model: HookedTransformer) -> None:
    """sum over parts of norm_frozen(part) . w W_U  +  b W_U + b_U, written out from the cached scale."""
    cfg, cache, logits = model.cfg, cached(model, TOKENS), our_logits(model, TOKENS)
    parts = [cache["hook_embed"]] + ([cache["hook_pos_embed"]] if "hook_pos_embed" in cache else [])
    for layer, block in enumerate(model.blocks):
        heads = cache[f"blocks.{layer}.attn.hook_result"].unbind(2)
        parts += [*heads, block.attn.b_O.detach().expand_as(parts[0])]
        parts += [] if cfg.attn_only else [cache[f"blocks.{layer}.hook_mlp_out"]]
    right, wrong = 3, 11
    direction, constant = model.W_U[:, right] - model.W_U[:, wrong], model.b_U[right] - model.b_U[wrong]
    total = constant
    for part in parts:
        if cfg.normalization_type in ("LN", "LNPre"):
            part = part - part.mean(-1, keepdim=True)
        if cfg.normalization_type is not None:
            part = part / cache["ln_final.hook_scale"]
        if cfg.normalization_type in ("LN", "RMS"):
            part = part * model.ln_final.w
        total = total + part @ direction
    if cfg.normalization_type == "LN":
        total = total + model.ln_final.b @ direction
    assert_close(total, logits[..., right] - logits[..., wrong], RTOL)


def A9_a_rotated_score_depends_on_the_distance_alone(model: HookedTransformer) -> None:
    if model.rotary is None:
        return
    positions = torch.arange(9)[None]
    q, k = torch.randn(2, 1, 1, 1, 4, dtype=torch.float64)
    rotation = model.rotary(positions, torch.float64)[0]
    assert rotation is not None
    turned_q, turned_k = (rotate(x.expand(1, 9, 1, 4), rotation)[0, :, 0] for x in (q, k))
    scores = turned_q @ turned_k.T
    for offset in range(-8, 9):
        diagonal = scores.diagonal(offset)
        # cosines and sines are of float32 frequencies, the same in each of these
        assert_close(diagonal, diagonal[:1].expand_as(diagonal), RTOL)
    at_zero = rotate(q.expand(1, 9, 1, 4), rotation.each(lambda x: x[:, :1]))
    assert torch.equal(at_zero, q.expand(1, 9, 1, 4)), "position 0 turns nothing"
    assert_close(turned_q.norm(dim=-1), q.norm().expand(9), RTOL)
    assert distance(turned_q[1:2], turned_q[:1]) > 1e-3


def A10_grouped_heads_are_repeated_heads(model: HookedTransformer) -> None:
    """Each key and value head serves neighbouring query heads: repeat_interleave, not tiling."""
    cfg = model.cfg
    ungrouped = build(**_fields(model) | dict(n_key_value_heads=cfg.n_heads))
    state = model.state_dict()
    for name in state:
        if name.endswith((".W_K", ".W_V", ".b_K", ".b_V")):
            state[name] = state[name].repeat_interleave(cfg.n_heads // cfg.n_key_value_heads, dim=0)
    ungrouped.load_state_dict(state)
    assert_close(our_logits(model, TOKENS), our_logits(ungrouped, TOKENS), RTOL)
    ours, theirs = cached(model, TOKENS), cached(ungrouped, TOKENS)
    for name in ("blocks.1.attn.hook_pattern", "blocks.1.attn.hook_z", "blocks.2.attn.hook_result"):
        assert_close(ours[name], theirs[name], RTOL)
    for weight in ("W_K", "W_V", "b_K", "b_V"):
        assert torch.equal(getattr(model, weight), getattr(ungrouped, weight))


def A11_padding_is_not_seen(model: HookedTransformer) -> None:
    short, pad = TOKENS[:1, :4], torch.tensor([[7, 8]])
    alone = our_logits(model, short)
    left, right = torch.cat((pad, short), 1), torch.cat((short, pad), 1)
    both_masks = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    padded = our_logits(model, torch.cat((left, right)), attention_mask=both_masks)
    assert_close(padded[:1, 2:], alone, RTOL)
    assert_close(padded[1:, :4], alone, RTOL)
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.cat((left, right)), attention_mask=both_masks)
    assert_close(cache["pattern", 1].sum(-1), torch.ones(2, 4, 6), RTOL)
    assert_close(cache["resid_post", -1][:1, 2:], cache["resid_post", -1][1:, :4], RTOL)


def A12_paths_expand_when_patterns_are_frozen(model: HookedTransformer) -> None:
    """Without norms and MLPs: direct path, single heads, and every chain of heads of rising layers."""
    if not (model.cfg.attn_only and model.cfg.normalization_type is None):
        return
    cache, layers = cached(model, TOKENS), range(model.cfg.n_layers)
    start = cache["blocks.0.hook_resid_pre"]
    OV = model.W_V @ model.W_O  # layer head d_model d_model
    constants = [torch.einsum("hk,hkd->d", model.b_V[layer], model.W_O[layer]) + model.b_O[layer] for layer in layers]

    def through(layer: int, stream: Tensor) -> Tensor:
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"]
        return torch.einsum("bhqp,bpd,hde->bqe", pattern, stream, OV[layer])

    paths = torch.zeros_like(start)
    for count in range(len(layers) + 1):
        for chain in itertools.combinations(layers, count):
            stream = start
            for layer in chain:
                stream = through(layer, stream)
            paths = paths + stream
            # What a layer adds whatever it reads goes along every chain that begins after it
            for layer in range(chain[0] if chain else len(layers)):
                stream = constants[layer].expand_as(start)
                for later in chain:
                    stream = through(later, stream)
                paths = paths + stream
    assert_close(paths @ model.W_U + model.b_U, our_logits(model, TOKENS), RTOL)


def _fields(model: HookedTransformer) -> dict[str, Any]:
    return next(fields for name, fields in ARCHITECTURES.items() if model_of(name) is model)


IDENTITIES = [value for name, value in dict(globals()).items() if name.startswith("A") and name[1].isdigit()]
PATHS = {
    f"paths-{positions}-{heads}": dict(normalization_type=None, attn_only=True, **AXES["positions"][positions], **more)
    for positions in AXES["positions"]
    for heads, more in AXES["heads"].items()
}
ARCHITECTURES |= PATHS


def test_every_two_values_meet() -> None:
    for (axis, values), (other_axis, other_values) in itertools.combinations(AXES.items(), 2):
        for one, other in itertools.product(values, other_values):
            if {one, other} != {"attn-only", "parallel"}:
                assert any(one in name and other in name for name in ARCHITECTURES), (axis, one, other_axis, other)


@pytest.mark.parametrize("identity", IDENTITIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_identity(identity: Callable[[HookedTransformer], None], architecture: str) -> None:
    with unchecked_types():  # some ten thousand passes, whose types other tests check
        identity(model_of(architecture))


# ------------------------------------------------------------------------------------------------------------- mutants


def _writes_the_bias_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    right = mixer_module.write_per_head
    monkeypatch.setattr(mixer_module, "write_per_head", lambda z, W, b: right(z, W, 2 * b))


def _returns_a_little_more(monkeypatch: pytest.MonkeyPatch) -> None:
    right = HookPoint._run
    monkeypatch.setattr(HookPoint, "_run", lambda self, *args: right(self, *args) * (1 + 1e-12))


def _ignores_what_hooks_return(monkeypatch: pytest.MonkeyPatch) -> None:
    right = HookPoint._run

    def reads_only(self: HookPoint, value: Tensor, hooks: Any) -> Tensor:
        right(self, value, hooks)
        return value

    monkeypatch.setattr(HookPoint, "_run", reads_only)


def _sees_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Visibility.__init__

    def everything(self: Visibility, *facts: Any, **more: Any) -> None:
        right(self, *facts, **more)
        self.causal = False

    monkeypatch.setattr(Visibility, "__init__", everything)


def _softmax_over_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda self, dim, **more: right(self.nan_to_num(-1e9), -2, **more))


def _rows_sum_to_less_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Attention._fused
    monkeypatch.setattr(Attention, "_fused", lambda self, *inputs: 0.99 * right(self, *inputs))


def _shows_a_wrong_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Norm.statistics

    def statistics(self: Norm, x: Tensor) -> tuple[Tensor, Tensor]:
        centred, scale = right(self, x)
        return centred, scale * 1.01

    monkeypatch.setattr(Norm, "statistics", statistics)


def _turns_one_half_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    right = rotate

    def reflect(x: Tensor, rotation: Rotation) -> Tensor:
        return right(x, rotation._replace(sin=-rotation.sin.abs()))

    monkeypatch.setitem(A9_a_rotated_score_depends_on_the_distance_alone.__globals__, "rotate", reflect)


def _tiles_key_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Attention, "_of_every_head", lambda self, x: torch.cat([x.transpose(1, 2)] * self.queries_per_key, dim=1)
    )


def _counts_padding_as_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Inputs.positions
    monkeypatch.setattr(Inputs, "positions", lambda self, real, *rest: right(self, None, *rest))


def _adds_attention_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TransformerBlock.forward
    monkeypatch.setattr(
        TransformerBlock,
        "forward",
        lambda self, resid_pre, *rest: 2 * right(self, resid_pre, *rest) - resid_pre,
    )


MUTANTS = [
    ("A1", _writes_the_bias_twice),
    ("A1", _adds_attention_twice),
    ("A2", _returns_a_little_more),
    ("A3", _ignores_what_hooks_return),
    ("A4", _sees_the_future),
    ("A5", _ignores_what_hooks_return),
    ("A6", _softmax_over_queries),
    ("A7", _rows_sum_to_less_than_one),
    ("A8", _shows_a_wrong_scale),
    ("A9", _turns_one_half_backwards),
    ("A10", _tiles_key_heads),
    ("A11", _counts_padding_as_positions),
    ("A12", _adds_attention_twice),
]


@pytest.mark.parametrize(("number", "mutate"), MUTANTS)
def test_each_identity_fails_on_a_mutant(
    number: str, mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = next(one for one in IDENTITIES if one.__name__.startswith(number + "_"))
    fields: dict[str, Any] = {"A9": AXES["positions"]["rotary"], "A10": AXES["heads"]["grouped"],
                              "A12": PATHS["paths-standard-ungrouped"]}.get(number, {})  # fmt: skip
    model = build(**fields)
    monkeypatch.setitem(ARCHITECTURES, "mutant", fields)
    monkeypatch.setitem(_fields.__globals__, "model_of", lambda name: model)
    monkeypatch.setitem(_fields.__globals__, "ARCHITECTURES", {"mutant": fields})
    with unchecked_types():
        identity(model)
        mutate(monkeypatch)
        cached.cache_clear()
        with pytest.raises(AssertionError):
            identity(model)
    cached.cache_clear()


def test_every_identity_has_a_mutant() -> None:
    assert {number for number, _ in MUTANTS} == {identity.__name__.split("_")[0] for identity in IDENTITIES}
