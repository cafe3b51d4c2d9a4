import errno
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data.blocks import TrainingBlocks
from sharpgpt.data.manifest import Manifest, ShardEntry, SplitEntry, TokenizerEntry, write_manifest
from sharpgpt.data.prepared import open_prepared
from sharpgpt.data.shards import MAX_OPEN_FILES, Shard, ShardedTokens
from tests.data.prepared_folder import FINGERPRINT, IDS, prepared


@pytest.fixture(params=["preadv", "seek and read"])
def _reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to read; Windows has no preadv."""
    if request.param == "seek and read":
        monkeypatch.delattr(os, "preadv", raising=False)
    elif not hasattr(os, "preadv"):
        pytest.skip("there is no preadv here")


def sharded(folder: Path, *, dtype: str = "uint16", shard_tokens: int = 1000) -> ShardedTokens:
    """IDS in shards."""
    shards = []
    for first in range(0, len(IDS), shard_tokens):
        path = folder / f"train_{len(shards):05d}.bin"
        part = IDS[first : first + shard_tokens]
        path.write_bytes(part.astype(f"<{np.dtype(dtype).str[1:]}").tobytes())
        shards.append(Shard(path, 0, len(part)))
    return ShardedTokens(shards, dtype, 1000)


def num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.usefixtures("_reading")
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("shard_tokens", [3, 1000, 2500])
def test_blocks_cross_the_ends_of_shards(tmp_path: Path, dtype: str, shard_tokens: int) -> None:
    tokens = sharded(tmp_path, dtype=dtype, shard_tokens=shard_tokens)
    starts = np.array([0, 995, 990, 999, 1000, 1500, 0])
    for length in (1, 10, 700, 1000):
        blocks = tokens.rows(starts, length)
        assert blocks.dtype == dtype
        assert np.array_equal(blocks, IDS[starts[:, None] + np.arange(length)])
    assert np.array_equal(tokens.rows(np.array([0]), 2500), IDS[None])
    assert np.array_equal(tokens.rows(np.array([2499]), 1), IDS[None, 2499:])


@pytest.mark.usefixtures("_reading")
def test_ranges_are_those_of_an_array(tmp_path: Path) -> None:
    tokens = sharded(tmp_path)
    for part in (slice(None), slice(990, 2010), slice(5, 5), slice(9, 5), slice(-3, None)):
        assert np.array_equal(tokens[part], IDS[part])
        assert tokens[part].dtype == np.uint16
    assert np.array_equal(tokens[2400:9999], IDS[2400:])
    tokens[:][0] = 1  # a copy
    with pytest.raises(ValueError, match="step"):
        tokens[::2]


@pytest.mark.parametrize(
    ("starts", "length"), [([-1], 5), ([0, 2496], 5), ([0], 2501), ([9999], 1)]
)
def test_a_block_outside_is_an_error_of_the_caller(
    tmp_path: Path, starts: list[int], length: int
) -> None:
    with pytest.raises(IndexError, match="do not all lie in"):
        sharded(tmp_path).rows(np.array(starts), length)


@pytest.mark.usefixtures("_reading")
def test_threads_read_at_once(tmp_path: Path) -> None:
    """The prefetching thread and the validation of the main one share the files."""
    tokens = sharded(tmp_path, shard_tokens=100)
    equal = []

    def read(seed: int) -> None:
        starts = np.random.default_rng(seed).integers(0, 2400, (200, 4))
        equal.append(
            all(np.array_equal(tokens.rows(row, 90)[0], IDS[row[0] :][:90]) for row in starts)
        )

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal == [True] * 4


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc here")
def test_many_shards_keep_few_files_open(tmp_path: Path) -> None:
    tokens = sharded(tmp_path, shard_tokens=5)
    assert len(tokens.shards) == 500
    before = num_open_files()
    assert np.array_equal(tokens[:], IDS)
    assert before < num_open_files() <= before + MAX_OPEN_FILES
    del tokens
    assert num_open_files() == before


def test_ten_billion_tokens_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file, not hashed here; the order of its blocks is a permutation by construction."""
    monkeypatch.setattr("sharpgpt.data.content.sha256_of", lambda path: path.name)
    num_tokens = 10**10
    for name, count in (("train", num_tokens), ("val", 10**6)):
        with open(tmp_path / f"{name}.bin", "wb") as file:
            file.truncate(2 * count)
    data = open_prepared(tmp_path)
    assert data is not None
    assert len(data.train) == num_tokens
    blocks = TrainingBlocks(data.train, 1024, seed=1)
    assert blocks.batch(10**6, 8).shape == (8, 1024)
    assert blocks.num_blocks == (num_tokens - 1023) // 1023


