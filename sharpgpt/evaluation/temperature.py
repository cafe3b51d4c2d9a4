"""The temperature that is best for a model, and the one that gives it a certain entropy.

In beta = 1 / T both are the root of a rising function, whose slope rows.py gives with its value:

                      g(beta)                     g'(beta)
    best              d ce / d beta               Var_p z              ce is convex in beta
    equal entropy     target - entropy(beta)      beta Var_p z         entropy falls with beta

A figure at another beta takes another pass over the text, so a fit is made of few passes, each with
many betas: first a grid, which is also the curve of CE against entropy; then, for all fits at once,
the roots of the cubic through value and slope at both ends of the bracket, until Newton's step from
an evaluated beta is negligible. The result is a beta at which the figures are known exactly.

A penalty's closed-form map is fitted in the same way to an entropy by its weight, with differences
for slopes.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sharpgpt.evaluation.controls import PenaltyMap
from sharpgpt.evaluation.groups import GroupFigures, Half
from sharpgpt.evaluation.rows import UNCHANGED, Sharpening, Temperature

GRID = tuple(Temperature(2.0 ** (step / 4)) for step in range(-8, 13))
"""beta from 1/4 to 8: T from 4 to 1/8 in steps of 2^(1/4), 1 among them."""

LOWEST_BETA, HIGHEST_BETA = 2.0**-6, 2.0**7

TOLERANCE = 1e-5
"""Newton's step, relative to beta, that counts as none. The steps that remain are taken into
account where figures are compared (differences.py)."""

MOST_PASSES = 8

MAP_TOLERANCE = 0.003
"""The same for the weight of a map."""

MAP_DISTANCE = 0.01
"""Relative distance of the weights between which the slopes of a map are taken."""

Evaluate = Callable[[Sequence[Sharpening]], GroupFigures]
"""A pass of one model over the split with these sharpenings."""


@dataclass(frozen=True)
class Fit:
    """A sharpening with a tuned parameter.

    `target_entropy` is what it was to give on the tuning half, None for the best temperature.
    Where not `converged`, `note` says why and `sharpening` is the nearest that was tried. A map has
    its `neighbours` in weight, between which slopes are taken.
    """

    sharpening: Sharpening
    target_entropy: float | None
    converged: bool
    note: str = ""
    neighbours: tuple[PenaltyMap, PenaltyMap] | None = None


@dataclass(frozen=True)
class CurvePoint:
    """A model at one temperature: means over a half. Slopes are in beta."""

    beta: float
    ce: float
    entropy: float
    ce_slope: float
    logit_variance: float

    @property
    def temperature(self) -> float:
        """T = 1 / beta."""
        return 1 / self.beta

    def to_dict(self) -> dict[str, float]:
        """As plain numbers, without the slopes."""
        return {"temperature": self.temperature, "ce": self.ce, "entropy": self.entropy}


def temperature_curve(figures: GroupFigures, half: Half = "report") -> list[CurvePoint]:
    """CE against entropy at every temperature of the figures, by rising beta."""
    betas = sorted(one.beta for one in figures.sharpenings if isinstance(one, Temperature))
    names = ("ce", "entropy", "ce_slope", "logit_variance")
    return [
        CurvePoint(beta, *(figures.mean(name, Temperature(beta), half) for name in names))
        for beta in betas
    ]


def fine_curve(points: Sequence[CurvePoint], num_between: int = 4) -> list[dict[str, float]]:
    """The curve with `num_between` steps for each of its own, as plain numbers: between two points
    by the cubics in ln beta through values and slopes of both, d / d ln beta = beta d / d beta."""
    found = []
    for low, high in itertools.pairwise(points):
        width = math.log(high.beta / low.beta)
        ends = [
            (
                (point.ce, width * point.beta * point.ce_slope),
                (point.entropy, -width * point.beta**2 * point.logit_variance),
            )
            for point in (low, high)
        ]
        for step in range(num_between):
            t = step / num_between
            ce, entropy = (
                value0 * (1 + 2 * t) * (1 - t) ** 2
                + slope0 * t * (1 - t) ** 2
                + value1 * t**2 * (3 - 2 * t)
                + slope1 * t**2 * (t - 1)
                for (value0, slope0), (value1, slope1) in zip(*ends, strict=True)
            )
            temperature = math.exp(-t * width) / low.beta
            found.append({"temperature": temperature, "ce": ce, "entropy": entropy})
    return [*found, points[-1].to_dict()] if points else []


def fit_temperatures(
    evaluate: Evaluate,
    figures: GroupFigures,
    target_entropies: Sequence[float | None],
    half: Half = "tuning",
) -> tuple[list[Fit], GroupFigures]:
    """Fit temperatures to one model: one for each target entropy, None being the best temperature.

    Args:
        evaluate: makes a pass of the model.
        figures: of a pass with GRID, or any temperatures to start from.
        target_entropies: mean entropies in nats.
        half: the groups whose means count.

    Returns:
        the fits in the order of the targets, and the figures of all passes, which have every
        fitted temperature.
    """
    for _ in range(MOST_PASSES):
        points = temperature_curve(figures, half)
        proposals = [_proposal(points, target) for target in target_entropies]
        wanted = [Temperature(beta) for one in proposals if isinstance(one, list) for beta in one]
        if not wanted:
            break
        figures = figures.joined([evaluate(list(dict.fromkeys(wanted)))])
    points = temperature_curve(figures, half)
    fits = []
    for target in target_entropies:
        found = _proposal(points, target)
        if isinstance(found, list):
            nearest = min(points, key=lambda point: abs(_value(point, target)))
            note = f"no convergence in {MOST_PASSES} passes"
            found = Fit(Temperature(nearest.beta), target, converged=False, note=note)
        fits.append(found)
    return fits, figures


def _value(point: CurvePoint, target: float | None) -> float:
    """g at a point; see the head of this file."""
    return point.ce_slope if target is None else target - point.entropy


def _slope(point: CurvePoint, target: float | None) -> float:
    """g' at a point."""
    return point.logit_variance * (1.0 if target is None else point.beta)


