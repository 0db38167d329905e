"""Keys of a cache, and that the parts of a residual stream add up: to the stream, and to the model's own logits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import ActivationCache, HookedTransformer
from interp_hooks.cache import take
from interp_hooks.errors import BadInput, TokenError, UnknownHook
from interp_hooks.loading.folding import Processing, process
from tests.tiny import CUSTOM, assert_close, build, hooked, our_logits, random_tokens

# Sums of a few dozen float64 numbers in another order.
EXACT = 1e-10

BATCH, POS = 3, 6
TOKENS = random_tokens(batch=BATCH, pos=POS, d_vocab=23)

KINDS: dict[str, dict[str, Any]] = {
    "LN": {},
    "RMS": dict(normalization_type="RMS"),
    "LN folded": {},
    "RMS folded": dict(normalization_type="RMS"),
    "no norm": dict(normalization_type=None),
    "attn only": dict(attn_only=True),
    "parallel": dict(parallel_attn_mlp=True, gated_mlp=True),
    "rotary grouped": dict(positional_embedding_type="rotary", n_key_value_heads=2),
}


def built(kind: str) -> HookedTransformer:
    model = build(**KINDS[kind])
    if "folded" in kind:
        process(model, Processing(center_writing_weights=False, center_unembed=False, fold_value_biases=False))
        assert model.ln_final.w is None
    return model


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest) -> tuple[HookedTransformer, ActivationCache, Tensor]:
    model = built(request.param)
    with torch.no_grad():
        logits, cache = model.run_with_cache(TOKENS)
    return model, cache, logits


@pytest.fixture(scope="module")
def cache() -> ActivationCache:
    return built("LN").run_with_cache(TOKENS)[1]


# ---------------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("hook_embed", "hook_embed"),
        ("embed", "hook_embed"),
        ("blocks.1.attn.hook_q", "blocks.1.attn.hook_q"),
        (("q", 0), "blocks.0.attn.hook_q"),
        (("q", -1), "blocks.2.attn.hook_q"),
        (("q", -3), "blocks.0.attn.hook_q"),
        ("q0", "blocks.0.attn.hook_q"),
        (("resid_post", -1), "blocks.2.hook_resid_post"),
        (("scale", 0, "ln1"), "blocks.0.ln1.hook_scale"),
        ("scale0ln1", "blocks.0.ln1.hook_scale"),
        ("scale", "ln_final.hook_scale"),
        (("normalized", None), "ln_final.hook_normalized"),
        (("attn", 0), "blocks.0.attn.hook_pattern"),
        (("post", 0, "m"), "blocks.0.mlp.hook_post"),
        ("mlp_out0", "blocks.0.hook_mlp_out"),
        ("resid_pre0", "blocks.0.hook_resid_pre"),
    ],
)
def test_keys(cache: ActivationCache, key: Any, name: str) -> None:
    assert cache[key] is cache.cache_dict[name]
    assert key in cache
    assert cache.get(key) is cache.cache_dict[name]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("resid_per0", "is no hook point. Did you mean .*blocks.0.hook_resid_pre"),
        (("resid_pre", 7), "is no hook point"),
        (("q", -9), "is no hook point"),
        ("result0", r"\(blocks.0.attn.hook_result\) was not cached in this run"),
        ("hook_nothing", "is no hook point"),
    ],
)
def test_a_wrong_key_is_told(cache: ActivationCache, key: Any, said: str) -> None:
    with pytest.raises(UnknownHook, match=said):
        cache[key]
    with pytest.raises(KeyError):
        cache[key]
    assert key not in cache
    assert cache.get(key) is None


@pytest.mark.parametrize("key", [3, ("q",), ("q", 0, "attn", "more"), None])
def test_a_key_that_is_none_at_all_is_a_key_error(cache: ActivationCache, key: Any) -> None:
    with pytest.raises(KeyError):
        cache[key]
    assert key not in cache


def test_it_is_a_mapping(cache: ActivationCache) -> None:
    assert list(cache) == list(cache.keys()) == list(cache.cache_dict)
    assert len(cache) == len(list(cache.values()))
    assert dict(cache.items())["hook_embed"] is cache["embed"]
    assert str(len(cache)) in repr(cache)


def test_a_plain_dict_on_request(plain: HookedTransformer) -> None:
    _, stored = plain.run_with_cache(TOKENS, names_filter="embed", return_cache_object=False)
    assert type(stored) is dict
    assert list(stored) == ["hook_embed"]


def test_moving_makes_another_cache(cache: ActivationCache) -> None:
    moved = cache.to("meta")
    assert moved["embed"].device.type == "meta"
    assert cache["embed"].device.type == "cpu"
    assert moved.model is cache.model


def test_a_single_prompt_loses_its_batch_axis(plain: HookedTransformer) -> None:
    _, with_batch = plain.run_with_cache(TOKENS[:1])
    _, without = plain.run_with_cache(TOKENS[:1], remove_batch_dim=True)
    assert not without.has_batch_dim
    for name in with_batch:
        assert torch.equal(without[name], with_batch[name][0])
    assert with_batch.remove_batch_dim() is with_batch
    assert with_batch.remove_batch_dim()["embed"].ndim == 2, "once is enough"


def test_several_prompts_keep_theirs(plain: HookedTransformer) -> None:
    with pytest.raises(BadInput, match="only be removed from a single prompt, got 3"):
        plain.run_with_cache(TOKENS, remove_batch_dim=True)


# ---------------------------------------------------------------------------------------------------------------- parts


def entering(model: HookedTransformer, layer: int) -> Tensor:
    """The stream that enters a layer, from another pass."""
    return our_logits(model, TOKENS, stop_at_layer=layer)


@pytest.mark.parametrize("layer", [0, 1, 3, None, -1])
def test_parts_sum_to_the_stream(run: Any, layer: int | None) -> None:
    model, cache, _ = run
    at = 3 if layer in (None, -1) else layer
    parts, labels = cache.decompose_resid(layer, return_labels=True)
    assert_close(parts.sum(0), entering(model, at), EXACT)
    learned = model.cfg.positional_embedding_type == "standard"
    per_layer = [["attn_out"], ["attn_out", "mlp_out"]][not model.cfg.attn_only]
    expected = ["embed"] + ["pos_embed"] * learned + [f"{one}_{part}" for one in range(at) for part in per_layer]
    assert labels == expected


def test_the_stream_that_the_mlp_reads(run: Any) -> None:
    model, cache, _ = run
    if model.cfg.attn_only:
        return
    parts, labels = cache.decompose_resid(1, mlp_input=True, return_labels=True)
    _, seen = model.run_with_cache(TOKENS, names_filter="mlp_in1")
    assert_close(parts.sum(0), seen["mlp_in1"], EXACT)
    assert labels[-1] == ("0_mlp_out" if model.cfg.parallel_attn_mlp else "1_attn_out")


def test_only_some_parts(cache: ActivationCache) -> None:
    _, attn = cache.decompose_resid(2, mode="attn", return_labels=True)
    assert attn == ["embed", "pos_embed", "0_attn_out", "1_attn_out"]
    _, mlp = cache.decompose_resid(2, mode="mlp", incl_embeds=False, return_labels=True)
    assert mlp == ["0_mlp_out", "1_mlp_out"]


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("mlp_input", [False, True])
def test_normalized_parts_sum_to_what_the_reader_reads(run: Any, layer: int, mlp_input: bool) -> None:
    """With the gain inside each part and the bias as a part of its own, whether folded or not."""
    model, cache, _ = run
    if mlp_input and (layer == 3 or model.cfg.attn_only):
        return
    norm = model.ln_final if layer == 3 else (model.blocks[layer].ln2 if mlp_input else model.blocks[layer].ln1)
    read = "mlp_in1" if mlp_input else {1: "resid_pre1", 3: "resid_post2"}[layer]
    _, seen = model.run_with_cache(TOKENS, names_filter=read)
    with torch.no_grad():
        expected = norm(next(iter(seen.values())))
    parts, labels = cache.decompose_resid(layer, mlp_input=mlp_input, apply_ln=True, return_labels=True)
    assert_close(parts.sum(0), expected, EXACT)
    assert ("bias" in labels) == (model.cfg.normalization_type == "LN")


def test_accumulated_streams(run: Any) -> None:
    model, cache, _logits = run
    streams, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    has_mid = not (model.cfg.attn_only or model.cfg.parallel_attn_mlp)
    expected = [f"{at}_{where}" for at in range(3) for where in (["pre", "mid"] if has_mid else ["pre"])]
    assert labels == [*expected, "final_post"]
    for label, stream in zip(labels, streams, strict=True):
        at, where = label.split("_")
        assert torch.equal(stream, cache[f"resid_{where}", -1 if at == "final" else int(at)])


def test_the_last_accumulated_stream_unembeds_to_the_logits(run: Any) -> None:
    """As a logit lens reads it, statistics recomputed, gain and bias included."""
    model, cache, logits = run
    streams = cache.accumulated_resid(apply_ln=True)
    assert_close(streams[-1] @ model.W_U + model.b_U, logits, EXACT)
    with torch.no_grad():
        assert_close(streams[1], model.ln_final(cache["resid_pre", 1]), EXACT)


def test_accumulated_streams_up_to_a_layer(cache: ActivationCache) -> None:
    assert cache.accumulated_resid(2, return_labels=True)[1] == ["0_pre", "1_pre", "2_pre"]
    assert cache.accumulated_resid(1, mlp_input=True, return_labels=True)[1] == ["0_pre", "1_pre", "1_mid"]
    assert cache.accumulated_resid(0, return_labels=True)[1] == ["0_pre"]


@pytest.mark.parametrize("layer", [1, 2, -1])
def test_heads_and_remainder_sum_to_the_stream(run: Any, layer: int) -> None:
    model, cache, _ = run
    at = 3 if layer == -1 else layer
    rows, labels = cache.stack_head_results(layer, incl_remainder=True, return_labels=True)
    assert labels == [f"L{one}H{head}" for one in range(at) for head in range(4)] + ["remainder"]
    assert_close(rows.sum(0), entering(model, at), EXACT)
    _, seen = model.run_with_cache(TOKENS, names_filter="result0")
    assert_close(rows[2], seen["result0"][:, :, 2], EXACT)


def test_heads_of_a_layer_sum_to_its_output(run: Any) -> None:
    model, cache, _ = run
    rows = cache.stack_head_results()
    assert_close(rows[4:8].sum(0) + model.blocks[1].attn.b_O, cache["attn_out", 1], EXACT)


def test_normalized_heads_and_remainder_sum_to_what_is_unembedded(run: Any) -> None:
    model, cache, logits = run
    rows = cache.stack_head_results(incl_remainder=True, apply_ln=True)
    assert_close(rows.sum(0) @ model.W_U + model.b_U, logits, EXACT)


def test_a_norm_is_linear_once_its_scale_is_fixed(run: Any) -> None:
    _model, cache, _ = run
    stack = torch.randn(2, BATCH, POS, 12, dtype=torch.float64)
    one = cache.apply_ln_to_stack(stack)
    assert_close(cache.apply_ln_to_stack(3 * stack), 3 * one, EXACT)
    assert_close(cache.apply_ln_to_stack(stack.sum(0, keepdim=True)), one.sum(0, keepdim=True), EXACT)


def test_recomputed_statistics_are_each_parts_own(run: Any) -> None:
    model, cache, _ = run
    stack = torch.randn(2, BATCH, POS, 12, dtype=torch.float64)
    with torch.no_grad():
        expected = model.ln_final(stack.flatten(0, 1)).view_as(stack)
        if model.cfg.normalization_type == "LN":
            expected = expected - model.ln_final.b
    assert_close(cache.apply_ln_to_stack(stack, recompute_ln=True), expected, EXACT)


# --------------------------------------------------------------------------------------------------- effects on logits

ANSWERS: dict[str, Any] = {
    "one token for all": 7,
    "one token per prompt": torch.tensor([7, 3, 18]),
    "a list": [7, 3, 18],
    "one per position": random_tokens(batch=BATCH, pos=POS, d_vocab=19),
}


def logit_of(logits: Tensor, answer: Any) -> Tensor:
    """[batch, pos], from the model's own logits."""
    ids = torch.as_tensor(answer)
    ids = ids.reshape(-1, 1) if ids.ndim == 1 else ids
    return logits.gather(2, ids.expand(BATCH, POS)[..., None])[..., 0]


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("parts", ["components", "heads"])
def test_effects_sum_to_the_logit(run: Any, answer: str, parts: str) -> None:
    _, cache, logits = run
    stack = cache.decompose_resid() if parts == "components" else cache.stack_head_results(incl_remainder=True)
    effects = cache.logit_attrs(stack, ANSWERS[answer], include_bias=True)
    assert list(effects.shape) == [len(stack) + 1, BATCH, POS]
    assert_close(effects.sum(0), logit_of(logits, ANSWERS[answer]), EXACT)


