"""Weights of blocks that lie in files, and in memory only while their layer computes.

    block i of the model --- parameters ---> memory that maps a file      read when the layer runs, dropped when it has
    embeddings, last norm, unembedding                                    in memory

A mapped weight is a tensor like any other: it can be read, hooked around, processed and edited in place, and the system
reads and writes the file. So nothing that works on a model has to know of it. The files have no name: their space is
free again when the process ends, however it ends. Blocks in files compute on the CPU.
"""

import ctypes
import mmap
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp_hooks.errors import BadInput, DiskError
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.model.network import Network

Place = Callable[[str, Tensor, tuple[int, ...]], Tensor]
"""A function from the name, value and strides of a weight to the value where it is to lie, with these strides."""

BLOCKS = "blocks."
DROP = 4  # what Linux calls MADV_DONTNEED


def where_it_is(name: str, value: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The value itself, which has these strides already."""
    return value


class Files:
    """Nameless files in a folder, each of which holds one weight of a block."""

    def __init__(self, folder: str | Path) -> None:
        if sys.platform != "linux":
            raise BadInput("offload_folder needs Linux, where memory that maps a file can be dropped")
        self.folder = Path(folder).expanduser()
        self.mapped: dict[int, Tensor] = {}  # by address, which nobody else gets while the memory is held here

    def place(self, name: str, value: Tensor, strides: tuple[int, ...]) -> Tensor:
        """A weight of a block in memory that maps a file, others in memory of their own."""
        mapped = name.startswith(BLOCKS) and value.numel()
        place = self._room(value, strides) if mapped else torch.empty_strided(value.shape, strides, dtype=value.dtype)
        place.copy_(value)
        self.drop(place)
        return place

    def _room(self, value: Tensor, strides: tuple[int, ...]) -> Tensor:
        """Mapped memory for a value."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file, path = tempfile.mkstemp(dir=self.folder)
        except OSError as error:
            raise DiskError(f"offload_folder={str(self.folder)!r} cannot be written: {error}") from error
        try:
            os.posix_fallocate(file, 0, value.nbytes)  # or a full disk would kill the process when it writes
            flat = torch.from_file(path, shared=True, size=value.numel(), dtype=value.dtype)
        except OSError as error:
            raise DiskError(
                f"offload_folder={str(self.folder)!r} has no room for {value.nbytes} bytes: {error}"
            ) from error
        finally:
            os.close(file)
            os.unlink(path)
        self.mapped[flat.data_ptr()] = flat
        return flat.as_strided(value.shape, strides)

    def drop(self, weight: Tensor) -> None:
        """Let the memory of a mapped weight go; it is read from the file when somebody asks for it."""
        if (room := self.mapped.get(weight.data_ptr())) is not None:
            whole = -(-room.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
            _libc().madvise(ctypes.c_void_p(weight.data_ptr()), ctypes.c_size_t(whole), DROP)


def _libc() -> Any:
    return ctypes.CDLL(None)


@no_gradients
def offload(model: Network, files: Files) -> None:
    """Let all weights of a model's blocks lie in files, and go through them block by block from now on."""
    for layer, block in enumerate(model.blocks):
        for name, weight in block.named_parameters():
            if weight.data_ptr() not in files.mapped:
                weight.data = files.place(f"{BLOCKS}{layer}.{name}", weight.data, weight.stride())
        block.register_forward_hook(partial(_dropped, files), always_call=True)


def _dropped(files: Files, block: nn.Module, *_: Any) -> None:
    for weight in block.parameters():
        files.drop(weight)
