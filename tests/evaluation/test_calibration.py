"""Calibration from a histogram of fixed size, against its definitions on all rows."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from sharpgpt.evaluation.calibration import (
    NUM_CELLS,
    ConfidenceHistogram,
    expected_calibration_error,
    reliability_bins,
    smooth_calibration_error,
    smooth_calibration_error_at,
)

Floats = npt.NDArray[np.float64]


def rows(num_rows: int, error: float, seed: int = 0) -> tuple[Floats, Floats]:
    """Confidences and hits, whose probability is the confidence minus `error`."""
    random = np.random.default_rng(seed)
    confidence = 0.3 + 0.7 * random.beta(2, 1, num_rows)
    return confidence, (random.random(num_rows) < confidence - error).astype(float)


def histogram(confidence: Floats, hits: Floats) -> ConfidenceHistogram:
    made = ConfidenceHistogram.empty()
    for part in np.array_split(np.arange(len(hits)), 7):
        made.add(confidence[part], hits[part])
    return made


def test_the_error_over_bins_of_equal_mass_is_that_of_sorted_rows() -> None:
    confidence, hits = rows(30_000, 0.1)
    order = np.argsort(confidence)
    parts = np.array_split(order, 15)
    truth = sum(
        len(part) * abs(hits[part].mean() - confidence[part].mean()) for part in parts
    ) / len(hits)
    made = histogram(confidence, hits)
    assert expected_calibration_error(made) == pytest.approx(truth, rel=0.01)
    assert truth == pytest.approx(0.1, rel=0.05)
    bins = reliability_bins(made)
    assert len(bins) == 15
    for one, part in zip(bins, parts, strict=True):
        assert one.num_rows == pytest.approx(2000, abs=30)
        assert one.confidence == pytest.approx(confidence[part].mean(), abs=1e-3)
        assert one.accuracy == pytest.approx(hits[part].mean(), abs=0.01)


def test_cells_are_never_divided_and_nothing_is_lost() -> None:
    confidence = np.array([1.0] * 900 + [0.0, 0.5, 0.7])
    hits = np.ones(903)
    bins = reliability_bins(histogram(confidence, hits), 10)
    assert sum(one.num_rows for one in bins) == 903
    assert bins[-1].num_rows >= 900
    empty = ConfidenceHistogram.empty()
    assert reliability_bins(empty) == []
    assert math.isnan(expected_calibration_error(empty))
    assert math.isnan(smooth_calibration_error(empty))


def dense_smooth_error(confidence: Floats, hits: Floats, sigma: float) -> float:
    """The integral of |sum of reflected Gaussians times residuals|, by the midpoint rule."""
    points = (np.arange(2000) + 0.5) / 2000
    smoothed = np.zeros(2000)
    for place, residual in zip(confidence, hits - confidence, strict=True):
        for shift in range(-4, 5):
            for image in (2 * shift + place, 2 * shift - place):
                smoothed += residual * np.exp(-(((points - image) / sigma) ** 2) / 2)
    return float(np.abs(smoothed).mean() / (sigma * math.sqrt(2 * math.pi)) / len(hits))


@pytest.mark.parametrize("sigma", [0.03, 0.2, 1.5])
def test_smoothing_is_by_a_gaussian_that_is_reflected_at_both_ends(sigma: float) -> None:
    confidence, hits = rows(60, 0.2, seed=1)
    made = histogram(confidence, hits)
    residuals = (made.hits - made.confidence) / 60
    assert smooth_calibration_error_at(residuals, sigma) == pytest.approx(
        dense_smooth_error(confidence, hits, sigma), rel=2e-3
    )


def test_the_smooth_error_is_where_it_equals_its_width() -> None:
    confidence, hits = rows(400, 0.1, seed=2)
    made = histogram(confidence, hits)
    error = smooth_calibration_error(made)
    residuals = (made.hits - made.confidence) / 400
    assert smooth_calibration_error_at(residuals, error) == pytest.approx(error, rel=1e-6)
    assert dense_smooth_error(confidence, hits, error) == pytest.approx(error, rel=2e-3)


@pytest.mark.parametrize("power", [0.3, 4.0])
def test_where_all_residuals_have_one_sign_the_smooth_error_is_their_mean(power: float) -> None:
    """Spreading moves them, and what is at the ends stays inside: nothing is lost or cancelled."""
    confidence = np.random.default_rng(3).beta(0.3, 0.6, 40_000)
    share_of_hits = confidence**power
    smooth = smooth_calibration_error(histogram(confidence, share_of_hits))
    assert smooth == pytest.approx(abs(np.mean(share_of_hits - confidence)), rel=1e-9)


def test_calibrated_rows_have_a_small_error_and_wrong_ones_theirs() -> None:
    good = histogram(*rows(200_000, 0.0))
    assert smooth_calibration_error(good) < 0.005
    assert expected_calibration_error(good) < 0.01
    for error in (0.05, 0.2):
        bad = histogram(*rows(200_000, error))
        assert smooth_calibration_error(bad) == pytest.approx(error, rel=0.05)
        assert expected_calibration_error(bad) == pytest.approx(error, rel=0.05)


def test_the_size_of_a_histogram_is_fixed() -> None:
    made = histogram(*rows(1000, 0.1))
    assert {len(cells) for cells in (made.count, made.confidence, made.hits)} == {NUM_CELLS}
