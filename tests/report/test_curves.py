"""Bands over seeds."""

from sharpgpt.report.arms import Arm
from sharpgpt.report.curves import MAX_POINTS, band_of, draw_bands
from sharpgpt.report.drawing import Chart
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


def test_a_curve_of_one_point_is_a_dot() -> None:
    """A line through one point draws nothing: the validation of a short run was an empty plot."""
    arm = Arm("no penalty", colour=1, strength=1.0, runs=[], content={})
    markers = []
    for run in (Column([120], [2.5]), Column([60, 120], [3.0, 2.5])):
        chart = Chart("Cross-entropy")
        draw_bands(chart, [(arm, [run])])
        markers.append(chart.axes.lines[0].get_marker())
    assert markers == ["o", ""]
