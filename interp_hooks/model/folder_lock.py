"""A lock, so that one process at a time writes to a folder.

It is the operating system's lock on a small file, and not the file itself: when its process ends, in whatever way, it
is free. The file says who holds it, and is removed in the end.
"""

import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from interp_hooks.errors import FolderInUse
from interp_hooks.model.tensor_files import on_disk

LOCK = "lock"  # the name of the file, within the folder

if sys.platform == "win32":
    import msvcrt

    def _take(file: int) -> None:
        os.lseek(file, 2**30, os.SEEK_SET)  # beyond the text, which others may then read
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _take(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


_held: set[int] = set()


def _forget_held() -> None:
    """Close the files in a forked child, so that it does not keep a lock when its parent is gone."""
    for file in _held:
        os.close(file)
    _held.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_held)


@contextmanager
def locked(path: Path, folder: Path) -> Iterator[None]:
    """Within the block no other process, and no other thread, is in one about the same `path`: to write to `folder`.

    Where the file system has no locks, a warning says so.

    Raises:
        FolderInUse: another one is.
        DiskError: the file cannot be written.
    """
    file = _opened(path, folder)
    _held.add(file)
    try:
        with suppress(OSError):  # only for whoever is refused
            os.truncate(file, 0)
            os.write(file, f"{_this_process()} since {datetime.now():%Y-%m-%d %H:%M}".encode())
        yield
    finally:
        if file in _held:  # not in a forked child
            _held.discard(file)
            if sys.platform == "win32":
                os.close(file)
            with suppress(OSError):
                path.unlink()
            if sys.platform != "win32":
                os.close(file)


def _opened(path: Path, folder: Path) -> int:
    """The file, with its lock."""
    while True:
        with on_disk(path):
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(file)
        except (BlockingIOError, PermissionError) as error:
            os.lseek(file, 0, os.SEEK_SET)
            holder = os.read(file, 200).decode(errors="replace") or "another process"
            os.close(file)
            raise FolderInUse(
                f"{folder} is being written by {holder}; wait for it, or choose another folder"
            ) from error
        except OSError as error:
            warnings.warn(
                f"{folder} is on a file system without locks ({error.strerror}): nothing but you keeps two processes "
                "from writing there at once",
                stacklevel=4,
            )
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        os.close(file)  # whoever held it has removed it meanwhile


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
