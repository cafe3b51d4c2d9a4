"""Is a confidence of 0.8 right in 80% of its rows? Calibration from a histogram of fixed size.

The confidence of a row is its largest probability, a hit is a row whose most probable token is the
target. Rows are counted in NUM_CELLS equal cells of [0, 1], with the sum of their confidences and
of their hits, so nothing grows with the number of rows. Bins of equal mass are made of whole cells:
their errors are exact, and their masses equal up to one cell.

Smooth ECE (Blasiok and Nakkiran 2023, arXiv 2309.12236). The residuals hit - confidence are spread
over [0, 1] by a Gaussian of width sigma that is reflected at both ends; smECE_sigma is the integral
of the absolute value of the result. It falls with sigma, and the smooth ECE is where it equals
sigma: no number of bins is chosen. The reflected Gaussian is the heat kernel of the interval, so
the cosine coefficients of the residuals are multiplied by exp(-(pi n sigma)^2 / 2). The authors'
package relplot needs arrays of all rows, scikit-learn and seaborn, and counts rows at 0 and 1 a few
percent wrong; elsewhere the two agree (`make test-ecosystem`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

NUM_CELLS = 10_000

Array = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ConfidenceHistogram:
    """Rows by confidence: `count`, `confidence` and `hits` are sums over each cell, [NUM_CELLS]."""

    count: npt.NDArray[np.float64]
    confidence: npt.NDArray[np.float64]
    hits: npt.NDArray[np.float64]

    @classmethod
    def empty(cls) -> "ConfidenceHistogram":
        """No rows."""
        return cls(np.zeros(NUM_CELLS), np.zeros(NUM_CELLS), np.zeros(NUM_CELLS))

    def add(self, confidence: Array, hits: Array) -> None:
        """Count rows: their confidences in [0, 1], and 1 or 0 for each, of any shape."""
        values = confidence.astype(np.float64).ravel()
        cell = np.minimum((values * NUM_CELLS).astype(np.int64), NUM_CELLS - 1)
        for total, weights in (
            (self.count, None),
            (self.confidence, values),
            (self.hits, hits.astype(np.float64).ravel()),
        ):
            total += np.bincount(cell, weights, NUM_CELLS)


@dataclass(frozen=True)
class ReliabilityBin:
    """One point of a reliability diagram."""

    num_rows: int
    confidence: float
    accuracy: float


def reliability_bins(histogram: ConfidenceHistogram, num_bins: int = 15) -> list[ReliabilityBin]:
    """At most `num_bins` bins of nearly equal mass, by rising confidence.

    A cell is never divided, so where one holds more than a bin's share there are fewer bins.
    """
    total = histogram.count.sum()
    if total == 0:
        return []
    # The bin of a cell is where its middle row falls.
    middle = histogram.count.cumsum() - histogram.count / 2
    bin_of_cell = np.minimum((middle * num_bins / total).astype(np.int64), num_bins - 1)
    sums = [
        np.bincount(bin_of_cell, column, num_bins)
        for column in (histogram.count, histogram.confidence, histogram.hits)
    ]
    return [
        ReliabilityBin(int(count), float(confidence / count), float(hits / count))
        for count, confidence, hits in zip(*sums, strict=True)
        if count > 0
    ]


def expected_calibration_error(histogram: ConfidenceHistogram, num_bins: int = 15) -> float:
    """Mean of |accuracy - confidence| over bins of equal mass, weighted by their rows.

    NaN without rows. It is biased upwards where bins hold few rows.
    """
    bins = reliability_bins(histogram, num_bins)
    total = sum(one.num_rows for one in bins)
    if total == 0:
        return float("nan")
    return sum(one.num_rows * abs(one.accuracy - one.confidence) for one in bins) / total


def smooth_calibration_error(histogram: ConfidenceHistogram) -> float:
    """The smooth ECE: smECE_sigma at the sigma where both are equal. NaN without rows."""
    total = histogram.count.sum()
    if total == 0:
        return float("nan")
    residuals = (histogram.hits - histogram.confidence) / total
    low, high = 0.0, 1.0
    for _ in range(40):
        sigma = (low + high) / 2
        if smooth_calibration_error_at(residuals, sigma) > sigma:
            low = sigma
        else:
            high = sigma
    return smooth_calibration_error_at(residuals, high)


def smooth_calibration_error_at(residuals: npt.NDArray[np.float64], sigma: float) -> float:
    """smECE_sigma of residuals, as shares of all rows, in equal cells of [0, 1]."""
    mirrored = np.concatenate([residuals, residuals[::-1]])
    waves = np.fft.rfft(mirrored)
    waves *= np.exp(-((np.pi * sigma * np.arange(len(waves))) ** 2) / 2)
    return float(np.abs(np.fft.irfft(waves, len(mirrored))[: len(residuals)]).sum())
