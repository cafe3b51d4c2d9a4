"""Small and read-only file systems for a test, where the test may mount."""

import errno
import os
import subprocess
from pathlib import Path

import pytest


def _mount(*arguments: str | Path) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs to mount, which this user may not: {done.stderr.strip()}")


class Mounts:
    """What one test has mounted; all of it is unmounted at its end."""

    def __init__(self) -> None:
        self.folders: list[Path] = []

    def small(self, folder: Path, num_bytes: int) -> None:
        """Make `folder` a file system of its own in memory, of this size."""
        folder.mkdir(parents=True, exist_ok=True)
        _mount("-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", folder)
        self.folders.append(folder)

    def read_only(self, folder: Path) -> None:
        """From now on nothing can be written under `folder`, until `end`."""
        _mount("--bind", folder, folder)
        self.folders.append(folder)
        _mount("-o", "remount,bind,ro", folder)

    def end(self, folder: Path) -> None:
        """Unmount, at once or as soon as nobody uses it."""
        self.folders.remove(folder)
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, *, leaving: int) -> Path:
    """Fill the file system of `folder` up to `leaving` bytes; returns the file that does."""
    filler = folder / "filler"
    with open(filler, "wb") as file:
        while True:
            facts = os.statvfs(folder)
            size = facts.f_bavail * facts.f_frsize - leaving
            if size <= 0:
                return filler
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:  # the run has written something just now
                if error.errno != errno.ENOSPC:
                    raise
            else:
                return filler
