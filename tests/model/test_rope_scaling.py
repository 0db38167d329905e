"""Every rotary scaling of `transformers` gives its numbers, within and beyond the original context, and decoding."""

import copy

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from interp_hooks import KeyValueCache
from interp_hooks.errors import BadInput
from interp_hooks.model.components.positions import DEPENDS_ON_LENGTH
from tests.tiny import _LLAMA, assert_close, build_hf, convert, distance, hf_logits, our_logits, random_tokens

FLOAT32 = 1e-4  # a few hundred roundings, relative to the largest logit

ORIGINAL_CONTEXT = 16
_SHORT, _LONG = [1.0, 1.1, 1.3], [1.5, 2.5, 4.0]
SCALINGS = {
    "linear": dict(factor=3.0),
    "dynamic": dict(factor=3.0),
    "yarn": dict(factor=4.0, original_max_position_embeddings=ORIGINAL_CONTEXT),
    "longrope": dict(
        short_factor=_SHORT, long_factor=_LONG, original_max_position_embeddings=ORIGINAL_CONTEXT, factor=4.0
    ),
    "llama3": dict(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=ORIGINAL_CONTEXT
    ),
    "proportional": dict(partial_rotary_factor=0.7),
}


def scaled_hf(rope_type: str):
    """Dynamic scaling counts from the longest context that the config names; the others know the original one."""
    longest = ORIGINAL_CONTEXT if rope_type in ("dynamic", "linear", "proportional") else 4 * ORIGINAL_CONTEXT
    rope = {"rope_type": rope_type, "rope_theta": 100.0} | SCALINGS[rope_type]
    return build_hf(LlamaConfig(**_LLAMA | dict(max_position_embeddings=longest), rope_parameters=rope))


@pytest.mark.parametrize("length", [5, ORIGINAL_CONTEXT, ORIGINAL_CONTEXT + 1, 3 * ORIGINAL_CONTEXT])
@pytest.mark.parametrize("rope_type", ROPE_INIT_FUNCTIONS)
def test_rope_scaling(rope_type: str, length: int) -> None:
    """Within and beyond the original context. HuggingFace keeps state between lengths, so each has its own model."""
    hf = scaled_hf(rope_type)
    tokens = random_tokens(batch=2, pos=length)
    model = convert(hf, n_ctx=4 * ORIGINAL_CONTEXT)
    assert_close(our_logits(model, tokens), hf_logits(hf, tokens), FLOAT32)


@pytest.mark.parametrize("rope_type", ROPE_INIT_FUNCTIONS)
def test_rope_scaling_matters(rope_type: str) -> None:
    """Otherwise the test above would pass with the scaling ignored."""
    scaled, tokens = scaled_hf(rope_type), random_tokens(batch=2, pos=3 * ORIGINAL_CONTEXT)
    plain = build_hf(LlamaConfig(**_LLAMA, rope_parameters={"rope_type": "default", "rope_theta": 100.0}))
    assert distance(hf_logits(plain, tokens), hf_logits(scaled, tokens)) > 100 * FLOAT32


@pytest.mark.parametrize("rope_type", ROPE_INIT_FUNCTIONS)
def test_scaled_models_can_be_copied(rope_type: str) -> None:
    tokens = random_tokens(batch=1, pos=20)
    model = convert(scaled_hf(rope_type), n_ctx=4 * ORIGINAL_CONTEXT)
    assert torch.equal(our_logits(copy.deepcopy(model), tokens), our_logits(model, tokens))


@pytest.mark.parametrize("rope_type", ROPE_INIT_FUNCTIONS)
def test_rows_of_a_batch_are_scaled_by_their_own_length(rope_type: str) -> None:
    """A short text beside a long one gives what it gives alone."""
    hf, length = scaled_hf(rope_type), 2 * ORIGINAL_CONTEXT
    tokens = random_tokens(batch=2, pos=length)
    place = torch.arange(length)
    for real in (place < torch.tensor([[5], [length]]), place >= torch.tensor([[9], [0]])):
        ours = our_logits(convert(hf, n_ctx=4 * ORIGINAL_CONTEXT), tokens, attention_mask=real)
        for row in range(2):
            alone = hf_logits(scaled_hf(rope_type), tokens[row][real[row]][None])  # HuggingFace keeps state
            assert_close(ours[row][real[row]], alone[0], FLOAT32)


@pytest.mark.parametrize("rope_type", ROPE_INIT_FUNCTIONS)
def test_decoding_across_the_original_context(rope_type: str) -> None:
    """Old keys are used where they still fit; otherwise the pass is refused, and `generate` reads everything again."""
    model = convert(scaled_hf(rope_type), n_ctx=4 * ORIGINAL_CONTEXT)
    tokens, cache = random_tokens(batch=2, pos=ORIGINAL_CONTEXT), KeyValueCache()
    our_logits(model, tokens, past_kv_cache=cache)
    more = random_tokens(batch=2, pos=3, seed=1)
    if rope_type in DEPENDS_ON_LENGTH:
        with pytest.raises(BadInput, match="Read all tokens again with a new cache"):
            our_logits(model, more, past_kv_cache=cache)
        assert cache.length == ORIGINAL_CONTEXT
    else:
        whole = our_logits(model, torch.cat((tokens, more), dim=1))
        assert_close(our_logits(model, more, past_kv_cache=cache), whole[:, -3:], FLOAT32)
    start = tokens[:, : ORIGINAL_CONTEXT - 2]
    greedy = {"do_sample": False, "use_past_kv_cache": False}
    assert torch.equal(model.generate(start, 6, do_sample=False), model.generate(start, 6, **greedy))
