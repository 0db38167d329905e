"""Llama Scope: a folder of hyperparams.json and checkpoints/final.safetensors.

Activations are scaled so that their norm is sqrt(d_model) on average over a data set, whose averages the file has. The
one threshold for all features is in units of pre-activations of what was not scaled, so it is scaled with them.
"""

from __future__ import annotations

from pathlib import Path

import torch

from interp_hooks.dictionaries.activations import JumpReLU
from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.formats.reading import (
    Asked,
    Format,
    entry,
    in_folder,
    read_json,
    read_safetensors,
    refuse_settings,
)
from interp_hooks.dictionaries.single import SAE, Transcoder

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"


def _read(path: Path, asked: Asked) -> Dictionary:
    config, where = read_json(path / CONFIG), path / CONFIG
    refuse_settings(config, {"act_fn": ("jumprelu", "JumpReLU"), "norm_activation": ("dataset-wise",)}, where)
    weights = read_safetensors(path / WEIGHTS)
    norms = entry(config, "dataset_average_activation_norm", dict, where)
    linear = weights.linear("encoder", "decoder")
    d_in, d_out = linear["W_enc"].shape[0], linear["W_dec"].shape[1]
    scale, scale_out = d_in**0.5 / entry(norms, "in", float, where), d_out**0.5 / entry(norms, "out", float, where)
    threshold = entry(config, "jump_relu_threshold", float, where) * scale
    shared = {
        **linear,
        "activation": JumpReLU(torch.tensor(threshold, dtype=linear["W_enc"].dtype)),
        "facts": {"format": "llama-scope", "model_name": config.get("model_name", "meta-llama/Llama-3.1-8B")},
    }
    weights.finish()
    hook, hook_out = (config.get(f"hook_point_{end}") for end in ("in", "out"))
    hook = asked.hook_or(hook, path)
    hook_out = asked.hook_out or hook_out or hook
    if hook_out == hook:
        return SAE(hook=hook, **shared).folded_scale(scale, scale_out)
    return Transcoder(hook_in=hook, hook_out=hook_out, **shared).folded_scale(scale, scale_out)


LLAMA_SCOPE = Format(name="llama-scope", recognises=in_folder(CONFIG, WEIGHTS), read=_read)
