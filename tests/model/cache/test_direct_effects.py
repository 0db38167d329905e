"""That effects add up to the model's own logits, before and after folding its norms."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import ActivationCache
from interp_hooks.errors import BadInput, TokenError
from interp_hooks.hooks.slices import Slice, SliceInput
from tests.model.cache.runs_to_decompose import (
    BATCH,
    EXACT,
    KINDS,
    NEARBY,
    POS,
    SUMS,
    TOKENS,
    Ran,
    built,
    entering,
    logit_of,
    ran,
    ran_in,
)
from tests.tiny import assert_close, hooked, random_tokens


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest) -> Ran:
    return ran(request.param)


@pytest.fixture(scope="module")
def cache() -> ActivationCache:
    return ran("LN")[1]


def take(tensor: Tensor, where: SliceInput, dim: int) -> Tensor:
    return Slice(where).apply(tensor, dim)


# --------------------------------------------------------------------------------------------------------------- norms


def test_a_norm_is_linear_once_its_scale_is_fixed(run: Any) -> None:
    _model, cache, _ = run
    stack = torch.randn(2, BATCH, POS, 12, dtype=torch.float64)
    one = cache.apply_ln_to_stack(stack)
    assert_close(cache.apply_ln_to_stack(3 * stack), 3 * one, EXACT)
    assert_close(cache.apply_ln_to_stack(stack.sum(0, keepdim=True)), one.sum(0, keepdim=True), EXACT)


@pytest.mark.parametrize("layer", [1, None])
def test_recomputed_statistics_take_each_row_for_a_stream(run: Any, layer: int | None) -> None:
    """With its own scale, and the bias."""
    model, cache, _ = run
    stack = torch.randn(2, BATCH, POS, 12, dtype=torch.float64)
    norm = model.ln_final if layer is None else model.blocks[layer].ln1
    expected = stack
    if norm.kind is not None:
        expected = stack - stack.mean(-1, keepdim=True) if norm.kind.startswith("LN") else stack
        expected = expected / (expected.square().mean(-1, keepdim=True) + model.cfg.eps).sqrt()
        expected = expected if norm.w is None else expected * norm.w.detach()
        expected = expected if norm.b is None else expected + norm.b.detach()
    assert_close(cache.apply_ln_to_stack(stack, layer, recompute_ln=True), expected, EXACT)
    sliced = cache.apply_ln_to_stack(stack, layer, batch_slice=[2, 0], recompute_ln=True)
    assert_close(sliced, expected[:, [2, 0]], EXACT)


@pytest.mark.parametrize("mlp_input", [False, True])
@pytest.mark.parametrize("layer", [0, 2, 3, -1, None])
def test_the_scale_is_that_of_the_norm_that_reads_the_layer(layer: int | None, mlp_input: bool) -> None:
    for kind in ("LN", "RMS", "LN folded"):
        model, cache, _ = ran(kind)
        if mlp_input and layer not in (0, 2):
            continue
        inner = layer in (0, 2)
        norm = (model.blocks[layer].ln2 if mlp_input else model.blocks[layer].ln1) if inner else model.ln_final
        scale = cache[f"blocks.{layer}.ln{1 + mlp_input}.hook_scale" if inner else "ln_final.hook_scale"]
        part = torch.randn(BATCH, POS, 12, dtype=torch.float64)
        expected = (part - part.mean(-1, keepdim=True) if kind.startswith("LN") else part) / scale
        expected = expected if norm.w is None else expected * norm.w.detach()
        assert_close(cache.apply_ln_to_stack(part[None], layer, mlp_input)[0], expected, EXACT)
        assert_close(cache.apply_ln_to_stack(part, layer, mlp_input), expected, EXACT)  # no axis of parts
        assert_close(cache.apply_ln_to_stack(part[None, None], layer, mlp_input)[0, 0], expected, EXACT)  # or two


@pytest.mark.parametrize("where", [None, 4, -1, (1, 4), [4, 1]])
@pytest.mark.parametrize("prompts", [None, 1, -1, [2, 0], (0, 2), torch.tensor([True, False, True])])
def test_a_stack_goes_through_the_batch_slice_here(where: Any, prompts: Any) -> None:
    """As a stack through `pos_slice`, which `decompose_resid` took, goes here."""
    _, cache, _ = ran("LN")
    parts = cache.decompose_resid()
    whole = cache.apply_ln_to_stack(parts)
    expected = take(take(whole, where, 2), prompts, 1)
    stack = cache.decompose_resid(pos_slice=where)
    assert_close(cache.apply_ln_to_stack(stack, pos_slice=where, batch_slice=prompts), expected, EXACT)
    again = cache.apply_ln_to_stack(stack, pos_slice=Slice(where), batch_slice=Slice(prompts))
    assert_close(again, expected, EXACT)


@pytest.mark.parametrize("where", [None, -1, (1, 4)])
def test_a_stack_of_one_prompt(where: Any) -> None:
    _, cache, _ = ran("LN")
    whole = take(cache.apply_ln_to_stack(cache.decompose_resid()), where, 2)
    one = cache.decompose_resid(pos_slice=where)[:, 1]
    options = dict(pos_slice=where, has_batch_dim=False)
    assert_close(cache.apply_ln_to_stack(one, batch_slice=1, **options), whole[:, 1], EXACT)
    single = cache.apply_slice_to_batch_dim([1])
    assert_close(single.apply_ln_to_stack(one, **options), whole[:, 1], EXACT)
    without = cache.apply_slice_to_batch_dim(1)
    assert_close(without.apply_ln_to_stack(one, **options), whole[:, 1], EXACT)
    assert_close(without.apply_ln_to_stack(one, pos_slice=where), whole[:, 1], EXACT)


# --------------------------------------------------------------------------------------------------- effects on logits

ANSWERS: dict[str, Any] = {
    "one token for all": 7,
    "one token per prompt": torch.tensor([7, 3, 18]),
    "a list": [7, 3, 18],
    "one per position": random_tokens(batch=BATCH, pos=POS, d_vocab=19),
}


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
        of_these = sliced(answer) if isinstance(answer, Tensor) and answer.ndim == 2 else answer
        stack = cache.decompose_resid(pos_slice=where)
        effects = cache.logit_attrs(stack, of_these, pos_slice=where, include_bias=True)
        assert_close(effects.sum(0), sliced(logit_of(logits, answer)), EXACT)


@pytest.mark.parametrize("prompts", [1, [2, 0], (0, 2), [2, 0, 1]])
@pytest.mark.parametrize("where", [None, -1])
def test_batch_slices(run: Any, prompts: Any, where: Any) -> None:
    """The stack is of all prompts, tokens are of those that are returned."""
    _, cache, logits = run
    stack, answers = cache.decompose_resid(pos_slice=where), torch.tensor([7, 3, 18])
    options = dict(pos_slice=where, batch_slice=prompts, include_bias=True)
    expected = take(take(logit_of(logits, answers), where, 1), prompts, 0)
    effects = cache.logit_attrs(stack, take(answers, prompts, 0), **options)
    assert_close(effects.sum(0), expected, EXACT)
    difference = cache.logit_attrs(stack, take(answers, prompts, 0), 5, **options)
    expected = expected - take(take(logit_of(logits, 5), where, 1), prompts, 0)
    assert_close(difference.sum(0), expected, EXACT)


def test_rows_are_parts_times_a_column_of_W_U() -> None:
    for kind in ("LN", "RMS", "LN folded", "RMS folded"):
        model, cache, _ = ran(kind)
        part, scale = cache["blocks.1.hook_attn_out"], cache["ln_final.hook_scale"]
        part = (part - part.mean(-1, keepdim=True) if kind.startswith("LN") else part) / scale
        gain = 1.0 if model.ln_final.w is None else model.ln_final.w.detach()
        by_hand = part * gain @ (model.W_U[:, 7] - model.W_U[:, 3]).detach()
        effects = cache.logit_attrs(cache["blocks.1.hook_attn_out"][None], 7, 3)
        assert_close(effects[0], by_hand, EXACT)


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


def test_a_text_answer_needs_a_tokenizer(cache: ActivationCache) -> None:
    with pytest.raises(TokenError, match="no tokenizer"):
        cache.logit_attrs(cache.decompose_resid(), " Mary")


@pytest.mark.parametrize("name", SUMS)
def test_effects_sum_to_the_logit_in_every_architecture(name: str) -> None:
    """Before its soft cap."""
    _, cache, logits = ran_in(name)
    answers = torch.tensor([7, 3, 18])
    for stack in (
        cache.decompose_resid(),
        cache.stack_head_results(incl_remainder=True),
        cache.get_full_resid_decomposition(expand_neurons=False),
    ):
        effects = cache.logit_attrs(stack, answers, include_bias=True)
        assert_close(effects.sum(0), logit_of(logits, answers), EXACT)


# -------------------------------------------------------------------------------------------------------- bad requests


def parts(cache: ActivationCache) -> Tensor:
    return cache.decompose_resid()


@pytest.mark.parametrize(
    ("request_of", "said"),
    [
        (lambda cache: cache.logit_attrs(parts(cache), 19), r"token ids must be 0\.\.18, got \[19\]"),
        (lambda cache: cache.logit_attrs(parts(cache), -1), r"token ids must be 0\.\.18, got \[-1\]"),
        (lambda cache: cache.logit_attrs(parts(cache), [1, 2]), r"\[batch=3, pos=6\], got shape \[2\]"),
        (lambda cache: cache.logit_attrs(parts(cache), [[1, 2]] * 3), r"\[batch=3, pos=6\], got shape \[3, 2\]"),
        (lambda cache: cache.logit_attrs(parts(cache), 1, [1, 2]), r"got shape \[2\]"),
        (lambda cache: cache.logit_attrs(parts(cache), [1, 2, 3], batch_slice=[0, 1]), r"batch=2.* shape \[3\]"),
        (lambda cache: cache.logit_attrs(parts(cache)[:, :, -1], [1, 2, 3]), r"\[..., 3, 6, 12\]"),
        (lambda cache: cache.apply_ln_to_stack(parts(cache), pos_slice=-1), r"\[..., 3, 12\]"),
        (lambda cache: cache.apply_ln_to_stack(parts(cache)[:, :2]), r"\[..., 3, 6, 12\]"),
        (lambda cache: cache.apply_ln_to_stack(parts(cache)[:, :2], batch_slice=(0, 2)), "among the 3 prompts"),
        (lambda cache: cache.apply_ln_to_stack(parts(cache)[:3, 1], batch_slice=1), "among the 3 prompts"),
        (lambda cache: cache.apply_ln_to_stack(parts(cache)[:, 1], has_batch_dim=False), "one of the 3 prompts"),
        (
            lambda cache: cache.apply_ln_to_stack(parts(cache), batch_slice=(0, 1), has_batch_dim=False),
            "one of the 3 prompts",
        ),
        (lambda cache: cache.apply_ln_to_stack(parts(cache), batch_slice=3), "3 is out of range for an axis of 3"),
        (
            lambda cache: cache.apply_slice_to_batch_dim(0).apply_ln_to_stack(parts(cache), batch_slice=1),
            "which this cache has lost",
        ),
        (lambda cache: cache.apply_ln_to_stack(parts(cache), 3, True), "mlp_input"),
    ],
)
def test_bad_requests_are_told(cache: ActivationCache, request_of: Callable[[ActivationCache], Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        request_of(cache)


def test_a_masked_head_is_not_linear() -> None:
    _, cache = hooked("post-norm").run_with_cache(NEARBY)
    with pytest.raises(BadInput, match="a masked-LM head is not linear"):
        cache.logit_attrs(cache["normalized_resid_post", -1][None], 3)
