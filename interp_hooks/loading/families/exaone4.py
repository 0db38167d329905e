"""EXAONE 4 (LG AI Research 2025): norms on what attention and MLP write, none on what they read.

Queries and keys are normalized. Layers with a window rotate; those that see everything do not, unless no layer has a
window.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import ATTENTION, ENDS, GATED_MLP, LLAMA
from interp_hooks.loading.families.olmo import OUTPUT_NORMS
from interp_hooks.loading.families.qwen import QK_NORM
from interp_hooks.loading.families.shared import rotary_where, windows


def _config(hf: Any) -> dict[str, Any]:
    fields = LLAMA.config(hf) | dict(
        norm_placement="output", qk_norm="shared", qk_norm_type="RMS", window_sizes=windows(hf)
    )
    if hf.sliding_window is None:
        return fields
    return rotary_where([size is not None for size in fields["window_sizes"]], fields)


EXAONE4 = replace(
    LLAMA,
    model_type="exaone4",
    name="EXAONE 4",
    config=_config,
    weights=ENDS | ATTENTION | QK_NORM | GATED_MLP | OUTPUT_NORMS,
    ignored_config=(*LLAMA.ignored_config, "sliding_window_pattern"),  # layer_types say what comes of it
)
