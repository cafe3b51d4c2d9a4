"""Intervals as bars on a common scale, one row of a table for each arm."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sharpgpt.core.numbers import decimals_for, signed
from sharpgpt.report.arms import Arm, Json, number_of


@dataclass(frozen=True)
class Bar:
    """An interval on a scale that several share, in percent of its width."""

    left: float
    width: float
    dot: float
    words: str
    is_apart: bool
    """Whether the interval leaves 0, or the margin around it, on one side."""


@dataclass(frozen=True)
class Scale:
    """From `low` to `high`, with a margin around 0."""

    low: float
    high: float
    margin: float

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """(place in percent, label) of two to six round values."""
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span / 5))
        step = next(size * power for size in (1, 2, 5, 10) if size * power >= span / 5)
        numbers = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        return [
            (self.place(k * step), signed(k * step, decimals) if k else "0")
            for k in numbers
            if 3 < self.place(k * step) < 97
        ]

    @property
    def decimals(self) -> int:
        """Of all numbers on this scale."""
        return decimals_for(self.margin)

    def place(self, value: float) -> float:
        """Where a value is, in percent."""
        return 100 * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def text(self, value: float) -> str:
        """A value on this scale in words."""
        return signed(value, self.decimals)

    def bar(self, interval: Json) -> Bar | None:
        """An interval on this scale; None where it lacks a number."""
        estimate, low, high = (number_of(interval, name) for name in ("estimate", "low", "high"))
        if estimate is None or low is None or high is None:
            return None
        left, right = self.place(low), self.place(high)
        return Bar(
            left,
            max(right - left, 0.4),
            self.place(estimate),
            ", ".join([self.text(estimate), f"{self.text(low)} to {self.text(high)}"]),
            low > self.margin or high < -self.margin,
        )


def scale_of(intervals: Sequence[Json], margin: float = 0.0) -> Scale:
    """A scale that shows all intervals and the zero."""
    found = [number_of(interval, name) for interval in intervals for name in ("low", "high")]
    ends = [end for end in found if end is not None]
    low, high = min([0.0, -2 * margin, *ends]), max([0.0, 2 * margin, *ends])
    room = 0.05 * max(high - low, 1e-9)
    return Scale(low - room, high + room, margin)


@dataclass(frozen=True)
class BarRow:
    """One arm of a table; `cell` is its second column, `detail` a small text in it."""

    arm: Arm
    bar: Bar | None
    words: str
    cell: str = ""
    detail: str = ""
    num_seeds: str = ""
    corrected: str = ""
    """The verdict corrected for several arms, and its p-value."""
    p_value: str = ""


@dataclass(frozen=True)
class BarTable:
    """Rows on one scale."""

    scale: Scale
    rows: list[BarRow]
    title: str = ""
    notes: Sequence[str] = ()


def bar_table(
    compared: Sequence[tuple[Arm, Json]], *, title: str = "", notes: Sequence[str] = ()
) -> BarTable:
    """A row for each arm with an interval."""
    scale = scale_of([interval for _, interval in compared])
    rows = [
        BarRow(arm, bar, bar.words) for arm, interval in compared if (bar := scale.bar(interval))
    ]
    return BarTable(scale, rows, title, notes)
