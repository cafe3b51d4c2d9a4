"""SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal or ssh connection is gone) and SIGUSR1 (Slurm's
warning before a time limit).

While there is nothing to save, a signal exits the process at once (`exit_on_signals`). In the
training loop and in a preparation the first signal asks to save and stop (`StopSignal`); a second
one calls the handler from before: it exits a command at once, and raises KeyboardInterrupt in a
notebook. A command's exit code is 128 + the signal's number, without a traceback; `train()` in
Python delivers the signal again once all is saved (`deliver`). SIGHUP stays ignored where it was
(nohup), and is never a second signal: the shell and the kernel both send it.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from sharpgpt.runtime.streams import is_terminal

SIGHUP = getattr(signal, "SIGHUP", None)  # not on Windows
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
)

DUPLICATE_S = 5.0
"""Under torchrun and Slurm one signal may arrive twice within this time: from the launcher, and
from the terminal, the service manager or Slurm, which signal all processes."""


_REASONS: list[Callable[[], str | None]] = []


@contextlib.contextmanager
def explained_by(reason: Callable[[], str | None]) -> Iterator[None]:
    """Within the block the message about SIGTERM is `reason()`, where it knows one.

    torchrun sends it to the ranks that are left when one has failed.
    """
    _REASONS.append(reason)
    try:
        yield
    finally:
        _REASONS.remove(reason)


def _announce(number: int, text: str) -> None:
    reasons = filter(None, (reason() for reason in _REASONS if number == signal.SIGTERM))
    _write(2, f"\n{signal.Signals(number).name}: {next(reasons, text)}\n")


class Interrupted(BaseException):
    """Raised by a signal inside `StopSignal.interruptible`, past code that catches Exception."""


def install_exit_handlers() -> dict[int, Any]:
    """From now on a signal exits the process at once; returns the previous handlers.

    Raising an exception instead is unreliable: a half-finished import, a destructor or a bare
    `except` swallows it or prints a traceback. Nothing is lost, since files are written under a
    temporary name. Outside the main thread, where Python cannot set handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    pid = os.getpid()

    def exit_now(number: int, _: FrameType | None) -> None:
        if os.getpid() == pid:  # a forked worker inherits the handler and exits silently
            if is_terminal(sys.stdout):
                _write(1, "\x1b[?25h")  # a progress bar hides the cursor
            _announce(number, "ended at once; what was saved before is whole")
            if multiprocessing := sys.modules.get("multiprocessing"):
                for child in multiprocessing.active_children():
                    child.terminate()
        os._exit(128 + number)

    return _handle_with(exit_now)


@contextlib.contextmanager
def exit_on_signals() -> Iterator[None]:
    """`install_exit_handlers` for the block."""
    before = install_exit_handlers()
    try:
        yield
    finally:
        _set_handlers(before)


class StopSignal:
    """Within the block, the first signal sets `number`; a second one reaches the previous handler.

    `action` is what the message announces. Signals within `duplicate_s` seconds of the first are
    duplicates of it. Outside the main thread the block does nothing.
    """

    def __init__(self, action: str = "saving after this step", *, duplicate_s: float = 0.0) -> None:
        self.number: int | None = None
        self._action = action
        self._duplicate_s = duplicate_s
        self._first_time: float | None = None
        self._is_interruptible = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self._previous = _handle_with(self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within this block a signal raises `Interrupted`, for work that can be repeated."""
        self._is_interruptible = True
        try:
            if self.number is not None:
                raise Interrupted
            yield
        finally:
            self._is_interruptible = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._first_time is not None:
            if number != SIGHUP and now - self._first_time > self._duplicate_s:
                self._restore()
                signal.raise_signal(number)
            return
        self._first_time = now
        self.number = number
        if not self._duplicate_s:
            self._restore(but=SIGHUP)
        again = "SIGTERM" if number == SIGHUP else "again"
        _announce(number, f"{self._action} ({again} to end at once)")
        if self._is_interruptible:
            raise Interrupted

    def _restore(self, but: int | None = None) -> None:
        kept = {number: handler for number, handler in self._previous.items() if number == but}
        _set_handlers({n: handler for n, handler in self._previous.items() if n not in kept})
        self._previous = kept


def deliver(number: int) -> None:
    """Raise a signal again, after what it interrupted is saved, for the handler from before.

    For SIGINT Python's own raises KeyboardInterrupt. Returns if that handler does.
    """
    if threading.current_thread() is threading.main_thread():
        signal.raise_signal(number)


def end_by_itself() -> None:
    """From now on ignore SIGTERM, by which torchrun ends the ranks that outlive a failed one.

    For a rank that is about to end, with its own message and exit code; SIGKILL follows in 30 s.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _handle_with(handler: Any) -> dict[int, Any]:
    """Set `handler` for all signals but an ignored SIGHUP; returns the previous handlers."""
    numbers = [n for n in SIGNALS if n != SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in numbers}


def _set_handlers(handlers: dict[int, Any]) -> None:
    """Set them, but for a signal that is ignored by now (`end_by_itself`)."""
    for number, handler in handlers.items():
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _write(descriptor: int, text: str) -> None:
    """Write without Python's buffers, which a handler may interrupt; ignore a closed terminal."""
    with contextlib.suppress(OSError):
        os.write(descriptor, text.encode())
