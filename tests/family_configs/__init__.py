"""Tiny HuggingFace configs, one for each way in which a family varies: the members of `tests/test_families.py`.

A module for each lineage has `CONFIGS`, name -> keyword arguments of the HuggingFace config, `model_type` among them.
Each has three layers and sizes that differ from each other, so that mixed-up axes show, and exercises what its family
can do: grouped heads, windows shorter than the tests' 11 tokens, layers with and without rotation or experts, a rotary
scaling beyond its original context. A new family joins the suite by an entry here.

Beside the config's own arguments an entry may say how it is compared:

    exact=True       HuggingFace computes it in float64 throughout (otherwise some steps are float32)
    attention="sdpa" with which attention of HuggingFace's (default: "eager")
    std=0.6          spread of its random parameters (default: 0.2), where their size would leave attention uniform
    pads=False       HuggingFace counts padding as text, so that generation is compared row by row, without padding
    bf16=2.0         how much further from the truth than HuggingFace bfloat16 may be (default: `BF16` of the suite)
"""

import copy
import importlib
import pkgutil
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

D_VOCAB = 61

# What transformers 5.9, the oldest version allowed, cannot compute itself, or calls otherwise, by the start of a name.
_NOT_AT_59 = {
    "cohere2-moe": "its config does not say which layers have experts",
    "deepseek-v2-groups": "its router of groups of experts lacks an attribute",
    "olmo-hybrid": "its tensors have other names",
    "falcon-mamba": "its config sets what later versions have dropped",
    "mamba2": "its config sets what later versions have dropped",
    "granite4": "its config sets what later versions have dropped",
    "bamba": "its config does not name its layers",
    "gemma4": "its config does not give the sizes of each layer",
    "dbrx": "its experts do not fit what they read",
    "aria": "its tensors have other names",
    "nemotron-h": "its config knows no such layers",
    **dict.fromkeys(
        ("neox-japanese-tied", "phi-tied", "nemotron-tied"), "its scaled frequencies do not know of partial rotation"
    ),
}
_NEEDS_A_MASK = ("big-bird", "roformer", "moshi")  # 5.9 lets these decoders see later tokens unless it is given one
AT_59 = version("transformers").startswith("5.9.")
_OURS = ("exact", "bf16", "attention", "std", "pads")

ALL: dict[str, dict[str, Any]] = {}
for _module in pkgutil.iter_modules(__path__):
    ALL.update(importlib.import_module(f"{__name__}.{_module.name}").CONFIGS)

# A type that the installed transformers does not have is simply absent.
CONFIGS = {name: entry for name, entry in ALL.items() if entry["model_type"] in CONFIG_MAPPING_NAMES}


def config(name: str, **changes: Any) -> PreTrainedConfig:
    """The HuggingFace config of that name."""
    values = {key: value for key, value in CONFIGS[name].items() if key not in _OURS} | changes
    return AutoConfig.for_model(**copy.deepcopy(values))  # transformers writes into what it is given


def params(names: Iterable[str] = CONFIGS) -> list[Any]:
    """Names, all by default, as parameters of a test that skips what the oldest transformers cannot compute."""
    reasons = {name: why for name in CONFIGS for start, why in _NOT_AT_59.items() if AT_59 and name.startswith(start)}
    marks = {name: pytest.mark.skip(f"transformers 5.9: {why}") for name, why in reasons.items()}
    return [pytest.param(name, marks=marks.get(name, ())) for name in names]


def mask_options(name: str, tokens: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """The causal mask as an argument of HuggingFace's model, where the installed version forgets to make one."""
    if not (AT_59 and name.startswith(_NEEDS_A_MASK)):
        return {}
    hidden = ~torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
    return {"attention_mask": mask.expand(len(tokens), 1, -1, -1)}


def first_of_each_type() -> list[str]:
    """One name for every `model_type`."""
    names: dict[str, str] = {}
    for name, entry in CONFIGS.items():
        names.setdefault(entry["model_type"], name)
    return list(names.values())
