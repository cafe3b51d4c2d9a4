"""`Training`: one run in training, in parts: model, data, outputs and progress."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from sharpgpt.config import TrainingConfig
from sharpgpt.data.blocks import TrainingBlocks, ValidationBlocks
from sharpgpt.model.lm import SharpnessLM
from sharpgpt.model.row_means import RowMeans
from sharpgpt.runs.checkpoint import Checkpoint
from sharpgpt.runs.saver import CheckpointSaver
from sharpgpt.runs.state import AfterStep, DueWork, Figure, RowSums, TrainingState, WindowState
from sharpgpt.runs.tracker import RunLog
from sharpgpt.runtime.console import Console
from sharpgpt.runtime.distributed import Processes
from sharpgpt.runtime.signals import StopSignal
from sharpgpt.sharpness import SharpnessOutput
from sharpgpt.training.anomalies import AnomalyDetector
from sharpgpt.training.entropy_control import EntropyController
from sharpgpt.training.profiler import Profiler
from sharpgpt.training.schedule import blocks_between, num_micro_batches_at
from sharpgpt.training.setup import Setup
from sharpgpt.training.startup import Startup


class CannotContinueError(Exception):
    """The next step is impossible. Raised between two steps, on all ranks together.

    `advice` tells the user what to do.
    """

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = advice


@dataclass(frozen=True)
class Plan:
    """What the run does in all, known before its first step."""

    total_steps: int
    tokens_per_step: int
    """Once a batch-size warm-up is over."""
    flops_per_token: float
    peak_flops: float
    """Of the devices of all processes."""


@dataclass(frozen=True)
class ModelParts:
    """What a step needs of the model."""

    loss_lm: SharpnessLM
    """`causal_lm` with the loss in its forward; compiled if `compile` is set."""
    data_parallel: Any
    """`loss_lm` with gradients averaged over all ranks."""
    optimizers: list[Optimizer]

    def zero_gradients(self) -> None:
        """Drop the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()


@dataclass(frozen=True)
class Outputs:
    """Where the run's records go."""

    folder: Path
    log: RunLog
    saver: CheckpointSaver
    console: Console
    startup: Startup
    profiler: Profiler


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
        self._of_this_step: list[tuple[SharpnessOutput, float, float, float]] = []

    def add(
        self,
        output: SharpnessOutput,
        penalty_weight: float,
        z_loss_weight: float,
        *,
        label_smoothing: float = 0.0,
    ) -> None:
        """The rows of one micro-batch. `end_step` counts them if its step is taken."""
        detached = output._replace(loss=output.loss.detach())
        self._of_this_step.append((detached, penalty_weight, z_loss_weight, label_smoothing))

    def end_step(self, started: float, *, is_taken: bool) -> None:
        """Count the step that began at `started` (perf_counter), and its rows if it was taken."""
        if is_taken:
            for output, *weights, label_smoothing in self._of_this_step:
                self.rows.add(output, *weights, label_smoothing=label_smoothing)
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


@dataclass
class Progress:
    """How far the run is: what a checkpoint keeps beside the tensors."""

    window: Window
    anomalies: AnomalyDetector
    entropy_control: EntropyController | None = None
    """None without entropy_target."""
    step: int = 0
    """Finished steps, including skipped ones."""
    next_block: int = 0
    """Position of the next training block in the order of all epochs."""
    best: Figure | None = None
    validated: Figure | None = None
    """The best and the newest validation."""
    due: list[DueWork] = field(default_factory=list)
    """Work still to do after this step."""

    def add_validation(self, ce_loss: float) -> None:
        """Remember `val/ce_loss` of this step."""
        self.validated = Figure(step=self.step, val_ce_loss=ce_loss)
        if self.best is None or ce_loss < self.best.val_ce_loss:
            self.best = self.validated

    def after_step(self) -> AfterStep:
        """What was done after this step, and what is still due."""
        is_now = self.validated is not None and self.validated.step == self.step
        return AfterStep(
            val_ce_loss=self.validated.val_ce_loss if self.validated and is_now else None,
            best=self.best,
            due=list(self.due),
        )

    def restore(self, checkpoint: Checkpoint, *, after_rollback: bool = False) -> None:
        """Continue from `checkpoint`; its tensors are loaded elsewhere.

        After a rollback the due work was done already, and the rollback itself is remembered.
        """
        state, after = checkpoint.state, checkpoint.after_step
        self.step = state.step
        self.next_block = state.next_block
        self.best = after.best
        self.validated = None
        if after.val_ce_loss is not None:
            self.validated = Figure(step=state.step, val_ce_loss=after.val_ce_loss)
        self.due = [] if after_rollback else list(after.due)
        self.window.restore(state.window)
        self.anomalies.restore(state.watch, after_rollback=after_rollback)
        if self.entropy_control is not None:
            self.entropy_control.restore(state.entropy_control)


@dataclass(frozen=True)
class Training:
    """One run in training; only `progress` and the tensors of the model change."""

    setup: Setup
    plan: Plan
    model: ModelParts
    train_blocks: TrainingBlocks
    val_blocks: ValidationBlocks
    outputs: Outputs
    progress: Progress

    @property
    def config(self) -> TrainingConfig:
        """The settings."""
        return self.setup.config

    @property
    def processes(self) -> Processes:
        """All processes of the run."""
        return self.setup.processes

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of the next step, over all ranks."""
        return num_micro_batches_at(self.progress.step, self.config)

    @property
    def num_blocks_of_step(self) -> int:
        """Training blocks of the next step, over all micro-batches and ranks."""
        return self.num_micro_batches * self.config.batch_size

    def tokens_between(self, first_step: int, end_step: int) -> int:
        """Training tokens of the steps from `first_step` on, before `end_step`."""
        return blocks_between(first_step, end_step, self.config) * self.config.max_seq_length

    def state(self) -> TrainingState:
        """What a checkpoint keeps beside the tensors; every rank calls it."""
        progress, control = self.progress, self.progress.entropy_control
        return TrainingState(
            **self.setup.facts(),
            step=progress.step,
            next_block=progress.next_block,
            config=self.config.to_dict(),
            window=progress.window.state(self.processes),
            watch=progress.anomalies.state(),
            entropy_control=None if control is None else control.state(),
        )

    def end_step(self, started: float, *, is_taken: bool) -> None:
        """Count the step that began at `started`, a time of `perf_counter`."""
        self.progress.next_block += self.num_blocks_of_step
        self.progress.step += 1
        self.progress.window.end_step(started, is_taken=is_taken)
        self.outputs.startup.first_step_done()

    def is_due(self, interval: int) -> bool:
        """Whether something is due after this step: at each interval (0: never) and at the end."""
        step = self.progress.step
        return (interval > 0 and step % interval == 0) or step == self.plan.total_steps

    def must_stop(self, stop: StopSignal, problem: CannotContinueError | None = None) -> bool:
        """Whether any rank received a signal; `stop` then has it on every rank.

        Raises:
            CannotContinueError: `problem`, or another rank's.
        """
        failed, number = self.processes.all_reduce_max(int(problem is not None), stop.number or 0)
        if failed:
            raise problem or CannotContinueError(
                f"step {self.progress.step + 1}: another process cannot continue",
                "Its message has the reason",
            )
        stop.number = stop.number or number or None
        return bool(number)
