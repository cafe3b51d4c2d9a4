"""Learning rate and penalty weight of a step. Steps count from 0; both are pure functions of it."""

import math

from sharpgpt.config import TrainingConfig


def learning_rate_at(step: int, total_steps: int, config: TrainingConfig) -> float:
    """Linear warm-up to `learning_rate`, then a cosine to `min_lr_ratio` of it at the last step.

    Warm-up step s gets (s + 1) / warmup_steps of the peak, so that the first step already learns.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    ratio = config.min_lr_ratio
    return peak * (ratio + (1 - ratio) * _cosine(_progress(step, warmup, total_steps)))


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
