"""Which of transformers' models convert: `python -m tests.coverage_of_families [causal|masked|image] [TYPE ...]`.

Every model type of transformers' mapping is built with a few small layers and random parameters, converted, and
compared; of models that read images too ("image"), the language model. A line tells what came of it:

    exact      log-probabilities within 1e-4 (relative) of HuggingFace's, in float32
    refused    no family converts it, or the family does not implement what the config says; the message tells which
    DIFFERS    converted, with other numbers: a fault
    FAILS      neither converted nor refused in words: a fault
    not built  transformers makes no model from the small config (its encoder, say, needs more than sizes), or runs none

Types with members in `tests/family_configs` take the first of these; others the default config with small sizes.
"""

import copy
import sys
import warnings
from collections import Counter
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMaskedLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging

from interp_hooks.errors import InterpHooksError
from tests import family_configs
from tests.tiny import convert, distance, hf_logits, log_probs, our_logits, random_tokens, redraw

HEADS = {
    "causal": (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, AutoModelForCausalLM),
    "masked": (MODEL_FOR_MASKED_LM_MAPPING_NAMES, AutoModelForMaskedLM),
    "image": (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, AutoModelForImageTextToText),
}
ALLOWED = 1e-4

# Small sizes under all names that configs have for them.
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "num_blocks")
_HEADS = ("num_attention_heads", "num_heads", "n_head", "n_heads", "encoder_attention_heads", "decoder_attention_heads")
SMALL: dict[str, Any] = {
    **dict.fromkeys(_LAYERS, 4),
    **dict.fromkeys(_HEADS, 4),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "dim", "embedding_size", "emb_size"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_inner", "dff", "n_inner", "dim_ff", "hidden_dim"), 40),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size", "ffn_hidden_size"), 24),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx"), 64),
    **dict.fromkeys(("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("head_dim", "attention_head_dim", "v_head_dim", "kv_channels", "global_head_dim"), 8),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "kv_lora_rank", "dim_head"), 8),
    **dict.fromkeys(("embed_dim", "out_hidden_size", "vision_output_dim", "projector_output_dim"), 32),
    "depth": 2,
    "q_lora_rank": 12,
    "num_key_value_heads": 2,
    "vocab_size": 61,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sliding_window": 4,
}


# How many pairs of a head of 8 dimensions turn by each of three coordinates, where there are three.
SECTIONS = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen2_5_omni_thinker", "qwen3_vl", "qwen3_vl_moe"), (1, 1, 2)),
    **dict.fromkeys(("glm4v", "glm46v", "glmga", "glm_ocr"), (1, 1, 2)),
    "glm4v_moe": (1, 1, 0),
}


def small(model_type: str) -> Any:
    """The default config of a type, with small sizes in it and in the configs within it."""
    kind = CONFIG_MAPPING[model_type]
    fields = _small_fields(kind())
    if model_type in SECTIONS:
        rope = kind().text_config.rope_parameters
        fields["text_config"]["rope_parameters"] = rope | {"mrope_section": [*SECTIONS[model_type]]}
    return kind(**fields)


def _small_fields(default: Any) -> dict[str, Any]:
    there = default.to_dict()
    fields = {name: value for name, value in SMALL.items() if there.get(name) is not None or name.endswith("token_id")}
    for name in default.sub_configs:
        if (within := getattr(default, name, None)) is not None:
            fields[name] = _small_fields(within)
    return fields


def build(model_type: str, auto_class: Any) -> PreTrainedModel:
    """A model of that type with few and random parameters."""
    members = [name for name, entry in family_configs.CONFIGS.items() if entry["model_type"] == model_type]
    config = family_configs.config(members[0]) if members else small(model_type)
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    model = auto_class.from_config(config).eval()
    redraw(model)
    return model


def outcome(model_type: str, auto_class: Any) -> tuple[str, str]:
    """What comes of a type: the word for it, and why."""
    tokens = random_tokens(batch=2, pos=9).clamp(min=3)
    try:
        hf_model = build(model_type, auto_class)
        theirs = hf_logits(hf_model, tokens)
    except Exception as error:
        return "not built", f"{type(error).__name__}: {error}"
    try:
        model = convert(hf_model)
    except InterpHooksError as error:
        return "refused", str(error)
    except Exception as error:
        return "FAILS", f"{type(error).__name__}: {error}"
    error = distance(log_probs(our_logits(model, tokens)), log_probs(theirs))
    return ("exact" if error <= ALLOWED else "DIFFERS"), f"{error:.0e}"


def main(which: str = "causal", *asked: str) -> None:
    """Print a line for each type, and how many of each outcome there are."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    names, auto_class = HEADS[which]
    counts: Counter[str] = Counter()
    for model_type in asked or names:
        word, why = outcome(model_type, auto_class)
        counts[word] += 1
        print(f"{word:<9}  {model_type:<28}  {' '.join(why.split()):.150}", flush=True)
    print(", ".join(f"{count} {word}" for word, count in counts.most_common()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
