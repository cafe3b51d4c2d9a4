import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from sharpgpt.core.errors import UserError
from sharpgpt.data.blocks import TrainingBlocks, prefetched, validation_blocks
from sharpgpt.data.shards import TokenArray

SHAPES = [(2, 2), (3, 2), (100, 2), (5, 5), (8, 5), (9, 5), (11, 5), (12, 5), (1000, 17), (97, 96)]
"""(tokens, tokens in a block)"""


def numbered(num_tokens: int) -> TokenArray:
    """Each token is its own position."""
    return np.arange(num_tokens, dtype=np.uint16)


def epoch_blocks(blocks: TrainingBlocks, epoch: int) -> torch.Tensor:
    return blocks.batch(epoch * blocks.num_blocks, blocks.num_blocks)


@pytest.mark.parametrize(("num_tokens", "block_length"), SHAPES)
def test_an_epoch_predicts_each_token_of_its_stretch_once(
    num_tokens: int, block_length: int
) -> None:
    stride = block_length - 1
    blocks = TrainingBlocks(numbered(num_tokens), block_length, seed=1)
    assert blocks.num_blocks == len(blocks) == max(1, (num_tokens - stride) // stride)
    for epoch in range(20):
        batch = epoch_blocks(blocks, epoch)
        assert batch.dtype == torch.int64
        assert batch.shape == (blocks.num_blocks, block_length)
        assert (batch[:, 1:] - batch[:, :-1] == 1).all()
        targets = sorted(batch[:, 1:].flatten().tolist())
        first = targets[0]
        assert targets == list(range(first, first + blocks.num_blocks * stride))
        assert first >= 1
        assert targets[-1] <= num_tokens - 1


@pytest.mark.parametrize(("num_tokens", "block_length"), SHAPES)
def test_every_phase_occurs_and_every_token_but_the_first_is_predicted(
    num_tokens: int, block_length: int
) -> None:
    blocks = TrainingBlocks(numbered(num_tokens), block_length, seed=2)
    num_epochs = 40 * block_length
    phases = [int(epoch_blocks(blocks, epoch).min()) for epoch in range(num_epochs)]
    last_phase = num_tokens - 1 - blocks.num_blocks * (block_length - 1)
    assert set(phases) == set(range(last_phase + 1))
    if num_tokens >= 2 * (block_length - 1):
        assert last_phase >= block_length - 2
    predicted = {p + 1 + i for p in phases for i in range(blocks.num_blocks * (block_length - 1))}
    assert predicted == set(range(1, num_tokens))


def test_order_and_phase_change_from_epoch_to_epoch_and_with_the_seed() -> None:
    blocks = TrainingBlocks(numbered(2000), 9, seed=3)
    assert len({int(epoch_blocks(blocks, epoch).min()) for epoch in range(10)}) >= 3
    first, second = epoch_blocks(blocks, 0), epoch_blocks(blocks, 1)
    order = ((first - first.min())[:, 0]).tolist()
    assert order != sorted(order)
    assert order != ((second - second.min())[:, 0]).tolist()
    other = TrainingBlocks(numbered(2000), 9, seed=4)
    assert not torch.equal(epoch_blocks(other, 0), first)


def test_a_batch_is_a_function_of_seed_and_sample_alone() -> None:
    """In any grouping, in any order of asking, across the ends of epochs, by any object."""
    blocks = TrainingBlocks(numbered(100), 9, seed=5)
    assert blocks.num_blocks == 11
    whole = blocks.batch(0, 50)
    for count in (1, 3, 11, 25, 50):
        parts = [blocks.batch(first, count) for first in range(0, 50, count)]
        assert torch.equal(torch.cat(parts)[:50], whole)
    late = TrainingBlocks(numbered(100), 9, seed=5)
    assert torch.equal(late.batch(40, 3), whole[40:43])
    assert torch.equal(late.batch(2, 10), whole[2:12])
    assert torch.equal(blocks.batch(10**9, 2), late.batch(10**9, 2))


def test_the_order_is_what_it_was() -> None:
    """Resuming an older run needs the same samples; a change here is a breaking one."""
    blocks = TrainingBlocks(numbered(40), 5, seed=42)
    order = [5, 21, 13, 9, 25, 33, 1, 29, 17, 24, 12, 28, 4, 0, 16, 32, 8, 20, 34, 10]  # fmt: skip
    assert blocks.batch(0, 20)[:, 0].tolist() == order


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_samples_of_a_step_do_not_depend_on_the_ranks(world_size: int) -> None:
    """Eight blocks a step: one process in four micro-batches, or two or four in fewer."""
    blocks = TrainingBlocks(numbered(500), 9, seed=6)
    for step in (0, 3, 1000):
        parts = [
            blocks.micro_batch(8 * step, number, batch_size=2, rank=rank, world_size=world_size)
            for number in range(4 // world_size)
            for rank in range(world_size)
        ]
        assert torch.equal(torch.cat(parts), blocks.batch(8 * step, 8))


def test_nothing_but_two_epochs_is_kept() -> None:
    blocks = TrainingBlocks(numbered(100), 9, seed=5)
    for epoch in range(10):
        epoch_blocks(blocks, epoch)
    assert blocks._epoch.cache_info().currsize == 2
    assert blocks.batch(0, 4).untyped_storage().nbytes() == 4 * 9 * 8


@pytest.mark.parametrize(("first", "count"), [(-1, 2), (0, 0)])
def test_impossible_samples_are_refused(first: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"given first_sample {first} and count {count}, allowed"):
        TrainingBlocks(numbered(10), 5, seed=0).batch(first, count)


def test_too_few_tokens_say_how_many_are_needed() -> None:
    with pytest.raises(UserError) as caught:
        TrainingBlocks(numbered(4), 5, seed=0)
    assert str(caught.value) == (
        "the training text has 4 tokens, one block needs max_seq_length = 5; lower "
        "max_seq_length to at most 4 or give more text"
    )
    with pytest.raises(UserError, match=r"^the validation text has 1 token, .* = 5; give more"):
        validation_blocks(numbered(1), 5)
    with pytest.raises(ValueError, match="block_length: given 1, allowed is at least 2"):
        TrainingBlocks(numbered(4), 1, seed=0)


@pytest.mark.parametrize(("num_tokens", "block_length"), SHAPES)
def test_validation_blocks_follow_each_other(num_tokens: int, block_length: int) -> None:
    stride = block_length - 1
    blocks = validation_blocks(numbered(num_tokens), block_length)
    assert blocks.shape == ((num_tokens - 1) // stride, block_length)
    assert len(blocks) == blocks.shape[0]
    together = blocks[:]
    assert together.dtype == torch.int64
    assert together[:, 0].tolist() == [i * stride for i in range(len(blocks))]
    targets = together[:, 1:].flatten().tolist()
    assert targets == list(range(1, len(blocks) * stride + 1))
    assert num_tokens - 1 - targets[-1] < stride
    for i in range(len(blocks)):
        assert torch.equal(blocks[i], together[i])
    assert torch.equal(blocks[-1], together[-1])
    with pytest.raises(IndexError):
        blocks[len(blocks)]


def test_capped_validation_blocks_are_spread_evenly() -> None:
    tokens = numbered(1001)
    every = validation_blocks(tokens, 11)[:]
    assert len(every) == 100
    for max_blocks in (1, 3, 7, 64, 99):
        starts = validation_blocks(tokens, 11, max_blocks)[:][:, 0] // 10
        assert len(starts) == max_blocks
        assert starts[0] == 0
        gaps = torch.diff(starts, append=torch.tensor([100]))
        assert set(gaps.tolist()) <= {100 // max_blocks, -(-100 // max_blocks)}
    for max_blocks in (100, 1000):
        assert torch.equal(validation_blocks(tokens, 11, max_blocks)[:], every)
    with pytest.raises(ValueError, match="max_blocks: given 0, allowed is at least 1, or None"):
        validation_blocks(tokens, 11, 0)


def num_prefetch_threads() -> int:
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


@pytest.mark.parametrize("num_workers", [0, 1, 2, 5])
def test_prefetched_items_are_the_same_in_the_same_order(num_workers: int) -> None:
    blocks = TrainingBlocks(numbered(500), 9, seed=6)
    batches = [blocks.batch(4 * step, 4) for step in range(100)]
    ahead = list(prefetched((blocks.batch(4 * step, 4) for step in range(100)), num_workers))
    assert torch.equal(torch.stack(ahead), torch.stack(batches))
    assert list(prefetched([], num_workers)) == []
    assert num_prefetch_threads() == 0


@pytest.mark.parametrize(("num_workers", "num_ahead"), [(0, 0), (1, 2), (2, 2), (4, 4)])
def test_prefetched_runs_on_a_thread_a_few_items_ahead(num_workers: int, num_ahead: int) -> None:
    made: list[int] = []
    threads = set()
    enough = threading.Event()

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            threads.add(threading.current_thread().name)
            if len(made) == 1 + num_ahead:
                enough.set()
            yield i

    iterator = prefetched(items(), num_workers)
    assert made == []
    assert next(iterator) == 0
    assert enough.wait(10)
    assert not threading.Event().wait(0.05)  # time in which it must not go further
    assert len(made) == 1 + num_ahead
    assert threads == {"prefetch_0" if num_workers else threading.current_thread().name}
    iterator.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(3), KeyboardInterrupt()])
def test_an_exception_arrives_in_its_place(num_workers: int, error: BaseException) -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise error

    received = []
    with pytest.raises(type(error)) as caught:
        received.extend(prefetched(items(), num_workers))
    assert caught.value is error
    iterator = prefetched(items(), num_workers)
    assert [next(iterator), next(iterator)] == [1, 2]
    with pytest.raises(type(error)):
        next(iterator)
    assert num_prefetch_threads() == 0


def test_the_thread_ends_when_the_consumer_stops() -> None:
    def forever() -> Iterator[int]:
        while True:
            yield 0

    for _ in prefetched(forever(), 2):
        break
    assert num_prefetch_threads() == 0
    iterator = prefetched(forever(), 2)
    next(iterator)
    assert num_prefetch_threads() == 1
    del iterator
    assert num_prefetch_threads() == 0


def test_python_exits_while_items_are_ahead() -> None:
    """Neither a hang nor a crash, with the iterator alive in the main module."""
    script = (
        "import itertools, torch\n"
        "from sharpgpt.data.blocks import prefetched\n"
        "iterator = prefetched((torch.ones(1000) for _ in itertools.count()), 2)\n"
        "print(next(iterator).sum().item())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1000.0\n", "")
