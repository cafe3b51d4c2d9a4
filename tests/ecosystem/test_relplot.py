"""Our calibration error from a histogram is that of relplot, its authors' package, from all rows.

Compared where few rows are at 0 or 1: relplot mirrors a grid that has points on both ends, and
counts what lies there at half or twice its weight (up to 4% of the error, with confidences of
Beta(0.3, 0.6)). Where every residual has one sign the truth is known, the mean residual, whatever
sigma is; that is tested of ours in tests/evaluation/test_calibration.py.
"""

import importlib

import numpy as np
import pytest

from sharpgpt.evaluation.calibration import ConfidenceHistogram, smooth_calibration_error

NUM_ROWS = 40_000
TOLERANCE = 1e-3
"""relplot finds its sigma by 10 halvings of [0, 1]."""


@pytest.mark.parametrize("power", [0.3, 0.6, 0.9, 1.0, 1.3, 2.0, 4.0])
@pytest.mark.parametrize("shape", [(2.0, 2.0), (1.0, 4.0)])
def test_the_smooth_calibration_error_is_that_of_relplot(
    power: float, shape: tuple[float, float]
) -> None:
    relplot = importlib.import_module("relplot")  # not there when types are checked
    random = np.random.default_rng(3)
    confidence = random.beta(*shape, NUM_ROWS)
    hits = (random.random(NUM_ROWS) < confidence**power).astype(np.float64)
    histogram = ConfidenceHistogram.empty()
    histogram.add(confidence, hits)
    theirs = relplot.smECE(confidence, hits)
    assert smooth_calibration_error(histogram) == pytest.approx(theirs, abs=TOLERANCE)
