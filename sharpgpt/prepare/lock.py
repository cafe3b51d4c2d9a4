"""One process at a time prepares into a folder: a lock on a file in it, which says who has it.

The lock is the kernel's and goes with its process, however that ends; the file stays until the
preparation is finished. Windows locks a byte far behind the text, so that others can read it.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sharpgpt.files import UserError

LOCK = ".prepare.lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock on `folder` within the block; the file is removed at its end.

    Raises `UserError` where another process holds it.
    """
    path = folder / LOCK
    while True:
        with open(path, "a+", encoding="utf-8") as file:
            if not _try_lock(file.fileno()):
                file.seek(0)
                raise UserError(
                    f"{folder}: {_who(file.read(4096))} prepares data into this folder; wait for "
                    "it, stop it, or give another output"
                )
            # The holder before may have removed the file after it was opened here.
            if not _is_at(path, file.fileno()):
                continue
            file.truncate(0)
            file.write(json.dumps(_this_process()))
            file.flush()
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()
            return


def _try_lock(descriptor: int) -> bool:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: better without one than not at all
        return True
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _this_process() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _who(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']},"
    except (ValueError, TypeError, KeyError):
        return "another process"
