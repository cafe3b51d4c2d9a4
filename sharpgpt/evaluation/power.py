"""The power of the verdict: with what probability the rule calls a true difference by its name.

The model of the rule's interval (verdict.py): the difference of seed k on a pair of groups p is

    d + (what seed k adds) + (what pair p adds, for every seed) + (the rest),

all normal and independent. Write S, X and R for the variances that these three give to the
difference of one seed on the whole text. With K seeds and P pairs

    the mean              ~  N(d, S / K + X + R / K)
    A, between seeds      ~  (S + R) / K  *  chi^2_{K-1} / (K - 1)
    B, between pairs      ~  (X + R / K)  *  chi^2_{P-1} / (P - 1)

and the three are independent of each other, for they are the grand mean, the rows and the columns
of a two-way layout. So nothing has to be simulated: for a difference of `detect` beyond the margin

    power = E_{A,B}  Phi((detect - half_width(A, B)) / sqrt(S / K + X + R / K)),

with the very half width of the rule, the wider of two t intervals whose degrees of freedom depend
on A and B. The expectation is a sum over a grid in ln A and ln B, exact to 1e-4.
`benchmarks/bench_power.py` sets it against simulated studies that go through the rule itself.

With one seed the question is about these two models, and S plays no part. With M arms the error
rate is divided by M: an arm that passes this (Bonferroni) passes Holm's procedure too, whatever the
other arms do, so the power after the correction is at least this.
"""

import functools
import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from sharpgpt.evaluation.groups import MAX_GROUPS
from sharpgpt.evaluation.intervals import t_quantile
from sharpgpt.evaluation.verdict import ERROR_RATE, MARGIN, MIN_MARGIN

Floats = npt.NDArray[np.float64]

MAX_ARMS = 10_000
"""Beyond this the quantiles of the corrected error rate are not exact."""


def power(
    *,
    seed_variance: float,
    text_variance: float,
    rest_variance: float = 0.0,
    num_seeds: int,
    num_pairs: int = MAX_GROUPS // 2,
    detect: float,
    margin: float = MARGIN,
    error_rate: float = ERROR_RATE,
    num_arms: int = 1,
) -> float:
    """Probability that a true difference gets its verdict against one control.

        sharpgpt.power(seed_variance=0.002**2, text_variance=0.0005**2, num_seeds=5, detect=0.002)

    Args:
        seed_variance: S, nats^2: of the difference between seeds.
        text_variance: X, nats^2: of the difference between texts of this size, seeds apart. It
            falls as 1 / tokens of the text, and so does `rest_variance`.
        rest_variance: R, nats^2: what differs between texts and is not shared by the seeds.
        num_seeds: runs of the arm, and of the baseline.
        num_pairs: pairs of groups of the validation text, half its blocks and at most 50.
        detect: nats by which the true difference is beyond the margin: |d| = margin + detect.
        margin: nats within which nothing is called different; what counts is the excess over it.
        error_rate: of all arms together.
        num_arms: arms of the comparison, which share the error rate.

    Raises:
        ValueError: a value that is not allowed.
    """
    for name, value in (
        ("seed_variance", seed_variance),
        ("text_variance", text_variance),
        ("rest_variance", rest_variance),
        ("detect", detect),
    ):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}: given {value}, allowed is a number from 0")
    if not MIN_MARGIN <= margin < math.inf:
        raise ValueError(f"margin: given {margin}, allowed is at least {MIN_MARGIN} nats")
    if not 0 < error_rate < 1:
        raise ValueError(f"error_rate: given {error_rate}, allowed is between 0 and 1")
    for name, count, least in (("num_seeds", num_seeds, 1), ("num_pairs", num_pairs, 2)):
        if count < least:
            raise ValueError(f"{name}: given {count}, allowed is at least {least}")
    if not 1 <= num_arms <= MAX_ARMS:
        raise ValueError(f"num_arms: given {num_arms}, allowed is 1 to {MAX_ARMS}")
    level = 1 - error_rate / num_arms
    text = text_variance + rest_variance / num_seeds
    seeds = (seed_variance + rest_variance) / num_seeds
    variance = text if num_seeds == 1 else text + seed_variance / num_seeds
    if variance == 0:
        return float(detect > 0)
    text_weights, ratios = _mean_squares(num_pairs - 1)
    texts = text * ratios
    if num_seeds == 1:
        weights, half_widths = text_weights, t_quantile(level, num_pairs - 1) * np.sqrt(texts)
    else:
        seed_weights, ratios = _mean_squares(num_seeds - 1)
        weights = np.outer(seed_weights, text_weights)
        half_widths = _half_widths(
            (seeds * ratios)[:, None], texts[None], num_seeds, num_pairs, level=level
        )
    return float((weights * _normal((detect - half_widths) / math.sqrt(variance))).sum())


