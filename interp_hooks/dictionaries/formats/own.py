"""This package's own: a safetensors file with a digest, whose metadata say what the tensors are parts of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp_hooks.dictionaries.activations import Activation, BatchTopK, Gated, JumpReLU, ReLU, TopK
from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.cross_layer import CrossLayerTranscoder
from interp_hooks.dictionaries.crosscoder import Crosscoder
from interp_hooks.dictionaries.formats.reading import Asked, Format
from interp_hooks.dictionaries.single import SAE, Transcoder
from interp_hooks.errors import BadInput, CheckpointError
from interp_hooks.model.tensor_files import Json, read_with_digest, write_with_digest

ABOUT = "dictionary"  # in the metadata of the file
DICTIONARIES = {one.__name__: one for one in (SAE, Transcoder, CrossLayerTranscoder, Crosscoder)}
ACTIVATIONS = {one.__name__: one for one in (ReLU, TopK, BatchTopK, JumpReLU, Gated)}


def write(path: Path, dictionary: Dictionary) -> None:
    """Write a dictionary to a file.

    Raises:
        BadInput: another ending than .safetensors, or facts that JSON cannot say.
        DiskError: it cannot be written; what was there still is.
    """
    if path.suffix != ".safetensors":
        raise BadInput(f"a file of this package's own ends in .safetensors, got {path.name}")
    try:
        about = json.dumps(_plain(dictionary))
    except TypeError as error:
        raise BadInput(f"the dictionary's facts hold what JSON cannot say: {error}") from error
    write_with_digest(path, dictionary.tensors(), {ABOUT: about})


def _plain(one: Any, name: str = "") -> Json:
    """The structure of a dictionary, with the names of tensors in their places."""
    if isinstance(one, Tensor):
        return {"tensor": name}
    if isinstance(one, tuple):
        return [_plain(part, f"{name}{'.' * bool(name)}{place}") for place, part in enumerate(one)]
    if isinstance(one, Activation | Dictionary):
        before = f"{name}." if name else ""
        parts = {part.name: getattr(one, part.name) for part in dataclasses.fields(one)}  # pyright: ignore
        return {
            "kind": type(one).__name__,
            **{key: dict(part) if key == "facts" else _plain(part, before + key) for key, part in parts.items()},
        }
    return one


def _read(path: Path, asked: Asked) -> Dictionary:
    tensors = read_with_digest(path)
    try:
        about = json.loads(_about(path) or "")
        found = _built(about, tensors)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, BadInput):
            raise
        raise CheckpointError(f"{path} is damaged, or of a later version ({type(error).__name__}: {error})") from error
    assert isinstance(found, Dictionary)
    if asked != Asked():
        raise BadInput(f"{path} says itself of which activations it is; leave out hook=, hook_out= and input_scale=")
    return found


def _built(told: Json, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(told, list):
        return tuple(_built(part, tensors) for part in told)
    if isinstance(told, dict) and "tensor" in told:
        return tensors[told["tensor"]]
    if isinstance(told, dict):
        kind = {**DICTIONARIES, **ACTIVATIONS}[told["kind"]]
        parts = {key: part for key, part in told.items() if key != "kind"}
        return kind(**{key: part if key == "facts" else _built(part, tensors) for key, part in parts.items()})
    return told


def _about(path: Path) -> str | None:
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get(ABOUT)
    except (OSError, SafetensorError):
        return None


def _recognises(path: Path) -> bool:
    return path.is_file() and path.suffix == ".safetensors" and _about(path) is not None


OWN = Format(name="own", recognises=_recognises, read=_read)
