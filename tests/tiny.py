"""Tiny models whose every parameter is random, and how close two tensors have to be.

HuggingFace's own initial values (norm gains one, biases zero) would hide half of all mapping mistakes, so everything is
drawn anew from N(0, std).
"""

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jaxtyping
import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from interp_hooks import HookedTransformer, HookedTransformerConfig

SHARED = Path(__file__).resolve().parents[2] / "shared"

D_VOCAB = 61

_GPT2 = dict(n_layer=3, n_embd=24, n_head=3, n_positions=32, vocab_size=D_VOCAB, bos_token_id=0, eos_token_id=0)
_NEOX = dict(
    num_hidden_layers=3,
    hidden_size=32,
    num_attention_heads=4,
    intermediate_size=48,
    vocab_size=D_VOCAB,
    max_position_embeddings=32,
)
_LLAMA = dict(
    num_hidden_layers=3,
    hidden_size=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=40,
    vocab_size=D_VOCAB,
    max_position_embeddings=32,
)


def _rope(fraction: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": fraction}


# One line for each way in which a supported family varies. Keyword arguments of the HuggingFace config.
FAMILY_CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "gpt2": functools.partial(GPT2Config, **_GPT2, tie_word_embeddings=False),
    "gpt2-tied-scaled": functools.partial(
        GPT2Config,
        **_GPT2
        | dict(
            tie_word_embeddings=True,
            n_inner=40,
            activation_function="relu",
            scale_attn_weights=False,
            scale_attn_by_inverse_layer_idx=True,
        ),
    ),
    "neox": functools.partial(GPTNeoXConfig, **_NEOX, rope_parameters=_rope(0.5)),
    "neox-serial": functools.partial(
        GPTNeoXConfig, **_NEOX, rope_parameters=_rope(1.0), use_parallel_residual=False, attention_bias=False
    ),
    "llama": functools.partial(LlamaConfig, **_LLAMA),
    "llama-biases": functools.partial(LlamaConfig, **_LLAMA | dict(head_dim=10), attention_bias=True, mlp_bias=True),
    "llama-tied-ungrouped": functools.partial(
        LlamaConfig, **_LLAMA | dict(num_key_value_heads=4), tie_word_embeddings=True
    ),
}

MODEL_CLASS = {"gpt2": GPT2LMHeadModel, "gpt_neox": GPTNeoXForCausalLM, "llama": LlamaForCausalLM}


def redraw(model: nn.Module, seed: int = 0, std: float = 0.2) -> None:
    """Draw every parameter from N(0, std), gains and biases included, and the buffers that are biases."""
    generator = torch.Generator().manual_seed(seed)
    kept = model.state_dict()
    weights = [*model.parameters(), *(buffer for name, buffer in model.named_buffers() if name.endswith("bias") and name in kept)]
    with torch.no_grad():
        for weight in weights:
            drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64) * std
            weight.copy_(drawn)


def build_hf(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A HuggingFace model with random parameters, in evaluation mode."""
    model = MODEL_CLASS[config.model_type](config).eval()
    redraw(model, seed)
    return model


@functools.cache
def shared_hf(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The family member of that name; built once, so nobody may change it."""
    return build_hf(FAMILY_CONFIGS[name]()).to(dtype)


def fresh_hf(name: str) -> PreTrainedModel:
    """A copy of the family member that the test may change."""
    return copy.deepcopy(shared_hf(name))


def convert(hf_model: PreTrainedModel, **options: Any) -> HookedTransformer:
    """The converted model without processing, in the dtype of `hf_model`."""
    options = {"dtype": hf_model.dtype} | options
    return HookedTransformer.from_pretrained_no_processing("tiny", hf_model=hf_model, **options)


def hf_logits(hf_model: PreTrainedModel, tokens: Tensor, **options: Any) -> Tensor:
    with torch.no_grad():
        return hf_model(tokens, use_cache=False, return_dict=True, **options).logits


def our_logits(model: HookedTransformer, tokens: Tensor, **options: Any) -> Tensor:
    with torch.no_grad():
        return model(tokens, **options)


def random_tokens(batch: int = 2, pos: int = 7, d_vocab: int = D_VOCAB, seed: int = 0) -> Tensor:
    return torch.randint(d_vocab, (batch, pos), generator=torch.Generator().manual_seed(seed))


def build(seed: int = 0, std: float = 0.4, **fields: Any) -> HookedTransformer:
    """A `HookedTransformer` of 3 small layers with random parameters, float64 unless told otherwise.

    Head width times heads is not d_model, and the output vocabulary is not the input's, so that mixed-up axes show.
    """
    sizes = dict(n_layers=3, d_model=12, n_ctx=9, d_vocab=23, d_vocab_out=19, n_heads=4, d_head=4)
    defaults = dict(dtype=torch.float64, act_fn=None if fields.get("attn_only") else "gelu")
    if not fields.get("attn_only"):
        defaults["d_mlp"] = 20
    model = HookedTransformer(HookedTransformerConfig(**sizes | defaults | fields)).eval()
    redraw(model, seed, std)
    return model


# Architectures that no supported family has, beside those of FAMILY_CONFIGS.
CUSTOM: dict[str, dict[str, Any]] = {
    "folded": dict(normalization_type="LNPre"),
    "no-norm": dict(normalization_type=None, positional_embedding_type="none", gated_mlp=True),
    "attn-only": dict(attn_only=True, normalization_type="RMSPre"),
    "bidirectional": dict(attention_dir="bidirectional", n_key_value_heads=1),
    "adjacent-pairs": dict(positional_embedding_type="rotary", rotary_dim=2, rotary_adjacent_pairs=True),
}

ARCHITECTURES = [*FAMILY_CONFIGS, *CUSTOM]


@functools.cache
def hooked(name: str) -> HookedTransformer:
    """The architecture of that name as a `HookedTransformer` in float64; built once, so nobody may change it."""
    if name in CUSTOM:
        return build(**CUSTOM[name])
    return convert(shared_hf(name), dtype=torch.float64)


@contextmanager
def unchecked_types() -> Iterator[None]:
    """Turn runtime type checks off, so that what the package itself says about a value of a wrong type can be seen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def distance(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert ours.shape == theirs.shape, f"shapes {list(ours.shape)} and {list(theirs.shape)}"
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).abs().max() / theirs.abs().max())


def assert_close(ours: Tensor, theirs: Tensor, within: float) -> None:
    found = distance(ours, theirs)
    assert found <= within, f"relative difference {found:.3g}, allowed {within:.3g}"


def log_probs(logits: Tensor) -> Tensor:
    return logits.double().log_softmax(-1)
