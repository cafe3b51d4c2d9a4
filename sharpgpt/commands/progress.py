"""What a terminal shows while models are evaluated."""

import sys

from sharpgpt.evaluation.model_evaluation import EvaluationText


class Progress:
    """A bar of the blocks of the current pass, on a terminal only; lines that stay, everywhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        self._bar = Bar(
            *columns,
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("", total=None)
        self._num_blocks = 1

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, name: str, text: EvaluationText) -> None:
        """A model begins."""
        self._num_blocks = text.blocks.shape[0]
        self._bar.reset(self._task, description=name, total=self._num_blocks)
        if self._bar.disable:
            print(f"Evaluating {name}", flush=True)

    def say(self, description: str) -> None:
        """What is done now, beside the bar."""
        self._bar.reset(self._task, description=description, total=self._num_blocks)

    def advance(self, num_blocks: int) -> None:
        """Blocks are done; past the last one another pass begins."""
        done = self._bar.tasks[0].completed
        if done >= self._num_blocks:
            self._bar.reset(self._task, total=self._num_blocks)
        self._bar.advance(self._task, num_blocks)
