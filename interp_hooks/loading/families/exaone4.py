"""EXAONE 4 (LG AI Research 2025): norms on what attention and MLP write, none on what they read.

Queries and keys are normalized. Layers with a window rotate; those that see everything do not, unless no layer has a
window.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.families.olmo import NORMALIZED_OUTPUTS
from interp_hooks.loading.families.shared import QK_RMS, rotary_where, windows


def _config(hf: Any) -> dict[str, Any]:
    fields = LLAMA.config(hf) | QK_RMS | dict(norm_placement="output", window_sizes=windows(hf))
    return fields if hf.sliding_window is None else rotary_where(windows(hf), fields)


EXAONE4 = replace(
    LLAMA,
    model_type="exaone4",
    name="EXAONE 4",
    config=_config,
    weights=NORMALIZED_OUTPUTS,
    ignored_config=(*LLAMA.ignored_config, "sliding_window_pattern"),  # layer_types say what comes of it
)
