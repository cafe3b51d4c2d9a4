"""The metrics since the last log line: sums over rows, step counts and training time."""

import time

import torch

from sharpgpt.model.row_means import RowMeans
from sharpgpt.runs.state import RowSums, WindowState
from sharpgpt.runtime.distributed import Processes
from sharpgpt.sharpness import SharpnessOutput


class Window:
    """The rows, steps and training time since the last log line."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.clear()

    def clear(self) -> None:
        """Begin the next window."""
        self.rows = RowMeans(self.device)
        self.num_steps = 0
        self.num_skipped_steps = 0
        self.seconds = 0.0
        self._of_this_step: list[tuple[SharpnessOutput, float]] = []

    def add(self, output: SharpnessOutput, penalty_weight: float) -> None:
        """The rows of one micro-batch. `end_step` counts them if its step is taken."""
        detached = output._replace(loss=output.loss.detach())
        self._of_this_step.append((detached, penalty_weight))

    def end_step(self, started: float, *, is_taken: bool) -> None:
        """Count the step that began at `started` (perf_counter), and its rows if it was taken."""
        if is_taken:
            for output, penalty_weight in self._of_this_step:
                self.rows.add(output, penalty_weight)
        else:
            self.num_skipped_steps += 1
        self.drop_step()
        self.num_steps += 1
        self.seconds += time.perf_counter() - started

    def drop_step(self) -> None:
        """Drop the rows of a step that is neither taken nor skipped."""
        self._of_this_step = []

    def state(self, processes: Processes) -> WindowState:
        """The sums over all ranks, for a checkpoint; every rank calls it."""
        rows = self.rows.over(processes.all_reduce_sum)
        return WindowState(
            rows=RowSums.of(rows.sums(), rows.histogram()),
            num_steps=self.num_steps,
            num_skipped_steps=self.num_skipped_steps,
            seconds=self.seconds,
        )

    def restore(self, state: WindowState) -> None:
        """Continue the window of a checkpoint."""
        self.clear()
        self.rows.restore(state.rows.pairs(), state.rows.histogram)
        self.num_steps = state.num_steps
        self.num_skipped_steps = state.num_skipped_steps
        self.seconds = state.seconds
