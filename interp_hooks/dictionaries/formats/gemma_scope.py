"""Gemma Scope 1 (params.npz) and 2 (params.safetensors, or a file of each layer of a cross-layer transcoder).

Both are JumpReLU dictionaries that subtract nothing from their input. Version 1 says by the repository's name which
activation it is of: "res", "mlp", "att" (the outputs of all heads, one after the other) or "transcoders", which read
the MLP's normalized input before the norm's gain. SAEs of embeddings are of those before Gemma multiplies them by
sqrt(d_model), which `hook_embed` shows after. A `scaling_factor`, which some files have, must be 1. Version 2 names
modules: its transcoders read the MLP's input after the gain (see `adapted`), and a cross-layer transcoder's decoders
are [feature, layer, d] with zeros for earlier layers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from interp_hooks.dictionaries.activations import JumpReLU
from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.cross_layer import CrossLayerTranscoder
from interp_hooks.dictionaries.formats.reading import (
    Asked,
    Format,
    Weights,
    layer_in,
    names_in,
    read_json,
    read_npz,
    read_safetensors,
    refuse_settings,
)
from interp_hooks.dictionaries.single import SAE, Transcoder
from interp_hooks.errors import CheckpointError

ARRAYS, TENSORS, CONFIG = "params.npz", "params.safetensors", "config.json"
MLP_INPUT, MLP_OUTPUT = "blocks.{}.mlp.hook_in", "blocks.{}.hook_mlp_out"


def _shared(weights: Weights, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "W_enc": weights.take("W_enc", "w_enc"),
        "b_enc": weights.take("b_enc"),
        "W_dec": weights.take("W_dec", "w_dec"),
        "b_dec": weights.take("b_dec"),
        "activation": JumpReLU(weights.take("threshold")),
        "facts": facts,
    }


# ---------------------------------------------------------------------------------------------------------- version 1


def _read_1(path: Path, asked: Asked) -> Dictionary:
    file = path / ARRAYS if path.is_dir() else path
    weights = read_npz(file)
    shared = _shared(weights, {"format": "gemma-scope"})
    scales = weights.take_or_none("scaling_factor")
    if scales is not None and not bool((scales == 1).all()):
        raise CheckpointError(f"{file} scales its features by a scaling_factor other than 1, which is not read")
    weights.finish()
    text = str(file.absolute())
    layer, embeds = layer_in(str(file.parent)), "embedding" in text
    kind = re.search(r"transcoder|(?<![a-z])(?:res|mlp|att)(?![a-z])", text.lower())
    if asked.hook_out is not None or (kind is not None and kind[0] == "transcoder"):
        hook = None if layer is None else f"blocks.{layer}.ln2.hook_normalized"
        out = None if layer is None else MLP_OUTPUT.format(layer)
        return Transcoder(hook_in=asked.hook_or(hook, file), hook_out=asked.hook_out_or(out, file), **shared)
    places = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
    hook = "hook_embed" if embeds else None
    if kind is not None and layer is not None and not embeds:
        hook = f"blocks.{layer}.{places[kind[0]]}"
    sae = SAE(hook=asked.hook_or(hook, file), **shared)
    return sae.folded_scale(sae.d_in**-0.5) if embeds else sae


def _is_1(path: Path) -> bool:
    return path.suffix == ".npz" if path.is_file() else (path / ARRAYS).is_file()


# ---------------------------------------------------------------------------------------------------------- version 2


def _read_2(path: Path, asked: Asked) -> Dictionary:
    if layers := _layers(path):
        return _cross_layer(layers)
    file = path / TENSORS if path.is_dir() else path
    weights = read_safetensors(file)
    about = file.parent / CONFIG
    config = read_json(about) if about.is_file() else {}
    refuse_settings(config, {"architecture": ("jump_relu",)}, about)
    shared = _shared(weights, {"format": "gemma-scope-2", "model_name": config.get("model_name")})
    skip = weights.take_or_none("affine_skip_connection")
    weights.finish()
    hook_in, hook_out = (_place(config.get(f"hf_hook_point_{end}")) for end in ("in", "out"))
    if hook_in is None and (layer := layer_in(str(file.parent))) is not None:
        hook_in, hook_out = _by_folder(str(file.parent), layer)
    out = asked.hook_out or hook_out
    hook = asked.hook_or(hook_in, file)
    if out is None or out == hook:
        return SAE(hook=hook, **shared)
    return Transcoder(hook_in=hook, hook_out=out, W_skip=skip, **shared)


def _place(module: Any) -> str | None:
    """The hook of what a module of Gemma 3 reads or gives, by the name in the config."""
    found = re.fullmatch(r"model\.(?:language_model\.)?layers\.(\d+)\.(.*)", str(module))
    if found is None:
        return None
    places = {
        "output": "hook_resid_post",
        "pre_feedforward_layernorm.output": "mlp.hook_in",
        "post_feedforward_layernorm.output": "hook_mlp_out",
        "self_attn.o_proj.input": "attn.hook_z",
    }
    return f"blocks.{found[1]}.{places[found[2]]}" if found[2] in places else None


def _by_folder(folder: str, layer: int) -> tuple[str | None, str | None]:
    if "transcoder" in folder:
        return MLP_INPUT.format(layer), MLP_OUTPUT.format(layer)
    places = {"resid_post": "hook_resid_post", "attn_out": "attn.hook_z", "mlp_out": "hook_mlp_out"}
    kind = next((place for name, place in places.items() if name in folder), None)
    return (None if kind is None else f"blocks.{layer}.{kind}"), None


def _layers(path: Path) -> dict[int, Path]:
    """The files of a cross-layer transcoder, by layer."""
    found = {}
    for file in path.glob("*layer_*.safetensors") if path.is_dir() else ():
        if (layer := re.search(r"layer_(\d+)\.safetensors$", file.name)) and "w_enc" in names_in(file):
            found[int(layer[1])] = file
    return dict(sorted(found.items()))


def _cross_layer(files: dict[int, Path]) -> CrossLayerTranscoder:
    if [*files] != list(range(len(files))):
        raise CheckpointError(f"there must be a file for every layer from 0 on; there are those of {[*files]}")
    each = [read_safetensors(file) for file in files.values()]
    skips = tuple(weights.take_or_none("affine_skip_connection") for weights in each)
    shared = [_shared(weights, {}) for weights in each]
    for weights in each:
        weights.finish()
    for layer, one in enumerate(shared):
        if one["W_dec"].ndim != 3 or one["W_dec"].shape[1] != len(files):
            raise CheckpointError(
                f"w_dec of {files[layer]} must be [feature, {len(files)} layers, d], got {list(one['W_dec'].shape)}"
            )
    return CrossLayerTranscoder(
        layers_in=tuple(map(MLP_INPUT.format, files)),
        layers_out=tuple(map(MLP_OUTPUT.format, files)),
        W_enc=tuple(one["W_enc"] for one in shared),
        b_enc=tuple(one["b_enc"] for one in shared),
        W_dec=tuple(one["W_dec"][:, layer:] for layer, one in enumerate(shared)),
        b_dec=tuple(one["b_dec"] for one in shared),
        activations=tuple(one["activation"] for one in shared),
        W_skip=skips,
        facts={"format": "gemma-scope-2"},
    )


def _is_2(path: Path) -> bool:
    if path.is_dir():
        return bool(_layers(path)) or "w_enc" in names_in(path / TENSORS)
    return path.suffix == ".safetensors" and "w_enc" in names_in(path)


GEMMA_SCOPE = Format(name="gemma-scope", recognises=_is_1, read=_read_1)
GEMMA_SCOPE_2 = Format(name="gemma-scope-2", recognises=_is_2, read=_read_2)