@pytest.mark.parametrize("answer", ANSWERS)
def test_effects_sum_to_the_logit_difference(run: Any, answer: str) -> None:
    _, cache, logits = run
    wrong = {"one per position": random_tokens(BATCH, POS, 19, seed=5)}.get(answer, torch.tensor([1, 2, 3]))
    effects = cache.logit_attrs(cache.decompose_resid(), ANSWERS[answer], wrong, include_bias=True)
    assert_close(effects.sum(0), logit_of(logits, ANSWERS[answer]) - logit_of(logits, wrong), EXACT)


def test_effects_without_bias_lack_a_constant(run: Any) -> None:
    """The same at every place, since it is what the norm's bias and b_U give."""
    model, cache, logits = run
    effects = cache.logit_attrs(cache.decompose_resid(), 7)
    missing = logits[..., 7] - effects.sum(0)
    assert_close(missing, missing[:1, :1].expand(BATCH, POS), 1e-9)  # a difference of larger numbers
    if model.cfg.normalization_type != "LN":
        assert_close(missing[0, 0], model.b_U[7].detach(), 1e-9)


SLICES: dict[str, tuple[Any, Callable[[Tensor], Tensor]]] = {
    "int": (2, lambda x: x[:, 2]),
    "last": (-1, lambda x: x[:, -1]),
    "tuple": ((1, 4), lambda x: x[:, 1:4]),
    "tuple with a step": ((0, 6, 2), lambda x: x[:, ::2]),
    "list": ([4, 1], lambda x: x[:, [4, 1]]),
    "list from the end": ([-1, -6], lambda x: x[:, [-1, -6]]),
    "tensor": (torch.tensor([0, 5]), lambda x: x[:, [0, 5]]),
    "slice": (slice(2, None), lambda x: x[:, 2:]),
    "nothing": (None, lambda x: x),
}


