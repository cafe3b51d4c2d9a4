"""One process at a time in a run folder, whoever it is and however the one before ended."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from sharpgpt.config import TrainingConfig
from sharpgpt.runs.folder import LOCK_FILE, run_lock
from sharpgpt.runtime.lock import FolderInUseError
from sharpgpt.training.train import train

HOLDER = """
import sys, time
from pathlib import Path
from sharpgpt.runs.folder import run_lock
lock = run_lock(Path(sys.argv[1]))
lock.acquire()
print("locked", flush=True)
time.sleep(60)
"""


def test_looking_at_a_lock_leaves_nothing(tmp_path: Path) -> None:
    """What a dry run does: it sees a live run, and a folder where one was, and writes nothing."""
    lock = run_lock(tmp_path)
    lock.check()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / LOCK_FILE).write_text("left by a killed process\n")
    lock.check()
    assert (tmp_path / LOCK_FILE).read_text() == "left by a killed process\n"
    with run_lock(tmp_path):
        content = (tmp_path / LOCK_FILE).read_text()
        with pytest.raises(FolderInUseError, match=rf"is in use by process {os.getpid()} ") as seen:
            lock.check()
        assert seen.value.is_own
        assert (tmp_path / LOCK_FILE).read_text() == content


def test_looking_at_a_lock_without_flock(tmp_path: Path, without_flock: None) -> None:
    run_lock(tmp_path).check()
    (tmp_path / LOCK_FILE).write_text("7\nelsewhere\n")
    with pytest.raises(FolderInUseError, match=r"process 7 on elsewhere.*delete .*run\.lock"):
        run_lock(tmp_path).check()


@pytest.fixture
def without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", missing)


def test_a_second_process_learns_the_holder_until_it_dies(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(FolderInUseError, match=rf"in use by process {holder.pid} on .* \(-c"):
        run_lock(tmp_path).acquire()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert (tmp_path / LOCK_FILE).exists()
    lock = run_lock(tmp_path)
    lock.acquire()
    assert json.loads((tmp_path / LOCK_FILE).read_text("utf-8"))["pid"] == os.getpid()
    lock.release()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_released_it_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(3):
        lock = run_lock(tmp_path)
        lock.acquire()
        with pytest.raises(FolderInUseError):
            run_lock(tmp_path).acquire()
        lock.release()


def test_the_file_is_removed_while_the_lock_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed after it, the file could be the one that the next process has just locked."""
    present: list[bool] = []
    unlock = fcntl.flock

    def watched(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_UN:
            present.append((tmp_path / LOCK_FILE).exists())
        unlock(descriptor, operation)

    lock = run_lock(tmp_path)
    lock.acquire()
    monkeypatch.setattr(fcntl, "flock", watched)
    lock.release()
    assert present == [False]


@pytest.mark.parametrize("flock", [True, False])
def test_the_file_of_a_successor_stays(
    tmp_path: Path, flock: bool, request: pytest.FixtureRequest
) -> None:
    """Somebody deleted the file of a lock that was held, and another process took the lock.

    The first one removed the file of the second as it ended, and a third got the lock too.
    """
    if not flock:
        request.getfixturevalue("without_flock")
    first, second = run_lock(tmp_path), run_lock(tmp_path)
    first.acquire()
    (tmp_path / LOCK_FILE).unlink()
    second.acquire()
    first.release()
    with pytest.raises(FolderInUseError):
        run_lock(tmp_path).acquire()
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_removed_before_it_is_locked_is_not_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, the holder before may have ended and removed the file."""
    lock_file, removed = tmp_path / LOCK_FILE, list[int]()
    real = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        if not removed and lock_file.exists():
            removed.append(lock_file.stat().st_ino)
            lock_file.unlink()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with run_lock(tmp_path):
        assert removed
        assert lock_file.exists()
        with pytest.raises(FolderInUseError):
            run_lock(tmp_path).acquire()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 3000,
        b"\xff\xfe",
        b'{"pid": "\\u001b[2J"}',
        b'{"pid": 1, "host": "\\u001b[2J"}',
    ],
)
def test_an_unreadable_lock_file_does_not_block(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK_FILE).write_bytes(content)
    lock = run_lock(tmp_path)
    lock.acquire()
    (tmp_path / LOCK_FILE).write_bytes(content)
    with pytest.raises(FolderInUseError) as caught:
        run_lock(tmp_path).acquire()
    assert "\x1b" not in str(caught.value) + caught.value.holder
    lock.release()


def test_a_longer_file_of_an_earlier_holder_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_bytes(b"x" * 3000)
    with run_lock(tmp_path), pytest.raises(FolderInUseError, match=f"process {os.getpid()} on"):
        run_lock(tmp_path).acquire()


def test_a_lock_is_its_own_while_this_process_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process waits for another one, and never for itself; a forked one holds nothing."""

    def is_own() -> bool:
        with pytest.raises(FolderInUseError) as caught:
            run_lock(tmp_path).acquire()
        return caught.value.is_own

    with run_lock(tmp_path) as lock:
        assert is_own()
        with monkeypatch.context() as child:  # filelock knows forks by it too
            child.setattr(os, "getpid", lambda: 1)
            assert lock._key() not in lock._held
    with FileLock(tmp_path / LOCK_FILE):
        assert not is_own()


def test_an_error_of_the_disk_is_no_missing_flock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock by the existence of a file would not exclude one by `flock`."""

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output error"):
        run_lock(tmp_path).acquire()
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    (tmp_path / LOCK_FILE).symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        run_lock(tmp_path).acquire()
    assert victim.read_text("utf-8") == "precious"


def test_what_cannot_be_locked_is_not_left_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    lock = run_lock(tmp_path)
    with monkeypatch.context() as moment:
        moment.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            lock.acquire()
    with run_lock(tmp_path):
        assert lock.path.exists()


@pytest.mark.usefixtures("without_flock")
def test_without_flock_the_file_is_the_lock(tmp_path: Path) -> None:
    lock = run_lock(tmp_path)
    lock.acquire()
    with pytest.raises(FolderInUseError, match=f"process {os.getpid()} on"):
        run_lock(tmp_path).acquire()
    lock.release()
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / LOCK_FILE).write_text(f"{dead.pid}\n{socket.gethostname()}\n", encoding="utf-8")
    lock.acquire()
    lock.release()
    for holder in ("1\nelsewhere\n", f"True\n{socket.gethostname()}\n", '{"pid": 1, "host": 2}'):
        (tmp_path / LOCK_FILE).write_text(holder, encoding="utf-8")
        with pytest.raises(FolderInUseError, match="If that process is gone, delete"):
            run_lock(tmp_path).acquire()


@pytest.mark.usefixtures("quick_runs")
def test_a_run_locks_its_folder_and_its_checkpoints_elsewhere(
    tiny_config: Callable[..., TrainingConfig], tmp_path: Path
) -> None:
    elsewhere = str(tmp_path / "elsewhere")
    for folder, settings in (
        (tmp_path / "outputs" / "tiny", {}),
        (tmp_path / "elsewhere" / "tiny", {"checkpoint_dir": elsewhere}),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        lock = run_lock(folder)
        lock.acquire()
        with pytest.raises(FolderInUseError, match=f"run_name: {folder} is in use by process"):
            train(tiny_config(max_steps=1, resume="auto", **settings))
        lock.release()
        assert not list((tmp_path / "outputs").rglob(LOCK_FILE))
    train(tiny_config(max_steps=1, checkpoint_dir=elsewhere))
    assert not list(tmp_path.rglob(LOCK_FILE))
