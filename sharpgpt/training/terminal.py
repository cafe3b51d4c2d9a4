"""What a person sees of a run: lines through the console, metrics in the progress bar."""

import logging

from sharpgpt.core.metrics import console_line
from sharpgpt.runtime.console import Console, clock

logger = logging.getLogger(__name__)


class Terminal:
    """The console of a run."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        """One or more lines."""
        if text.startswith("NOTE: "):
            logger.warning("%s", text.removeprefix("NOTE: "))
        else:
            logger.info("%s", text)

    def note_once(self, what: str, reason: str) -> None:
        """A warning about something that failed and that the run can do without; the first time."""
        words = " ".join(reason.split())[:300]
        logger.warning("%s: %s", what, words, extra={"once": what})

    def start_bar(self, first_step: int, total_steps: int) -> None:
        """Show progress by steps; on anything but a terminal this does nothing."""
        if not self.console.is_terminal:
            return
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

        self.console.start_bar(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
            total=total_steps,
            completed=first_step,
            metrics="",
        )

    def advance(self, step: int) -> None:
        """Move the bar."""
        self.console.update_bar(completed=step)

    def show_training(
        self, step: int, total_steps: int, metrics: dict[str, float], seconds_per_step: float
    ) -> None:
        """The metrics of a log step: in the bar on a terminal, as a line elsewhere."""
        shown = console_line(metrics, "train")
        left = clock((total_steps - step) * seconds_per_step)
        in_bar = self.console.has_bar
        logger.info(
            "%s",
            f"step {step}/{total_steps}  {shown}  {left} left",
            extra={"log_file_only": in_bar},
        )
        self.console.update_bar(metrics=shown)
