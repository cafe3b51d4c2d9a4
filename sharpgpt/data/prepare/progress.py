"""Progress of a preparation: a bar on a terminal, otherwise a log line every ten seconds."""

import logging
import time
from dataclasses import dataclass

from sharpgpt.runtime.console import Console, clock

logger = logging.getLogger(__name__)

LINE_SECONDS = 10.0
"""Seconds between log lines where there is no bar."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a preparation is."""

    what: str
    """The unit: "tokens", or "characters" in the first pass for the char tokenizer."""
    num_tokens: int
    """In total, including those of an earlier process."""
    bytes_read: int
    """Of the source's files."""
    total_bytes: int | None
    """Size of the source's files; None if unknown."""
    tokens_per_s: float
    text_bytes_per_s: float
    """Both for this process, since it began to encode."""
    seconds_left: float | None

    def amount(self) -> str:
        """Tokens so far."""
        return f"{self.num_tokens:,} {self.what}"

    def speed(self) -> str:
        """Tokens and bytes per second."""
        return (
            f"{self.tokens_per_s / 1e6:.2f}M {self.what}/s  {self.text_bytes_per_s / 1e6:.1f} MB/s"
        )

    def left(self) -> str:
        """Time left; empty if unknown."""
        return "" if self.seconds_left is None else f"{clock(self.seconds_left)} left"

    def line(self) -> str:
        """All of it on one line."""
        share = f" ({self.bytes_read / self.total_bytes:.0%})" if self.total_bytes else ""
        return f"{self.amount()}{share}  {self.speed()}  {self.left()}".rstrip()


class ProgressDisplay:
    """Shows `Progress` on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last_line = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Move the bar, or log a line if the last one is `LINE_SECONDS` old."""
        if not self._console.is_terminal:
            if time.monotonic() - self._last_line >= LINE_SECONDS:
                self._last_line = time.monotonic()
                logger.info("%s", progress.line())
            return
        if not self._console.has_bar:
            from rich.progress import BarColumn, TextColumn

            amount, speed = (TextColumn(f"{{task.fields[{name}]}}") for name in ("amount", "speed"))
            bar = BarColumn(bar_width=None)
            self._console.start_bar(amount, bar, speed, total=None, amount="", speed="")
        self._console.update_bar(
            completed=progress.bytes_read,
            total=progress.total_bytes,
            amount=progress.amount(),
            speed=f"{progress.speed()}  {progress.left()}",
        )


class Pace:
    """Speed and remaining time of work that starts at `bytes_read` of `total_bytes`."""

    def __init__(self, bytes_read: int, total_bytes: int | None) -> None:
        self._started = time.monotonic()
        self._first_byte, self._total_bytes = bytes_read, total_bytes
        self._num_tokens = self._text_bytes = 0

    def add(self, num_tokens: int, text_bytes: int) -> None:
        """Count work that is done."""
        self._num_tokens += num_tokens
        self._text_bytes += text_bytes

    @property
    def seconds(self) -> float:
        """Since the start."""
        return max(time.monotonic() - self._started, 1e-9)

    def progress(self, what: str, num_tokens: int, bytes_read: int) -> Progress:
        """The state at `num_tokens` in total and `bytes_read` of the source."""
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
