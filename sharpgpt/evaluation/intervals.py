"""Intervals: of means over groups of blocks by bootstrap, and Student's t: quantiles and tails.

A *block* bootstrap draws whole groups of consecutive blocks, with replacement, since the rows
within a group are not independent (groups.py).
"""

import functools
import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sharpgpt.evaluation.groups import GroupStatistics, Half
from sharpgpt.evaluation.row_statistics import MEANS, RANK_MEANS

Floats = npt.NDArray[np.float64]

NUM_RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate between two bounds."""

    estimate: float
    low: float
    high: float


def bootstrap_means(
    sums_SG: Floats,
    num_rows_G: Floats,
    *,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> list[Interval]:
    """Percentile intervals of means over rows, one for each row of `sums_SG`, wider for few groups.

    Args:
        sums_SG: sums over the rows of each group; several statistics share the resamples.
        num_rows_G: rows of each group.
        level: probability that an interval covers the truth.
        num_resamples: how many times G groups are drawn.
        seed: of the draws, so that the same sums give the same interval.
    """
    num_groups = len(num_rows_G)
    random = np.random.default_rng(seed)
    times_RG = random.multinomial(
        num_groups, np.full(num_groups, 1 / num_groups), size=num_resamples
    )
    # einsum, for the threads of a matrix product wait for each other where the processor is busy.
    rows_R = np.einsum("rg,g->r", times_RG, num_rows_G)
    means_SR = np.einsum("rg,fg->fr", times_RG, sums_SG) / rows_R
    estimate_S = sums_SG.sum(1) / num_rows_G.sum()
    # With G groups the spread of resamples is that of the mean times sqrt(1 - 1 / G), and it is
    # known no better than that of a t interval.
    stretch = math.sqrt(num_groups / max(1, num_groups - 1))
    normal = NormalDist().inv_cdf((1 + level) / 2)
    stretch *= t_quantile(level, max(1, num_groups - 1)) / normal
    means_SR = estimate_S[:, None] + stretch * (means_SR - estimate_S[:, None])
    low_S, high_S = np.quantile(means_SR, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return [Interval(*map(float, bounds)) for bounds in zip(estimate_S, low_S, high_S, strict=True)]


def mean_intervals(statistics: GroupStatistics, half: Half = "all") -> dict[str, Interval]:
    """Every mean of an unchanged model over a half with its 95% interval, by name."""
    names = [*MEANS, *RANK_MEANS]
    mask = statistics.groups.mask(half)
    sums_SG = np.stack([statistics.sums(name)[mask] for name in names])
    return dict(zip(names, bootstrap_means(sums_SG, statistics.num_rows[mask]), strict=True))


MAX_DEGREES = 1e4
"""Beyond this the density is too narrow for the grid, and t is the normal quantile to 1e-3."""


@functools.cache
def t_quantile(level: float, degrees: float) -> float:
    """t for which P(|t| <= it) = level, Student's distribution with any number of degrees >= 1."""
    if not 0 < level < 1 or degrees < 1:
        raise ValueError(f"given level {level} and {degrees} degrees of freedom: there is no t")
    degrees = min(degrees, MAX_DEGREES)
    angle, area = _t_areas(degrees)
    return float(math.sqrt(degrees) * math.tan(np.interp(level, area, angle)))


def t_tails(value: float, degrees: float) -> float:
    """P(|t| >= value) for a value >= 0: the inverse of `t_quantile`, to 1e-9."""
    if not value >= 0 or degrees < 1:
        raise ValueError(f"given t = {value} and {degrees} degrees of freedom: there are no tails")
    degrees = min(degrees, MAX_DEGREES)
    angle, area = _t_areas(degrees)
    return float(1 - np.interp(math.atan(value / math.sqrt(degrees)), angle, area))


@functools.lru_cache(maxsize=8)
def _t_areas(degrees: float) -> tuple[Floats, Floats]:
    """Angles, and the level whose quantile is sqrt(degrees) tan(angle), on one grid.

    With t = sqrt(degrees) tan(a) the density is that of cos(a)^(degrees - 1) on [0, pi / 2].
    """
    angle, step = np.linspace(0, np.pi / 2, 20_001, retstep=True)
    density = np.maximum(np.cos(angle), 0) ** (degrees - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * step)])
    return angle, area / area[-1]
