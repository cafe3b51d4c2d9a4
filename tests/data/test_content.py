"""A hash is taken from the records only where the file cannot have changed."""

import os
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data import content
from sharpgpt.data.content import contents, stamp
from sharpgpt.data.load import load_data
from sharpgpt.data.prepared import open_prepared
from tests.data.prepared_folder import prepared

FIRST, SECOND = b"first content" * 20_000, b"FIRST content" + b"first content" * 19_999


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that was hashed and recorded; it counts as old enough."""
    monkeypatch.setattr(content, "GRAIN_NS", -(10**12))
    path = tmp_path / "data" / "file"
    path.parent.mkdir()
    path.write_bytes(FIRST)
    assert contents([path], tmp_path) == ([sha256(FIRST).hexdigest()], 1)
    assert contents([path], tmp_path) == ([sha256(FIRST).hexdigest()], 0)
    return path


def edit(path: Path) -> None:
    before = path.stat()
    with open(path, "r+b") as file:
        file.write(SECOND[:5])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(SECOND)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def into_the_past(path: Path) -> None:
    path.write_bytes(SECOND)
    os.utime(path, (0, 0))


def into_the_future(path: Path) -> None:
    path.write_bytes(SECOND)
    os.utime(path, (4e9, 4e9))


@pytest.mark.parametrize("change", [edit, replace, into_the_past, into_the_future])
def test_a_change_that_keeps_the_size_is_noticed(
    file: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """An edit in the middle counted as the same file, with its time set back or not."""
    time.sleep(0.02)  # beyond the grain of the clock
    change(file)
    assert contents([file], tmp_path) == ([sha256(SECOND).hexdigest()], 1)


def test_a_link_is_its_target(file: Path, tmp_path: Path) -> None:
    other, link = tmp_path / "other", tmp_path / "data" / "link"
    other.write_bytes(SECOND)
    link.symlink_to(file)
    assert contents([link], tmp_path).sha256s == [sha256(FIRST).hexdigest()]
    link.unlink()
    link.symlink_to(other)
    assert contents([link], tmp_path).sha256s == [sha256(SECOND).hexdigest()]


def test_a_file_just_written_and_one_from_the_future_are_hashed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second edit within the grain of the clock changes no time; nor may one after the clock
    was set back."""
    path = tmp_path / "file"
    path.write_bytes(FIRST)
    assert [contents([path], tmp_path / "r").num_read for _ in range(2)] == [1, 1]
    now = time.time_ns()
    monkeypatch.setattr(content.time, "time_ns", lambda: now + 3 * 10**9)
    assert [contents([path], tmp_path / "r").num_read for _ in range(2)] == [1, 0]
    other = tmp_path / "other"
    other.write_bytes(FIRST)
    monkeypatch.setattr(content.time, "time_ns", lambda: now - 10**12)
    assert [contents([other], tmp_path / "r").num_read for _ in range(2)] == [1, 1]


def test_a_file_written_while_it_is_hashed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(FIRST)

    def grow(of: Path) -> str:
        of.write_bytes(FIRST + b"more")
        return "0" * 64

    monkeypatch.setattr(content, "sha256_of", grow)
    with pytest.raises(UserError, match="is being written to; wait until it is complete"):
        contents([path], tmp_path / "r")


@pytest.mark.parametrize("damage", [b"{", b'{"x": 1}', b"[]"])
def test_records_are_only_a_cache(file: Path, tmp_path: Path, damage: bytes) -> None:
    (records,) = tmp_path.glob("*.json")
    records.write_bytes(damage)
    assert contents([file], tmp_path) == ([sha256(FIRST).hexdigest()], 1)
    assert stamp(file)[0] == len(FIRST)


@pytest.mark.parametrize("form", ["sharpgpt", "nanogpt", "llm.c"])
def test_an_edited_shard_of_prepared_data_is_refused(tmp_path: Path, form: str) -> None:
    """Training read it, under the hash of what it was."""
    prepared(tmp_path, form=form)
    path = sorted(tmp_path.glob("*train*.bin"))[0]
    edit_byte(path, 1030)
    with pytest.raises(UserError, match=rf"{path.name}: has changed since it was written"):
        load_data(dataset=str(tmp_path), tokenizer="gpt2", max_seq_length=8)


def edit_byte(path: Path, place: int) -> None:
    before, data = path.stat(), bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_the_middle_of_nanogpts_file_is_part_of_its_identity(tmp_path: Path) -> None:
    """Its ends alone were hashed, so a run went on with other tokens, and said nothing."""
    for name in ("train.bin", "val.bin"):
        (tmp_path / name).write_bytes(bytes(300_000))
    before = open_prepared(tmp_path)
    edit_byte(tmp_path / "train.bin", 150_000)
    after = open_prepared(tmp_path)
    assert before is not None
    assert after is not None
    assert before.sha256 != after.sha256
    assert before.sha256_of_ends == after.sha256_of_ends
