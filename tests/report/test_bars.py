"""Intervals on a common scale."""

from sharpgpt.report.bars import scale_of
from tests.report.test_comparison import interval


def test_a_scale_shows_all_intervals_and_the_zero() -> None:
    scale = scale_of([interval(0.01)], 0.001)
    assert scale.place(0.0) < scale.place(0.01) < scale.place(0.02) <= 100
    bar = scale.bar(interval(0.02))
    assert bar is not None
    assert bar.is_apart
    assert scale.bar({"estimate": None}) is None
