"""A recording file layer: which files a piece of code flushes, renames and removes, in which order.

After a power cut a disk may hold a rename and not the content of the file that was renamed, unless
that was flushed before; and the content and not the name, unless the folder was flushed after.
"""

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class SystemCalls:
    """Records what happens below `root`: "flush NAME", "rename NAME -> NAME", "remove NAME".

    Names are relative to `root`; the random part of a temporary name is left out. A file or folder
    that is renamed without having been flushed as it is, is in `unflushed`.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.events: list[str] = []
        self.unflushed: list[str] = []
        self._flushed: dict[int, object] = {}
        for name in ("rename", "replace"):
            monkeypatch.setattr(os, name, self._renaming(getattr(os, name)))
        for name in ("unlink", "rmdir"):
            monkeypatch.setattr(os, name, self._removing(getattr(os, name)))
        monkeypatch.setattr(os, "fsync", self._flush)

    def _flush(self, descriptor: int) -> None:
        path = self._opened(descriptor)
        if path is not None:
            self._flushed[path.lstat().st_ino] = _state(path)
            self.events.append(f"flush {self._shown(path)}")

    def _renaming(self, real: Callable[..., None]) -> Callable[..., None]:
        def rename(source: Any, target: Any, **folders: Any) -> None:
            old = self._named(source, folders.get("src_dir_fd"))
            new = self._named(target, folders.get("dst_dir_fd"))
            if old is not None and new is not None:
                self.events.append(f"rename {self._shown(old)} -> {self._shown(new)}")
                for path in (old, *old.rglob("*")):
                    if self._flushed.get(path.lstat().st_ino) != _state(path):
                        self.unflushed.append(self._shown(path))
            real(source, target, **folders)

        return rename

    def _removing(self, real: Callable[..., None]) -> Callable[..., None]:
        def remove(path: Any, *, dir_fd: int | None = None) -> None:
            gone = self._named(path, dir_fd)
            real(path, dir_fd=dir_fd)
            if gone is not None:
                self.events.append(f"remove {self._shown(gone)}")

        return remove

    def _opened(self, descriptor: int) -> Path | None:
        status = os.fstat(descriptor)
        places = (self.root, *self.root.rglob("*"))
        return next((p for p in places if os.path.samestat(p.lstat(), status)), None)

    def _named(self, path: Any, folder: int | None) -> Path | None:
        within = None if folder is None else self._opened(folder)
        found = Path(path) if within is None else within / path
        return found if found.is_relative_to(self.root) else None

    def _shown(self, path: Path) -> str:
        name = path.relative_to(self.root).as_posix()
        return re.sub(r"\.[a-z0-9_]{8}\.tmp$", ".tmp", name)


def _state(path: Path) -> object:
    """What must be on the disk of it."""
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode):
        return sorted(entry.name for entry in path.iterdir())
    return path.read_bytes(), status.st_mode
