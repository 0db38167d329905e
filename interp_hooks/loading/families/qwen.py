"""Qwen 2 (Yang et al. 2024): Llama with biases on queries, keys and values, and windows in the upper layers if wanted.

Qwen 3 (2025) drops the biases and normalizes the queries and keys of each head, as Hunyuan (Tencent 2025) does, there
after the rotation.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.shared import QK_RMS, head_width, modules, windows

QWEN2 = replace(
    LLAMA,
    model_type="qwen2",
    name="Qwen 1.5, 2, 2.5",
    config=lambda hf: LLAMA.config(hf) | dict(window_sizes=windows(hf), default_prepend_bos=False),
    ignored_config=(
        *LLAMA.ignored_config,
        "use_sliding_window",  # layer_types say what comes of these two
        "max_window_layers",
    ),
    requires={"use_mrope": False},
)

QWEN3 = replace(
    QWEN2,
    model_type="qwen3",
    name="Qwen 3",
    config=lambda hf: QWEN2.config(hf) | QK_RMS,
)


def _hunyuan_config(hf: Any) -> dict[str, Any]:
    fields = LLAMA.config(hf) | QK_RMS | dict(qk_norm_after_rotary=True)
    rope, d_head = hf.rope_parameters, head_width(hf)
    if rope["rope_type"] == "dynamic" and rope.get("alpha"):  # a fixed change of the base after all
        fields |= dict(rotary_base=rope["rope_theta"] * rope["alpha"] ** (d_head / (d_head - 2)), rotary_scaling=None)
    return fields


HUNYUAN = replace(
    LLAMA,
    model_type="hunyuan_v1_dense",
    name="Hunyuan",
    config=_hunyuan_config,
    weights=LLAMA.weights | modules(q_norm="self_attn.query_layernorm", k_norm="self_attn.key_layernorm"),
    ignored_config=(
        *LLAMA.ignored_config,
        "attention_head_dim",  # second names of head_dim and vocab_size
        "org_vocab_size",
        "cla_share_factor",  # how many layers would share keys and values with use_cla
    ),
    requires={"use_qk_norm": True, "use_cla": False, "norm_type": "rms", "use_rotary_pos_emb": True},
)
