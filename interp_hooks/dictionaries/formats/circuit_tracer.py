"""Sets of circuit-tracer: a folder with a transcoder of every layer, or with a cross-layer transcoder.

    config.yaml                                             which hooks, and for transcoders which files
    layer_3.safetensors                                     W_enc, W_dec [feature, d], b_enc, b_dec, W_skip [out, in]
    W_enc_3.safetensors, W_dec_3.safetensors                W_dec [feature, output, d]; W_skip [in, out], thresholds

Encoders and decoders stay on disk until rows of them are used. Files of the first version had W_dec [d, feature].
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from interp_hooks.dictionaries.activations import Activation, JumpReLU, ReLU
from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.cross_layer import CrossLayerTranscoder
from interp_hooks.dictionaries.formats.reading import Asked, Format, read_npz, read_safetensors
from interp_hooks.errors import CheckpointError

CONFIG = "config.yaml"


def _read(path: Path, asked: Asked) -> Dictionary:
    config = _config(path)
    hooks = {
        end: asked_hook or config.get(f"feature_{end}_hook") or default
        for end, asked_hook, default in (
            ("input", asked.hook, "hook_resid_mid"),
            ("output", asked.hook_out, "hook_mlp_out"),
        )
    }
    facts = {"format": "circuit-tracer", **{name: config[name] for name in ("model_name", "scan") if name in config}}
    layers = _cross_layer(path) if (path / "W_enc_0.safetensors").is_file() else _per_layer(path, config)
    return CrossLayerTranscoder(
        layers_in=tuple(f"blocks.{layer}.{hooks['input']}" for layer in range(len(layers))),
        layers_out=tuple(f"blocks.{layer}.{hooks['output']}" for layer in range(len(layers))),
        W_enc=tuple(one["W_enc"].T for one in layers),
        b_enc=tuple(one["b_enc"] for one in layers),
        W_dec=tuple(one["W_dec"] for one in layers),
        b_dec=tuple(one["b_dec"] for one in layers),
        activations=tuple(one["activation"] for one in layers),
        W_skip=tuple(one["W_skip"] for one in layers),
        facts=facts,
    )


def _config(path: Path) -> Mapping[str, Any]:
    if not (path / CONFIG).is_file():
        return {}
    try:
        found = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path / CONFIG} cannot be read: {error!s:.300}") from error
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path / CONFIG} must hold names with values, got {type(found).__name__}")
    return found


def _cross_layer(path: Path) -> list[dict[str, Any]]:
    layers = len([*path.glob("W_enc_*.safetensors")])
    found = []
    for layer in range(layers):
        encoder = read_safetensors(path / f"W_enc_{layer}.safetensors")
        decoder = read_safetensors(path / f"W_dec_{layer}.safetensors")
        one: dict[str, Any] = {name: encoder.take(f"{name}_{layer}") for name in ("W_enc", "b_enc", "b_dec")}
        one["W_dec"], one["W_skip"] = decoder.take(f"W_dec_{layer}"), encoder.take_or_none(f"W_skip_{layer}")
        one["activation"] = _activation(encoder.take_or_none(f"threshold_{layer}"))
        encoder.finish()
        decoder.finish()
        found.append(one)
    return found


def _per_layer(path: Path, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_transcoder(file) for file in _files(path, config)]


def _files(path: Path, config: Mapping[str, Any]) -> list[Path]:
    """The files of all layers, in their order; what the config names by an address lies in the folder.

    Raises:
        CheckpointError: one is not there, or a layer is missing.
    """
    named: dict[int, Path] = {}
    listed: Any = config.get("transcoders") or [file.name for file in path.glob("layer_*.safetensors")]
    for place, one in enumerate(listed):
        about: Mapping[str, Any] = one if isinstance(one, Mapping) else {"filepath": one}
        told = str(about["filepath"])
        inside = re.sub(r"^hf://[^/]+/[^/]+/|\?.*$", "", told)
        number = re.search(r"layer_(\d+)", inside)
        layer = int(about.get("layer", number[1] if number else place))
        there = [file for file in (path / inside, path / Path(inside).name) if file.is_file()]
        if not there or ".." in Path(inside).parts:
            raise CheckpointError(f"{path / CONFIG} names {told}, which is not in this folder: download it to {inside}")
        named[layer] = there[0]
    if not named or sorted(named) != list(range(len(named))):
        raise CheckpointError(f"{path} must have a transcoder of every layer from 0 on, found {sorted(named)}")
    return [named[layer] for layer in sorted(named)]


def _transcoder(file: Path) -> dict[str, Any]:
    weights = read_npz(file) if file.suffix == ".npz" else read_safetensors(file)
    W_enc, W_dec = weights.take("W_enc"), weights.take("W_dec")
    b_enc, b_dec, skip = weights.take("b_enc"), weights.take("b_dec"), weights.take_or_none("W_skip")
    activation = _activation(weights.take_or_none("threshold", "activation_function.threshold"))
    weights.finish()
    features, d_out = len(b_enc), len(b_dec)
    W_enc = W_enc.T if file.suffix == ".npz" else W_enc  # which is Gemma Scope's
    if W_dec.shape == (d_out, features) and features != d_out:
        W_dec = W_dec.T
    return {
        "W_enc": W_enc,
        "b_enc": b_enc,
        "W_dec": W_dec[:, None],
        "b_dec": b_dec,
        "activation": activation,
        "W_skip": None if skip is None else skip.T,
    }


def _activation(threshold: Tensor | None) -> Activation:
    return ReLU() if threshold is None else JumpReLU(threshold)


def _recognises(path: Path) -> bool:
    several = (path / "W_enc_0.safetensors", path / "layer_0.safetensors")
    return path.is_dir() and ((path / CONFIG).is_file() or any(file.is_file() for file in several))


CIRCUIT_TRACER = Format(name="circuit-tracer", recognises=_recognises, read=_read)
