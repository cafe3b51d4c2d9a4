"""Detects anomalies of a step: values that are not finite, and spikes of the loss.

A step is judged before the optimizer takes it. A loss is a spike if

    loss > median + spike_threshold * max(MAD, 0.02)

over the losses of the last 100 steps taken (at least 20); MAD is their median absolute deviation
from the median. Both are robust: one spike hardly moves them. The minimum of 0.02 nats keeps a
nearly constant loss from having spikes.

A rollback returns to the newest checkpoint but not to its place in the data, so the batches since
are skipped. All of this is a function of the losses and kept in checkpoints: a run that is killed
after a rollback meets the same spike again and does the same. After `MAX_ROLLBACKS` to one
checkpoint the next spike is let through.
"""

import math
import statistics
from collections import deque
from enum import Enum

from sharpgpt.config import TrainingConfig
from sharpgpt.runs.state import MAX_LOSSES, WatchState

MIN_LOSSES = 20
"""With fewer losses nothing is a spike."""

MIN_SPREAD = 0.02
"""Minimum of the spread, in nats."""

MAX_ROLLBACKS = 3
"""Rollbacks to one checkpoint."""


class Verdict(Enum):
    """What to do with a step once its gradients are computed."""

    TAKE = "the optimizer takes it"
    SKIP = "it is skipped"
    STOP = "the run ends before it"
    ROLL_BACK = "the run returns to its newest checkpoint"


class AnomalyDetector:
    """Judges each step by its loss and its gradient norm, and counts anomalies."""

    def __init__(self, config: TrainingConfig) -> None:
        self._config = config
        self._losses: deque[float] = deque(maxlen=MAX_LOSSES)
        self._in_spike = False
        self._rolled_back_to: int | None = None
        self._rollbacks_there = 0
        self.num_loss_spikes = 0
        self.num_skipped_steps = 0
        self.num_skipped_in_a_row = 0
        self.num_rollbacks = 0

    def judge(self, loss: float, grad_norm: float) -> Verdict:
        """What to do with the step; remembers it if it is taken or skipped."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            is_limit = self.num_skipped_in_a_row + 1 >= self._config.max_skipped_steps
            if self._config.on_nonfinite == "stop" or is_limit:
                return Verdict.STOP
            self.num_skipped_steps += 1
            self.num_skipped_in_a_row += 1
            return Verdict.SKIP
        was_in_spike, self._in_spike = self._in_spike, self.is_spike(loss)
        if self._in_spike and not was_in_spike:
            self.num_loss_spikes += 1
            if self._config.on_spike == "rollback":
                return Verdict.ROLL_BACK
        self.take(loss)
        return Verdict.TAKE

    def take(self, loss: float) -> None:
        """Remember the loss of a step that is taken."""
        self.num_skipped_in_a_row = 0
        self._losses.append(loss)

    def is_spike(self, loss: float) -> bool:
        """Whether `loss` is far above the last losses."""
        return len(self._losses) >= MIN_LOSSES and loss > self.spike_limit()

    def spike_limit(self) -> float:
        """The loss above which a step is a spike."""
        median = statistics.median(self._losses)
        spread = statistics.median(abs(loss - median) for loss in self._losses)
        return median + self._config.spike_threshold * max(spread, MIN_SPREAD)

    def may_roll_back_to(self, step: int) -> bool:
        """Whether there were fewer than `MAX_ROLLBACKS` to the checkpoint of `step` in a row.

        Counts this one.
        """
        if step != self._rolled_back_to:
            self._rolled_back_to, self._rollbacks_there = step, 0
        self._rollbacks_there += 1
        return self._rollbacks_there <= MAX_ROLLBACKS

    def counts(self) -> dict[str, float]:
        """The metrics that are logged."""
        return {
            "train/num_skipped_steps": float(self.num_skipped_steps),
            "train/num_loss_spikes": float(self.num_loss_spikes),
            "train/num_rollbacks": float(self.num_rollbacks),
        }

    def state(self) -> WatchState:
        """What a checkpoint keeps."""
        return WatchState(
            losses=list(self._losses),
            in_spike=self._in_spike,
            num_loss_spikes=self.num_loss_spikes,
            num_skipped_steps=self.num_skipped_steps,
            num_skipped_in_a_row=self.num_skipped_in_a_row,
            num_rollbacks=self.num_rollbacks,
        )

    def restore(self, state: WatchState, *, after_rollback: bool = False) -> None:
        """Continue from a checkpoint; a rollback to it and its spike stay counted."""
        spikes, rollbacks = self.num_loss_spikes, self.num_rollbacks + 1
        self._losses = deque(state.losses, maxlen=MAX_LOSSES)
        self._in_spike = state.in_spike
        self.num_loss_spikes = state.num_loss_spikes
        self.num_skipped_steps = state.num_skipped_steps
        self.num_skipped_in_a_row = state.num_skipped_in_a_row
        self.num_rollbacks = state.num_rollbacks
        if after_rollback:
            self.num_loss_spikes, self.num_rollbacks = spikes, rollbacks
        else:
            self._rolled_back_to = None
