"""Ctrl-C and termination as a request to commit and end."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from sharpgpt.files import UserError


class Stopped(UserError):  # noqa: N818 - what the user asked for
    """A signal ended the preparation after a commit; the message says how to go on."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopRequest:
    """Within the block, the first SIGINT or SIGTERM sets `number`; a second one ends at once.

    Outside the main thread Python delivers no signals, and the block changes nothing.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.number = number
        self._restore()
        # A handler may run in the middle of a print, so it writes past Python's buffers.
        name = signal.Signals(number).name
        os.write(2, f"\n{name}: committing (again to end at once)\n".encode())

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
