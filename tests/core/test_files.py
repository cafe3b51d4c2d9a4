"""Atomic writes: the old file or the new one, with the permissions of any new file."""

import contextlib
import errno
import os
import stat
from pathlib import Path

import pytest

from sharpgpt.core.files import (
    atomic_path,
    make_folder,
    os_error_text,
    sync,
    temporary_files,
    user_path,
    write_text,
)
from tests.system_calls import SystemCalls


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [each.name for each in path.parent.iterdir()] == ["file.txt"]
    write_text(path, "new é")
    assert path.read_text(encoding="utf-8") == "new é"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_device_or_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    """To root, `to_yaml("/dev/full")` left a file in the place of the device."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match="device or a pipe"):
            write_text(tmp_path / name, "text")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file.txt", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o640


def test_files_and_folders_are_flushed_and_a_missing_one_is_skipped(tmp_path: Path) -> None:
    write_text(tmp_path / "file.txt", "")
    for path in (tmp_path, tmp_path / "file.txt", tmp_path / "absent"):
        sync(path)


def test_a_file_is_flushed_before_it_gets_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder was not flushed: after a power cut the old file, or none, could be there."""
    calls = SystemCalls(tmp_path, monkeypatch)
    for text in ("old", "new"):
        write_text(tmp_path / "file.txt", text)
        assert calls.unflushed == []
        assert calls.events == [
            "flush .file.txt.tmp", "rename .file.txt.tmp -> file.txt", "flush .",
        ]  # fmt: skip
        calls.events.clear()
    write_text(tmp_path / "file.txt", "newer", temporary_name="mine")
    assert calls.events == ["flush mine", "rename mine -> file.txt", "flush ."]
    assert calls.unflushed == []
    calls.events.clear()

    def fail() -> None:
        with atomic_path(tmp_path / "file.txt") as temporary:
            temporary.write_text("ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert calls.events == ["remove .file.txt.tmp"]


def test_the_folders_that_are_made_are_flushed_into_those_that_hold_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole run could be gone, though every checkpoint in it had been flushed."""
    calls = SystemCalls(tmp_path, monkeypatch)
    make_folder(tmp_path / "outputs" / "run" / "checkpoints")
    assert calls.events == ["flush .", "flush outputs", "flush outputs/run"]
    make_folder(tmp_path / "outputs" / "run")
    assert len(calls.events) == 3
    calls.events.clear()
    write_text(tmp_path / "reports" / "file.txt", "")
    assert calls.events[0] == "flush ."
    assert calls.events[-1] == "flush reports"


def test_what_a_killed_process_left_is_found_and_replaced(tmp_path: Path) -> None:
    (tmp_path / ".file.txt.bak").touch()
    (tmp_path / ".file.txt.12345678.swp").touch()
    with atomic_path(tmp_path / "file.txt") as temporary:
        assert temporary_files(tmp_path, "file.txt") == [temporary]
    (tmp_path / "mine").write_text("a half of it", encoding="utf-8")
    write_text(tmp_path / "file.txt", "whole", temporary_name="mine")
    assert (tmp_path / "file.txt").read_text(encoding="utf-8") == "whole"
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(("number", "is_error"), [(errno.EIO, True), (errno.EINVAL, False)])
def test_a_flush_that_fails_is_an_error_unless_the_system_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_error: bool
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="error") if is_error else contextlib.nullcontext():
        sync(tmp_path)


def test_an_unknown_user_is_no_error() -> None:
    assert user_path("~nosuchuser/x") == Path("~nosuchuser/x")
    assert user_path("~") == Path.home()


def test_a_full_disk_names_the_file_what_it_needs_and_what_is_free(tmp_path: Path) -> None:
    """The message was `error: No space left on device`: write() and fsync() name no file."""
    path = tmp_path / "file.txt"

    def fill() -> None:
        with atomic_path(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left") as raised:
        fill()
    text = os_error_text(raised.value, needed_bytes=2_500_000)
    assert text.startswith(f"{path}: No space left on device (2.5 MB needed, ")
    assert text.endswith(" free there); make room, or give a place on another disk")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EIO, "Input/output error", "a"), "a: Input/output error; check the disk"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a"), "a: No such file"),
        (OSError("strange"), "strange"),
        (OSError(), "OSError"),
        (OSError(errno.ENOSPC, "No space"), "No space; make room, or give a place on another disk"),
    ],
)
def test_an_error_of_the_system_is_a_sentence(error: OSError, expected: str) -> None:
    assert os_error_text(error) == expected
