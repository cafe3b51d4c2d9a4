"""The SHA-256 of whole files, taken anew only where a file may have changed since the last time.

A file is taken for unchanged when its size, time of writing, time of change (ctime, which `touch`
cannot set) and inode are all those at which it was hashed. Equal times do not prove that for a file
written within the clock's grain, so one younger than `GRAIN_NS` when its hashing begins is not
recorded, nor is one from the future; both are hashed again the next time. A link stands for its
target. The records are a cache and may be deleted at any time.
"""

import contextlib
import hashlib
import logging
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import readable
from sharpgpt.core.jsonio import read_object, write_json
from sharpgpt.core.numbers import counted
from sharpgpt.data.manifest import sha256_of

logger = logging.getLogger(__name__)

GRAIN_NS = 2_000_000_000
"""The coarsest file systems keep times to two seconds."""
LINE_BYTES = 1 << 30
"""Hashing takes about a second a GB; from here on a line says what it is."""
NOT_READABLE = "change its permissions, or copy it"

Stamp = list[int]


class Contents(NamedTuple):
    """The hashes of several files, in their order."""

    sha256s: list[str]
    num_read: int
    """How many were not known by their stamp."""


def stamp(path: Path) -> Stamp:
    """What changes with the content of a file. Raises `UserError` where it cannot be read."""
    with readable(path, NOT_READABLE):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe may never end
        raise UserError(
            f"{path}: neither a file nor a folder; allowed are text files, and files of "
            ".txt, .jsonl (both also .gz and .zst) and .parquet"
        )
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def contents(paths: Sequence[Path], records_folder: Path) -> Contents:
    """The SHA-256 of each file; `records_folder` keeps what is known.

    Raises `UserError` for a file that cannot be read, or is written to at this moment.
    """
    names = [os.path.abspath(path) for path in paths]  # noqa: PTH100 (a link keeps its own name)
    records = _Records(records_folder, names)
    stamps = [stamp(path) for path in paths]
    unknown = [n for n, s in zip(names, stamps, strict=True) if records.known(n, s) is None]
    num_bytes = sum(s[0] for n, s in zip(names, stamps, strict=True) if n in set(unknown))
    if num_bytes >= LINE_BYTES:
        logger.info(
            f"reading {num_bytes / 1e9:.1f} GB once, to know what is in "
            f"{counted(len(unknown), 'file')}, new here or perhaps changed"
        )
    sha256s = []
    for path, name, before in zip(paths, names, stamps, strict=True):
        sha256 = records.known(name, before)
        if sha256 is None:
            started = time.time_ns()
            with readable(path, NOT_READABLE):
                sha256 = sha256_of(path)
            if stamp(path) != before:
                raise UserError(
                    f"{path}: is being written to; wait until it is complete, or give a copy of it"
                )
            records.add(name, before, sha256, started)
        sha256s.append(sha256)
    records.save()
    return Contents(sha256s, len(unknown))


def remember(sha256s: dict[Path, str], records_folder: Path) -> None:
    """Record the hashes of files that this process wrote itself."""
    names = {os.path.abspath(path): path for path in sha256s}  # noqa: PTH100
    records = _Records(records_folder, list(names))
    for name, path in names.items():
        records.add(name, stamp(path), sha256s[path])
    records.save()


class _Records:
    """What is known of the files below one folder: a JSON file of {name: [stamp, sha256]}."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        parents = [os.path.dirname(name) for name in names]  # noqa: PTH120
        below = os.path.commonpath(parents) if parents else ""
        self._path = folder / f"{hashlib.sha256(below.encode(errors='replace')).hexdigest()}.json"
        self._is_changed = False
        self._records: dict[str, object] = {}
        with contextlib.suppress(OSError, ValueError):
            self._records = read_object(self._path)

    def known(self, name: str, found: Stamp) -> str | None:
        record = self._records.get(name)
        if isinstance(record, list) and len(record) == 2 and record[0] == found:
            return str(record[1])
        return None

    def add(self, name: str, found: Stamp, sha256: str, started: int | None = None) -> None:
        """`started` is when the hashing began, None for a file that only this process writes."""
        changed = found[1] if os.name == "nt" else found[2]  # ctime is another thing on Windows
        if started is None or started - changed > GRAIN_NS:
            self._records[name] = [found, sha256]
            self._is_changed = True

    def save(self) -> None:
        if self._is_changed:
            with contextlib.suppress(OSError):  # read-only or full: hashed again the next time
                write_json(self._path, self._records, indent=None)
