"""A cache changes what is computed, not what comes out: and whatever goes wrong in a pass, it stays what it was."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, HookPoint, KeyValueCache
from interp_hooks.errors import BadInput
from tests.tiny import CUSTOM, FAMILY_CONFIGS, assert_close, build, hooked, random_tokens

# Attention over the same keys in another kernel (one query, a mask): sums of a dozen float64 numbers in another order.
EXACT = 1e-11
TOKENS = random_tokens(batch=2, pos=8, d_vocab=19)
REAL = torch.arange(8) >= torch.tensor([0, 3])[:, None]

CAUSAL = [*FAMILY_CONFIGS, *(name for name, fields in CUSTOM.items() if fields.get("attention_dir") != "bidirectional")]
SPLITS = [(8,), (3, 5), (5, 1, 1, 1), (1, 6, 1)]


@torch.no_grad()
def in_parts(model: HookedTransformer, cache: KeyValueCache, split: tuple[int, ...], real: Tensor | None) -> Tensor:
    """Logits of passes over so many tokens each, one after the other."""
    parts = TOKENS.split(split, dim=1)
    masks = [None] * len(parts) if real is None else real.split(split, dim=1)
    return torch.cat(
        [model(part, past_kv_cache=cache, attention_mask=mask) for part, mask in zip(parts, masks, strict=True)], dim=1
    )


@torch.no_grad()
def whole(model: HookedTransformer, real: Tensor | None = None) -> Tensor:
    return model(TOKENS, attention_mask=real)


def filled(model: HookedTransformer, tokens: int = 5, **options: Any) -> KeyValueCache:
    cache = KeyValueCache()
    with torch.no_grad():
        model(TOKENS[:, :tokens], past_kv_cache=cache, **options)
    return cache


def contents(cache: KeyValueCache, layers: int = 3) -> list[Tensor]:
    return [tensor.clone() for layer in range(layers) for tensor in cache.at(layer)]


def assert_same_contents(cache: KeyValueCache, length: int, before: list[Tensor]) -> None:
    assert cache.length == length
    for now, then in zip(contents(cache), before, strict=True):
        assert torch.equal(now, then)


# ------------------------------------------------------------------------------------------------------------ the same


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("architecture", CAUSAL)
def test_passes_over_parts_are_the_pass_over_the_whole(architecture: str, split: tuple[int, ...]) -> None:
    model, cache = hooked(architecture), KeyValueCache()
    assert_close(in_parts(model, cache, split, None), whole(model), EXACT)
    assert cache.length == 8
    assert cache.real is None


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "alibi-windows", "sinks-capped", "experts", "latent"])
def test_left_padding(architecture: str) -> None:
    """The mask of the first pass is remembered; later ones may give theirs, or none, or that of everything."""
    model, rest = hooked(architecture), REAL[:, 4:]
    expected = whole(model, REAL)[:, 4:]
    for later in (None, rest, REAL, REAL.long()):
        cache = filled(model, 4, attention_mask=REAL[:, :4])
        with torch.no_grad():
            assert_close(model(TOKENS[:, 4:], past_kv_cache=cache, attention_mask=later)[rest], expected[rest], EXACT)
        assert cache.real is not None
        assert torch.equal(cache.real, REAL)


@torch.no_grad()
def test_padding_after_the_first_pass() -> None:
    """Rows that go on after gaps of different lengths: each is what its real tokens are alone."""
    real = torch.tensor([[1, 1, 1, 1, 1, 0, 1, 1], [1, 1, 1, 0, 0, 0, 0, 1]]).bool()
    for architecture in ("gpt2", "neox"):
        model = hooked(architecture)
        logits = in_parts(model, KeyValueCache(), (3, 3, 2), real)
        for row in range(2):
            assert_close(logits[row][real[row]], model(TOKENS[row][real[row]][None])[0], EXACT)


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "latent", "shared-norm"])
def test_hooks_see_the_new_tokens_and_no_key_is_rotated_twice(architecture: str) -> None:
    """Values at every hook of a step are the last ones of a full pass; keys as stored are those that scores use."""
    model = hooked(architecture)
    cache = filled(model, 5)
    before = contents(cache)
    with torch.no_grad():
        _, full = model.run_with_cache(TOKENS)
        _, step = model.run_with_cache(TOKENS[:, 5:], past_kv_cache=cache)
    assert list(step) == list(full)
    for name, value in step.items():
        axes = model.hook_dict[name].axes
        place = axes.index("query" if "query" in axes else "pos")
        expected = full[name].narrow(place, 5, 3)
        assert torch.equal(value.isinf(), expected.isinf()), "scores of what is hidden"
        assert_close(value.where(value.isfinite(), 0.0), expected.where(expected.isfinite(), 0.0), EXACT)
    for tensor, then in zip(contents(cache), before, strict=True):
        assert torch.equal(tensor[:, :5], then)
    if architecture != "shared-norm":  # there, keys are normalized once more after the rotation
        keys = "attn.hook_rot_k" if model.rotary else "attn.hook_k"
        for layer in range(3):
            assert_close(cache.at(layer)[0], full[f"blocks.{layer}.{keys}"], EXACT)
            assert_close(cache.at(layer)[1], full[f"blocks.{layer}.attn.hook_v"], EXACT)


def test_an_edit_of_a_cached_token_is_remembered() -> None:
    """What a hook makes of a key while the prompt is read is what later tokens attend to."""
    model, cache = hooked("gpt2"), KeyValueCache()

    def double_third(value: Tensor, hook: HookPoint) -> None:
        value[:, 2] *= 2

    edit = [("blocks.1.attn.hook_k", double_third)]
    with torch.no_grad():
        expected = model.run_with_hooks(TOKENS, fwd_hooks=edit)
        model.run_with_hooks(TOKENS[:, :5], fwd_hooks=edit, past_kv_cache=cache)
        assert_close(model(TOKENS[:, 5:], past_kv_cache=cache), expected[:, 5:], EXACT)


# -------------------------------------------------------------------------------------------------------------- memory


def pointers(cache: KeyValueCache) -> list[int]:
    return [tensor.data_ptr() for layer in range(3) for tensor in cache.at(layer)]


@torch.no_grad()
def test_room_doubles_and_a_step_copies_nothing_while_there_is_room() -> None:
    """From 2 tokens on, room is made at 3 (for 4), 5 (for 8) and 9 (for 16)."""
    model, cache, tokens = build(n_ctx=16), KeyValueCache(), random_tokens(batch=2, pos=16, d_vocab=19)
    model(tokens[:, :2], past_kv_cache=cache)
    places, moved = pointers(cache), []
    for place in range(2, 16):
        model(tokens[:, place : place + 1], past_kv_cache=cache)
        now = pointers(cache)
        changed = {one != other for one, other in zip(now, places, strict=True)}
        assert len(changed) == 1, "all layers, keys and values grow together"
        if changed.pop():
            moved.append(cache.length)
        places = now
    assert moved == [3, 5, 9]


# ------------------------------------------------------------------------------------------------------ frozen, shared


@torch.no_grad()
def test_a_frozen_cache_is_read_and_stays_as_it_is() -> None:
    model, full = hooked("neox"), whole(hooked("neox"))
    cache = filled(model, 5)
    before = contents(cache)
    cache.freeze()
    for _ in range(2):
        assert_close(model(TOKENS[:, 5:], past_kv_cache=cache), full[:, 5:], EXACT)
        assert_same_contents(cache, 5, before)
    cache.unfreeze()
    assert_close(model(TOKENS[:, 5:7], past_kv_cache=cache), full[:, 5:7], EXACT)
    assert cache.length == 7


@torch.no_grad()
def test_an_empty_frozen_cache_is_no_cache() -> None:
    model, cache = hooked("gpt2"), KeyValueCache()
    cache.freeze()
    for tokens in (TOKENS, TOKENS[:1]):
        assert torch.equal(model(tokens, past_kv_cache=cache), model(tokens))
    assert cache.length == 0


@torch.no_grad()
@pytest.mark.parametrize("real", [None, REAL], ids=["whole", "padded"])
def test_copies_of_a_prefix_serve_several_continuations(real: Tensor | None) -> None:
    """All prompts `copies` times one below the other, each with an end of its own."""
    model, copies = hooked("neox"), 3
    cache = filled(model, 8, attention_mask=real)
    shared = cache.prefix(4, copies)
    ends = random_tokens(batch=2 * copies, pos=4, d_vocab=19, seed=7)
    mask = None if real is None else torch.cat((real[:, :4].repeat(copies, 1), torch.ones(6, 4, dtype=torch.bool)), 1)
    expected = model(torch.cat((TOKENS[:, :4].repeat(copies, 1), ends), dim=1), attention_mask=mask)[:, 4:]
    for _ in range(2):
        assert_close(model(ends, past_kv_cache=shared), expected, EXACT)
    assert (shared.length, cache.length) == (4, 8)


@torch.no_grad()
def test_a_prefix_for_copies_holds_what_one_of_copied_prompts_does() -> None:
    """To whoever looks into it, cuts it again, or lets it read on."""
    model, twice = hooked("gpt2"), KeyValueCache()
    model(TOKENS[:, :5].repeat(2, 1), past_kv_cache=twice, attention_mask=REAL[:, :5].repeat(2, 1))
    copied = filled(model, attention_mask=REAL[:, :5]).prefix(4, copies=2)
    for ours, theirs in ((copied, twice.prefix(4)), (copied.prefix(3, copies=2), twice.prefix(3, copies=2))):
        for layer in range(model.cfg.n_layers):
            for one, other in zip(ours.at(layer), theirs.at(layer), strict=True):
                assert_close(one, other, EXACT)
        rows = len(theirs.at(0)[0])
        following = TOKENS[:, 5:].repeat(rows // len(TOKENS), 1)
        expected = model(following, past_kv_cache=theirs)
        assert_close(model(following, past_kv_cache=ours), expected, EXACT)
        ours.unfreeze()
        parts = [model(part, past_kv_cache=ours) for part in following.split((1, 2), dim=1)]
        assert_close(torch.cat(parts, dim=1), expected, EXACT)
        assert ours.length == theirs.length + 3


def test_a_prefix_of_one_layer_has_no_other() -> None:
    part = filled(hooked("gpt2"), 5).prefix(3, layers=[1])
    assert part.at(1)[0].shape[1] == 3
    with pytest.raises(BadInput, match="holds 3 tokens, but not in layer 2"):
        part.at(2)


@pytest.mark.parametrize("tokens", [6, -1])
def test_a_prefix_longer_than_the_cache_is_refused(tokens: int) -> None:
    with pytest.raises(BadInput, match=f"holds 5 tokens, so it has no first {tokens}"):
        filled(hooked("gpt2"), 5).prefix(tokens)


# --------------------------------------------------------------------------------------------------- what may go wrong


class Interruption(RuntimeError):
    """Raised by a hook."""


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("where", ["hook_embed", "blocks.0.attn.hook_k", "blocks.1.attn.hook_z", "unembed.hook_out"])
def test_an_exception_leaves_the_cache_as_it_was(where: str, gradients: bool) -> None:
    """Wherever a hook raises, in a pass of any number of tokens: keys, values and length stay, and it goes on."""
    model = hooked("neox")
    cache = filled(model, 4)
    before = contents(cache)

    def fail(value: Tensor, hook: HookPoint) -> None:
        raise Interruption

    for wrong in (TOKENS[:, :1], TOKENS[:, :4]):
        with torch.set_grad_enabled(gradients), pytest.raises(Interruption):
            model.run_with_hooks(wrong, fwd_hooks=[(where, fail)], past_kv_cache=cache)
        assert_same_contents(cache, 4, before)
    with torch.no_grad():
        assert_close(model(TOKENS[:, 4:], past_kv_cache=cache), whole(model)[:, 4:], EXACT)


def test_an_exception_in_the_first_pass_leaves_an_empty_cache() -> None:
    """Which then reads fewer prompts than the pass that failed."""
    model, cache = hooked("gpt2"), KeyValueCache()

    def fail(value: Tensor, hook: HookPoint) -> None:
        raise Interruption

    with torch.no_grad():
        with pytest.raises(Interruption):
            model.run_with_hooks(TOKENS, fwd_hooks=[("blocks.2.hook_resid_post", fail)], past_kv_cache=cache)
        assert torch.equal(model(TOKENS[:1], past_kv_cache=cache), model(TOKENS[:1]))
    assert cache.at(0)[0].shape[0] == 1


@pytest.mark.parametrize("real", [None, REAL[:, :5]], ids=["whole", "padded"])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
def test_another_number_of_prompts_is_refused(rows: int, gradients: bool, real: Tensor | None) -> None:
    """One prompt would fit all by broadcasting."""
    model = hooked("neox")
    cache = filled(model, 5, attention_mask=real)
    before = contents(cache)
    with torch.set_grad_enabled(gradients), pytest.raises(BadInput, match=f"holds 2 prompts, got {rows}"):
        model(random_tokens(batch=rows, pos=1, d_vocab=19), past_kv_cache=cache)
    assert_same_contents(cache, 5, before)


@pytest.mark.parametrize("architecture", ["bidirectional", "post-norm"])
def test_a_model_that_reads_both_ways_has_no_cache(architecture: str) -> None:
    with pytest.raises(BadInput, match="needs a causal model"):
        hooked(architecture)(TOKENS, past_kv_cache=KeyValueCache())


def test_a_cache_without_the_later_layers_names_the_first_it_lacks() -> None:
    model = hooked("gpt2")
    cache = filled(model, 4, stop_at_layer=2)
    with torch.no_grad(), pytest.raises(BadInput, match="holds 4 tokens, but not in layer 2"):
        model(TOKENS[:, 4:], past_kv_cache=cache)
    assert cache.length == 4


@torch.no_grad()
def test_a_pass_that_stops_early_takes_the_later_layers_from_the_cache() -> None:
    """They lack its tokens: reading on with them would attend to nothing, or to what lay in memory."""
    model = hooked("gpt2")
    cache = filled(model, 4)
    model(TOKENS[:, 4:5], past_kv_cache=cache)  # there is room for more now
    stream = model(TOKENS[:, 5:6], past_kv_cache=cache, stop_at_layer=1)
    assert_close(stream, model(TOKENS, stop_at_layer=1)[:, 5:6], EXACT)
    with pytest.raises(BadInput, match="holds 6 tokens, but not in layer 1"):
        model(TOKENS[:, 6:7], past_kv_cache=cache)
    assert_close(
        model(TOKENS[:, 6:7], past_kv_cache=cache, stop_at_layer=1), model(TOKENS, stop_at_layer=1)[:, 6:7], EXACT
    )


@torch.no_grad()
def test_a_pass_that_starts_late_takes_the_earlier_layers_from_the_cache() -> None:
    model, cache = hooked("neox"), filled(hooked("neox"), 4)
    stream = model(TOKENS, stop_at_layer=1)[:, 4:]
    assert_close(model(stream, start_at_layer=1, past_kv_cache=cache), whole(model)[:, 4:], EXACT)
    with pytest.raises(BadInput, match="holds 8 tokens, but not in layer 0"):
        model(TOKENS[:, :1], past_kv_cache=cache)


@torch.no_grad()
def test_a_text_that_outgrows_the_context_is_refused() -> None:
    model = build(n_ctx=6)
    cache = filled(model, 4)
    before = contents(cache)
    with pytest.raises(BadInput, match="the prompt has 7 tokens, but this model reads at most n_ctx=6"):
        model(TOKENS[:, 4:7], past_kv_cache=cache)
    assert_same_contents(cache, 4, before)
    assert_close(model(TOKENS[:, 4:6], past_kv_cache=cache), model(TOKENS[:, :6])[:, 4:], EXACT)


@pytest.mark.parametrize("shape", [(2, 5), (2, 2), (1, 3)])
def test_a_mask_of_another_length_is_refused(shape: tuple[int, int]) -> None:
    model = hooked("gpt2")
    cache = filled(model, 5)
    with torch.no_grad(), pytest.raises(BadInput, match=r"attention_mask must be \[batch, pos\] = \[2, 8\]"):
        model(TOKENS[:, 5:], past_kv_cache=cache, attention_mask=torch.ones(shape))
    assert cache.length == 5


# ----------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("architecture", ["gpt2", "neox", "latent"])
def test_gradients_flow_through_what_was_read_before(architecture: str, trains: bool) -> None:
    """The gradient of the last logits with respect to the first tokens' embeddings, as in one pass.

    With frozen weights too: then queries of a later pass may need a gradient where its keys do not.
    """
    model = build(**CUSTOM[architecture]) if architecture in CUSTOM else build()
    model.requires_grad_(trains)

    def gradient(split: tuple[int, ...]) -> Tensor:
        cache, added, output = KeyValueCache(), torch.zeros(12, dtype=torch.float64, requires_grad=True), None
        for part in TOKENS.split(split, dim=1):
            edit = [("hook_embed", lambda value, hook: value + added)] if cache.length == 0 else []
            output = model.run_with_hooks(part, fwd_hooks=edit, past_kv_cache=cache if len(split) > 1 else None)
        assert output is not None
        return torch.autograd.grad(output[:, -1].square().sum(), added)[0]

    def in_one() -> Tensor:
        added = torch.zeros(12, dtype=torch.float64, requires_grad=True)

        def edit(value: Tensor, hook: HookPoint) -> Tensor:
            return torch.cat((value[:, :5] + added, value[:, 5:]), dim=1)

        output = model.run_with_hooks(TOKENS, fwd_hooks=[("hook_embed", edit)])
        return torch.autograd.grad(output[:, -1].square().sum(), added)[0]

    expected = in_one()
    assert float(expected.abs().max()) > 0
    assert_close(gradient((5, 1, 1, 1)), expected, 1e-9)
