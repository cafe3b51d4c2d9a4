import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sharpgpt.data.batches import TrainingBlocks
from sharpgpt.data.manifest import (
    Manifest,
    SplitEntry,
    TokenizerEntry,
    read_manifest,
    verify,
    write_manifest,
)
from sharpgpt.data.prepared import open_prepared
from sharpgpt.data.shard_writer import ShardWriter
from sharpgpt.data.shards import MAX_OPEN_FILES, Shard, ShardedTokens
from sharpgpt.files import UserError

IDS = np.random.default_rng(0).integers(0, 1000, 2500)


def prepared(folder: Path, *, form: Any = "sharpgpt", dtype: Any = "uint16") -> Path:
    """2,500 training and 100 validation tokens in shards of 1,000."""
    splits = {}
    for split, ids in (("train", IDS), ("val", IDS[:100])):
        how = {"dtype": dtype, "shard_tokens": 1000, "form": form, "name": "corpus"}
        writer = ShardWriter(folder, split, **how)  # type: ignore[arg-type]
        for first in range(0, len(ids), 333):
            writer.append(ids[first : first + 333])
        splits[split] = SplitEntry(
            num_tokens=writer.num_tokens, num_documents=3, num_bytes=9999, shards=writer.finish()
        )
    tokenizer = TokenizerEntry(name="gpt2", fingerprint="0" * 64, vocab_size=50257)
    write_manifest(
        folder,
        Manifest(
            name="corpus", form=form, dtype=dtype, tokenizer=tokenizer, end_of_text_id=50256,
            splits=splits, source={"origin": "here"}, recipe={"dataset": "x"},  # type: ignore[arg-type]
        ),
    )  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("form", "dtype", "files"),
    [
        ("sharpgpt", "uint16", ["train_00000.bin", "train_00001.bin", "train_00002.bin"]),
        ("sharpgpt", "uint32", ["train_00000.bin", "train_00001.bin", "train_00002.bin"]),
        ("nanogpt", "uint16", ["train.bin"]),
        ("llm.c", "uint16", [f"corpus_train_{i:06d}.bin" for i in range(3)]),
    ],
)
def test_what_is_written_reads_back(
    tmp_path: Path, form: str, dtype: str, files: list[str]
) -> None:
    """By its manifest, and without it as the other program's files."""
    data = open_prepared(prepared(tmp_path, form=form, dtype=dtype))
    assert data is not None
    assert [shard.path.name for shard in data.train.shards] == files
    assert np.array_equal(data.train[:], IDS)
    assert np.array_equal(data.val[:], IDS[:100])
    assert not list(tmp_path.glob(".partial*"))
    verify(tmp_path)
    if form != "sharpgpt":
        (tmp_path / "manifest.json").unlink()
        foreign = open_prepared(tmp_path)
        assert foreign is not None
        assert foreign.form == form
        assert np.array_equal(foreign.train[:], IDS)


def test_shards_are_little_endian(tmp_path: Path) -> None:
    prepared(tmp_path)
    data = (tmp_path / "train_00001.bin").read_bytes()
    assert [int.from_bytes(data[i : i + 2], "little") for i in range(0, 2000, 2)] == list(
        IDS[1000:2000]
    )


def test_blocks_cross_the_ends_of_shards(tmp_path: Path) -> None:
    data = open_prepared(prepared(tmp_path))
    assert data is not None
    starts = np.array([0, 995, 990, 999, 1000, 1500, 0])
    for length in (1, 10, 700, 1000):
        blocks = data.train.gather(starts, length)
        assert blocks.dtype == torch.int64
        assert torch.equal(blocks, torch.tensor(IDS)[starts[:, None] + np.arange(length)])
    assert torch.equal(data.train.gather(np.array([0]), 2500), torch.tensor(IDS)[None])
    assert np.array_equal(data.train[990:2010], IDS[990:2010])
    assert len(data.train[5:5]) == 0


def test_many_shards_keep_few_files_open(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train", dtype="uint16", shard_tokens=5)
    writer.append(IDS)
    shards = [Shard(tmp_path / entry.file, 0, entry.num_tokens) for entry in writer.finish()]
    assert len(shards) == 500
    tokens = ShardedTokens(shards, "uint16", 1000)
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    assert np.array_equal(tokens[:], IDS)
    if before:
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + MAX_OPEN_FILES + 2


def test_ten_billion_tokens_open_at_once(tmp_path: Path) -> None:
    """A sparse file; the order of its blocks is a permutation by construction."""
    num_tokens = 10**10
    with open(tmp_path / "train.bin", "wb") as file:
        file.truncate(2 * num_tokens)
    with open(tmp_path / "val.bin", "wb") as file:
        file.truncate(2 * 10**6)
    data = open_prepared(tmp_path)
    assert data is not None
    assert len(data.train) == num_tokens
    blocks = TrainingBlocks(data.train, 1024, seed=1)
    assert blocks.batch(10**6, 8).shape == (8, 1024)
    assert blocks.num_blocks == (num_tokens - 1023) // 1023


@pytest.mark.parametrize("change", ["flipped", "truncated", "longer", "missing"])
def test_a_changed_shard_is_named(tmp_path: Path, change: str) -> None:
    path = prepared(tmp_path) / "train_00001.bin"
    content = bytearray(path.read_bytes())
    if change == "flipped":
        content[700] ^= 1
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"train_00001\.bin: has changed since it was written"):
            verify(tmp_path)
        assert open_prepared(tmp_path) is not None  # sizes alone do not show it
        return
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-2] if change == "truncated" else content + b"12")
    for action in (open_prepared, verify):
        with pytest.raises(UserError, match=r"train_00001\.bin: (has|cannot be read)"):
            action(tmp_path)


