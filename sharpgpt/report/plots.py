"""The pictures of a run: what is plotted of its metrics."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from sharpgpt.core.metrics import METRICS, Section
from sharpgpt.report.drawing import SERIES_COLOURS, Drawing, Key, new_figure, svg
from sharpgpt.report.numbers import number, short
from sharpgpt.runs.reader import Column, Metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DISTRIBUTION: Section = "Output distribution"
"""The section that the histogram belongs to."""

FEW_POINTS = 40
"""A series with at most so many points shows them, so that a lone one can be seen."""


@dataclass(frozen=True)
class Plot:
    """Metrics that share one picture: (metric, label) pairs, drawn in the series colours.

    `log` asks for a logarithmic axis; without positive, sane values it stays linear.
    """

    title: str
    unit: str
    series: tuple[tuple[str, str], ...]
    log: bool = False


def plots(units: Mapping[str, str]) -> dict[str, list[Plot]]:
    """Section -> its plots, one for each metric; `units` replaces units, by metric."""
    sections: dict[str, list[Plot]] = {section: [] for section in get_args(Section)}
    for metric in METRICS:
        if metric.section:
            labels = {"train": "train", "val": "validation"} if len(metric.splits) > 1 else {}
            series = tuple(
                (name, labels.get(split, ""))
                for name, split in zip(metric.logged_names, metric.splits, strict=True)
            )
            unit = units.get(metric.name, metric.unit)
            sections[metric.section].append(Plot(metric.label, unit, series, metric.log_scale))
    return sections


def draw(plot: Plot, metrics: Metrics) -> Drawing | None:
    """Draw the curves of `plot`, or return None if none of them has a finite value."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    figure, axes = new_figure()
    keys, sentences, lowest, highest = [], [], math.inf, -math.inf
    for index, (metric, label) in enumerate(plot.series):
        column = metrics.column(metric)
        finite = column.finite()
        gaps = len(column.steps) - len(finite.steps)
        if not finite.steps:
            continue
        _curve(axes, column, index)
        lowest, highest = min(lowest, *finite.values), max(highest, *finite.values)
        keys.append(Key(index + 1, label, number(column.last)))
        sentences.append(_sentence(label or plot.title.lower(), finite, gaps))
    if not keys:
        return None
    axes.margins(x=0.02, y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(short)
    if plot.log and lowest > 1e-100 and highest < 1e100:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1,) if highest > 50 * lowest else (1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    if plot.log or max(abs(bound) for bound in axes.get_ylim()) >= 10_000:
        axes.yaxis.set_major_formatter(short)
    picture = svg(figure, plot.title, f"{plot.title}. {' '.join(sentences)}")
    return Drawing(plot.title, plot.unit, picture, keys)


def draw_histogram(metrics: Metrics) -> Drawing | None:
    """Draw how the largest probability is distributed over positions: the last and first logged."""
    logged = [(step, counts) for step, counts in metrics.histograms if sum(counts) > 0]
    if not logged:
        return None
    step, counts = logged[-1]
    shares = [100 * count / sum(counts) for count in counts]
    width = 1 / len(shares)
    figure, axes = new_figure()
    left_edges = [index * width for index in range(len(shares))]
    axes.bar(left_edges, shares, 0.86 * width, align="edge", color=SERIES_COLOURS[0], alpha=0.85)
    keys = [Key(1, f"step {number(step)}")]
    first_step, first = logged[0]
    if first_step != step and len(first) == len(counts):
        outline = [100 * count / sum(first) for count in first]
        axes.stairs(outline, [*left_edges, 1.0], color=SERIES_COLOURS[1], linewidth=1.3)
        keys.append(Key(2, f"step {number(first_step)}"))
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:g}")
    fullest = max(range(len(shares)), key=shares.__getitem__)
    sentence = (
        f"Distribution of the largest probability at step {number(step)}. Its fullest bin is "
        f"{fullest * width:.2f} to {(fullest + 1) * width:.2f} "
        f"with {shares[fullest]:.0f}% of positions."
    )
    picture = svg(figure, "histogram", sentence)
    return Drawing("Distribution of the largest probability", "% of positions", picture, keys)


def _curve(axes: "Axes", column: Column, index: int) -> None:
    """Draw one column; NaN and infinite values are gaps in it."""
    kept = set(column.finite().steps)
    values = [
        value if step in kept else math.nan
        for step, value in zip(column.steps, column.values, strict=True)
    ]
    few = len(kept) <= FEW_POINTS
    axes.plot(
        column.steps,
        values,
        color=SERIES_COLOURS[index],
        linewidth=1.6 if few else 1.2,
        marker="o" if few else "",
        markersize=3 if len(kept) > 1 else 5,
        zorder=2 + index,
    )


def _sentence(label: str, finite: Column, gaps: int) -> str:
    first, last = finite.values[0], finite.values[-1]
    sentence = (
        f"{label.capitalize()}: from {number(first)} at step {number(finite.steps[0])} "
        f"to {number(last)} at step {number(finite.steps[-1])}, "
        f"lowest {number(min(finite.values))}, highest {number(max(finite.values))}."
    )
    return f"{sentence} {gaps} values are NaN or infinite." if gaps else sentence
