"""What depends on the step. Steps count from 0; all of it is a pure function of step and settings.

docs/recipe.md has the formulas and their sources.
"""

import itertools
import math
from typing import NamedTuple

from sharpgpt.config import TrainingConfig

FIRST_MUON_MOMENTUM = 0.85


class StepValues(NamedTuple):
    """What the schedules give to one step."""

    learning_rate: float
    penalty_weight: float
    is_controlled: bool
    """Whether the controller of entropy_target gives the penalty weight in place of this."""
    muon_learning_rate: float
    muon_momentum: float
    num_blocks: int
    """Training blocks, over all micro-batches and ranks."""


def step_values(step: int, total_steps: int, config: TrainingConfig) -> StepValues:
    """All schedules at one step."""
    return StepValues(
        learning_rate=learning_rate_at(step, total_steps, config),
        penalty_weight=penalty_weight_at(step, total_steps, config),
        is_controlled=config.entropy_target is not None and step >= config.penalty_warmup_steps,
        muon_learning_rate=learning_rate_at(
            step, total_steps, config, peak=config.muon_learning_rate
        ),
        muon_momentum=muon_momentum_at(step, config),
        num_blocks=num_micro_batches_at(step, config) * config.batch_size,
    )


def total_steps(config: TrainingConfig, num_blocks: int) -> int:
    """Optimizer steps of a run: `max_steps`, else those of `num_epochs` of `num_blocks` each."""
    if config.max_steps is not None:
        return config.max_steps
    wanted, warmup = config.num_epochs * num_blocks, config.batch_warmup_steps
    whole = config.batch_size * config.gradient_accumulation_steps
    missing = warmup * whole - blocks_between(0, warmup, config)
    num_steps = max(1, math.ceil((wanted + missing) / whole))
    if num_steps > warmup:
        return num_steps
    in_warmup = (num_micro_batches_at(step, config) * config.batch_size for step in range(warmup))
    read = itertools.accumulate(in_warmup)
    return next(step for step, blocks in enumerate(read, 1) if blocks >= wanted)


def num_micro_batches_at(step: int, config: TrainingConfig) -> int:
    """Micro-batches of a step over all ranks, a multiple of `batch_warmup_start` in its warm-up."""
    whole, warmup = config.gradient_accumulation_steps, config.batch_warmup_steps
    if step >= warmup:
        return whole
    first = config.batch_warmup_start
    return first * (1 + step * (whole // first - 1) // warmup)


def blocks_between(first_step: int, end_step: int, config: TrainingConfig) -> int:
    """Training blocks of the steps from `first_step` on, before `end_step`."""
    in_warmup = range(first_step, min(end_step, config.batch_warmup_steps))
    num_micro_batches = sum(num_micro_batches_at(step, config) for step in in_warmup)
    num_whole = end_step - first_step - len(in_warmup)
    return config.batch_size * (num_micro_batches + num_whole * config.gradient_accumulation_steps)


def learning_rate_at(
    step: int, total_steps: int, config: TrainingConfig, *, peak: float | None = None
) -> float:
    """Linear warm-up to the peak, then `lr_schedule` to `min_lr_ratio` of it.

    The peak is `learning_rate` unless another one is given. Warm-up step s gets (s + 1) /
    warmup_steps of it, so that the first step already learns. The last step has the minimum.
    """
    peak = config.learning_rate if peak is None else peak
    warmup = config.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    if config.lr_schedule == "wsd":
        stable = decay_start(total_steps, config)
        if step < stable:
            return peak
        left = max(0.0, 1 - (step - stable + 1) / max(1, total_steps - stable))
    else:
        progress = _progress(step, warmup, total_steps)
        left = 1 - progress if config.lr_schedule == "linear" else _cosine(progress)
    ratio = config.min_lr_ratio
    return peak * (ratio + (1 - ratio) * left)


def decay_start(total_steps: int, config: TrainingConfig) -> int:
    """Steps before the decay of lr_schedule wsd, which never begins within the warm-up."""
    num_steps = config.lr_decay_steps
    if num_steps is None:
        num_steps = round(config.lr_decay_fraction * total_steps)
    return min(total_steps, max(config.warmup_steps, total_steps - num_steps))


def muon_momentum_at(step: int, config: TrainingConfig) -> float:
    """Linear from 0.85, or from `muon_momentum` if that is less, to `muon_momentum`."""
    momentum, warmup = config.muon_momentum, config.muon_momentum_warmup_steps
    if step >= warmup:
        return momentum
    first = min(FIRST_MUON_MOMENTUM, momentum)
    return first + (momentum - first) * step / warmup


def penalty_weight_at(step: int, total_steps: int, config: TrainingConfig) -> float:
    """Linear warm-up from 0, then constant, or a path to `penalty_final_ratio` of the weight."""
    weight, warmup = config.penalty_weight, config.penalty_warmup_steps
    if step < warmup:
        return weight * step / warmup
    if config.penalty_schedule == "constant":
        return weight
    progress = _progress(step, warmup, total_steps)
    left = 1 - progress if config.penalty_schedule == "linear" else _cosine(progress)
    ratio = config.penalty_final_ratio
    return weight * (ratio + (1 - ratio) * left)


def _progress(step: int, warmup: int, total_steps: int) -> float:
    """0 at the end of the warm-up, 1 at the last step."""
    return min(1.0, (step - warmup) / max(1, total_steps - 1 - warmup))


def _cosine(progress: float) -> float:
    """1 at progress 0, 0 at progress 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))
