"""The weight of a penalty's closed-form map that gives a model a certain entropy.

As for a temperature (temperature.py), a fit is made of few passes over the text, and its weight is
one at which the statistics are known exactly; slopes are differences between neighbouring weights.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sharpgpt.evaluation.controls import PenaltyMap
from sharpgpt.evaluation.groups import GroupStatistics
from sharpgpt.evaluation.row_statistics import UNCHANGED
from sharpgpt.evaluation.temperature import MAX_PASSES, Evaluate, Fit

TOLERANCE = 0.003
"""Newton's step, relative to the weight, that counts as none."""

DISTANCE = 0.01
"""Relative distance of the weights between which slopes are taken."""


def fit_map_weight(
    evaluate: Evaluate,
    statistics: GroupStatistics,
    penalty_map: PenaltyMap,
    target_entropy: float,
    *,
    start: float | None = None,
) -> tuple[Fit, GroupStatistics]:
    """Fit the weight of a penalty's map so that the mean entropy of the tuning half is the target.

    Args:
        evaluate: makes a pass of the model.
        statistics: of a pass with UNCHANGED.
        penalty_map: gives the penalty, k and positions; its weight does not matter.
        target_entropy: in nats.
        start: a weight near the result, if one is known; of the sign of the result.

    Returns:
        the fit with its neighbours, and the statistics of all passes.
    """

    def at_weights(weights: Sequence[float]) -> list[PenaltyMap]:
        return [replace(penalty_map, weight=weight) for weight in weights]

    def entropy(weight: float) -> float:
        at = replace(penalty_map, weight=weight) if weight else UNCHANGED
        return statistics.mean("entropy", at, "tuning")

    excess = entropy(0.0) - target_entropy
    if abs(excess) < 1e-9:
        return Fit(UNCHANGED, target_entropy, converged=True), statistics
    if not start or start * excess < 0:
        # For small weights the entropy's map is a temperature of 1 - w: d entropy / d w = -Var z.
        variance = statistics.mean("logit_variance", UNCHANGED, "tuning")
        start = excess / max(variance, 1e-9)
    first = float(np.copysign(min(max(abs(start), 1e-6), 1.0), excess))
    tried = {0.0}
    proposed = [first * 0.9, first * 1.1]
    statistics = statistics.joined(evaluate(at_weights(proposed)))
    for _ in range(MAX_PASSES - 1):
        tried.update(proposed)
        best = _interpolated(sorted((entropy(one), one) for one in tried), target_entropy)
        proposed = [low, _, high] = [best * (1 - DISTANCE), best, best * (1 + DISTANCE)]
        maps = at_weights(proposed)
        statistics = statistics.joined(evaluate(maps))
        slope = (entropy(high) - entropy(low)) / (high - low)
        fit = Fit(maps[1], target_entropy, converged=True, neighbours=(maps[0], maps[2]))
        if abs(entropy(best) - target_entropy) <= TOLERANCE * abs(best * slope):
            return fit, statistics
    note = f"no weight of {penalty_map.penalty} was found with entropy {target_entropy:.4g} nats"
    return replace(fit, converged=False, note=note), statistics


def _interpolated(points: Sequence[tuple[float, float]], target: float) -> float:
    """The weight at an entropy, from (entropy, weight) by rising entropy: on the parabola through
    the three nearest points if that stays between its neighbours, else on a straight line; doubled
    beyond the points."""
    entropies, weights = zip(*points, strict=True)
    if not entropies[0] <= target <= entropies[-1]:
        return 2.0 * float(weights[0] if target < entropies[0] else weights[-1])
    straight = float(np.interp(target, entropies, weights))
    nearest = sorted(points, key=lambda point: abs(point[0] - target))[:3]
    if len({entropy for entropy, _ in nearest}) < 3:
        return straight
    curved = sum(
        weight
        * math.prod(
            (target - other) / (entropy - other) for other, _ in nearest if other != entropy
        )
        for entropy, weight in nearest
    )
    above = int(np.searchsorted(entropies, target))
    around = weights[max(above - 1, 0)], weights[above]
    return curved if min(around) <= curved <= max(around) else straight
