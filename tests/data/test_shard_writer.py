import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharpgpt.data import shard_writer
from sharpgpt.data.shard_writer import ShardWriter
from tests.data.prepared_folder import IDS

PARTS = np.array_split(IDS, 9)
"""With shards of 400, some parts end two shards, and some none."""
BEGINNING: dict[str, Any] = {"entries": [], "partial_tokens": 0}
OPERATIONS = (
    (os, "replace"), (os, "fsync"), (os, "truncate"), (Path, "unlink"), (shard_writer, "open"),
)  # fmt: skip
"""All that the writer does to a folder, but for the writing itself."""


def new_writer(folder: Path, form: Any = "sharpgpt", **changes: Any) -> ShardWriter:
    options = {"dtype": "uint16", "shard_tokens": 400, "form": form, "name": "corpus"}
    return ShardWriter(folder, "train", **(options | changes))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class KilledError(BaseException):
    pass


@contextmanager
def before_each_operation(action: Callable[[], None]) -> Iterator[None]:
    """Call `action` before each operation of the writer on the disk; nothing waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        for where, name in OPERATIONS:
            real: Any = {"open": open, "fsync": lambda _: None}.get(name) or getattr(where, name)

            def patched(*args: Any, _real: Any = real, **kwargs: Any) -> Any:
                action()
                return _real(*args, **kwargs)

            patch.setattr(where, name, patched, raising=False)
        yield


def test_shards_are_little_endian(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)
    writer.append(IDS)
    writer.finish()
    data = (tmp_path / "train_00001.bin").read_bytes()
    numbers = [int.from_bytes(data[i : i + 2], "little") for i in range(0, len(data), 2)]
    assert numbers == IDS[400:800].tolist()


def test_the_header_is_llmcs(tmp_path: Path) -> None:
    writer = new_writer(tmp_path, "llm.c")
    writer.append(IDS)
    assert [entry.num_tokens for entry in writer.finish()] == [400] * 6 + [100]
    data = (tmp_path / "corpus_train_000006.bin").read_bytes()
    header = [int.from_bytes(data[i : i + 4], "little") for i in range(0, 1024, 4)]
    assert header == [20240520, 1, 100, *[0] * 253]
    assert len(data) == 1024 + 200


def test_an_empty_split_has_an_empty_shard(tmp_path: Path) -> None:
    (entry,) = new_writer(tmp_path).finish()
    assert (entry.file, entry.num_tokens) == ("train_00000.bin", 0)
    assert contents(tmp_path) == {"train_00000.bin": b""}


def test_a_shard_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    writer = new_writer(tmp_path)
    writer.append(IDS[:399])
    writer.commit()
    assert list(contents(tmp_path)) == [".partial_train_00000.bin"]
    writer.append(IDS[399:400])
    assert list(contents(tmp_path)) == ["train_00000.bin"]


def test_ids_that_do_not_fit_are_no_ids(tmp_path: Path) -> None:
    """Cast to uint16 they would be other tokens, without a word."""
    for wrong in (65536, -1):
        with pytest.raises(ValueError, match="do not fit into uint16"):
            new_writer(tmp_path).append(np.array([5, wrong]))


@pytest.mark.parametrize("form", ["sharpgpt", "nanogpt", "llm.c"])
def test_a_writer_killed_anywhere_goes_on_to_the_same_bytes(tmp_path: Path, form: str) -> None:
    """The folder as it lies before each operation, restored to the last state.

    The restoring is killed before each of its own operations too, and then done again. Behind what
    was flushed stands half a token, as after a torn write.
    """
    whole = tmp_path / "whole"
    whole.mkdir()
    writer = new_writer(whole, form)
    state, done = BEGINNING, 0
    found: list[tuple[Path, dict[str, Any], int]] = []

    def keep() -> None:
        folder = tmp_path / f"before_{len(found)}"
        shutil.copytree(whole, folder)
        for partial in folder.glob(".partial_*"):
            with open(partial, "ab") as file:
                file.write(b"\xff")
        found.append((folder, state, done))

    with before_each_operation(keep):
        for number, part in enumerate(PARTS):
            writer.append(part)
            if writer._file is not None:
                writer._file.flush()
            keep()
            if number % 2:
                state, done = json.loads(json.dumps(writer.commit())), number + 1
        writer.finish()
    keep()
    expected = contents(whole)
    written = b"".join(expected[name][-2 * len(IDS) :] for name in sorted(expected))
    assert written.endswith(IDS[-100:].astype("<u2").tobytes())

    again = tmp_path / "again"
    num_operations = 0

    def count_down() -> None:
        nonlocal num_operations
        num_operations -= 1
        if num_operations < 0:
            raise KilledError

    num_kills = 0
    for folder, place, num_done in found:
        is_restored, kill_before = False, 0
        while not is_restored:
            shutil.copytree(folder, again)
            num_operations = kill_before
            try:
                first = new_writer(again, form)
                with before_each_operation(count_down):
                    first.restore(place)
                is_restored = True
            except KilledError:
                num_kills += 1
            first.abandon()
            with before_each_operation(lambda: None):
                second = new_writer(again, form)
                second.restore(place)
                for part in PARTS[num_done:]:
                    second.append(part)
                second.finish()
            assert contents(again) == expected
            shutil.rmtree(again)
            kill_before += 1
    assert num_kills > len(found) > 15


def test_a_restoring_that_was_stopped_leaves_no_gap(tmp_path: Path) -> None:
    """It removed the first of the later shards first, and the next one found none and stopped."""
    writer = new_writer(tmp_path)
    writer.append(IDS)
    writer.abandon()
    operations: list[int] = []

    def kill_at_the_fifth() -> None:
        if len(operations) == 4:
            raise KilledError
        operations.append(1)

    with pytest.raises(KilledError), before_each_operation(kill_at_the_fifth):
        new_writer(tmp_path).restore(BEGINNING)
    assert 2 < len(contents(tmp_path)) < 7
    new_writer(tmp_path).restore(BEGINNING)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (".partial_train_00001.bin", b"123"),
        (".partial_train_00001.bin", None),
        ("train_00000.bin", None),
        ("train_00000.bin", bytes(799)),
        ("train_00000.bin", bytes(801)),
    ],
)
def test_a_state_whose_files_are_gone_is_refused(
    tmp_path: Path, file: str, content: bytes | None
) -> None:
    writer = new_writer(tmp_path)
    writer.append(IDS[:500])
    state = writer.commit()
    writer.abandon()
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file} is missing or (shorter|of another length)"):
        new_writer(tmp_path).restore(state)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"entries": None, "partial_tokens": 0},
        {"entries": [{"file": "../x", "num_tokens": 1, "sha256": "0" * 64}], "partial_tokens": 0},
        {"entries": [], "partial_tokens": -1},
        {"entries": [], "partial_tokens": 400},
        {"entries": [], "partial_tokens": None},
    ],
)
def test_what_is_no_state_is_refused(tmp_path: Path, state: dict[str, Any]) -> None:
    (tmp_path / "train_00000.bin").write_bytes(b"something")
    with pytest.raises(ValueError, match=r"state of a shard writer|partial shard of"):
        new_writer(tmp_path).restore(state)
    assert contents(tmp_path) == {"train_00000.bin": b"something"}


def test_links_are_not_written_through(tmp_path: Path) -> None:
    """A stranger's folder could have one in the place of a partial shard."""
    (tmp_path / "precious").write_bytes(bytes(1000))
    folder = tmp_path / "data"
    folder.mkdir()
    link = folder / ".partial_train_00000.bin"
    link.symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match="missing"):
        new_writer(folder).restore({"entries": [], "partial_tokens": 100})
    writer = new_writer(folder)
    writer.append(IDS[:100])
    writer.finish()
    assert (tmp_path / "precious").read_bytes() == bytes(1000)


def test_an_error_of_the_disk_leaves_what_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = new_writer(tmp_path)
    writer.append(IDS[:500])
    state = writer.commit()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            writer.append(IDS[500:])
        writer.abandon()
    writer = new_writer(tmp_path)
    writer.restore(state)
    writer.append(IDS[500:])
    assert sum(entry.num_tokens for entry in writer.finish()) == 2500
    data = b"".join(content for _, content in sorted(contents(tmp_path).items()))
    assert data == IDS.astype("<u2").tobytes()