def _half_widths(
    seeds: Floats, texts: Floats, num_seeds: int, num_pairs: int, *, level: float
) -> Floats:
    """The rule's half widths for A = `seeds` and B = `texts`, which are broadcast."""
    both = seeds + texts
    degrees = both**2 / (seeds**2 / (num_seeds - 1) + texts**2 / (num_pairs - 1))
    of_both: Floats = _t_quantiles(level, degrees) * np.sqrt(both)
    alone = t_quantile(level, num_seeds - 1) * np.sqrt(seeds)
    return np.maximum(alone, of_both)


@functools.cache
def _mean_squares(degrees: int, num_nodes: int = 121) -> tuple[Floats, Floats]:
    """Weights and values of chi^2 / degrees, which sum and average to 1.

    With u = ln chi^2 the density is that of exp(degrees * u / 2 - exp(u) / 2). Below the grid is
    less than 1e-7 of it.
    """
    low = math.log(degrees) - min(32 / degrees, 32) - 9 / math.sqrt(degrees)
    high = math.log(degrees + 9 * math.sqrt(2 * degrees) + 20)
    logs = np.linspace(low, high, num_nodes)
    density = degrees / 2 * (logs - math.log(degrees)) - (np.exp(logs) - degrees) / 2
    weights = np.exp(density)
    return weights / weights.sum(), np.exp(logs) / degrees


def variance_range(degrees: int, level: float = 0.95) -> tuple[float, float]:
    """What an estimated variance with so many degrees of freedom must be multiplied by for the ends
    of its interval: degrees / chi^2 at the quantiles (1 + level) / 2 and (1 - level) / 2."""
    weights, ratios = _mean_squares(degrees, 4001)
    # A weight is that of the cell around its node, so half of it is below the node.
    below = weights.cumsum() - weights / 2
    ends = [np.interp(share, below, np.log(ratios)) for share in ((1 + level) / 2, (1 - level) / 2)]
    least, most = (float(np.exp(-end)) for end in ends)
    return least, most


def _t_quantiles(level: float, degrees: Floats) -> Floats:
    """`t_quantile` for many degrees of freedom, interpolated in 1 / degrees to 1e-5."""
    reciprocals, logs = _t_table(level)
    return np.asarray(np.exp(np.interp(1 / degrees, reciprocals, logs)))


@functools.cache
def _t_table(level: float) -> tuple[Floats, Floats]:
    reciprocals = np.linspace(1e-4, 1, 301)
    quantiles = [t_quantile(level, max(1.0, 1 / float(one))) for one in reciprocals]
    return reciprocals, np.log(quantiles)


def _normal(values: Floats) -> Floats:
    """The distribution function of the standard normal, interpolated to 1e-6."""
    return np.interp(values, *_normal_table())


@functools.cache
def _normal_table() -> tuple[Floats, Floats]:
    values = np.linspace(-8, 8, 4001)
    return values, np.array([NormalDist().cdf(float(one)) for one in values])
