"""The controller of `entropy_target`: it moves the penalty weight so that the mean entropy of the
training rows follows a target, and arms can be compared that stand at equal entropy.

This is the dual of minimising the cross-entropy under the constraint that the entropy has a given
mean: the multiplier of the constraint is the penalty weight, and gradient ascent on it integrates
the constraint's violation, as the temperature of soft actor-critic is found (Haarnoja et al. 2018,
arXiv 1812.05905, section 5). An integral alone swings; a term in proportion to the violation damps
it (Stooke et al. 2020, arXiv 2007.03964, section 4):

    error      = ln(H / target), within +-MAX_ERROR        H: of all rows of the step, on all ranks
    integral  += INTEGRAL_GAIN * error,                     within the bounds
    weight     = integral + PROPORTIONAL_GAIN * error,      within the bounds

The error is relative, and about 1 per unit of the weight: a model that is trained with the entropy
penalty at weight w has nearly the entropy of a temperature 1 - w. Steps of the warm-up of the
penalty have their scheduled weights; then the integral starts at `penalty_weight`. The weight of a
step comes from the entropy of the step before, which the host reads together with the loss: nothing
waits for it. The limit of the error keeps the weight from running away while the model is new and
its entropy far off.
"""

import logging
import math

from torch import Tensor

from sharpgpt.config import TrainingConfig
from sharpgpt.runs.state import EntropyControlState
from sharpgpt.training.schedule import StepValues

logger = logging.getLogger(__name__)

INTEGRAL_GAIN = 0.02
PROPORTIONAL_GAIN = 0.5
MAX_ERROR = 0.2

STEPS_AT_BOUND = 200
"""After so many steps at a bound with an error of more than 2% a note says so."""


class EntropyController:
    """The weight of the next step, from the entropies of the steps before."""

    def __init__(self, config: TrainingConfig) -> None:
        assert config.entropy_target is not None
        self.target = config.entropy_target
        self._low, self._high = config.penalty_weight_bounds
        self._integral = self._next = config.penalty_weight
        self._num_at_bound = 0
        self.weight = config.penalty_weight
        """Of the last step that was taken."""
        self.measured: Tensor | None = None
        self.entropy = math.nan
        """The entropy of the current step: on the device, and once the host has read it."""

    def values(self, scheduled: StepValues) -> StepValues:
        """The values of a step, with the weight that it gets."""
        if not scheduled.is_controlled:
            return scheduled
        return scheduled._replace(penalty_weight=self._next)

    def take(self, values: StepValues, step: int) -> None:
        """Move the weight after a step that was taken with these values; `step` counts from 1."""
        self.weight, entropy = values.penalty_weight, self.entropy
        if not values.is_controlled or not math.isfinite(entropy):
            return
        # A collapsed model may have an entropy of 0 in float32.
        error = math.log(max(entropy, 1e-30) / self.target)
        limited = min(max(error, -MAX_ERROR), MAX_ERROR)
        self._integral = self._within(self._integral + INTEGRAL_GAIN * limited)
        self._next = self._within(self._integral + PROPORTIONAL_GAIN * limited)
        is_stuck = self._integral in (self._low, self._high) and abs(error) > 0.02
        self._num_at_bound = self._num_at_bound + 1 if is_stuck else 0
        if self._num_at_bound == STEPS_AT_BOUND:
            logger.warning(
                "step %d: entropy_target %g is out of reach: the penalty weight has been at its "
                "bound of %g for %d steps, and the entropy is %.4g; wider penalty_weight_bounds, "
                "another penalty_type or another target may help",
                step,
                self.target,
                self._integral,
                STEPS_AT_BOUND,
                entropy,
            )

    def _within(self, weight: float) -> float:
        return min(max(weight, self._low), self._high)

    def state(self) -> EntropyControlState:
        """What a checkpoint keeps."""
        return EntropyControlState(integral=self._integral, next=self._next, weight=self.weight)

    def restore(self, state: EntropyControlState | None) -> None:
        """Continue from a checkpoint; from one without a controller, begin."""
        if state is not None:
            self._integral, self._next = self._within(state.integral), self._within(state.next)
            self.weight = state.weight