def _proposal(points: list[CurvePoint], target: float | None) -> Fit | list[float]:
    """The fit, if one of the points is it; else the betas to try next."""
    # Where every temperature is as good, as for uniform predictions, none is changed.
    for point in sorted(points, key=lambda point: abs(math.log(point.beta))):
        value, slope = _value(point, target), _slope(point, target)
        if abs(value) <= TOLERANCE * point.beta * slope:
            return Fit(Temperature(point.beta), target, converged=True)
    below = [point for point in points if _value(point, target) < 0]
    above = [point for point in points if _value(point, target) >= 0]
    if below and above:
        low, high = below[-1], above[0]
        return [_cubic_root(low, high, target)]
    # All values have one sign: the root is beyond the points, or nowhere.
    factor, edge = (2.0, points[-1].beta) if below else (0.5, points[0].beta)
    steps = [edge * factor**power for power in range(1, 16)]
    beyond = [beta for beta in steps if LOWEST_BETA <= beta <= HIGHEST_BETA]
    if beyond:
        return beyond
    what = "best temperature" if target is None else f"temperature with entropy {target:.4g} nats"
    note = f"there is no {what} between {1 / HIGHEST_BETA:.3g} and {1 / LOWEST_BETA:.3g}"
    return Fit(Temperature(edge), target, converged=False, note=note)


def _cubic_root(low: CurvePoint, high: CurvePoint, target: float | None) -> float:
    """The root, between two points, of the cubic with their values and slopes, by bisection."""
    width = high.beta - low.beta
    values = _value(low, target), _value(high, target)
    slopes = _slope(low, target) * width, _slope(high, target) * width
    left, right = 0.0, 1.0
    for _ in range(50):
        t = (left + right) / 2
        value = (
            values[0] * (1 + 2 * t) * (1 - t) ** 2
            + slopes[0] * t * (1 - t) ** 2
            + values[1] * t**2 * (3 - 2 * t)
            + slopes[1] * t**2 * (t - 1)
        )
        left, right = (t, right) if value < 0 else (left, t)
    # Inside the bracket even if the root is at an end of it, or no pass would bring news.
    return low.beta + width * min(max(right, 1e-6), 1 - 1e-6)


def fit_map_weight(
    evaluate: Evaluate,
    figures: GroupFigures,
    penalty_map: PenaltyMap,
    target_entropy: float,
    half: Half = "tuning",
    *,
    start: float | None = None,
) -> tuple[Fit, GroupFigures]:
    """Fit the weight of a penalty's map so that the mean entropy of a half is the target.

    Args:
        evaluate: makes a pass of the model.
        figures: of a pass with UNCHANGED.
        penalty_map: gives the penalty, k and positions; its weight is not looked at.
        target_entropy: in nats.
        half: the groups whose means count.
        start: a weight near the result, if one is known; of the sign of the result.

    Returns:
        the fit with its neighbours, and the figures of all passes.
    """

    def with_weight(weight: float) -> PenaltyMap:
        return PenaltyMap(penalty_map.penalty, weight, penalty_map.top_k, penalty_map.positions)

    def entropy(weight: float) -> float:
        return figures.mean("entropy", with_weight(weight) if weight else UNCHANGED, half)

    def add(weights: Sequence[float]) -> None:
        nonlocal figures
        figures = figures.joined([evaluate([with_weight(weight) for weight in weights])])
        tried.update(weights)

    def triple(weight: float) -> tuple[PenaltyMap, PenaltyMap]:
        low, high = (with_weight(weight * (1 + sign * MAP_DISTANCE)) for sign in (-1, 1))
        return low, high

    tried = {0.0}
    excess = entropy(0.0) - target_entropy
    if abs(excess) < 1e-9:
        return Fit(UNCHANGED, target_entropy, converged=True), figures
    if not start or start * excess < 0:
        # For small weights the entropy's map is a temperature of 1 - w: d entropy / d w = -Var z.
        start = excess / max(figures.mean("logit_variance", UNCHANGED, half), 1e-9)
    first = float(np.copysign(min(max(abs(start), 1e-6), 1.0), excess))
    add([first * factor for factor in (0.9, 1.1)])
    best = first
    for _ in range(MOST_PASSES - 1):
        best = _interpolated(sorted((entropy(one), one) for one in tried), target_entropy)
        low, high = triple(best)
        add([low.weight, best, high.weight])
        slope = (entropy(high.weight) - entropy(low.weight)) / (high.weight - low.weight)
        if abs(entropy(best) - target_entropy) <= MAP_TOLERANCE * abs(best * slope):
            return Fit(
                with_weight(best), target_entropy, converged=True, neighbours=triple(best)
            ), figures
    note = f"no weight of {penalty_map.penalty} was found with entropy {target_entropy:.4g} nats"
    return Fit(
        with_weight(best), target_entropy, converged=False, note=note, neighbours=triple(best)
    ), figures


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
