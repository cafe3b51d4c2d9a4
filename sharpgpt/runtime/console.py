"""The console: log lines on stdout, a rich progress bar on a terminal, and log.txt.

Every module logs through `logging.getLogger(__name__)`; a warning is shown as `NOTE: ...`.
`console_logging` shows what the package logs within its block. A closed terminal, a broken pipe and
a full disk lose lines, never the run. Control characters of what comes from outside are made
visible, on the terminal and in log.txt.
"""

import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import NO_FOLLOW, os_error_text
from sharpgpt.core.terminal import message, one_line, show
from sharpgpt.runtime.streams import discard_if_lost, is_terminal

PACKAGE_LOGGER = logging.getLogger("sharpgpt")


class Console(logging.Handler):
    """Shows log records on stdout, above a progress bar, and appends them to a log file.

    A record with `extra={"once": key}` is shown the first time only.
    """

    def __init__(self, *, is_shown: bool = True) -> None:
        super().__init__(logging.INFO)
        self._log_file: Path | None = None
        self._early: list[str] = []
        self._seen: set[str] = set()
        self._bar: Any = None
        self._task: Any = None
        self._is_shown = is_shown
        self._isatty = is_terminal(sys.stdout)
        self.stdout_error: Exception | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether stdout is a terminal, which shows progress bars."""
        return self._is_shown and self._isatty

    def emit(self, record: logging.LogRecord) -> None:
        """Show and keep one record."""
        once = getattr(record, "once", None)
        if once is not None:
            if once in self._seen:
                return
            self._seen.add(once)
        prefix = {logging.WARNING: "NOTE: ", logging.ERROR: "error: "}.get(record.levelno, "")
        text = message(prefix + record.getMessage())
        self._keep(text)
        if not self._is_shown or getattr(record, "log_file_only", False):
            return
        try:
            if self._bar:
                self._bar.console.print(
                    text, markup=False, emoji=False, highlight=False, soft_wrap=True
                )
            else:
                show(text)
        except (OSError, ValueError) as error:  # ValueError: closed
            self._leave(error)

    def open_log_file(self, path: Path) -> None:
        """Append every record to `path`, those shown before included."""
        self._log_file = path
        early, self._early = self._early, []
        for text in early:
            self._keep(text)

    def start_bar(
        self,
        *columns: Any,
        total: float | None,
        completed: float = 0,
        transient: bool = False,
        **fields: Any,
    ) -> None:
        """Show a progress bar with these rich columns, on a terminal only.

        A transient bar disappears when it is stopped.
        """
        if not self.is_terminal:
            return
        from rich.progress import Progress

        self.stop_bar()
        self._bar = Progress(*columns, transient=transient)
        self._task = self._bar.add_task("", total=total, completed=completed, **_plain(fields))
        self._bar.start()

    def update_bar(self, **fields: Any) -> None:
        """Change `completed`, `total` or a field that a column shows."""
        if not self._bar:
            return
        try:
            self._bar.update(self._task, **_plain(fields))
        except (OSError, ValueError) as error:
            self._leave(error)

    def stop_bar(self) -> None:
        """Remove the bar; later records are plain lines."""
        if self._bar:
            with contextlib.suppress(OSError, ValueError):
                self._bar.stop()
            self._bar = None

    @property
    def has_bar(self) -> bool:
        """Whether a progress bar is on the screen."""
        return self._bar is not None

    @contextlib.contextmanager
    def nested(self, *, is_shown: bool) -> Iterator[None]:
        """For the block, show nothing unless `is_shown`; then remove its bar and its log file."""
        before = self._is_shown, self._log_file
        self._is_shown = self._is_shown and is_shown
        try:
            yield
        except Exception as error:  # what stderr may not have, since that may be closed too
            if self._log_file and (text := _in_words(error)):
                self._keep(text)
            raise
        finally:
            self.stop_bar()
            is_open = self._is_shown or not is_shown  # stdout may have been closed in the block
            self._is_shown, self._log_file = before[0] and is_open, before[1]

    def close(self) -> None:
        """End the bar and the log file."""
        self.stop_bar()
        self._log_file = None
        super().close()

    def _leave(self, error: Exception) -> None:
        """After stdout was closed: print no more, and let Python's last flush of it succeed."""
        self._is_shown = False
        self.stdout_error = error
        bar, self._bar = self._bar, None
        discard_if_lost(sys.stdout)
        if bar:
            with contextlib.suppress(OSError, ValueError):
                bar.stop()
        reason = getattr(error, "strerror", None) or error
        self._keep(f"NOTE: nothing more is printed, since stdout is gone ({reason})")

    def _keep(self, text: str) -> None:
        if self._log_file is None:
            self._early.append(text)
            return
        stamp = time.strftime("%H:%M:%S")
        try:
            with open(
                self._log_file, "a", encoding="utf-8", errors="replace", opener=_not_through_link
            ) as file:
                file.write("".join(f"{stamp} {line}\n" for line in text.splitlines()))
        except OSError as error:
            PACKAGE_LOGGER.warning(
                "the log cannot be written: %s",
                os_error_text(error, self._log_file),
                extra={"once": "log file"},
            )


@contextlib.contextmanager
def console_logging(*, is_shown: bool = True) -> Iterator[Console]:
    """Within the block, show what the package logs; a block inside another uses its console."""
    for handler in PACKAGE_LOGGER.handlers:
        if isinstance(handler, Console):
            with handler.nested(is_shown=is_shown):
                yield handler
            return
    console = Console(is_shown=is_shown)
    level, propagates = PACKAGE_LOGGER.level, PACKAGE_LOGGER.propagate
    PACKAGE_LOGGER.addHandler(console)
    PACKAGE_LOGGER.setLevel(logging.INFO)
    PACKAGE_LOGGER.propagate = False
    try:
        yield console
    finally:
        PACKAGE_LOGGER.removeHandler(console)
        PACKAGE_LOGGER.setLevel(level)
        PACKAGE_LOGGER.propagate = propagates
        console.close()


def _not_through_link(path: str, flags: int) -> int:
    return os.open(path, flags | NO_FOLLOW, 0o666)


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of a bar, whose texts may hold names from outside, without rich's markup."""
    from rich.markup import escape

    return {
        name: escape(one_line(value)) if isinstance(value, str) else value
        for name, value in fields.items()
    }


def _in_words(error: Exception) -> str:
    """As the command line ends with it."""
    if isinstance(error, UserError):
        return message(f"{error.label}{error}") if error.is_shown else ""
    if isinstance(error, OSError):
        return message(f"error: {os_error_text(error)}")
    return "".join(message(line) for line in traceback.format_exception(error))


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
