"""Safetensors files that are there as a whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, of which some may share memory or be part of larger ones, in place of what `path` was."""
    there: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        whole = tensor.detach().contiguous()
        memory = whole.untyped_storage()
        shares = memory.data_ptr() in there or memory.nbytes() != whole.nbytes
        apart[name] = whole.clone() if shares else whole
        there.add(memory.data_ptr())
    partial = path.with_name(f"{path.name}.partial")
    save_file(apart, partial, None if metadata is None else dict(metadata))
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)