def test_ten_billion_tokens_in_a_thousand_shards(tmp_path: Path) -> None:
    """The last token of shard i is i: a wrong border shows."""
    count = 10**7
    entries: dict[str, list[ShardEntry]] = {"train": [], "val": []}
    for split, number in [*(("train", i) for i in range(1000)), ("val", 0)]:
        file = f"{split}_{number:05d}.bin"
        with open(tmp_path / file, "wb") as opened:
            opened.truncate(2 * count - 2)
            opened.seek(2 * count - 2)
            opened.write(number.to_bytes(2, "little"))
        entries[split].append(ShardEntry(file=file, num_tokens=count, sha256="0" * 64))
    splits: Any = {
        split: SplitEntry(
            num_tokens=count * len(shards), num_documents=1, num_bytes=1, shards=shards
        )
        for split, shards in entries.items()
    }
    manifest = Manifest(
        name="sparse", form="sharpgpt", dtype="uint16", splits=splits, source={}, recipe={},
        tokenizer=TokenizerEntry(name="gpt2", fingerprint=FINGERPRINT, vocab_size=50257),
        end_of_text_id=50256,
    )  # fmt: skip
    write_manifest(tmp_path, manifest)
    data = open_prepared(tmp_path)
    assert data is not None
    assert len(data.train) == 10**10
    ends = np.array([1, 2, 500, 999]) * count
    assert data.train.rows(ends - 1, 2).tolist() == [[0, 0], [1, 0], [499, 0], [998, 0]]
    assert data.train[-1:].tolist() == [999]


def test_a_shard_cut_short_in_use_is_a_message_and_no_crash(tmp_path: Path) -> None:
    """Through a memory map this would kill the process with SIGBUS."""
    tokens = sharded(tmp_path)
    tokens.rows(np.array([1000]), 100)
    for size in (301, 0):
        with open(tmp_path / "train_00001.bin", "r+b") as file:
            file.truncate(size)
        with pytest.raises(UserError, match=r"train_00001\.bin: was truncated while in use"):
            tokens.rows(np.array([1000]), 1000)
    assert np.array_equal(tokens[2000:], IDS[2000:])


def test_a_disk_that_fails_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "preadv"):
        pytest.skip("there is no preadv here")
    tokens = sharded(tmp_path)

    def fail(*args: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    message = r"train_00001\.bin: cannot be read at token 7: Input/output error; check the disk"
    with pytest.raises(UserError, match=message):
        tokens.rows(np.array([1007]), 5)


def test_a_read_may_give_less_than_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Linux does beyond 2 GiB, some network file systems at any size, and within a token."""
    if not hasattr(os, "preadv"):
        pytest.skip("there is no preadv here")
    tokens = sharded(tmp_path)
    whole: Callable[..., int] = os.preadv

    def little(descriptor: int, buffers: Any, offset: int) -> int:
        return whole(descriptor, [memoryview(buffers[0]).cast("B")[:333]], offset)

    monkeypatch.setattr(os, "preadv", little)
    assert np.array_equal(tokens[:], IDS)


@pytest.mark.parametrize("change", [-1, 1, 2])
def test_a_shard_of_another_size_is_refused(tmp_path: Path, change: int) -> None:
    shards = sharded(tmp_path).shards
    os.truncate(shards[1].path, 2000 + change)
    message = rf"train_00001\.bin: has {2000 + change:,} bytes, expected 2,000 for 1,000 tokens"
    with pytest.raises(UserError, match=message):
        ShardedTokens(shards, "uint16", 1000)


def test_a_shard_removed_before_it_is_opened(tmp_path: Path) -> None:
    """Files are opened when they are first read, long after their sizes were looked at."""
    tokens = sharded(tmp_path)
    (tmp_path / "train_00002.bin").unlink()
    assert np.array_equal(tokens[:2000], IDS[:2000])
    with pytest.raises(UserError, match=r"train_00002\.bin: cannot be read at token 0: No such"):
        tokens.rows(np.array([1990]), 20)


def test_files_closed_from_outside_end_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that closed all files, as a daemon does, ended with "Exception ignored in __del__".

    Its files were closed a second time when Python dropped the tokens.
    """
    unraisable: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)
    tokens = sharded(tmp_path)
    assert len(tokens[:]) == len(IDS)
    for number in range(len(tokens.shards)):
        os.close(tokens._file(number).fileno())
    del tokens
    gc.collect()
    assert unraisable == []


def test_the_largest_id_is_one_below_the_size_of_the_vocabulary(tmp_path: Path) -> None:
    shards, largest = sharded(tmp_path).shards, int(IDS.max())
    assert len(ShardedTokens(shards, "uint16", largest + 1)[:]) == len(IDS)
    with pytest.raises(UserError, match=f"has the id {largest}, outside the vocabulary"):
        ShardedTokens(shards, "uint16", largest)[:]


def test_an_id_outside_the_vocabulary_is_named(tmp_path: Path) -> None:
    path = prepared(tmp_path) / "train_00001.bin"
    content = bytearray(path.read_bytes())
    content[500:502] = (60000).to_bytes(2, "little")
    path.write_bytes(content)
    data = open_prepared(tmp_path)
    assert data is not None
    message = r"train_00001\.bin: token 250 has the id 60000, outside the vocabulary of 50257"
    with pytest.raises(UserError, match=message):
        data.train.rows(np.array([0, 900]), 400)
    with pytest.raises(UserError, match=message):
        data.train[:]
    assert np.array_equal(data.train[:1250], IDS[:1250])
