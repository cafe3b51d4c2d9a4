"""What a person sees while a run goes on: a progress bar on a terminal, plain lines in a file.

Every line also goes to log.txt in the run folder, once it is there.
"""

import sys
import time
from pathlib import Path
from typing import Any, TextIO


class Terminal:
    """Lines and a progress bar on stdout; lines in the run's log file."""

    def __init__(self) -> None:
        self._log: TextIO | None = None
        self._early: list[str] = []
        self._progress: Any = None
        self._task: Any = None
        self._is_terminal = sys.stdout.isatty()

    def open_log(self, path: Path) -> None:
        """From now on, and from what was said before, keep every line in `path` too."""
        self._log = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        for line in self._early:
            self._keep(line)

    def say(self, text: str) -> None:
        """One or more lines."""
        self._keep(text)
        if self._progress:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)

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
            self._progress.update(self._task, completed=step)

    def show_training(
        self, step: int, total_steps: int, metrics: dict[str, float], seconds_per_step: float
    ) -> None:
        """The figures of a log step: in the bar on a terminal, as a line elsewhere."""
        figures = training_line(metrics)
        left = _clock((total_steps - step) * seconds_per_step)
        line = f"step {step}/{total_steps}  {figures}  {left} left"
        if self._progress:
            self._keep(line)
            self._progress.update(self._task, figures=figures)
        else:
            self.say(line)

    def close(self) -> None:
        """End the bar and the log file; lines said later go to stdout alone."""
        if self._progress:
            self._progress.stop()
            self._progress = None
        if self._log:
            self._log.close()
            self._log = None

    def _keep(self, text: str) -> None:
        if self._log:
            stamp = time.strftime("%H:%M:%S")
            self._log.write("".join(f"{stamp} {line}\n" for line in text.splitlines()))
            self._log.flush()
        else:
            self._early.append(text)


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
