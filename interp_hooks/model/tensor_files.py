"""Writing files of tensors (safetensors) or text that are either complete or not there.

A new file is written in a folder of its own beside its place, `.name.xxxx.partial`, and moved there when it is whole.
Such a folder is left over only if the process is killed meanwhile.
"""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from interp_hooks.errors import BadInput, DiskError

Json = Any
PARTIAL = ".partial"
DIGEST = "sha256"  # in the metadata of files of tensors
REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "there is no more space for you on this disk",
    errno.EFBIG: "the file is larger than files may be there",
    errno.EROFS: "the disk can only be read",
    errno.EACCES: "you may not write there",
    errno.EPERM: "you may not write there",
    errno.ENOENT: "the folder that it belongs to is not there",
    errno.ENOTDIR: "a part of its path is a file",
    errno.EEXIST: "a part of its path is a file",
    errno.EISDIR: "it is a folder",
    errno.ENAMETOOLONG: "the name is too long",
}


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """A block that writes to `path`, in which what the system refuses is told in words.

    Raises:
        DiskError: a file or folder cannot be written.
    """
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        raise DiskError(_refusal(path, error, error.errno)) from error
    except Exception as error:  # libraries in Rust raise errors of their own about what the system refuses
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None and not isinstance(error, SafetensorError):
            raise
        raise DiskError(_refusal(path, error, number and int(number[1]))) from error


def holds(folder: Path, name: str) -> bool:
    """Whether a folder holds a file of that name.

    Raises:
        BadInput: no folder could be called so.
    """
    try:
        return (folder / name).exists()
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None) or 0
        raise BadInput(f"{str(folder)[:300]} cannot be read: {REASONS.get(number, str(error))}") from error


def _refusal(path: Path, error: Exception, number: int | None) -> str:
    return f"{path} cannot be written: {REASONS.get(number or 0, str(error))}"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to `path`, replacing what was there; some may share memory or be parts of larger ones.

    Raises:
        DiskError: the file cannot be written; what was there still is.
    """
    there: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        whole = tensor.detach().contiguous()
        memory = whole.untyped_storage()
        shares = memory.data_ptr() in there or memory.nbytes() != whole.nbytes
        apart[name] = whole.clone() if shares else whole
        there.add(memory.data_ptr())
    with replacing(path) as partial:
        save_file(apart, partial, None if metadata is None else dict(metadata))


def write_with_digest(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as `write_tensors` does, with their digest in the file's metadata."""
    write_tensors(path, tensors, {**(metadata or {}), DIGEST: hash_of(dict(sorted(tensors.items())))})


def read_with_digest(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, compared with their digest if it has one.

    Raises:
        BadInput: it is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            digest = (file.metadata() or {}).get(DIGEST)
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    if digest is not None and hash_of(tensors) != digest:
        raise BadInput(f"{path} cannot be read: its tensors are not those that were written, so it was damaged since")
    return tensors


def hash_of(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """The sha256 of a text and of the tensors' names, dtypes, shapes and numbers."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        flat = flat.as_strided(flat.shape, (1,))  # a single number counts as contiguous with any stride
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write text to `path`, replacing what was there; raises as `write_tensors` does."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place for a file that takes the place of `path` at the end of the block."""
    with on_disk(path):
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent))
        try:
            yield folder / path.name
            _move(folder / path.name, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Remove what writers of files in a folder left over that were killed; nobody may be writing there."""
    for left in folder.glob(f"*{PARTIAL}"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _move(partial: Path, path: Path) -> None:
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)
