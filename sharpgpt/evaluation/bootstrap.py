"""Intervals: of means over groups of blocks by bootstrap, and of few numbers by Student's t.

A *block* bootstrap draws whole groups of consecutive blocks, with replacement, since the rows
within a group are not independent (groups.py).
"""

import functools
import math
import statistics
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharpgpt.evaluation.groups import GroupFigures, Half
from sharpgpt.evaluation.rows import FIGURES, RANK_FIGURES, UNCHANGED, Sharpening

Floats = npt.NDArray[np.float64]

NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate between two bounds."""

    estimate: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """As plain numbers."""
        return {"estimate": self.estimate, "low": self.low, "high": self.high}


def bootstrap_means(
    sums_FG: Floats,
    num_rows_G: Floats,
    *,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> list[Interval]:
    """Percentile intervals of means over rows, one for each row of `sums_FG`, wider for few groups.

    Args:
        sums_FG: sums over the rows of each group; several figures share the resamples.
        num_rows_G: rows of each group.
        level: probability that an interval covers the truth.
        num_resamples: how many times G groups are drawn.
        seed: of the draws, so that the same figures give the same interval.
    """
    num_groups = len(num_rows_G)
    random = np.random.default_rng(seed)
    times_RG = random.multinomial(
        num_groups, np.full(num_groups, 1 / num_groups), size=num_resamples
    )
    # einsum, for the threads of a matrix product wait for each other where the processor is busy.
    rows_R = np.einsum("rg,g->r", times_RG, num_rows_G)
    means_FR = np.einsum("rg,fg->fr", times_RG, sums_FG) / rows_R
    estimate_F = sums_FG.sum(1) / num_rows_G.sum()
    # With G groups the spread of resamples is that of the mean times sqrt(1 - 1 / G), and it knows
    # that spread no better than a t interval does.
    stretch = math.sqrt(num_groups / max(1, num_groups - 1))
    normal = statistics.NormalDist().inv_cdf((1 + level) / 2)
    stretch *= t_quantile(level, max(1, num_groups - 1)) / normal
    means_FR = estimate_F[:, None] + stretch * (means_FR - estimate_F[:, None])
    low_F, high_F = np.quantile(means_FR, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return [Interval(*map(float, bounds)) for bounds in zip(estimate_F, low_F, high_F, strict=True)]


def mean_intervals(
    figures: GroupFigures,
    sharpening: Sharpening = UNCHANGED,
    half: Half = "all",
    *,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Every figure of a half with its interval, by name."""
    names = [*FIGURES[:-2], *RANK_FIGURES]
    mask = figures.groups.mask(half)
    sums_FG = np.stack([figures.sums(name, sharpening)[mask] for name in names])
    intervals = bootstrap_means(sums_FG, figures.num_rows[mask], level=level, seed=seed)
    return dict(zip(names, intervals, strict=True))


@functools.cache
def t_quantile(level: float, degrees: float) -> float:
    """t for which P(|t| <= it) = level, Student's distribution with any number of degrees >= 1.

    With t = sqrt(degrees) tan(a) the density is that of cos(a)^(degrees - 1) on [0, pi / 2].
    """
    if not 0 < level < 1 or degrees < 1:
        raise ValueError(f"given level {level} and {degrees} degrees of freedom: there is no t")
    # Beyond this the density is too narrow for the grid, and t is the normal quantile to 1e-3.
    degrees = min(degrees, 1e4)
    angle, step = np.linspace(0, np.pi / 2, 20_001, retstep=True)
    density = np.maximum(np.cos(angle), 0) ** (degrees - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * step)])
    return float(math.sqrt(degrees) * math.tan(np.interp(level, area / area[-1], angle)))


def t_interval(values: Floats, level: float = 0.95) -> Interval:
    """The mean of independent values, such as one for each seed, within t standard errors.

    Raises ValueError for fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"values: given {len(values)}, allowed is at least 2")
    mean = float(values.mean())
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    half_width = t_quantile(level, len(values) - 1) * error
    return Interval(mean, mean - half_width, mean + half_width)