@pytest.mark.parametrize("label", SLICES)
def test_position_slices(run: Any, label: str) -> None:
    _model, cache, logits = run
    where, sliced = SLICES[label]
    per_part = lambda stack: torch.stack([sliced(part) for part in stack])  # noqa: E731
    assert torch.equal(cache.decompose_resid(pos_slice=where), per_part(cache.decompose_resid()))
    assert torch.equal(cache.accumulated_resid(pos_slice=where), per_part(cache.accumulated_resid()))
    heads = cache.stack_head_results(pos_slice=where, apply_ln=True)
    assert_close(heads, per_part(cache.stack_head_results(apply_ln=True)), EXACT)
    parts = cache.decompose_resid(pos_slice=where, apply_ln=True)
    assert_close(parts, per_part(cache.decompose_resid(apply_ln=True)), EXACT)
    for answer in ANSWERS.values():
        effects = cache.logit_attrs(cache.decompose_resid(pos_slice=where), answer, pos_slice=where, include_bias=True)
        assert_close(effects.sum(0), sliced(logit_of(logits, answer)), EXACT)


@pytest.mark.parametrize("where", [1, [2, 0], (0, 2)])
def test_batch_slices(run: Any, where: Any) -> None:
    _, cache, logits = run
    stack = torch.stack([take(part, where, 0) for part in cache.decompose_resid()])
    answers = torch.tensor([7, 3, 18])
    effects = cache.logit_attrs(stack, answers, batch_slice=where, include_bias=True)
    assert_close(effects.sum(0), take(logit_of(logits, answers), where, 0), EXACT)


