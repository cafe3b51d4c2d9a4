"""The lock on a folder: one process at a time works there, and the next one learns which.

The lock is filelock's: `flock`, which the kernel releases when its process ends, or Windows' file
lock. On a file system without `flock` the existence of the file is the lock (`SoftFileLock`);
filelock then removes the file of a dead process of this machine, and the message tells the user to
delete one that a dead process of another machine left.
"""

import contextlib
import errno
import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout, lock_descriptor

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import NO_FOLLOW, names_file, open_plain
from sharpgpt.core.terminal import one_line

_NO_FLOCK = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL}

RETRY_S = 0.2
"""Retry this long: a holder that removes its file as it ends makes one attempt fail."""


class FolderInUseError(UserError):
    """Another process works in the folder; the message names it.

    `holder` is its description, and `is_own` whether it is this process.
    """

    def __init__(self, message: str, *, holder: str, is_own: bool) -> None:
        super().__init__(message)
        self.holder, self.is_own = holder, is_own


class FolderLock:
    """A lock on a folder, held from `acquire` to `release`, or to the end of the process.

    Args:
        folder: an existing folder.
        file_name: the name of the lock file in it.
        message: the error message for a second process, with `{folder}` and `{who}` in it.
    """

    _held: ClassVar[set[tuple[int, str]]] = set()
    """The locks of this process, by its id: a forked process holds none."""

    def __init__(self, folder: Path, file_name: str, message: str) -> None:
        self.path = folder / file_name
        self._message = message
        self._lock: BaseFileLock | None = None
        self._file: os.stat_result | None = None
        """The file that `flock` locked."""

    def __enter__(self) -> "FolderLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            FolderInUseError: another process holds it.
            OSError: the folder cannot be written.
        """
        lock: BaseFileLock
        if has_flock := _has_flock(self.path.parent):
            lock = FileLock(
                self.path, timeout=RETRY_S, thread_local=False, on_acquired=self._acquired
            )
        else:
            lock = SoftFileLock(self.path, timeout=RETRY_S, thread_local=False)
        try:
            with names_file(self.path):
                lock.acquire()
        except Timeout:
            raise self._in_use(has_flock=has_flock) from None
        self._lock = lock
        self._held.add(self._key())

    def check(self) -> None:
        """See whether `acquire` would succeed; nothing is written.

        Raises:
            FolderInUseError: another process holds the lock.
        """
        deadline = time.monotonic() + RETRY_S
        while (is_free := self._is_free()) is False and time.monotonic() < deadline:
            time.sleep(RETRY_S / 4)
        if not is_free:
            raise self._in_use(has_flock=is_free is False)

    def _is_free(self) -> bool | None:
        """Whether no process has the lock; None where the file system has no locks."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | NO_FOLLOW)
        except OSError:
            return True  # there is none, or `acquire` says why it cannot be
        try:
            return lock_descriptor(descriptor, blocking=False)
        except OSError as error:
            if error.errno in _NO_FLOCK:
                return None
            raise
        finally:
            os.close(descriptor)  # which releases it

    def _in_use(self, *, has_flock: bool) -> FolderInUseError:
        who = self._holder()
        message = self._message.format(folder=self.path.parent, who=who)
        advice = "" if has_flock else f". If that process is gone, delete {self.path}"
        return FolderInUseError(message + advice, holder=who, is_own=self._key() in self._held)

    def release(self) -> None:
        """Remove the file and release the lock. May be called twice.

        In this order: once the lock is free, the file is that of the next process. One that took
        its place meanwhile, because somebody had removed it, is the lock of another process too.
        """
        if self._lock is not None:
            try:
                with contextlib.suppress(OSError):  # a SoftFileLock removes its own file
                    if self._file and os.path.samestat(self._file, self.path.lstat()):
                        self.path.unlink()
            finally:  # an interruption here must not leave the lock held
                self._lock.release()
                self._lock = None
                self._held.discard(self._key())

    def _acquired(self, descriptor: int) -> None:
        self._file = os.fstat(descriptor)
        _write_holder(descriptor)

    def _key(self) -> tuple[int, str]:
        return os.getpid(), os.path.realpath(self.path)

    def _holder(self) -> str:
        """The holder as its file names it: our JSON, or filelock's lines with process and host."""
        try:
            with open_plain(self.path, follow_links=False) as file:
                text = file.read(4096).decode()
        except (OSError, ValueError):
            text = ""
        try:
            holder = json.loads(text)
        except (ValueError, RecursionError):
            holder = dict(zip(("pid", "host"), text.splitlines(), strict=False))
        if not isinstance(holder, dict) or not {"pid", "host"} <= holder.keys():
            return "another process"
        shown = {name: str(value)[:200] for name, value in holder.items()}
        who = f"process {shown['pid']} on {shown['host']}"
        if "since" in shown:
            who += f" since {shown['since']} ({shown.get('command')})"
        return one_line(who)


def _has_flock(folder: Path) -> bool:
    """Whether the file system of `folder` has file locks. Raises OSError if it is not writable."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            return lock_descriptor(file.fileno(), blocking=False)
        except OSError as error:
            if error.errno in _NO_FLOCK:
                return False
            raise


def _write_holder(descriptor: int) -> None:
    """Describe this process in the lock file, for the message of a second one."""
    holder: dict[str, Any] = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join(sys.argv)[:1000],
    }
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, (json.dumps(holder) + "\n").encode())
