"""Intervals: their definition, their coverage, and Student's quantiles."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from sharpgpt.evaluation.intervals import bootstrap_means, mean_intervals, t_quantile, t_tails
from sharpgpt.evaluation.row_statistics import MEANS, RANK_MEANS
from tests.evaluation.tables import bigram_text, table_statistics


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (10, 2.22814), (49, 2.00958),
     (100, 1.98397), (1000, 1.96234)],
)  # fmt: skip
def test_quantiles_of_t_are_those_of_the_tables(degrees: int, quantile: float) -> None:
    assert t_quantile(0.95, degrees) == pytest.approx(quantile, abs=6e-6, rel=2e-6)


def test_quantiles_of_t_between_and_beyond_the_tables() -> None:
    assert t_quantile(0.99, 5) == pytest.approx(4.03214, rel=2e-6)
    values = [t_quantile(0.95, degrees) for degrees in (1, 1.2, 1.9, 2, 2.5, 3)]
    assert values == sorted(values, reverse=True)
    # two degrees have a closed form
    assert t_quantile(0.8, 2) == pytest.approx(0.8 * math.sqrt(2 / (1 - 0.8**2)), rel=1e-6)
    normal = NormalDist().inv_cdf(0.975)
    assert t_quantile(0.95, 1e9) == pytest.approx(normal, rel=1e-3)
    for level, degrees in ((0.0, 3), (1.0, 3), (0.9, 0.5)):
        with pytest.raises(ValueError, match="there is no t"):
            t_quantile(level, degrees)


def test_tails_of_t_are_the_inverse_of_its_quantiles() -> None:
    for degrees in (1, 1.5, 2, 3, 10, 49, 1000, 1e9):
        for tails in (0.5, 0.05, 0.01, 1e-4, 1e-6):
            assert t_tails(t_quantile(1 - tails, degrees), degrees) == pytest.approx(
                tails, rel=1e-6
            )
        assert t_tails(0, degrees) == 1
        assert t_tails(math.inf, degrees) == pytest.approx(0, abs=1e-15)
    # one degree has a closed form
    assert t_tails(3, 1) == pytest.approx(1 - 2 / math.pi * math.atan(3), rel=1e-8)
    for value, degrees in ((-1, 3), (math.nan, 3), (1, 0.5)):
        with pytest.raises(ValueError, match="there are no tails"):
            t_tails(value, degrees)


def test_the_bootstrap_is_the_mean_of_resampled_groups() -> None:
    random = np.random.default_rng(0)
    num_rows_G = random.integers(5, 9, 30).astype(float)
    sums_FG = random.standard_normal((2, 30)) * num_rows_G
    intervals = bootstrap_means(sums_FG, num_rows_G, num_resamples=20_000, seed=1)
    stretch = math.sqrt(30 / 29) * t_quantile(0.95, 29) / NormalDist().inv_cdf(0.975)
    for sums_G, interval in zip(sums_FG, intervals, strict=True):
        means = []
        for _ in range(4000):
            drawn = random.integers(30, size=30)
            means.append(sums_G[drawn].sum() / num_rows_G[drawn].sum())
        assert interval.estimate == pytest.approx(sums_G.sum() / num_rows_G.sum())
        width = np.quantile(means, 0.975) - np.quantile(means, 0.025)
        assert interval.high - interval.low == pytest.approx(width * stretch, rel=0.05)
    # Groups of any size in which every row is the same leave nothing to chance.
    [same] = bootstrap_means(0.7 * num_rows_G[None], num_rows_G)
    assert (same.low, same.high) == (pytest.approx(0.7), pytest.approx(0.7))
    again = bootstrap_means(sums_FG, num_rows_G, num_resamples=20_000, seed=1)
    assert again == intervals


def test_the_bootstrap_covers_the_truth_where_blocks_resemble_their_neighbours() -> None:
    """Groups of 20 blocks of a series with memory; intervals from single blocks would be short."""
    random = np.random.default_rng(2)
    repetitions, wrong, wrong_blocks = 300, 0, 0
    for _ in range(repetitions):
        noise = random.standard_normal(2100)
        weights = 0.6 ** np.arange(40)
        blocks = np.convolve(noise, weights, "valid")[:2000]
        groups_G = blocks.reshape(100, 20).sum(1)
        [interval] = bootstrap_means(groups_G[None], np.full(100, 20.0), num_resamples=500)
        wrong += not interval.low <= 0 <= interval.high
        wrong_blocks += abs(blocks.mean()) > 1.96 * blocks.std() / math.sqrt(2000)
    assert wrong / repetitions < 0.05 + 3 * math.sqrt(0.05 * 0.95 / repetitions)
    assert wrong_blocks / repetitions > 0.2


@pytest.mark.parametrize("num_groups", [4, 6, 20])
def test_the_bootstrap_of_few_groups_covers_the_truth_too(num_groups: int) -> None:
    """Of 600 samples of independent groups at most 7% miss, two standard errors above 5%."""
    random = np.random.default_rng(num_groups)
    misses = 0
    for seed in range(600):
        [interval] = bootstrap_means(
            random.standard_normal((1, num_groups)), np.ones(num_groups), seed=seed
        )
        misses += not interval.low <= 0 <= interval.high
    assert misses <= 42


def test_intervals_of_all_statistics_of_a_pass() -> None:
    table_VV = torch.randn(9, 9, generator=torch.Generator().manual_seed(0))
    statistics = table_statistics(
        table_VV, bigram_text(table_VV, 300, 9, torch.Generator().manual_seed(1))
    )
    intervals = mean_intervals(statistics, half="report")
    assert list(intervals) == [*MEANS, *RANK_MEANS]
    for name, interval in intervals.items():
        assert interval.estimate == pytest.approx(statistics.mean(name, half="report"))
        assert interval.low < interval.estimate < interval.high, name
