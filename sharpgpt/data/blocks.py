"""Tokens to batches: random access for training, fixed blocks for validation, prefetching.

A block is T tokens; the model predicts its T - 1 later tokens from the ones before. Consecutive
blocks overlap by one token (stride s = T - 1), so that every token between the first and the last
block's end is predicted exactly once in an epoch.

An epoch begins at a random token (its *phase*); otherwise the same tokens would begin a block,
without context, in every epoch. The number of blocks does not depend on the phase, because
schedules count on it. With L tokens, n blocks from phase f reach token f + n*s, so that

    f + n*s <= L - 1.

n = floor((L - s) / s) leaves room for every phase 0 .. s - 1 (s - 1 + n*s <= L - 1); with a minimum
of one block, n = max(1, floor((L - s) / s)). The phase is drawn from all that fit,
0 .. L - 1 - n*s, so that every token but the first is predicted in some epochs, the last ones too.

Phase and order are a pure function of (seed, epoch), a batch one of (seed, first sample): a run
that is resumed, or spread over other ranks and workers, sees the same samples. The order is a
function too (permutation.py), so memory does not grow with the number of tokens.
"""

import functools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from sharpgpt.core.errors import UserError
from sharpgpt.core.numbers import counted
from sharpgpt.data.permutation import Permutation
from sharpgpt.data.shards import ShardedTokens, Tokens, num_validation_blocks

Item = TypeVar("Item")

PAGE = 1024
"""Positions of the order computed at a time: one costs nearly as much as many."""


def _require_a_block(tokens: Tokens, block_length: int, what: str) -> None:
    if block_length < 2:
        raise ValueError(f"block_length: given {block_length}, allowed is at least 2")
    if len(tokens) < block_length:
        lower = f"lower max_seq_length to at most {len(tokens)} or " if len(tokens) >= 2 else ""
        raise UserError(
            f"the {what} text has {counted(len(tokens), 'token')}, one block needs "
            f"max_seq_length = {block_length}; {lower}give more text"
        )


def _gather(tokens: Tokens, starts: npt.NDArray[np.int64], length: int) -> torch.Tensor:
    """The `length` tokens from each of `starts` on: int64 [len(starts), length]."""
    if isinstance(tokens, ShardedTokens):
        rows = tokens.rows(starts, length)
    else:
        rows = tokens[starts[:, None] + np.arange(length)]
    return torch.from_numpy(rows.astype(np.int64))


