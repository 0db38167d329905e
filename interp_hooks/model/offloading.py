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
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp_hooks.errors import BadInput, DiskError, nearest
from interp_hooks.errors.arguments import checked
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.model.network import Network

Place = Callable[[str, Tensor, tuple[int, ...]], Tensor]
"""A function from the name, value and strides of a weight to the value where it is to lie, with these strides."""

BLOCKS = "blocks."
HOMES = ("cpu", "disk")
DROP = 4  # what Linux calls MADV_DONTNEED


def where_it_is(name: str, value: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The value itself, which has these strides already."""
    return value


class Files:
    """Nameless files in a folder, each of which holds one weight of a block.

    All blocks lie there, or those that `device_map` says: "auto" (what is beyond `max_memory["cpu"]`, or beyond what is
    free), or a map from names of modules, ours or the checkpoint's, to "cpu" or "disk".
    """

    @checked
    def __init__(
        self,
        folder: str | Path,
        device_map: str | Mapping[str, Any] | None = None,
        max_memory: Mapping[Any, int | str] | None = None,
    ) -> None:
        if sys.platform != "linux":
            raise BadInput("offload_folder needs Linux, where memory that maps a file can be dropped")
        _check_map(device_map, max_memory)
        self.folder = Path(folder).expanduser()
        self.device_map, self.max_memory = device_map, max_memory
        self.layers: frozenset[int] | None = None  # whose blocks lie in files; None until that is chosen
        self.mapped: dict[int, Tensor] = {}  # by address, which nobody else gets while the memory is held here

    def choose(self, model: Network, called: Mapping[str, Sequence[str]] | None = None) -> None:
        """Settle which blocks of a model lie in files; `called` has other names of its weights, for `device_map`.

        Raises:
            BadInput: a map that leaves weights out, names none, or divides a block.
            ImportError: "auto" needs accelerate, which is not installed.
        """
        if self.device_map is None:
            self.layers = frozenset(range(model.cfg.n_layers))
        elif isinstance(self.device_map, str):
            self.layers = _beyond(model, self.max_memory)
        else:
            names = {name: (name, *(called or {}).get(name, ())) for name, _ in model.named_parameters()}
            self.layers = _on_disk({str(key): str(device) for key, device in self.device_map.items()}, names)

    def place(self, name: str, value: Tensor, strides: tuple[int, ...]) -> Tensor:
        """A weight of a block that is to lie in files in memory that maps one, others in memory of their own."""
        mapped = value.numel() and _layer_of(name) in (self.layers or ())
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


def _layer_of(name: str) -> int | None:
    return int(name.split(".")[1]) if name.startswith(BLOCKS) else None


def _check_map(device_map: str | Mapping[str, Any] | None, max_memory: Mapping[Any, int | str] | None) -> None:
    """Refuse what means nothing where blocks compute on the CPU."""
    where, known = ([device_map], ("auto",)) if isinstance(device_map, str) else ((device_map or {}).values(), HOMES)
    if other := [str(place) for place in where if str(place) not in known]:
        raise BadInput(
            f"blocks in offload_folder compute on the CPU: device_map beside it is 'auto' or maps modules to 'cpu' or "
            f"'disk', got {other[0]!r}. To spread a model over GPUs, leave offload_folder out"
        )
    if max_memory is not None and (device_map != "auto" or {*max_memory} != {"cpu"}):
        raise BadInput(
            "max_memory beside offload_folder is how much of the model may lie in memory, "
            f"as max_memory={{'cpu': '20GB'}} with device_map='auto'; got {dict(max_memory)!r} with {device_map!r}"
        )


def _beyond(model: Network, max_memory: Mapping[Any, int | str] | None) -> frozenset[int]:
    """The layers whose blocks do not fit into memory beside the rest of the model and the blocks before them.

    Where some do not, room is kept for the one that is read.
    """
    try:
        from accelerate import infer_auto_device_map
        from accelerate.utils import get_max_memory
    except ImportError as error:
        raise ImportError("device_map='auto' needs accelerate: pip install accelerate") from error
    try:
        memory = int(get_max_memory(None if max_memory is None else {**max_memory})["cpu"])
    except ValueError as error:
        raise BadInput(f"max_memory must be as {{'cpu': '20GB'}} or a number of bytes: {error}") from error
    room = memory - sum(weight.nbytes for name, weight in model.named_parameters() if _layer_of(name) is None)
    whole = sorted({type(block).__name__ for block in model.blocks})
    blocks = nn.ModuleList(model.blocks)
    homes = infer_auto_device_map(blocks, max_memory={"cpu": max(room, 0)}, no_split_module_classes=whole)
    return frozenset(layer for layer in range(model.cfg.n_layers) if homes.get(str(layer), homes.get("")) == "disk")


def _on_disk(homes: Mapping[str, str], names: Mapping[str, Sequence[str]]) -> frozenset[int]:
    """The layers that a map puts on the disk; `names` are all that each weight is called."""
    used, found = set[str](), defaultdict[int | None, set[str]](set)
    for name, others in names.items():
        keys = [key for key in homes for other in others if f"{other}.".startswith(f"{key}." if key else "")]
        if not keys:
            raise BadInput(f"device_map must say where every weight lies, and says nothing of {' or '.join(others)}")
        used.update(keys)
        found[_layer_of(name)].add(homes[max(keys, key=len)])
    for key in homes.keys() - used:
        every = {".".join(other.split(".")[:n]) for others in names.values() for other in others for n in range(1, 5)}
        raise BadInput(f"device_map names {key!r}, in which no weight of the model lies.{nearest(key, every)}")
    for layer, places in found.items():
        if layer is not None and len(places) > 1:
            raise BadInput(f"device_map divides layer {layer}: a block lies in memory or in files as a whole")
    if "disk" in found[None]:
        raise BadInput("only blocks lie in files: map embeddings, the last norm and the unembedding to 'cpu'")
    return frozenset(layer for layer, places in found.items() if layer is not None and places == {"disk"})


@no_gradients
def offload(model: Network, files: Files) -> None:
    """Let the weights of a model's blocks lie in files, and go through them block by block from now on.

    Which blocks is settled here unless it has been (`Files.choose`).
    """
    if files.layers is None:
        files.choose(model)
    for layer in sorted(files.layers or ()):
        block = model.blocks[layer]
        for name, weight in block.named_parameters():
            if weight.data_ptr() not in files.mapped:
                weight.data = files.place(f"{BLOCKS}{layer}.{name}", weight.data, weight.stride())
        block.register_forward_hook(partial(_dropped, files), always_call=True)


def _dropped(files: Files, block: nn.Module, *_: Any) -> None:
    for weight in block.parameters():
        files.drop(weight)
