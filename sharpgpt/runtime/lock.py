"""One process at a time works in a folder: a file that says who is there, and a lock on it.

The lock is the kernel's (flock), which lets go when its process ends, however it ends; the file
says who holds it to whoever comes second. Where a file system or Windows has no flock, the file
itself is the lock: then a holder on this machine that is dead is noticed by its process id, and one
on another machine cannot be, so the message says to delete the file.
"""

import contextlib
import errno
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from sharpgpt.core.errors import UserError

_NO_FLOCK = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL}


class FolderInUseError(UserError):
    """Another process works in the folder; the message says which."""


class FolderLock:
    """A lock on a folder, held from `acquire` to `release`, or to the end of the process.

    Args:
        folder: exists.
        file_name: of the lock file in it.
        message: for whom comes second: what is wrong and what to do, `{folder}` and `{who}` in it.
    """

    def __init__(self, folder: Path, file_name: str, message: str) -> None:
        self.path = folder / file_name
        self._message = message
        self._descriptor: int | None = None

    def __enter__(self) -> "FolderLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock, or raise.

        Raises:
            FolderInUseError: another process holds it.
            OSError: the folder cannot be written.
        """
        while True:
            descriptor, is_new = self._open()
            try:
                is_flocked = _flock(descriptor)
            except BlockingIOError:
                os.close(descriptor)
                raise self._in_use("") from None
            if is_flocked and self._is_still(descriptor):
                break
            if not is_flocked and is_new:
                break
            os.close(descriptor)
            if not is_flocked:
                self._remove_if_dead()
        self._descriptor = descriptor
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, (json.dumps(_this_process()) + "\n").encode(), 0)
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Let go and remove the file. May be called twice."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            with contextlib.suppress(OSError):
                self.path.unlink()
        finally:
            os.close(descriptor)

    def _open(self) -> tuple[int, bool]:
        """The lock file, open, and whether this process made it."""
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
        while True:
            try:
                return os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o666), True
            except FileExistsError:
                with contextlib.suppress(FileNotFoundError):  # removed just now
                    return os.open(self.path, flags), False

    def _is_still(self, descriptor: int) -> bool:
        """Whether the name still leads to the file that was opened, and not to a successor."""
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.lstat())
        except FileNotFoundError:
            return False

    def _holder(self) -> dict[str, Any]:
        try:
            with open(self.path, encoding="utf-8") as file:
                holder = json.loads(file.read(4096))
            return holder if isinstance(holder, dict) else {}
        except (OSError, ValueError, RecursionError):
            return {}

    def _remove_if_dead(self) -> None:
        """Without flock: remove the file of a process of this machine that is gone, or raise."""
        holder = self._holder()
        pid = holder.get("pid")
        if holder.get("host") == socket.gethostname() and _is_gone(pid):
            self.path.unlink(missing_ok=True)
            return
        raise self._in_use(f". If that process is gone, delete {self.path}")

    def _in_use(self, advice: str) -> FolderInUseError:
        holder = {name: str(value)[:200] for name, value in self._holder().items()}
        who = (
            f"process {holder['pid']} on {holder['host']} since {holder.get('since')} "
            f"({holder.get('command')})"
            if {"pid", "host"} <= holder.keys()
            else "another process"
        )
        readable = "".join(letter if letter.isprintable() else "?" for letter in who)
        message = self._message.format(folder=self.path.parent, who=readable)
        return FolderInUseError(f"{message}{advice}")


def _is_gone(pid: Any) -> bool:
    """Whether there is surely no process with this id on this machine."""
    if type(pid) is not int or pid < 1 or os.name == "nt":  # there os.kill ends the process
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False
    return False


def _flock(descriptor: int) -> bool:
    """Lock an open file; False where there is no such lock. Raises BlockingIOError when taken."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_FLOCK:
            return False
        raise
    return True


def _this_process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join(sys.argv)[:1000],
    }
