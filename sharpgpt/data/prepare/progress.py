"""How far a preparation is: a progress bar on a terminal, a line now and then in a file."""

import contextlib
import logging
import time
from dataclasses import dataclass

from sharpgpt.runtime.console import clock, console_logging

logger = logging.getLogger(__name__)

LINE_SECONDS = 10.0
"""Between lines where there is no bar."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a preparation is."""

    what: str
    """What is being done: "tokens", or "characters" in the first pass for the char tokenizer."""
    num_tokens: int
    """In all, those of an earlier process included."""
    bytes_read: int
    """How much of the source's files lies behind."""
    total_bytes: int | None
    """Their size; None if it is not known."""
    tokens_per_s: float
    text_bytes_per_s: float
    """Of this process, since it began to encode."""
    seconds_left: float | None

    def line(self) -> str:
        """All of it, for a person."""
        share = f" ({self.bytes_read / self.total_bytes:.0%})" if self.total_bytes else ""
        left = f"  {clock(self.seconds_left)} left" if self.seconds_left is not None else ""
        return f"{self.num_tokens:,} {self.what}{share}  {self.figures()}{left}"

    def figures(self) -> str:
        """The speed, for a person."""
        return (
            f"{self.tokens_per_s / 1e6:.2f}M {self.what}/s  {self.text_bytes_per_s / 1e6:.1f} MB/s"
        )


class Terminal:
    """Lines and a progress bar on the console; use it in a with block."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._last_line = time.monotonic()

    def __enter__(self) -> "Terminal":
        self._console = self._stack.enter_context(console_logging())
        return self

    def __exit__(self, *_: object) -> None:
        self._console.stop_bar()
        self._stack.close()

    def say(self, text: str) -> None:
        """One or more lines, above the bar."""
        logger.info("%s", text)

    def show(self, progress: Progress) -> None:
        """Move the bar; where there is none, log a line if the last one is some time ago."""
        if self._console.is_terminal:
            self._show_bar(progress)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self.say(progress.line())

    def _show_bar(self, progress: Progress) -> None:
        if not self._console.has_bar:
            from rich.progress import BarColumn, TextColumn

            self._console.start_bar(
                TextColumn("{task.fields[tokens]}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[figures]}"),
                TextColumn("{task.fields[left]}"),
                total=None,
                tokens="",
                figures="",
                left="",
            )
        left = "" if progress.seconds_left is None else f"{clock(progress.seconds_left)} left"
        self._console.update_bar(
            completed=progress.bytes_read,
            total=progress.total_bytes,
            tokens=f"{progress.num_tokens:,} {progress.what}",
            figures=progress.figures(),
            left=left,
        )


class Pace:
    """Speed and time left of what begins now, at `bytes_read` of `total_bytes`."""

    def __init__(self, bytes_read: int, total_bytes: int | None) -> None:
        self._started = time.monotonic()
        self._first_byte = bytes_read
        self._total_bytes = total_bytes
        self._num_tokens = 0
        self._text_bytes = 0

    def add(self, num_tokens: int, text_bytes: int) -> None:
        """Something more is done."""
        self._num_tokens += num_tokens
        self._text_bytes += text_bytes

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return max(time.monotonic() - self._started, 1e-9)

    def progress(self, what: str, num_tokens: int, bytes_read: int) -> Progress:
        """Where it is, with `num_tokens` in all and `bytes_read` of the source."""
        left = None
        done = bytes_read - self._first_byte
        if self._total_bytes is not None and done > 0:
            left = self.seconds * max(self._total_bytes - bytes_read, 0) / done
        return Progress(
            what=what,
            num_tokens=num_tokens,
            bytes_read=bytes_read,
            total_bytes=self._total_bytes,
            tokens_per_s=self._num_tokens / self.seconds,
            text_bytes_per_s=self._text_bytes / self.seconds,
            seconds_left=left,
        )
