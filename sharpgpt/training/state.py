"""`Training`: everything that a step of a run needs, and what of it a checkpoint keeps."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sharpgpt.config import TrainingConfig
from sharpgpt.config.resume_rules import changes
from sharpgpt.core.errors import UserError
from sharpgpt.data.blocks import TrainingBlocks, ValidationBlocks
from sharpgpt.data.tokenizer import Tokenizer
from sharpgpt.model.lm import SharpnessLM
from sharpgpt.model.row_means import RowMeans
from sharpgpt.runs.checkpoint import Checkpoint
from sharpgpt.runs.saver import CheckpointSaver
from sharpgpt.runs.state import AfterStep, DueWork, Figure, RowSums, TrainingState, WindowState
from sharpgpt.runs.tracker import RunLog
from sharpgpt.runtime.device import Device
from sharpgpt.runtime.distributed import Processes
from sharpgpt.runtime.signals import StopSignal
from sharpgpt.sharpness import SharpnessOutput
from sharpgpt.training.anomalies import Watch
from sharpgpt.training.terminal import Terminal


class CannotGoOnError(Exception):
    """Raised between two steps, in all processes of the run together: the next step cannot be made.

    What was done until then is saved.
    """

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = advice


class RunEndedError(UserError):
    """A run that could not go on, raised in all its processes once its weights are saved."""


class Window:
    """The rows, the steps and the training time since the last log line."""

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
        """The rows of one micro-batch. They count once their step is known to be sound."""
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
        """Forget the rows of a step that is neither taken nor skipped."""
        self._of_this_step = []

    def state(self, processes: Processes) -> WindowState:
        """Plain numbers, so that a resumed run logs the window that it was in."""
        rows = self.rows.over(processes.all_reduce_sum)
        return WindowState(
            rows=RowSums.of(rows.sums(), rows.histogram()),
            num_steps=self.num_steps,
            num_skipped_steps=self.num_skipped_steps,
            seconds=self.seconds,
        )

    def restore(self, state: WindowState) -> None:
        """The inverse of `state`."""
        self.clear()
        self.rows.restore(state.rows.pairs(), state.rows.histogram)
        self.num_steps = state.num_steps
        self.num_skipped_steps = state.num_skipped_steps
        self.seconds = state.seconds


@dataclass(frozen=True)
class RunFacts:
    """What a run is made of beside its settings; a checkpoint fits a run with the same."""

    text: str
    """SHA-256 of the text."""
    vocabulary: str
    """Fingerprint of the tokenizer."""
    arithmetic: str
    """Of the forward and backward pass, such as float32."""
    blocks_per_step: int


@dataclass
class Training:
    """One run: what it trains, on what, where it keeps records, and how far it is."""

    config: TrainingConfig
    model: SharpnessLM
    """Of this process alone; `trained` is its wrapper, which sums gradients over all."""
    trained: Any
    causal_lm: nn.Module
    tokenizer: Tokenizer
    optimizers: list[Optimizer]
    train_blocks: TrainingBlocks
    val_blocks: ValidationBlocks
    device: Device
    log: RunLog
    terminal: Terminal
    saver: CheckpointSaver
    facts: RunFacts
    total_steps: int
    flops_per_token: float
    peak_flops: float
    on_first_step: Callable[[], None] | None
    """Called after the first step in this process."""
    window: Window
    watch: Watch
    processes: Processes
    step: int = 0
    """Steps done, those among them that were skipped."""
    next_block: int = 0
    """Place of the next training block in the order of all epochs."""
    best: Figure | None = None
    validated: Figure | None = None
    """The best and the newest validation."""
    due: list[DueWork] = field(default_factory=list)
    """What is still to be done after this step."""
    random_before_step: dict[str, torch.Tensor] = field(default_factory=dict)

    def state(self) -> TrainingState:
        """What a checkpoint keeps beside the tensors; all processes ask for it together."""
        return TrainingState(
            step=self.step,
            next_block=self.next_block,
            config=self.config.to_dict(),
            text=self.facts.text,
            vocabulary=self.facts.vocabulary,
            arithmetic=self.facts.arithmetic,
            blocks_per_step=self.facts.blocks_per_step,
            window=self.window.state(self.processes),
            watch=self.watch.state(),
        )

    def after_step(self) -> AfterStep:
        """What was done after this step, and what is still due."""
        is_now = self.validated is not None and self.validated.step == self.step
        return AfterStep(
            val_ce_loss=self.validated.val_ce_loss if self.validated and is_now else None,
            best=self.best,
            due=list(self.due),
        )

    def restore(self, checkpoint: Checkpoint, *, after_rollback: bool = False) -> None:
        """Go on where `checkpoint` was taken, its tensors aside (`load_tensors`).

        After a rollback what is due was done already, and the rollback itself is remembered.
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
        self.watch.restore(state.watch, after_rollback=after_rollback)

    def stops(self, stop: StopSignal, problem: CannotGoOnError | None = None) -> bool:
        """Whether a signal has come to any process: all stop here, and `stop` has it in each.

        Raises:
            CannotGoOnError: `problem`, or that of another process.
        """
        failed, number = self.processes.all_reduce_max(int(problem is not None), stop.number or 0)
        if failed:
            raise problem or CannotGoOnError(
                f"step {self.step + 1}: another process cannot go on", "It says why"
            )
        stop.number = stop.number or number or None
        return bool(number)

    def end_step(self, started: float, *, is_taken: bool) -> None:
        """Count the step that began at `started`, a time of `perf_counter`."""
        self.step += 1
        self.next_block += self.facts.blocks_per_step
        self.window.end_step(started, is_taken=is_taken)
        if self.on_first_step:
            self.on_first_step()
            self.on_first_step = None


def accepted_changes(state: TrainingState, config: TrainingConfig, facts: RunFacts) -> list[str]:
    """What differs between a checkpoint and the run that is to continue it, for the user to read.

    Raises:
        UserError: its tensors do not fit, or the mathematics would change and
            `allow_config_change` is off. The message lists every such difference.
    """
    before = {**state.config, **_shown_facts(state)}
    now = {**config.to_dict(), **_shown_facts(facts)}
    different = changes(before, now)
    if different.fatal:
        raise UserError(
            "resume: the checkpoint cannot be continued with these settings: "
            f"{'; '.join(different.fatal)}. Use those of the checkpoint, or start a new run"
        )
    if different.refused and not config.allow_config_change:
        raise UserError(
            "resume: these changes since the checkpoint would change the mathematics: "
            f"{'; '.join(different.refused)}. Use the settings of the checkpoint, allow the "
            "change with --allow_config_change, or start a new run"
        )
    return different.refused + different.named


def _shown_facts(facts: "RunFacts | TrainingState") -> dict[str, Any]:
    return {
        "text": facts.text[:12],
        "vocabulary": facts.vocabulary[:12],
        "arithmetic": facts.arithmetic,
        "blocks_per_step": facts.blocks_per_step,
    }
