"""Ctrl-C, termination, and Slurm's warning before a time limit: SIGINT, SIGTERM, SIGUSR1.

While there is nothing to save, a signal ends the process at once (`end_at_signals`). In the loop of
training it asks to stop after the current step, save and end, in that of a preparation to commit
and end (`StopSignal`); a second one then does what it did before the loop: it ends the process of a
command at once, and raises KeyboardInterrupt in a notebook. Either way the exit code is 128 + the
signal's number, and there is no traceback.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


REPEAT_S = 5.0
"""Seconds within which one signal may reach a process of torchrun twice: from torchrun, and from
the terminal or the service manager, which send it to all processes."""


class Interrupted(BaseException):
    """Raised by a signal inside `StopSignal.breaking_off`, through code that catches Exception."""


def end_at_signals() -> dict[int, Any]:
    """From now on a signal ends this process at once; returns the handlers before, by signal.

    An exception would do in most places; but half an import, a destructor or a bare `except` turn
    one into a traceback or swallow it. Nothing is lost: what is written is written under another
    name first. Outside the main thread, where Python sets no handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    pid = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() == pid:  # a forked worker has the handler too, and need not speak
            if sys.stdout is not None and not sys.stdout.closed and sys.stdout.isatty():
                _write(1, "\x1b[?25h")  # a progress bar hides the cursor
            name = signal.Signals(number).name
            _write(2, f"\n{name}: ended at once; what was saved before is whole\n")
            if multiprocessing := sys.modules.get("multiprocessing"):
                for child in multiprocessing.active_children():
                    child.terminate()
        os._exit(128 + number)

    return {number: signal.signal(number, end) for number in SIGNALS}


@contextlib.contextmanager
def ending_at_signals() -> Iterator[None]:
    """`end_at_signals` within the block; then as before."""
    before = end_at_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopSignal:
    """Within the block, the first signal sets `number`; the handlers before see a second one.

    `doing` is what is said to be done about it. Signals within `repeat_s` seconds of the first are
    that one again. Outside the main thread Python delivers no signals, and the block changes
    nothing.
    """

    def __init__(self, doing: str = "saving after this step", *, repeat_s: float = 0.0) -> None:
        self.number: int | None = None
        self._doing = doing
        self._repeat_s = repeat_s
        self._first_came: float | None = None
        self._breaks_off = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    @contextlib.contextmanager
    def breaking_off(self) -> Iterator[None]:
        """Within this block a signal raises `Interrupted`, for work that can be done again."""
        self._breaks_off = True
        try:
            if self.number is not None:
                raise Interrupted
            yield
        finally:
            self._breaks_off = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._first_came is not None:
            if now - self._first_came > self._repeat_s:
                self._restore()
                signal.raise_signal(number)
            return
        self._first_came = now
        self.number = number
        if not self._repeat_s:
            self._restore()
        _write(2, f"\n{signal.Signals(number).name}: {self._doing} (again to end at once)\n")
        if self._breaks_off:
            raise Interrupted

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def _write(descriptor: int, text: str) -> None:
    """Past Python's buffers, for a handler may run in the middle of a print; to a terminal that has
    gone, or a pipe that nobody reads any more, nothing."""
    with contextlib.suppress(OSError):
        os.write(descriptor, text.encode())
