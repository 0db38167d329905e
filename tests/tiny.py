"""Tiny models whose every parameter is random, and how close two tensors have to be.

HuggingFace's own initial values (norm gains one, biases zero) would hide half of all mapping mistakes, so everything is
drawn anew from N(0, std).
"""

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
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

from interp_hooks import ExpertsConfig, HookedTransformer, HookedTransformerConfig
from interp_hooks.model.indexer_config import IndexerConfig
from interp_hooks.model.mixers_config import MixersConfig

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
    """Draw every parameter from N(0, std), gains and biases included, and the buffers that are biases.

    Tables of sines, which are parameters in some models, stay as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    kept = model.state_dict()
    biases = [buffer for name, buffer in model.named_buffers() if name.endswith("bias") and name in kept]
    tables = {id(part.weight) for part in model.modules() if "Sinusoidal" in type(part).__name__ and part._parameters}
    weights = [*(weight for weight in model.parameters() if id(weight) not in tables), *biases]
    scales = [buffer for name, buffer in model.named_buffers() if name.endswith("layer_scalar")]  # of the stream
    with torch.no_grad():
        for weight in weights:
            drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64) * std
            weight.copy_(drawn)
        for scale in scales:
            scale.copy_(torch.exp(torch.randn(scale.shape, generator=generator)))


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


@contextmanager
def constants_in(dtype: torch.dtype) -> Iterator[None]:
    """Let floating tensors that are made without a dtype have this one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def hf_logits(hf_model: PreTrainedModel, tokens: Tensor, **options: Any) -> Tensor:
    """What HuggingFace computes; in float64, which not every model can mix with float32, so are its constants."""
    with torch.no_grad(), constants_in(torch.promote_types(hf_model.dtype, torch.float32)):
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


EXPERTS = ExpertsConfig(
    n_experts=4,
    experts_per_token=2,
    d_expert=7,
    layers=(False, True, True),
    n_groups=2,
    groups_kept=2,
    biased_choice=True,
    weight_scale=1.5,
    d_shared=6,
    shared_gate=True,
)

