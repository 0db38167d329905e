"""What readers of all formats share: files of JSON and tensors, weights by name, and what the caller says beside them.

Tensors of safetensors files are mapped into memory: they are read from disk when something is computed with them, and
of a tensor that is only indexed no more than the rows asked for. Pickles are read as tensors and plain values, so that
no code in them runs.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.errors import BadInput, CheckpointError, UnsupportedConfig, WeightMismatch


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a caller says that a file may leave open: the hooks, and the factor that activations were scaled by."""

    hook: str | None = None
    hook_out: str | None = None
    input_scale: float | None = None

    def hook_or(self, found: str | None, path: Path) -> str:
        """The hook that is read: the caller's, or the one that was found.

        Raises:
            BadInput: neither is there.
        """
        if (hook := self.hook or found) is None:
            raise BadInput(
                f"{path} does not say of which activation it is: pass hook=, such as 'blocks.3.hook_resid_post'"
            )
        return hook

    def hook_out_or(self, found: str | None, path: Path) -> str:
        """The hook that is predicted: the caller's, or the one that was found.

        Raises:
            BadInput: neither is there.
        """
        if (hook := self.hook_out or found) is None:
            raise BadInput(f"{path} does not say what it predicts: pass hook_out=, such as 'blocks.3.hook_mlp_out'")
        return hook


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format: how it is recognised at a path, and how it is read there."""

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Asked], Dictionary]


def in_folder(config: str, weights: str) -> Callable[[Path], bool]:
    """Whether a path is a folder with two such files."""
    return lambda path: (path / config).is_file() and (path / weights).is_file()


class Weights:
    """The tensors of a file by name, each of which has to be taken by its reader."""

    def __init__(self, tensors: Mapping[str, Any], where: Path) -> None:
        self.where, self.left = where, dict(tensors)

    def take(self, *names: str) -> Tensor:
        """The tensor that has one of these names.

        Raises:
            WeightMismatch: there is none, or something else.
        """
        if (found := self.take_or_none(*names)) is None:
            raise WeightMismatch(
                f"{self.where} has no {' or '.join(names)}; it has {', '.join(self.left) or 'nothing'}"
            )
        return found

    def take_or_none(self, *names: str) -> Tensor | None:
        """The same, or None."""
        for name in names:
            if name in self.left:
                found = self.left.pop(name)
                if not isinstance(found, Tensor):
                    raise WeightMismatch(f"{name} in {self.where} must be a tensor, got {type(found).__name__}")
                return found
        return None

    def linear(self, encoder: str, decoder: str) -> dict[str, Any]:
        """The parameters of a dictionary that two linear maps are, with weights [out, in]."""
        matrices = {"W_enc": self.take(f"{encoder}.weight").T, "W_dec": self.take(f"{decoder}.weight").T}
        return matrices | {"b_enc": self.take(f"{encoder}.bias"), "b_dec": self.take(f"{decoder}.bias")}

    def finish(self, ignored: str = "") -> None:
        """Refuse tensors that nobody took, but for those whose names match `ignored`.

        Raises:
            WeightMismatch: there is one.
        """
        if left := [name for name in self.left if not re.fullmatch(ignored, name)]:
            raise WeightMismatch(f"{self.where} has weights that have no place in this dictionary: {', '.join(left)}")


def read_json(path: Path) -> dict[str, Any]:
    """A file of a JSON object.

    Raises:
        CheckpointError: there is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error!s:.300}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(found).__name__}")
    return found


def entry(config: Mapping[str, Any], name: str, kind: type, where: Path, default: Any = None) -> Any:
    """An entry of a config.

    Raises:
        CheckpointError: it is missing, without default, or of another kind.
    """
    found = config.get(name, default)
    number = kind is float and isinstance(found, int)
    if not (isinstance(found, kind) or number) or (kind is not bool and isinstance(found, bool)):
        raise CheckpointError(f"{where} must say {name}, a {kind.__name__}, got {found!r:.60}")
    return found


def read_safetensors(path: Path) -> Weights:
    """The tensors of a safetensors file, mapped into memory.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            return Weights({name: file.get_tensor(name) for name in file.keys()}, path)  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error!s:.300}") from error


def names_in(path: Path) -> set[str]:
    """The names of a safetensors file's tensors; none where it cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return {*file.keys()}
    except (OSError, SafetensorError):
        return set()


def read_npz(path: Path) -> Weights:
    """The arrays of an npz file, as tensors.

    Raises:
        CheckpointError: it cannot be read, or holds pickled objects.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Weights({name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in arrays}, path)
    except Exception as error:  # of zip files, numpy's headers, and torch's dtypes
        raise CheckpointError(f"{path} cannot be read as arrays of numbers: {error!s:.300}") from error


def read_pickle(path: Path) -> Weights:
    """The tensors of a torch file, read as tensors and plain values only.

    Raises:
        CheckpointError: it cannot be read so, or holds something else than named tensors.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be read as tensors and plain values: {error!s:.300}") from error
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path} must hold a state dict, got {type(found).__name__}")
    return Weights({str(name).removeprefix("_orig_mod."): value for name, value in found.items()}, path)


def layer_in(text: str) -> int | None:
    """The layer that a path names as "layer_3", "layers.3", "layer3" or "l3", if it names one."""
    for named in (r"layers?[._]?(\d+)", r"(?<![a-z0-9])[lh][._]?(\d+)"):
        if found := re.findall(named, text.lower()):
            return int(found[-1])
    return None


def refuse_settings(config: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]], where: Path) -> None:
    """Refuse settings of a config with other values than those that are implemented.

    Raises:
        UnsupportedConfig: there is one.
    """
    for name, values in allowed.items():
        if name in config and config[name] not in values:
            known = ", ".join(map(repr, values))
            raise UnsupportedConfig(
                f"{where} sets {name}={config[name]!r}, which is not implemented; known are {known}"
            )


def upcast(tensor: Tensor) -> Tensor:
    """A tensor in float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
