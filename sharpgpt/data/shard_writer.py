"""Writes the shards of one split: each exists whole under its name, or not at all.

Tokens go to a hidden partial file. When it is full it is flushed to the disk and renamed, and its
SHA-256 is taken from the file itself. `commit` flushes the partial file and returns, as plain JSON,
where the writer is; `restored` brings the folder back to that place after a crash: what was written
later is cut off, and a shard that was finished later becomes the partial file again.

The forms: "sharpgpt" train_00000.bin, "nanogpt" train.bin (one file), "llm.c" NAME_train_000000.bin
with a header (foreign.py).
"""

import contextlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sharpgpt.data.foreign import HEADER_BYTES, MAGIC
from sharpgpt.data.manifest import Form, ShardEntry, SplitName, sha256_of
from sharpgpt.files import make_readable

MAX_HEADER_TOKENS = (1 << 31) - 1
"""llm.c's header counts in an int32."""


class ShardWriter:
    """Appends tokens to the shards of a split; see the head of this file.

    Args:
        folder: exists.
        split: train or val.
        dtype: uint16 or uint32.
        shard_tokens: tokens in every shard but the last.
        form: sharpgpt, nanogpt or llm.c.
        name: of the data, for the file names of llm.c's form.

    Every method may raise OSError, such as for a full disk; the last committed state stays good.
    """

    def __init__(
        self,
        folder: Path,
        split: SplitName,
        *,
        dtype: str,
        shard_tokens: int,
        form: Form = "sharpgpt",
        name: str = "tokens",
    ) -> None:
        self.folder = folder
        self.split = split
        self.dtype = np.dtype(dtype).newbyteorder("<")
        limit = MAX_HEADER_TOKENS if form == "llm.c" else 1 << 62
        self.shard_tokens = limit if form == "nanogpt" else min(shard_tokens, limit)
        self.form = form
        self.name = name
        self.entries: list[ShardEntry] = []
        self._num_tokens = 0
        self._file: BinaryIO | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens appended so far, in all shards."""
        return sum(entry.num_tokens for entry in self.entries) + self._num_tokens

    def append(self, ids: npt.NDArray[Any]) -> None:
        """Write ids after those before."""
        ids = ids.astype(self.dtype, copy=False)
        while len(ids):
            if self._file is None:
                self._begin()
            assert self._file is not None
            part = ids[: self.shard_tokens - self._num_tokens]
            self._file.write(part.tobytes())
            self._num_tokens += len(part)
            ids = ids[len(part) :]
            if self._num_tokens == self.shard_tokens:
                self._close_shard()

    def commit(self) -> dict[str, Any]:
        """Flush to the disk; the place reached, for `restore`."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        return {
            "entries": [entry.model_dump() for entry in self.entries],
            "partial_tokens": self._num_tokens,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what `commit` returned; what was written later is gone.

        Raises:
            ValueError: files of that state are missing or too short.
        """
        self.entries = [ShardEntry.model_validate(entry) for entry in state["entries"]]
        self._num_tokens = int(state["partial_tokens"])
        final, partial = self._paths()
        if final.exists():  # it was finished after this state
            if partial.exists():
                partial.unlink()
            os.replace(final, partial)
        self._remove_later_files()
        if self._num_tokens == 0:
            partial.unlink(missing_ok=True)
            return
        size = self._header_bytes() + self._num_tokens * self.dtype.itemsize
        if not partial.exists() or partial.stat().st_size < size:
            raise ValueError(f"{partial} is missing or shorter than {size} bytes")
        os.truncate(partial, size)
        self._file = open(partial, "r+b", buffering=1 << 20)  # noqa: SIM115
        self._file.seek(size)

    def finish(self) -> list[ShardEntry]:
        """Close the last shard; all shards. An empty split has one empty shard."""
        if self._file is None and not self.entries:
            self._begin()
        if self._file is not None:
            self._close_shard()
        return self.entries

    def abandon(self) -> None:
        """Close the file without finishing it; what was committed can be restored."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # such as a full disk, at the last flush
                self._file.close()
            self._file = None

    def _header_bytes(self) -> int:
        return HEADER_BYTES if self.form == "llm.c" else 0

    def _paths(self, number: int | None = None) -> tuple[Path, Path]:
        """Where the shard goes, and where it is written until then."""
        number = len(self.entries) if number is None else number
        file = {
            "sharpgpt": f"{self.split}_{number:05d}.bin",
            "nanogpt": f"{self.split}.bin",
            "llm.c": f"{self.name}_{self.split}_{number:06d}.bin",
        }[self.form]
        return self.folder / file, self.folder / f".partial_{file}"

    def _remove_later_files(self) -> None:
        """Shards and partial files after the present one, left by what came after the state."""
        if self.form == "nanogpt":
            return
        number = len(self.entries) + 1
        while any(path.exists() for path in self._paths(number)):
            for path in self._paths(number):
                path.unlink(missing_ok=True)
            number += 1

    def _begin(self) -> None:
        self._file = open(self._paths()[1], "wb", buffering=1 << 20)  # noqa: SIM115
        self._file.write(bytes(self._header_bytes()))
        sync_folder(self.folder)

    def _close_shard(self) -> None:
        assert self._file is not None
        final, partial = self._paths()
        if self.form == "llm.c":
            header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
            header[:3] = MAGIC, 1, self._num_tokens
            self._file.seek(0)
            self._file.write(header.tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        digest = sha256_of(partial)
        make_readable(partial)
        os.replace(partial, final)
        sync_folder(self.folder)
        entry = ShardEntry(file=final.name, num_tokens=self._num_tokens, sha256=digest)
        self.entries.append(entry)
        self._num_tokens = 0


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename survives a power cut."""
    if os.name == "nt":
        return  # Windows cannot open a folder, and its renames are journaled
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
