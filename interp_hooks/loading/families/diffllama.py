"""DiffLlama (kajuma 2024): Llama with differential attention (Ye et al. 2024).

Two heads of theirs, one from each half of all heads, are one of ours.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import ENDS, LLAMA, MLP, NORMS
from interp_hooks.loading.families.shared import head_width
from interp_hooks.loading.rules import Table
from interp_hooks.model.mixers_config import MixersConfig


def _config(hf: Any) -> dict[str, Any]:
    half = head_width(hf)
    return LLAMA.config(hf) | dict(
        n_heads=hf.num_attention_heads // 2,
        n_key_value_heads=hf.num_key_value_heads // 2,
        d_head=2 * half,
        attn_scale=half**0.5,
        mixers=MixersConfig(layers=("differential",) * hf.num_hidden_layers),
    )


OURS, THEIRS = "blocks.{differential}.attn", "model.layers.{differential}.self_attn"
HEADS: Table = {
    f"{OURS}.W_Q": f"{THEIRS}.q_proj.weight | (two h r) d -> h d (two r)",
    f"{OURS}.b_Q": f"{THEIRS}.q_proj.bias? | (two h r) -> h (two r)",
    f"{OURS}.W_K": f"{THEIRS}.k_proj.weight | (two g r) d -> g d (two r)",
    f"{OURS}.b_K": f"{THEIRS}.k_proj.bias? | (two g r) -> g (two r)",
    f"{OURS}.W_V": f"{THEIRS}.v_proj.weight | (two g r) d -> g d (two r)",
    f"{OURS}.b_V": f"{THEIRS}.v_proj.bias? | (two g r) -> g (two r)",
    f"{OURS}.W_O": f"{THEIRS}.o_proj.weight | d (h w) -> h w d",
    f"{OURS}.b_O": f"{THEIRS}.o_proj.bias?",
    **{f"{OURS}.lambda_{part}": f"{THEIRS}.lambda_{part}" for part in ("q1", "k1", "q2", "k2")},
}

DIFFLLAMA = replace(
    LLAMA,
    model_type="diffllama",
    name="DiffLlama",
    config=_config,
    weights=ENDS | NORMS | MLP | HEADS,
    ignored_config=(*LLAMA.ignored_config, "lambda_std_dev"),  # how lambdas are drawn to begin with
)
