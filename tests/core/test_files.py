"""Atomic writes: the old file or the new one, with the permissions of any new file."""

import os
import stat
from pathlib import Path

import pytest

from sharpgpt.core.files import atomic_path, sync, user_path, write_text


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


def test_an_unknown_user_is_no_error() -> None:
    assert user_path("~nosuchuser/x") == Path("~nosuchuser/x")
    assert user_path("~") == Path.home()
