"""Writing files of tensors (safetensors) or text that are either complete or not there."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to `path`, replacing what was there; some may share memory or be parts of larger ones."""
    there: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        whole = tensor.detach().contiguous()
        memory = whole.untyped_storage()
        shares = memory.data_ptr() in there or memory.nbytes() != whole.nbytes
        apart[name] = whole.clone() if shares else whole
        there.add(memory.data_ptr())
    partial = _beside(path)
    save_file(apart, partial, None if metadata is None else dict(metadata))
    _move(partial, path)


def write_text(path: Path, text: str) -> None:
    """Write text to `path`, replacing what was there."""
    partial = _beside(path)
    partial.write_text(text, encoding="utf-8")
    _move(partial, path)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def _move(partial: Path, path: Path) -> None:
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)
