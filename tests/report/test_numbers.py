import math

import pytest

from sharpgpt.report.numbers import number, short, signed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (0.0, "0"),
        (10.8234, "10.82"),
        (3.0, "3.000"),
        (0.38712, "0.3871"),
        (0.0006, "0.0006"),
        (0.00012345, "0.0001234"),
        (2.5e-05, "2.5e-05"),
        (9.99961, "10.00"),
        (999.96, "1,000"),
        (3104.2, "3,104"),
        (124439808, "124,439,808"),
        (1e30, "1e+30"),
        (-3.2, "−3.200"),
        (math.nan, "NaN"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_numbers_have_sensible_digits(value, text) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (500, "500"), (1500, "1.5k"), (20000, "20k"), (3e6, "3M"), (2.5e9, "2.5G")],
)
def test_axis_numbers_are_short(value, text) -> None:
    assert short(value) == text


def test_numbers_of_differences() -> None:
    assert signed(0.0123) == "+0.0123"
    assert signed(-0.00042) == "−0.00042"
    assert signed(0.0) == "0"
