"""Writes the shards of one split: each exists complete under its name, or not at all.

Tokens go to a hidden partial file. When it is full it is flushed to the disk and renamed, and its
SHA-256 is taken from the file itself. `commit` flushes the partial file and returns the writer's
position as plain JSON; `restore` brings the folder back to it after a crash: what was written later
is cut off, and a shard that was finished later becomes the partial file again.

The forms: "sharpgpt" train_00000.bin, "nanogpt" train.bin (one file), "llm.c" NAME_train_000000.bin
with a header (prepared.py).
"""

import contextlib
import os
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from typing_extensions import TypedDict

from sharpgpt.core.files import make_readable, sync
from sharpgpt.core.numbers import counted
from sharpgpt.data.manifest import Count, Form, ShardEntry, SplitName, sha256_of
from sharpgpt.data.shards import HEADER_BYTES, llmc_header, partial_name

MAX_HEADER_TOKENS = (1 << 31) - 1
"""llm.c's header counts in an int32."""


SPLITS: tuple[SplitName, ...] = ("train", "val")


def shard_name(form: Form, split: SplitName, name: str, number: int) -> str:
    """The file of a shard; `name` is that of the data."""
    return {
        "sharpgpt": f"{split}_{number:05d}.bin",
        "nanogpt": f"{split}.bin",
        "llm.c": f"{name}_{split}_{number:06d}.bin",
    }[form]


class WriterState(TypedDict):
    """The position of a `ShardWriter`; `restore` checks the entries."""

    entries: list[dict[str, str | int]]
    partial_tokens: Count


@dataclass
class ShardWriter:
    """Appends tokens to the shards of a split; see the head of this file.

    Every method may raise OSError, such as for a full disk; the last committed state stays valid.
    """

    folder: Path
    """Exists."""
    split: SplitName
    _: KW_ONLY
    dtype: str
    """uint16 or uint32."""
    shard_tokens: int
    """Tokens in every shard but the last."""
    form: Form = "sharpgpt"
    name: str = "tokens"
    """Of the data, for the file names of llm.c's form."""

    def __post_init__(self) -> None:
        self._dtype = np.dtype(self.dtype).newbyteorder("<")
        limit = MAX_HEADER_TOKENS if self.form == "llm.c" else 1 << 62
        self.shard_tokens = limit if self.form == "nanogpt" else min(self.shard_tokens, limit)
        self.entries: list[ShardEntry] = []
        self._num_tokens = 0
        self._file: BinaryIO | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens appended so far, in all shards."""
        return sum(entry.num_tokens for entry in self.entries) + self._num_tokens

    def append(self, ids: npt.NDArray[Any]) -> None:
        """Write ids after those before. Raises ValueError for one that `dtype` cannot hold."""
        if not np.can_cast(ids.dtype, self._dtype) and len(ids):
            least, largest = int(ids.min()), int(ids.max())
            if least < 0 or largest > np.iinfo(self._dtype).max:
                raise ValueError(f"ids from {least} to {largest} do not fit into {self._dtype}")
        ids = ids.astype(self._dtype, copy=False)
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

    def commit(self) -> WriterState:
        """Flush to the disk; the position, for `restore`."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        return {
            "entries": [entry.model_dump() for entry in self.entries],
            "partial_tokens": self._num_tokens,
        }

    def restore(self, state: WriterState) -> None:
        """Go back to what `commit` returned; what was written later is removed.

        It may itself be interrupted anywhere, and repeated. Raises ValueError for what is not a
        state of this writer, or if its files are missing or too short.
        """
        try:
            self.entries = [ShardEntry.model_validate(entry) for entry in state["entries"]]
            num_tokens = int(state["partial_tokens"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"not a state of a shard writer: {str(error).splitlines()[0]}"
            ) from None
        if not 0 <= num_tokens < self.shard_tokens:
            raise ValueError(f"a partial shard of {counted(num_tokens, 'token')}")
        self._num_tokens = num_tokens
        for number, entry in enumerate(self.entries):
            path = self._paths(number)[0]
            _require_file(path, self._num_bytes(entry.num_tokens), exactly=True)
            if entry.file != path.name:
                raise ValueError(f"{entry.file} is not shard {number} of {self.split}")
        final, partial = self._paths()
        if final.exists():  # it was finished after this state
            os.replace(final, partial)
        self._remove_later_files()
        size = self._num_bytes(num_tokens)
        if num_tokens == 0:
            partial.unlink(missing_ok=True)
        else:
            _require_file(partial, size)
            os.truncate(partial, size)
        sync(self.folder)
        if num_tokens > 0:
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

    def _num_bytes(self, num_tokens: int) -> int:
        return self._header_bytes() + num_tokens * self._dtype.itemsize

    def _paths(self, number: int | None = None) -> tuple[Path, Path]:
        """The final path of a shard, and the path of its partial file."""
        number = len(self.entries) if number is None else number
        file = shard_name(self.form, self.split, self.name, number)
        return self.folder / file, self.folder / partial_name(file)

    def _remove_later_files(self) -> None:
        """Remove shards and partial files after the present one, written after the state.

        The last is removed first, so an interruption leaves no gap.
        """
        if self.form == "nanogpt":
            return
        number = len(self.entries) + 1
        while any(path.exists() for path in self._paths(number)):
            number += 1
        for later in range(number - 1, len(self.entries), -1):
            for path in self._paths(later):
                path.unlink(missing_ok=True)

    def _begin(self) -> None:
        partial = self._paths()[1]
        partial.unlink(missing_ok=True)
        self._file = open(partial, "xb", buffering=1 << 20)  # noqa: SIM115
        self._file.write(bytes(self._header_bytes()))
        sync(self.folder)

    def _close_shard(self) -> None:
        assert self._file is not None
        final, partial = self._paths()
        if self.form == "llm.c":
            self._file.seek(0)
            self._file.write(llmc_header(self._num_tokens))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        entry = ShardEntry(file=final.name, num_tokens=self._num_tokens, sha256=sha256_of(partial))
        make_readable(partial)
        os.replace(partial, final)
        sync(self.folder)
        self.entries.append(entry)
        self._num_tokens = 0


def _require_file(path: Path, num_bytes: int, *, exactly: bool = False) -> None:
    """Raise ValueError unless there is a file of at least `num_bytes`; a link is not followed."""
    size = path.stat().st_size if path.is_file() and not path.is_symlink() else -1
    if size < num_bytes or (exactly and size > num_bytes):
        wrong = "of another length than" if exactly else "shorter than"
        raise ValueError(f"{path} is missing or {wrong} {counted(num_bytes, 'byte')}")