def test_a_shard_cut_short_in_use_is_a_message_and_no_crash(tmp_path: Path) -> None:
    """Through a memory map this would kill the process with SIGBUS."""
    data = open_prepared(prepared(tmp_path))
    assert data is not None
    data.train.gather(np.array([1000]), 100)
    with open(tmp_path / "train_00001.bin", "r+b") as file:
        file.truncate(300)
    with pytest.raises(UserError, match=r"train_00001\.bin: was cut short while in use"):
        data.train.gather(np.array([1000]), 1000)


def test_an_unfinished_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "journal.json").write_text("{}")
    with pytest.raises(UserError, match="has not finished; run the same sharpgpt prepare command"):
        open_prepared(tmp_path)


def set_to(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_to("version", to=2), "of version 2, and this SharpGPT reads version 1"),
        (set_to("version", to=True), "of version True"),
        (set_to("dtype", to="float32"), "damaged"),
        (set_to("splits", "train", "num_tokens", to=-1), "damaged"),
        (set_to("splits", "train", "num_tokens", to=2501), "do not add up"),
        (set_to("splits", "train", "num_tokens", to="2500"), "damaged"),
        (set_to("splits", "train", "shards", 0, "file", to="../train_00000.bin"), "damaged"),
        (set_to("splits", "train", "shards", 0, "file", to="/etc/passwd"), "damaged"),
        (set_to("splits", "train", "shards", 0, "file", to=".hidden"), "damaged"),
        (set_to("splits", "train", "shards", 0, "file", to="train_00001.bin"), "named twice"),
        (set_to("splits", "train", "shards", 0, "sha256", to="xyz"), "damaged"),
        (set_to("splits", "train", "shards", 0, "num_tokens", to=2**80), "damaged"),
        (set_to("splits", to={}), "splits are"),
        (set_to("tokenizer", "vocab_size", to=0), "damaged"),
        (set_to("tokenizer", "vocab_size", to=70000), "cannot hold the ids"),
        (set_to("tokenizer", "characters", to=["a", "b"]), "characters"),
        (set_to("end_of_text_id", to=60000), "outside the vocabulary"),
        (set_to("unknown", to=1), "damaged"),
        (lambda content: content.pop("recipe"), "damaged"),
    ],
)
def test_a_hostile_manifest_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = prepared(tmp_path) / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        open_prepared(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '"x"', "[" * 100_000, "\x80", "NaN"])
def test_a_manifest_that_is_no_manifest(tmp_path: Path, text: str) -> None:
    (prepared(tmp_path) / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"manifest\.json: "):
        open_prepared(tmp_path)


def test_the_manifest_round_trips(tmp_path: Path) -> None:
    manifest = read_manifest(prepared(tmp_path))
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert manifest.splits["train"].num_tokens == 2500


@pytest.mark.parametrize("form", ["sharpgpt", "nanogpt", "llm.c"])
def test_a_writer_stopped_anywhere_goes_on_to_the_same_bytes(tmp_path: Path, form: Any) -> None:
    """The folder as it lies after each append, restored to each state committed until then."""

    def writer(folder: Path) -> ShardWriter:
        return ShardWriter(
            folder, "train", dtype="uint16", shard_tokens=1000, form=form, name="corpus"
        )

    whole = tmp_path / "whole"
    whole.mkdir()
    first = writer(whole)
    parts = np.array_split(IDS, 9)
    states: list[tuple[int, dict[str, Any]]] = []
    folders = []
    for number, part in enumerate(parts):
        states.append((number, json.loads(json.dumps(first.commit()))))
        first.append(part)
        first._file.flush() if first._file else None  # type: ignore[func-returns-value]
        copy = tmp_path / f"after_{number}"
        shutil.copytree(whole, copy)
        folders.append((number, copy))
    first.finish()
    expected = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert b"".join(expected[name][-2:] for name in sorted(expected))  # there is something
    for stopped_after, folder in folders:
        for number, state in states:
            if number > stopped_after:
                continue
            again = tmp_path / "again"
            shutil.copytree(folder, again)
            second = writer(again)
            second.restore(state)
            for part in parts[number:]:
                second.append(part)
            second.finish()
            assert {path.name: path.read_bytes() for path in again.iterdir()} == expected
            shutil.rmtree(again)


def test_a_state_whose_files_are_gone_is_refused(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train", dtype="uint16", shard_tokens=1000)
    writer.append(IDS[:100])
    state = writer.commit()
    writer.abandon()
    (tmp_path / ".partial_train_00000.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match="missing or shorter than 200 bytes"):
        ShardWriter(tmp_path, "train", dtype="uint16", shard_tokens=1000).restore(state)
