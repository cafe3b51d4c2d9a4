"""Tokens in files on disk, read in place.

The shards of a split count as one long row of tokens; a block may begin in one shard and end in the
next. Nothing is kept in memory but the size of each shard, so ten billion tokens open in
milliseconds.

Blocks are read with `pread` and not through a memory map. Both cost the same (a few microseconds a
block from the page cache: benchmarks/bench_batches.py), but a map kills the process with SIGBUS
where a shard was cut short or its disk fails, and a read raises an error that can be told. Read
blocks do not count as memory of the process either.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from sharpgpt.data.tokens import TokenArray
from sharpgpt.files import UserError

MAX_OPEN_FILES = 64


class Shard(NamedTuple):
    """A run of token ids in a file."""

    path: Path
    offset_bytes: int
    num_tokens: int


class ShardedTokens:
    """Token ids in shards on disk; see `Tokens`.

    `vocab_size` is what the ids must lie below. Raises `UserError` for a shard that is missing or
    has another size than it should, and, in reading, for one that fails, was cut short, or holds an
    id outside the vocabulary.
    """

    def __init__(self, shards: Sequence[Shard], dtype: str, vocab_size: int) -> None:
        self.shards = [shard for shard in shards if shard.num_tokens > 0]
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.vocab_size = vocab_size
        for shard in self.shards:
            _require_size(shard, self.dtype.itemsize)
        counts = [shard.num_tokens for shard in self.shards]
        self._ends = np.cumsum(counts, dtype=np.int64)
        # Per object, for a cache of the class would keep every object alive.
        self._file = functools.lru_cache(MAX_OPEN_FILES)(_OpenFile)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: slice) -> TokenArray:
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise ValueError(f"step: given {step}, allowed is 1")
        return self._read(start, max(start, stop))

    def gather(self, starts: npt.NDArray[np.int64], length: int) -> torch.Tensor:
        """See `Tokens.gather`."""
        blocks = np.empty((len(starts), length), dtype=np.int64)
        for row, start in enumerate(starts.tolist()):
            blocks[row] = self._read(start, start + length)
        if blocks.size and blocks.max() >= self.vocab_size:
            row, place = np.argwhere(blocks >= self.vocab_size)[0].tolist()
            self._refuse_id(int(starts[row]) + place, int(blocks[row, place]))
        return torch.from_numpy(blocks)

    def _read(self, start: int, stop: int) -> TokenArray:
        """Tokens start .. stop - 1."""
        number = int(np.searchsorted(self._ends, start, side="right"))
        parts = []
        while start < stop:
            shard, end = self.shards[number], int(self._ends[number])
            first_of_shard = end - shard.num_tokens
            last = min(stop, end)
            parts.append(self._read_shard(shard, start - first_of_shard, last - start))
            start, number = last, number + 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.empty(0, self.dtype), *parts])

    def _read_shard(self, shard: Shard, first: int, count: int) -> TokenArray:
        size = self.dtype.itemsize
        try:
            data = self._file(shard.path).read(shard.offset_bytes + first * size, count * size)
        except OSError as error:
            raise UserError(
                f"{shard.path}: cannot be read at token {first}: {error.strerror or error}; check "
                "the disk, then copy this shard anew or prepare the data again"
            ) from error
        if len(data) < count * size:
            raise UserError(
                f"{shard.path}: was cut short while in use, it ends before token {first + count} "
                f"of {shard.num_tokens}; copy this shard anew, or prepare the data again"
            )
        return np.frombuffer(data, dtype=self.dtype)

    def _refuse_id(self, place: int, token: int) -> None:
        number = int(np.searchsorted(self._ends, place, side="right"))
        shard = self.shards[number]
        position = place - (int(self._ends[number]) - shard.num_tokens)
        raise UserError(
            f"{shard.path}: token {position} has the id {token}, outside the vocabulary of "
            f"{self.vocab_size}; the file is damaged, or made with another tokenizer (sharpgpt "
            "inspect tells), or not of this form"
        )


class _OpenFile:
    """A file descriptor that is closed with its last user."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def read(self, offset: int, num_bytes: int) -> bytes:
        data = os.pread(self._descriptor, num_bytes, offset)
        while 0 < len(data) < num_bytes:  # a read may give less than it was asked for
            more = os.pread(self._descriptor, num_bytes - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


def _require_size(shard: Shard, item_size: int) -> None:
    expected = shard.offset_bytes + shard.num_tokens * item_size
    try:
        found = shard.path.stat().st_size
    except OSError as error:
        raise UserError(
            f"{shard.path}: cannot be read: {error.strerror or error}; copy this shard anew, or "
            "prepare the data again"
        ) from None
    if found != expected:
        raise UserError(
            f"{shard.path}: has {found} bytes, expected {expected} for {shard.num_tokens} tokens; "
            "copy this shard anew, or prepare the data again"
        )
