"""Tokens in files on disk, read in place.

The shards of a split form one long row of tokens; a block may begin in one shard and end in the
next. Only the size of each shard is kept in memory, so ten billion tokens open in milliseconds.

Blocks are read with `preadv`, straight into the rows of the batch, instead of through a memory map.
A map is about as fast (benchmarks/bench_batches.py has both), but kills the process with SIGBUS
when a shard was truncated or its disk fails, where a read raises an error. Reading adds nothing to
the memory of the process, and thousands of shards need only the few files open at a time.
"""

import functools
import io
import itertools
import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import readable
from sharpgpt.core.numbers import counted

TokenArray = npt.NDArray[np.uint16 | np.uint32]

MAX_OPEN_FILES = 64
MAGIC = 20240520
"""First in the header of a shard of llm.c."""
HEADER_BYTES = 1024
RESTORE = "copy this shard again or prepare the data again"


class Shard(NamedTuple):
    """A run of token ids in a file."""

    path: Path
    offset_bytes: int
    num_tokens: int


class ShardedTokens:
    """Token ids in shards on disk; a slice with step 1 is an array.

    Every id must be below `vocab_size`. Raises `UserError` for a shard that is missing or of the
    wrong size, and, while reading, for one that fails, was truncated, or holds an id outside the
    vocabulary.
    """

    def __init__(self, shards: Sequence[Shard], dtype: str, vocab_size: int) -> None:
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.vocab_size = vocab_size
        for shard in shards:
            require_size(shard, self.dtype.itemsize)
        self.shards = [shard for shard in shards if shard.num_tokens > 0]
        ends = list(itertools.accumulate(shard.num_tokens for shard in self.shards))
        self._num_tokens = ends[-1] if ends else 0
        self._firsts = [0, *ends[:-1]]
        """The number of the first token of each shard."""
        self._ends = np.array(ends, dtype=np.int64)
        # Per object, since a cache of the class would keep every object alive.
        paths = [shard.path for shard in self.shards]
        self._file = functools.lru_cache(MAX_OPEN_FILES)(lambda number: _OpenFile(paths[number]))

    def __len__(self) -> int:
        return self._num_tokens

    def __getitem__(self, index: slice) -> TokenArray:
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise ValueError(f"step: given {step}, allowed is 1")
        if stop <= start:
            return np.empty(0, self.dtype)
        tokens: TokenArray = self.rows(np.array([start]), stop - start)[0]
        return tokens

    def rows(self, starts: npt.NDArray[np.int64], length: int) -> TokenArray:
        """[len(starts), length]: the tokens from each of `starts` on, which lie in the split."""
        if length < 1:
            raise ValueError(f"length: given {length}, allowed is at least 1")
        if len(starts) and not 0 <= starts.min() <= starts.max() <= len(self) - length:
            raise IndexError(
                f"blocks of {counted(length, 'token')} do not all lie in 0 .. {len(self)}"
            )
        rows: TokenArray = np.empty((len(starts), length), self.dtype)
        numbers = np.searchsorted(self._ends, starts, side="right").tolist()
        for row, start, number in zip(rows, starts.tolist(), numbers, strict=True):
            first = start - self._firsts[number]
            if first + length <= self.shards[number].num_tokens:
                self._read_shard(row, number, first)
            else:
                self._read_across(row, number, first)
        if rows.size and int(rows.max()) >= self.vocab_size:
            row, place = divmod(int(np.argmax(rows >= self.vocab_size)), length)
            self._refuse_id(int(starts[row]) + place, int(rows[row, place]))
        return rows

    def _read_across(self, row: TokenArray, number: int, first: int) -> None:
        """Fill `row` from token `first` of shard `number` on, and from the shards after it."""
        done = 0
        while done < len(row):
            part = row[done : done + self.shards[number].num_tokens - first]
            self._read_shard(part, number, first)
            done, number, first = done + len(part), number + 1, 0

    def _read_shard(self, part: TokenArray, number: int, first: int) -> None:
        """Fill `part` from token `first` of shard `number` on, which holds all of it."""
        shard = self.shards[number]
        try:
            offset = shard.offset_bytes + first * self.dtype.itemsize
            num_bytes = self._file(number).read_into(part, offset)
        except OSError as error:
            raise UserError(
                f"{shard.path}: cannot be read at token {first}: {error.strerror or error}; check "
                f"the disk, then {RESTORE}"
            ) from error
        if num_bytes < part.nbytes:
            raise UserError(
                f"{shard.path}: was truncated while in use, it ends before token "
                f"{first + len(part)} of {shard.num_tokens}; {RESTORE}"
            )

    def _refuse_id(self, place: int, token: int) -> None:
        number = int(np.searchsorted(self._ends, place, side="right"))
        shard = self.shards[number]
        position = place - self._firsts[number]
        raise UserError(
            f"{shard.path}: token {position} has the id {token}, outside the vocabulary of "
            f"{self.vocab_size}; the file is damaged, or made with another tokenizer (check with "
            "sharpgpt inspect), or of another format"
        )


Tokens = TokenArray | ShardedTokens
"""A long row of token ids, in memory or on disk, that is cut into blocks."""


class _OpenFile(io.FileIO):
    """A file that threads share and that is closed with its last user."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock = threading.Lock()

    def read_into(self, array: TokenArray, offset: int) -> int:
        """Fill `array` with the bytes from `offset` on; how many there were."""
        done = self._read(array, offset)
        while 0 < done < array.nbytes:  # a read may return less than requested
            more = self._read(array.view(np.uint8)[done:], offset + done)
            if not more:
                break
            done += more
        return done

    def _read(self, array: Any, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self.fileno(), [array], offset)
        with self._lock:  # Windows: threads share the position in the file
            self.seek(offset)
            return self.readinto(array) or 0

    def __del__(self) -> None:
        # No name of this module: Python may be shutting down, and would print what is raised here.
        try:  # noqa: SIM105
            self.close()
        except OSError:  # closed from outside, as by os.closerange
            pass


def partial_name(file: str) -> str:
    """The name of a shard, or another file of prepared data, until it is complete."""
    return f".partial_{file}"


def llmc_header(num_tokens: int) -> bytes:
    """The header of a shard in llm.c's format."""
    header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
    header[:3] = MAGIC, 1, num_tokens
    return header.tobytes()


def regular_size(path: Path) -> int:
    """The size of a file in bytes.

    Raises `UserError` where it is missing or not a regular file: reading a pipe or a device may
    never end.
    """
    with readable(path, "copy this file again, or prepare the data again"):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: cannot be read: it is not a regular file; replace it with one")
    return status.st_size


def num_validation_blocks(num_tokens: int, block_length: int) -> int:
    """The blocks of a whole validation split, which overlap by one token."""
    return (num_tokens - 1) // (block_length - 1)


def require_size(shard: Shard, item_size: int) -> None:
    """Raise `UserError` unless the file has exactly the bytes of its tokens, `item_size` each."""
    expected = shard.offset_bytes + shard.num_tokens * item_size
    found = regular_size(shard.path)
    if found != expected:
        raise UserError(
            f"{shard.path}: has {counted(found, 'byte')}, expected {expected:,} for "
            f"{counted(shard.num_tokens, 'token')}; {RESTORE}"
        )