# Architectures written out as configs, one for each thing that a component can do.
CUSTOM: dict[str, dict[str, Any]] = {
    "folded": dict(normalization_type="LNPre"),
    "no-norm": dict(normalization_type=None, positional_embedding_type="none", gated_mlp=True),
    "attn-only": dict(attn_only=True, normalization_type="RMSPre"),
    "solu": dict(act_fn="solu_ln"),
    "shortformer": dict(positional_embedding_type="shortformer", act_fn="gelu_ln", normalization_type="LNPre"),
    "bidirectional": dict(attention_dir="bidirectional", n_key_value_heads=1),
    "adjacent-pairs": dict(positional_embedding_type="rotary", rotary_dim=2, rotary_adjacent_pairs=True),
    "alibi-windows": dict(
        positional_embedding_type="alibi", alibi_slopes=(0.5, 0.25, 0.125, 0.0625), window_sizes=(3, None, 2)
    ),
    "sinks-capped": dict(
        attn_sinks=True, output_logits_soft_cap=3.0, logits_scale=0.5, embed_scale=2.0, n_key_value_heads=2
    ),
    "score-cap-clipped": dict(attn_scores_soft_cap=2.0, qkv_clip=0.7, positional_embedding_type="sinusoidal"),
    "output-norms": dict(
        norm_placement="pre_and_output",
        normalization_type="RMS",
        norm_gain_offset=1.0,
        residual_scale=0.5,
        positional_embedding_type="rotary",
        rotary_layers=(
            {"rope_type": "default", "rope_theta": 100.0},
            None,
            {"rope_type": "default", "rope_theta": 9.0},
        ),
        qk_norm="per_head",
        qk_norm_type="LN",
        qk_norm_layers=(True, False, True),
    ),
    "layers-of-their-own": dict(
        normalization_type="RMS",
        norm_placement="pre_and_output",
        positional_embedding_type="rotary",
        d_head_layers=(4, 6, 4),
        n_key_value_heads_layers=(2, 2, 2),
        values_from_keys=(False, True, False),
        v_norm_type="RMS",
        value_scale=0.7,
        stream_scales=(0.5, 3.0, 0.7),
    ),
    "layer-embeddings": dict(
        normalization_type="RMS",
        norm_placement="pre_and_output",
        d_layer_embed=5,
        positional_embedding_type="none",
        stream_scales=(0.5, 3.0, 0.7),
        d_mlp_layers=(20, 20, 24),
    ),
    "streams": dict(
        normalization_type="RMS",
        norm_placement="pre_and_output",
        positional_embedding_type="none",
        n_streams=3,
        laurel_rank=4,
        d_layer_embed=5,
        d_vocab_layer_embed=20,
        gated_mlp=True,
        mlp_sparsity_layers=(0.7, 0.0, 0.4),
    ),
    "recurrence-beside": dict(
        normalization_type="RMS",
        positional_embedding_type="rotary",
        n_key_value_heads=2,
        residual_scale=0.5,
        gated_mlp=True,
        mlp_gate_scale=0.7,
        mlp_out_scale=1.6,
        mixers=MixersConfig(
            layers=("attention",) * 3,
            beside="mamba2",
            n_heads=6,
            n_key_heads=2,
            d_key=5,
            d_value=3,
            taps=3,
            norm_groups=3,
            read_scales=(0.6, 1.2, 0.9, 1.4, 0.8),
            write_scale=0.7,
        ),
    ),
    "borrowed-keys": dict(
        n_key_value_heads=2,
        positional_embedding_type="rotary",
        qk_norm="shared",
        qk_norm_type="RMS",
        keys_values_from=(None, None, 1),
    ),
    "only-output-norms": dict(
        norm_placement="output",
        normalization_type="RMS",
        qk_norm="all_heads",
        qk_norm_type="RMS",
        positional_embedding_type="none",
        embed_norm_type="LN",
    ),
    "shared-norm": dict(
        parallel_attn_mlp=True,
        parallel_shared_norm=True,
        positional_embedding_type="rotary",
        attn_log_scale=(0.5, 3),
        qk_norm="shared",
        qk_norm_type="RMS",
        qk_norm_after_rotary=True,
    ),
    "raw-first-attention": dict(
        first_attn_norm=False,
        attention_dir="bidirectional",
        window_sizes=(3, None, 2),
        positional_embedding_type="none",
    ),
    "post-norm": dict(
        norm_placement="post", n_token_types=2, mlm_head=True, d_unembed=14, attention_dir="bidirectional"
    ),
    "narrow-embeddings": dict(embed_norm_type="LN", d_embed=7, n_token_types=2),
    "experts": dict(gated_mlp=True, act_fn="silu", experts=EXPERTS),
    "plain-experts": dict(
        experts=dataclasses.replace(
            EXPERTS, scores="sigmoid", d_shared=0, shared_gate=False, biased_choice=False, weighted_inputs=True
        )
    ),
    "experts-with-norms": dict(
        gated_mlp=True,
        normalization_type="RMS",
        norm_placement="pre_and_output",
        stream_scales=(0.5, 3.0, 0.7),
        experts=dataclasses.replace(
            EXPERTS, shared_gate=False, own_norms=True, router_scale=0.5, expert_scales=True, layers=(True, False, True)
        ),
    ),
    "indexed": dict(
        positional_embedding_type="rotary",
        rotary_dim=2,
        kv_latent=5,
        q_latent=6,
        d_value=3,
        normalization_type="RMS",
        indexer=IndexerConfig(n_heads=6, d_head=3, top_k=3, layers=(True, True, False), adjacent_pairs=True),
    ),
    "latent": dict(
        positional_embedding_type="rotary", rotary_dim=2, kv_latent=5, q_latent=6, d_value=3, normalization_type="RMS"
    ),
}

ARCHITECTURES = [*FAMILY_CONFIGS, *CUSTOM]


@functools.cache
def hooked(name: str) -> HookedTransformer:
    """The architecture of that name as a `HookedTransformer` in float64; built once, so nobody may change it."""
    if name in CUSTOM:
        return build(**CUSTOM[name])
    return convert(shared_hf(name), dtype=torch.float64)


def in_turn(names: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """Each of these names beside one of the others, which take turns; and the first name beside all of them."""
    first, *rest = names
    others = list(others)
    return [*((first, other) for other in others), *zip(rest, itertools.cycle(others), strict=False)]


@contextmanager
def unchecked_types() -> Iterator[None]:
    """Turn runtime type checks off, so that what the package itself says about a value of a wrong type can be seen."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


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
