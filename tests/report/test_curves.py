"""Bands over seeds."""

from sharpgpt.report.curves import MAX_POINTS, band_of
from sharpgpt.runs.reader import Column


def test_a_band_is_thinned_and_keeps_its_extremes() -> None:
    steps = list(range(1000))
    runs = [
        Column(steps, [float(step == 500) for step in steps]),
        Column(steps, [2.0] * 1000),
    ]
    band = band_of(runs)
    assert len(band) == MAX_POINTS
    assert max(high for *_, high in band) == 2.0
    assert min(low for _, low, _, _ in band) == 0.0
    assert band_of([Column([1, 2], [1.0, 2.0]), Column([2, 3], [4.0, 8.0])]) == [(2, 2.0, 3.0, 4.0)]
    assert band_of([Column([1], [1.0]), Column([2], [1.0])]) == []
    assert band_of([]) == []
