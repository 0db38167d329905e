"""gpt-oss (OpenAI 2025): every head has a learned sink, every second layer a window, experts have biases and clamps."""

from dataclasses import replace
from typing import Any

from interp_hooks.errors import UnsupportedConfig
from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.moe import TRAINING_ONLY, in_every_layer
from interp_hooks.loading.families.shared import LAYER, modules, windows

_GATE = 1.702  # the gain in quick_gelu's sigmoid; older versions of transformers have it and the clamp fixed


def _config(hf: Any) -> dict[str, Any]:
    if (gain := getattr(hf, "swiglu_alpha", _GATE)) != _GATE:
        raise UnsupportedConfig(f"swiglu_alpha={gain} is not implemented, only {_GATE}")
    return LLAMA.config(hf) | dict(
        act_fn="quick_gelu",
        mlp_clamp=getattr(hf, "swiglu_limit", 7.0),
        mlp_linear_offset=1.0,
        attn_sinks=True,
        window_sizes=windows(hf),
        experts=in_every_layer(hf, hf.num_local_experts),
    )


GPT_OSS = replace(
    LLAMA,
    model_type="gpt_oss",
    name="gpt-oss",
    config=_config,
    weights=LLAMA.weights
    | modules(router="mlp.router")
    | {
        "blocks.{i}.attn.sinks": f"{LAYER}.self_attn.sinks",
        "blocks.{i}.mlp.experts.W_gate, blocks.{i}.mlp.experts.W_in": (
            f"{LAYER}.mlp.experts.gate_up_proj | e d (n two) -> two e d n"
        ),
        "blocks.{i}.mlp.experts.b_gate, blocks.{i}.mlp.experts.b_in": (
            f"{LAYER}.mlp.experts.gate_up_proj_bias | e (n two) -> two e n"
        ),
        "blocks.{i}.mlp.experts.W_out": f"{LAYER}.mlp.experts.down_proj",
        "blocks.{i}.mlp.experts.b_out": f"{LAYER}.mlp.experts.down_proj_bias",
    },
    ignored_config=(
        *LLAMA.ignored_config,
        *TRAINING_ONLY,
        "experts_per_token",  # second names of num_experts_per_tok and of the yarn's original context
        "initial_context_length",
        "quantization_config",  # published in 4 bits, which are refused where the tensors are not dense again
    ),
)
