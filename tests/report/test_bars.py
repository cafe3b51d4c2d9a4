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


def test_a_scale_has_round_ticks_and_its_numbers_one_length() -> None:
    """Bars had no scale at all, and the numbers beside them three lengths."""
    scale = scale_of([interval(0.0039, 0.0356), interval(-0.0016, 0.0026)], 0.001)
    assert [label for _, label in scale.ticks] == ["−0.02", "0", "+0.02", "+0.04"]
    places = [place for place, _ in scale.ticks]
    assert places == sorted(places)
    assert scale.place(0.02) == places[2]
    words = [scale.bar(interval(value, 0.0004)) for value in (0.014, -0.0017, 0.00001)]
    assert [bar.words for bar in words if bar] == [
        "+0.0140, +0.0136 to +0.0144", "−0.0017, −0.0021 to −0.0013", "0.0000, −0.0004 to +0.0004",
    ]  # fmt: skip
    fine = scale_of([interval(0.00002, 0.00001)], 0.00001)
    assert fine.text(0.00002) == "+0.000020"
