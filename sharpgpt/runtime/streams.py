"""The standard streams of a command, where the shell closed one or the reader of a pipe is gone.

Python makes a closed stream None, and the next file that is opened gets its number: late messages
of libraries would go into a checkpoint. So the numbers are taken by the null device. Whoever prints
to a closed standard output learns it by an OSError; what cannot be said on standard error is lost,
and ends nothing.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Within the block no standard stream is None, and standard error raises nothing."""
    before = sys.stdin, sys.stdout, sys.stderr
    _occupy_closed_numbers()
    opened = contextlib.ExitStack()

    def stand_in(flags: int, mode: str) -> Any:
        return opened.enter_context(open(os.open(os.devnull, flags), mode, encoding="utf-8"))

    sys.stdin = before[0] or stand_in(os.O_RDONLY, "r")
    sys.stdout = before[1] or stand_in(os.O_RDONLY, "w")  # which fails, as a closed one does
    sys.stderr = cast(TextIO, _Forgiving(before[2] or stand_in(os.O_WRONLY, "w")))
    try:
        yield
    finally:
        discard_if_lost(sys.stdout)
        sys.stdin, sys.stdout, sys.stderr = before
        opened.close()


def discard_if_lost(stream: Any) -> None:
    """Let the last flush of a stream succeed that cannot be written; Python makes it at its end."""
    with contextlib.suppress(OSError, ValueError):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is open and a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def _occupy_closed_numbers() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


class _Forgiving:
    """A stream; what cannot be written is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        return is_terminal(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
