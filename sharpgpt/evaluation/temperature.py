"""The temperature that is best for a model, and the one that gives it a certain entropy.

In beta = 1 / T both are the root of a rising function, whose slope row_statistics.py gives with its
value:

                      g(beta)                     g'(beta)
    best              d ce / d beta               Var_p z              ce is convex in beta
    equal entropy     target - entropy(beta)      beta Var_p z         entropy falls with beta

A statistic at another beta takes another pass over the text, so a fit is made of few passes, each
with many betas: first a grid, which is also the curve of CE against entropy; then, for all fits at
once, the roots of the cubic through value and slope at both ends of the bracket, until Newton's
step from an evaluated beta is negligible. The result is a beta at which the statistics are known
exactly.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sharpgpt.evaluation.controls import PenaltyMap
from sharpgpt.evaluation.groups import GroupStatistics, Half
from sharpgpt.evaluation.row_statistics import Sharpening, Temperature

GRID = tuple(Temperature(2.0 ** (step / 4)) for step in range(-8, 13))
"""beta from 1/4 to 8: T from 4 to 1/8 in steps of 2^(1/4), 1 among them."""

MIN_BETA, MAX_BETA = 2.0**-6, 2.0**7

TOLERANCE = 1e-5
"""Newton's step, relative to beta, that counts as none. The steps that remain are taken into
account where models are compared (differences.py)."""

MAX_PASSES = 8

Evaluate = Callable[[Sequence[Sharpening]], GroupStatistics]
"""A pass of one model over the split with these sharpenings."""


@dataclass(frozen=True)
class Fit:
    """A sharpening with a tuned parameter.

    `target_entropy` is what it was to give on the tuning half, None for the best temperature.
    Where not `converged`, `note` gives the reason and `sharpening` is the nearest that was tried.
    A map has its `neighbours` in weight, between which slopes are taken.
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

    def excess(self, target: float | None) -> float:
        """g of the head of this file."""
        return self.ce_slope if target is None else target - self.entropy

    def excess_slope(self, target: float | None) -> float:
        """g'."""
        return self.logit_variance * (1.0 if target is None else self.beta)


def temperature_curve(statistics: GroupStatistics, half: Half = "report") -> list[CurvePoint]:
    """CE against entropy at every temperature of the statistics, by rising beta."""
    betas = sorted(one.beta for one in statistics.sharpenings if isinstance(one, Temperature))
    names = ("ce", "entropy", "ce_slope", "logit_variance")
    return [
        CurvePoint(beta, *(statistics.mean(name, Temperature(beta), half) for name in names))
        for beta in betas
    ]


def _cubic(t: float, values: tuple[float, float], slopes: tuple[float, float]) -> float:
    """At t in [0, 1], the cubic with these values and slopes at 0 and 1."""
    return (
        values[0] * (1 + 2 * t) * (1 - t) ** 2
        + slopes[0] * t * (1 - t) ** 2
        + values[1] * t**2 * (3 - 2 * t)
        + slopes[1] * t**2 * (t - 1)
    )


def fine_curve(points: Sequence[CurvePoint], num_between: int = 4) -> list[dict[str, float]]:
    """The curve with `num_between` steps for each of its own, as plain numbers: between two points
    by the cubics in ln beta through values and slopes of both, d / d ln beta = beta d / d beta."""
    found = []
    for low, high in itertools.pairwise(points):
        width = math.log(high.beta / low.beta)
        ce_slopes = width * low.beta * low.ce_slope, width * high.beta * high.ce_slope
        entropy_slopes = (
            -width * low.beta**2 * low.logit_variance,
            -width * high.beta**2 * high.logit_variance,
        )
        for step in range(num_between):
            t = step / num_between
            ce = _cubic(t, (low.ce, high.ce), ce_slopes)
            entropy = _cubic(t, (low.entropy, high.entropy), entropy_slopes)
            temperature = math.exp(-t * width) / low.beta
            found.append({"temperature": temperature, "ce": ce, "entropy": entropy})
    for last in points[-1:]:
        found.append({"temperature": 1 / last.beta, "ce": last.ce, "entropy": last.entropy})
    return found


def fit_temperatures(
    evaluate: Evaluate,
    statistics: GroupStatistics,
    target_entropies: Sequence[float | None],
) -> tuple[list[Fit], GroupStatistics]:
    """Fit temperatures to one model: one for each target entropy, None being the best temperature.

    Args:
        evaluate: makes a pass of the model.
        statistics: of a pass with GRID, or any temperatures to start from.
        target_entropies: mean entropies of the tuning half in nats.

    Returns:
        the fits in the order of the targets, and the statistics of all passes, which have every
        fitted temperature.
    """
    for _ in range(MAX_PASSES):
        points = temperature_curve(statistics, "tuning")
        proposals = [_proposal(points, target) for target in target_entropies]
        wanted = [Temperature(beta) for one in proposals if isinstance(one, list) for beta in one]
        if not wanted:
            break
        statistics = statistics.joined(evaluate(list(dict.fromkeys(wanted))))
    points = temperature_curve(statistics, "tuning")
    fits = []
    for target in target_entropies:
        fit = _proposal(points, target)
        if isinstance(fit, list):
            nearest = min(points, key=lambda point: abs(point.excess(target)))
            note = f"no convergence in {MAX_PASSES} passes"
            fit = Fit(Temperature(nearest.beta), target, converged=False, note=note)
        fits.append(fit)
    return fits, statistics


def _proposal(points: list[CurvePoint], target: float | None) -> Fit | list[float]:
    """The fit, if one of the points is it; else the betas to try next."""
    # Where every temperature is as good, as for uniform predictions, none is changed.
    for point in sorted(points, key=lambda point: abs(math.log(point.beta))):
        if abs(point.excess(target)) <= TOLERANCE * point.beta * point.excess_slope(target):
            return Fit(Temperature(point.beta), target, converged=True)
    below = [point for point in points if point.excess(target) < 0]
    above = [point for point in points if point.excess(target) >= 0]
    if below and above:
        return [_cubic_root(below[-1], above[0], target)]
    # All values have one sign: the root is beyond the points, or nowhere.
    factor, edge = (2.0, points[-1].beta) if below else (0.5, points[0].beta)
    steps = [edge * factor**power for power in range(1, 16)]
    beyond = [beta for beta in steps if MIN_BETA <= beta <= MAX_BETA]
    if beyond:
        return beyond
    what = "best temperature" if target is None else f"temperature with entropy {target:.4g} nats"
    note = f"there is no {what} between {1 / MAX_BETA:.3g} and {1 / MIN_BETA:.3g}"
    return Fit(Temperature(edge), target, converged=False, note=note)


def _cubic_root(low: CurvePoint, high: CurvePoint, target: float | None) -> float:
    """The root, between two points, of the cubic with their values and slopes, by bisection."""
    width = high.beta - low.beta
    values = low.excess(target), high.excess(target)
    slopes = low.excess_slope(target) * width, high.excess_slope(target) * width
    left, right = 0.0, 1.0
    for _ in range(50):
        t = (left + right) / 2
        left, right = (t, right) if _cubic(t, values, slopes) < 0 else (left, t)
    # Inside the bracket even if the root is at an end of it, or a pass would find nothing new.
    return low.beta + width * min(max(right, 1e-6), 1 - 1e-6)