def num_training_blocks(num_tokens: int, block_length: int) -> int:
    """Samples in an epoch: `max(1, (num_tokens - (T - 1)) // (T - 1))`."""
    stride = block_length - 1
    return max(1, (num_tokens - stride) // stride)


class TrainingBlocks:
    """Shuffled blocks of T = `block_length` tokens, epoch after epoch; see the module docstring.

    Raises `UserError` for fewer tokens than one block.
    """

    num_blocks: int
    """Samples in an epoch, the same in each."""

    def __init__(self, tokens: Tokens, block_length: int, seed: int) -> None:
        _require_a_block(tokens, block_length, "training")
        self.tokens = tokens
        self.block_length = block_length
        self.seed = seed
        self._stride = block_length - 1
        self.num_blocks = num_training_blocks(len(tokens), block_length)
        # Per object, since a cache of the class would keep every object alive.
        self._epoch = functools.lru_cache(maxsize=2)(self._draw_epoch)
        self._page = functools.lru_cache(maxsize=2)(self._starts_of_page)

    def __len__(self) -> int:
        return self.num_blocks

    def _draw_epoch(self, epoch: int) -> tuple[int, Permutation]:
        """The phase and the order of an epoch."""
        random = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch,)))
        last_phase = len(self.tokens) - 1 - self.num_blocks * self._stride
        phase = int(random.integers(last_phase, endpoint=True))
        return phase, Permutation(self.num_blocks, random)

    def _starts_of_page(self, epoch: int, page: int) -> npt.NDArray[np.int64]:
        """Where the blocks at the next PAGE places of an epoch begin."""
        phase, order = self._epoch(epoch)
        places = np.arange(page * PAGE, min((page + 1) * PAGE, self.num_blocks))
        return phase + order(places) * self._stride

    def batch(self, first_sample: int, count: int) -> torch.Tensor:
        """Samples `first_sample` to `first_sample + count - 1`: int64 [count, T].

        Sample i is the block at place `i % num_blocks` of epoch `i // num_blocks`; a batch may
        cross the end of an epoch, or of several.
        """
        if first_sample < 0 or count < 1:
            raise ValueError(
                f"given first_sample {first_sample} and count {count}, allowed are at least 0 and 1"
            )
        starts, sample, end = [], first_sample, first_sample + count
        while sample < end:
            epoch, place = divmod(sample, self.num_blocks)
            page, first = divmod(place, PAGE)
            starts.append(self._page(epoch, page)[first : first + end - sample])
            sample += len(starts[-1])
        return _gather(self.tokens, np.concatenate(starts), self.block_length)

    def micro_batch(
        self,
        first_sample: int,
        number: int,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> torch.Tensor:
        """Micro-batch `number` of one of several ranks, from `first_sample` on: int64 [B, T].

        Micro-batches alternate between the ranks, so that fewer ranks with more micro-batches each
        see the same samples step by step.
        """
        place = number * world_size + rank
        return self.batch(first_sample + place * batch_size, batch_size)


class ValidationBlocks:
    """Fixed blocks in text order; `blocks[i]` is int64 [T], `blocks[i:j]` int64 [j - i, T]."""

    def __init__(self, tokens: Tokens, starts: npt.NDArray[np.int64], block_length: int) -> None:
        self.tokens = tokens
        self.starts = starts
        self.block_length = block_length

    @property
    def shape(self) -> tuple[int, int]:
        """(num_blocks, T)."""
        return len(self.starts), self.block_length

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int | slice) -> torch.Tensor:
        if isinstance(index, slice):
            return _gather(self.tokens, self.starts[index], self.block_length)
        return _gather(self.tokens, self.starts[index, None], self.block_length)[0]


def validation_blocks(
    tokens: Tokens, block_length: int, max_blocks: int | None = None
) -> ValidationBlocks:
    """The `(num_tokens - 1) // (T - 1)` blocks from the first token on, overlapping by one token.

    Together they predict every token but the first and the last `(num_tokens - 1) % (T - 1)`. Of
    more than `max_blocks`, that many are kept, evenly spread over the split. They are read on
    access. Raises `UserError` for fewer tokens than one block.
    """
    _require_a_block(tokens, block_length, "validation")
    stride = block_length - 1
    num_blocks = num_validation_blocks(len(tokens), block_length)
    num_kept = num_blocks if max_blocks is None else min(max_blocks, num_blocks)
    if num_kept < 1:
        raise ValueError(f"max_blocks: given {max_blocks}, allowed is at least 1, or None")
    kept = np.arange(num_kept, dtype=np.int64) * num_blocks // num_kept
    return ValidationBlocks(tokens, kept * stride, block_length)


_END: Any = object()


def prefetched(items: Iterable[Item], num_workers: int) -> Iterator[Item]:
    """The same items in the same order, computed ahead of time on a background thread.

    One thread, because `items` is one sequence; it keeps up to `num_workers` items ready, at least
    two, and with 0 there is none. An exception in `items` is raised where its item would be. The
    thread ends with the items, when the consumer stops (closes or drops the iterator), and when
    Python exits.
    """
    if num_workers == 0:
        yield from items
        return
    iterator = iter(items)
    # Its thread is joined before Python shuts down: a daemon thread inside torch could crash then.
    thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    ahead = deque(thread.submit(next, iterator, _END) for _ in range(max(2, num_workers)))
    try:
        while (item := ahead.popleft().result()) is not _END:
            ahead.append(thread.submit(next, iterator, _END))
            yield item
    finally:
        for future in ahead:  # shutdown(cancel_futures=True) fails while Python shuts down
            future.cancel()
        thread.shutdown()
