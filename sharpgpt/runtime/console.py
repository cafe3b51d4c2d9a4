"""What a person sees while a run goes on: a progress bar on a terminal, plain lines in a file.

Every line also goes to log.txt in the run folder, once it is there. A terminal that has gone, a
pipe that nobody reads and a full disk cost lines, and never the run.
"""

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any


class Terminal:
    """Lines and a progress bar on stdout, unless it is not `is_shown`; lines in the log file."""

    def __init__(self, *, is_shown: bool = True) -> None:
        self._log: Path | None = None
        self._early: list[str] = []
        self._noted: set[str] = set()
        self._progress: Any = None
        self._task: Any = None
        self._is_terminal = is_shown and sys.stdout.isatty()
        self._is_there = is_shown

    def open_log(self, path: Path) -> None:
        """From now on, and from what was said before, keep every line in `path` too."""
        self._log = path
        for line in self._early:
            self._keep(line)

    def say(self, text: str) -> None:
        """One or more lines."""
        self._keep(text)
        if not self._is_there:
            return
        try:
            if self._progress:
                self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, flush=True)
        except (OSError, ValueError) as error:  # ValueError: closed
            self._leave(error)

    def note_once(self, what: str, reason: str) -> None:
        """A NOTE about something that failed and that the run can do without; the first time."""
        if what not in self._noted:
            self._noted.add(what)
            self.say(f"NOTE: {what}: {' '.join(reason.split())[:300]}")

    def start_bar(self, first_step: int, total_steps: int) -> None:
        """Show progress by steps; on anything but a terminal this does nothing."""
        if not self._is_terminal:
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
        )
        self._task = self._progress.add_task(
            "", total=total_steps, completed=first_step, figures=""
        )
        self._progress.start()

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self._progress:
            self._update(completed=step)

    def show_training(
        self, step: int, total_steps: int, metrics: dict[str, float], seconds_per_step: float
    ) -> None:
        """The figures of a log step: in the bar on a terminal, as a line elsewhere."""
        figures = training_line(metrics)
        left = _clock((total_steps - step) * seconds_per_step)
        line = f"step {step}/{total_steps}  {figures}  {left} left"
        if self._progress:
            self._keep(line)
            self._update(figures=figures)
        else:
            self.say(line)

    def close(self) -> None:
        """End the bar and the log file; lines said later go to stdout alone."""
        if self._progress:
            with contextlib.suppress(OSError, ValueError):
                self._progress.stop()
            self._progress = None
        self._log = None

    def _update(self, **fields: Any) -> None:
        try:
            self._progress.update(self._task, **fields)
        except (OSError, ValueError) as error:
            self._leave(error)

    def _leave(self, error: Exception) -> None:
        """Stdout has gone: print no more, and let Python's last flush of it succeed."""
        self._is_there = False
        progress, self._progress = self._progress, None
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        if progress:
            with contextlib.suppress(OSError, ValueError):
                progress.stop()
        self._keep(f"NOTE: nothing more is printed, since stdout is gone ({error})")

    def _keep(self, text: str) -> None:
        if self._log is None:
            self._early.append(text)
            return
        stamp = time.strftime("%H:%M:%S")
        try:
            with open(self._log, "a", encoding="utf-8", errors="replace") as file:
                file.write("".join(f"{stamp} {line}\n" for line in text.splitlines()))
        except OSError as error:
            self._log_failed(error)

    def _log_failed(self, error: OSError) -> None:
        """Lines are lost until the file can be written again; said once, on stdout."""
        if "log.txt" not in self._noted:
            self._noted.add("log.txt")
            self.say(f"NOTE: {self._log} cannot be written ({error.strerror})")


def training_line(metrics: dict[str, float]) -> str:
    """The figures of a training window on one line."""
    return (
        f"CE {metrics['train/ce_loss']:.4f}  penalty {metrics['train/penalty']:.4f}  "
        f"max p {metrics['train/avg_max_prob']:.4f}  lr {metrics['train/learning_rate']:.2e}  "
        f"{metrics['train/tokens_per_s']:,.0f} tokens/s"
    )


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