@pytest.mark.parametrize("where", [None, 2, -1, (1, 4), [4, 1]])
def test_a_single_prompt_without_batch_axis(where: Any) -> None:
    for kind in KINDS:
        model = built(kind)
        logits, cache = model.run_with_cache(TOKENS[:1], remove_batch_dim=True)
        stack = cache.decompose_resid(pos_slice=where)
        assert_close(stack.sum(0), take(entering(model, 3)[0], where, 0), EXACT)
        effects = cache.logit_attrs(stack, 7, pos_slice=where, has_batch_dim=False, include_bias=True)
        assert_close(effects.sum(0), take(logits[0, :, 7], where, 0), EXACT)
        heads = cache.stack_head_results(pos_slice=where, incl_remainder=True, apply_ln=True)
        assert_close(heads.sum(0) @ model.W_U[:, 7] + model.b_U[7], take(logits[0, :, 7], where, 0), EXACT)
        streams = cache.accumulated_resid(pos_slice=where)
        assert_close(streams[-1], take(entering(model, 3)[0], where, 0), EXACT)


# -------------------------------------------------------------------------------------------------------- bad requests


@pytest.mark.parametrize(
    ("request_of", "said"),
    [
        (lambda cache: cache.decompose_resid(4), r"layer must be 0\.\.3.* got 4"),
        (lambda cache: cache.accumulated_resid(-2), r"layer must be 0\.\.3.* got -2"),
        (lambda cache: cache.decompose_resid(mode="mlps"), "mode must be 'all', 'attn' or 'mlp', got 'mlps'"),
        (lambda cache: cache.stack_head_results(0), "no head stands before layer 0"),
        (lambda cache: cache.decompose_resid(0, incl_embeds=False), "nothing to stack before layer 0"),
        (lambda cache: cache.decompose_resid(3, mlp_input=True), "layer|mlp_input"),
        (lambda cache: cache.accumulated_resid(3, mlp_input=True), "layer|mlp_input"),
        (lambda cache: cache.logit_attrs(cache.decompose_resid(), 19), r"token ids must be 0\.\.18, got \[19\]"),
        (lambda cache: cache.logit_attrs(cache.decompose_resid(), -1), r"token ids must be 0\.\.18, got \[-1\]"),
        (lambda cache: cache.decompose_resid(pos_slice=6), "position.* 6"),
        (lambda cache: cache.decompose_resid(pos_slice=-7), "position.* -7"),
        (lambda cache: cache.decompose_resid(pos_slice=[0, 6]), "position.* 6"),
    ],
)
def test_bad_requests_are_told(cache: ActivationCache, request_of: Callable[[ActivationCache], Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        request_of(cache)


def test_what_was_not_cached_is_named(plain: HookedTransformer) -> None:
    _, cache = plain.run_with_cache(TOKENS, names_filter="embed")
    with pytest.raises(UnknownHook, match=r"hook_pos_embed.* was not cached in this run"):
        cache.decompose_resid()


def test_a_text_answer_needs_a_tokenizer(cache: ActivationCache) -> None:
    with pytest.raises(TokenError, match="no tokenizer"):
        cache.logit_attrs(cache.decompose_resid(), " Mary")


# -------------------------------------------------------------------------------------------------- every architecture

NEARBY = random_tokens(batch=BATCH, pos=POS, d_vocab=19)
TYPES = torch.randint(2, (BATCH, POS), generator=torch.Generator().manual_seed(2))
SUMS: dict[str, dict[str, Any]] = {
    **{name: fields for name, fields in CUSTOM.items() if name != "post-norm"},
    "token-types": dict(n_token_types=2),
    "embed-norm": dict(embed_norm_type="RMS", n_token_types=2, logits_scale=0.3),
    "layer-norms-of-outputs": dict(norm_placement="pre_and_output", residual_scale=0.7, norm_gain_offset=1.0),
}


@pytest.mark.parametrize("name", SUMS)
def test_parts_and_effects_sum_in_every_architecture(name: str) -> None:
    """Parts to the stream of every layer, heads and remainder too; effects to the logit, before its soft cap."""
    model = build(**SUMS[name])
    options = dict(token_type_ids=TYPES) if model.cfg.n_token_types else {}
    with torch.no_grad():
        logits, cache = model.run_with_cache(NEARBY, **options)
    for layer in (1, 2, 3):
        stream = our_logits(model, NEARBY, stop_at_layer=layer, **options)
        assert_close(cache.decompose_resid(layer).sum(0), stream, EXACT)
        assert_close(cache.stack_head_results(layer, incl_remainder=True).sum(0), stream, EXACT)
    cap = model.cfg.output_logits_soft_cap
    before_cap = cap * torch.atanh(logits / cap) if cap else logits
    answers = torch.tensor([7, 3, 18])
    for stack in (cache.decompose_resid(), cache.stack_head_results(incl_remainder=True)):
        effects = cache.logit_attrs(stack, answers, include_bias=True)
        assert_close(effects.sum(0), logit_of(before_cap, answers), EXACT)


@pytest.mark.parametrize("name", ["output-norms", "only-output-norms", "layer-norms-of-outputs"])
def test_heads_of_a_layer_whose_output_is_normalized(name: str) -> None:
    """Each head goes through that norm with the scale of the run: with b_O and the norm's bias they are attn_out."""
    model = build(**SUMS[name])
    _, cache = model.run_with_cache(NEARBY)
    block, rows = model.blocks[1], cache.stack_head_results(2)[4:8]
    bias = block.attn.b_O.detach()
    if block.ln1_post.kind == "LN":
        bias = bias - bias.mean()
    constant = bias / cache["blocks.1.ln1_post.hook_scale"] * block.ln1_post.gain.detach()
    if block.ln1_post.b is not None:
        constant = constant + block.ln1_post.b.detach()
    assert_close(rows.sum(0) + constant * model.cfg.residual_scale, cache["attn_out", 1], EXACT)


def test_the_embeddings_are_one_part_where_they_are_normalized_together() -> None:
    model = build(**SUMS["embed-norm"])
    _, cache = model.run_with_cache(NEARBY, token_type_ids=TYPES)
    parts, labels = cache.decompose_resid(0, return_labels=True)
    assert labels == ["embed"]
    assert torch.equal(parts[0], cache["resid_pre", 0])
    assert build(n_token_types=2).run_with_cache(NEARBY)[1].decompose_resid(0, return_labels=True)[1] == [
        "embed",
        "pos_embed",
        "token_type_embed",
    ]


def test_a_stream_that_is_normalized_after_every_addition_is_no_sum() -> None:
    _, cache = hooked("post-norm").run_with_cache(NEARBY)
    for request_of in (cache.decompose_resid, cache.stack_head_results):
        with pytest.raises(BadInput, match=r"post-norm model .* is no sum of what was written"):
            request_of()
    with pytest.raises(BadInput, match="a masked-LM head is not linear"):
        cache.logit_attrs(cache["normalized_resid_post", -1][None], 3)
    streams, labels = cache.accumulated_resid(return_labels=True)
    assert labels == ["0_pre", "1_pre", "2_pre", "final_post"], "a lens can still read it at each layer"
    assert_close(streams[-1], our_logits(hooked("post-norm"), NEARBY, stop_at_layer=3), EXACT)
