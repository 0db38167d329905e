"""Where a wiki is written: beside its place, so that `out` holds a whole wiki or what it held before.

out.partial/scan     the scan, which goes on there if it was killed
out.partial/wiki     the wiki while it is written; moved to `out` in the end
out.partial/old      what was at `out`, for the moment in which the two change places
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from interp_hooks.corpus.store import TOKENS
from interp_hooks.errors import BadInput
from interp_hooks.model.folder_lock import LOCK, locked
from interp_hooks.model.identity import Identity
from interp_hooks.model.tensor_files import on_disk
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.wikis.tables import ABOUT, read_about


def checked_place(out: str | Path) -> Path:
    """Where a wiki is to be, if it can be there: where nothing is, in an empty folder, or in place of a wiki.

    Raises:
        BadInput: something else is there.
    """
    path = Path(os.path.realpath(Path(out).expanduser()))
    if not path.parent.is_dir():
        raise BadInput(f"cannot write {str(out)!r}: there is no folder {str(path.parent)!r}; create it first")
    if path.exists() and not path.is_dir():
        raise BadInput(f"cannot write {str(out)!r}: it is a file; expected a folder, or nothing")
    if path.exists() and any(path.iterdir()) and not (path / ABOUT).exists():
        holds = ", ".join(sorted(one.name for one in path.iterdir())[:3])
        raise BadInput(
            f"cannot write {str(out)!r}: it holds something else than a wiki ({holds}); choose another folder"
        )
    if not os.access(path.parent, os.W_OK):
        raise BadInput(f"cannot write {str(out)!r}: you may not write in {str(path.parent)!r}")
    return path


@dataclass(frozen=True)
class Place:
    """The place of a wiki, and the folder beside it."""

    path: Path

    @property
    def partial(self) -> Path:
        return self.path.with_name(f"{self.path.name}.partial")

    @property
    def scan(self) -> Path:
        return self.partial / "scan"

    @property
    def draft(self) -> Path:
        return self.partial / "wiki"

    @classmethod
    @contextmanager
    def open(cls, out: str | Path, model: HookedTransformer) -> Iterator[Place]:
        """The place, while no other process writes there.

        Raises:
            BadInput: something else is there, or a wiki of another model.
            FolderInUse: another process writes there.
            DiskError: nothing can be written there.
        """
        place = cls(checked_place(out))
        place._refuse_other_models(model)
        begun = place.partial.exists()
        if begun and not place.scan.exists() and any(one.name != LOCK for one in place.partial.iterdir()):
            raise BadInput(f"{place.partial} is in the way: it holds something else than an unfinished wiki")
        with on_disk(place.partial):
            place.partial.mkdir(exist_ok=True)
        try:
            with locked(place.partial / LOCK, place.partial), place._drafting(begun):
                yield place
        finally:
            with suppress(OSError):  # while there is a scan that can go on
                place.partial.rmdir()

    @contextmanager
    def _drafting(self, begun: bool) -> Iterator[None]:
        """An empty folder for the draft; a scan that has read nothing is not left over."""
        self._put_back()
        try:
            with on_disk(self.partial):
                shutil.rmtree(self.draft, ignore_errors=True)
                self.draft.mkdir()
            yield
        finally:
            shutil.rmtree(self.draft, ignore_errors=True)
            if not begun and not any((self.scan / TOKENS).glob("*.safetensors")):
                shutil.rmtree(self.scan, ignore_errors=True)

    def _refuse_other_models(self, model: HookedTransformer) -> None:
        if not (self.path / ABOUT).exists():
            return
        identity = Identity(**read_about(self.path)["model"])
        if (unlike := identity.unlike(model, f"the wiki in {self.path}")) is not None:
            raise BadInput(f"{unlike}; choose another folder")

    def _put_back(self) -> None:
        """Undo half an exchange: a process was killed between its two moves."""
        old = self.partial / "old"
        if old.exists() and not self.path.exists():
            old.rename(self.path)
        shutil.rmtree(old, ignore_errors=True)

    def finish(self) -> None:
        """Move the wiki to its place; the scan is not needed any more.

        Raises:
            DiskError: it cannot be moved; what was there still is.
        """
        old = self.partial / "old"
        with on_disk(self.path):
            if self.path.exists():
                self.path.rename(old)
            self.draft.rename(self.path)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(self.scan, ignore_errors=True)
