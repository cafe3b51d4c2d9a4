"""`Training`: one run in training, in parts: model, data, outputs and progress."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sharpgpt.config import TrainingConfig
from sharpgpt.data.blocks import TrainingBlocks, ValidationBlocks
from sharpgpt.data.tokenizer import Tokenizer
from sharpgpt.model.lm import SharpnessLM
from sharpgpt.runs.checkpoint import Checkpoint
from sharpgpt.runs.saver import CheckpointSaver
from sharpgpt.runs.state import AfterStep, DueWork, Figure, TrainingState
from sharpgpt.runs.tracker import RunLog
from sharpgpt.runtime.console import Console
from sharpgpt.runtime.device import Device
from sharpgpt.runtime.distributed import Processes
from sharpgpt.runtime.signals import StopSignal
from sharpgpt.training.anomalies import AnomalyDetector
from sharpgpt.training.resume import RunFacts
from sharpgpt.training.startup import Startup
from sharpgpt.training.window import Window


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

    facts: RunFacts
    total_steps: int
    tokens_per_step: int
    flops_per_token: float
    peak_flops: float
    """Of the devices of all processes."""


@dataclass(frozen=True)
class ModelParts:
    """What a step changes."""

    causal_lm: nn.Module
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
class DataParts:
    """What the model is trained and validated on."""

    tokenizer: Tokenizer
    train_blocks: TrainingBlocks
    val_blocks: ValidationBlocks


@dataclass(frozen=True)
class Outputs:
    """Where the run's records go."""

    folder: Path
    log: RunLog
    saver: CheckpointSaver
    console: Console
    startup: Startup


@dataclass
class Progress:
    """How far the run is: what a checkpoint keeps beside the tensors."""

    window: Window
    anomalies: AnomalyDetector
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


@dataclass(frozen=True)
class Training:
    """One run in training; only `progress` and the tensors of `model` change."""

    config: TrainingConfig
    plan: Plan
    device: Device
    processes: Processes
    model: ModelParts
    data: DataParts
    outputs: Outputs
    progress: Progress

    def state(self) -> TrainingState:
        """What a checkpoint keeps beside the tensors; every rank calls it."""
        facts, progress = self.plan.facts, self.progress
        return TrainingState(
            step=progress.step,
            next_block=progress.next_block,
            config=self.config.to_dict(),
            text=facts.text,
            vocabulary=facts.vocabulary,
            arithmetic=facts.arithmetic,
            blocks_per_step=facts.blocks_per_step,
            window=progress.window.state(self.processes),
            watch=progress.anomalies.state(),
        )

    def end_step(self, started: float, *, is_taken: bool) -> None:
        """Count the step that began at `started`, a time of `perf_counter`."""
        self.progress.step += 1
        self.progress.next_block += self.plan.facts.blocks_per_step
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
