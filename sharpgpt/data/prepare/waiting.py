"""A process that needs what another one prepares waits for it, visibly, and then goes on.

The lock of a folder is the kernel's, so it is free at once when its holder ends, however it ends:
the waiting process then finds finished data, or continues the preparation itself.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import make_folder
from sharpgpt.core.numbers import counted
from sharpgpt.data.prepare.state import tokens_so_far
from sharpgpt.data.prepared import JOURNAL
from sharpgpt.runtime.console import clock
from sharpgpt.runtime.lock import FolderInUseError, FolderLock

logger = logging.getLogger(__name__)

LOCK = ".prepare.lock"
POLL_S = 0.5
LINE_S = 30.0
"""Seconds between lines while it waits."""
LIMIT_S = 3600.0
"""The wait ends with an error when the folder has not changed for so long."""


def prepare_lock(folder: Path) -> FolderLock:
    """The lock of the one process that prepares into a folder."""
    return FolderLock(
        folder, LOCK, "{folder}: {who} prepares data into this folder; wait for it, or stop it"
    )


@contextlib.contextmanager
def alone_in(folder: Path, check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of `folder`, which is made, for the block; wait while another process has it.

    `check` is called while it waits, and may raise what makes waiting pointless.

    Raises:
        FolderInUseError: this process itself has the lock.
        UserError: the other process has written nothing for `LIMIT_S`.
    """
    lock = prepare_lock(folder)
    wait = _Wait(folder)
    while True:
        make_folder(folder)  # one that failed may have removed it
        try:
            lock.acquire()
            break
        except FolderInUseError as error:
            if error.is_own:
                raise
            check()
            wait.once(error)
    try:
        yield
    finally:
        lock.release()


def wait_for_another(folder: Path) -> None:
    """Return when no other process prepares into `folder`, at once where none does."""
    wait = _Wait(folder)
    while os.path.exists(folder / JOURNAL):  # noqa: PTH110 (raises for no name)
        try:
            with prepare_lock(folder):
                return
        except FolderInUseError as error:
            wait.once(error)
        except OSError:  # a folder that cannot be written
            return


class _Wait:
    """One wait: says for whom, every `LINE_S` how far that is, and ends at `LIMIT_S`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begun = self._changed = monotonic()
        self._next_line = self._begun
        self._state: object = None

    def once(self, error: FolderInUseError) -> None:
        """Sleep a little. Raises `UserError` at the limit."""
        now = monotonic()
        state = self._folder_state()
        if state != self._state:
            self._state, self._changed = state, now
        if now - self._changed > LIMIT_S:
            raise UserError(f"{error}. Nothing was written there for {clock(LIMIT_S)}")
        if now >= self._next_line:
            self._next_line = now + LINE_S
            num_tokens = tokens_so_far(self._folder)
            so_far = f", {counted(num_tokens, 'token')} so far" if num_tokens else ""
            waited = f" {clock(now - self._begun)}" if now > self._begun + 1 else ""
            logger.info(
                "%s: being prepared by %s%s; waiting%s for it (Ctrl-C ends the wait)",
                *(self._folder, error.holder, so_far, waited),
            )
        sleep(POLL_S)

    def _folder_state(self) -> object:
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            return sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries)
        return None
