"""The pictures of a run: what is plotted of its metrics."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from sharpgpt.core.metrics import METRICS, Section
from sharpgpt.core.numbers import counted, number
from sharpgpt.report.drawing import SERIES_COLOURS, Chart, Drawing, Key
from sharpgpt.runs.reader import Column, Metrics

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
    decimals: int | None = None


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
            sections[metric.section].append(
                Plot(metric.label, unit, series, metric.log_scale, metric.decimals)
            )
    return sections


def draw(plot: Plot, metrics: Metrics) -> Drawing | None:
    """The curves of `plot`; None if none of them has a finite value."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    chart = Chart(plot.title, plot.unit, x="step", decimals=plot.decimals)
    axes = chart.axes
    lowest, highest = math.inf, -math.inf
    for index, (metric, label) in enumerate(plot.series):
        column = metrics.column(metric)
        finite = column.finite()
        if not finite.steps:
            continue
        _curve(chart, column, index)
        chart.columns(label, zip(finite.steps, finite.values, strict=True))
        lowest, highest = min(lowest, *finite.values), max(highest, *finite.values)
        chart.keys.append(Key(index + 1, label or "last", chart.number(column.last)))
        num_gaps = len(column.steps) - len(finite.steps)
        chart.sentences.append(_sentence(chart, label or plot.title.lower(), finite, num_gaps))
    axes.margins(x=0.02, y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if plot.log and lowest > 1e-100 and highest < 1e100:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1,) if highest > 50 * lowest else (1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    chart.short_numbers(y=plot.log or max(abs(bound) for bound in axes.get_ylim()) >= 10_000)
    return chart.drawing()


def draw_histogram(metrics: Metrics) -> Drawing | None:
    """How the largest probability is distributed over positions: the last and first logged."""
    logged = [(step, counts) for step, counts in metrics.histograms if sum(counts) > 0]
    if not logged:
        return None
    chart = Chart(
        "Distribution of the largest probability", "% of positions", x="largest probability"
    )
    step, counts = logged[-1]
    shares = [100 * count / sum(counts) for count in counts]
    edges = [index / len(shares) for index in range(len(shares) + 1)]
    chart.axes.bar(
        edges[:-1], shares, 0.86 / len(shares), align="edge", color=SERIES_COLOURS[0], alpha=0.85
    )
    chart.keys.append(Key(1, f"step {number(step)}"))
    for low, high, share in zip(edges, edges[1:], shares, strict=False):
        place = (low + high) / 2
        chart.place_names[place] = f"{low:g} to {high:g}"
        chart.column(place, f"step {number(step)}: {share:.1f}%")
    first_step, first = logged[0]
    if first_step != step and len(first) == len(counts):
        outline = [100 * count / sum(first) for count in first]
        chart.axes.stairs(outline, edges, color=SERIES_COLOURS[1], linewidth=1.3)
        chart.keys.append(Key(2, f"step {number(first_step)}"))
        for low, high, share in zip(edges, edges[1:], outline, strict=False):
            chart.column((low + high) / 2, f"step {number(first_step)}: {share:.1f}%")
    chart.axes.set_xlim(0, 1)
    chart.axes.xaxis.set_major_formatter(lambda share, _: f"{share:g}")
    fullest = max(range(len(shares)), key=shares.__getitem__)
    chart.sentences.append(
        f"At step {number(step)}, the fullest bin is {edges[fullest]:.2f} to "
        f"{edges[fullest + 1]:.2f} with {shares[fullest]:.0f}% of positions."
    )
    return chart.drawing()


def _curve(chart: Chart, column: Column, index: int) -> None:
    """Draw one column; NaN and infinite values are gaps in it."""
    values = [value if math.isfinite(value) else math.nan for value in column.values]
    num_points = sum(map(math.isfinite, values))
    few = num_points <= FEW_POINTS
    chart.line(
        list(zip(column.steps, values, strict=True)),
        color=SERIES_COLOURS[index],
        linewidth=1.6 if few else 1.2,
        marker="o" if few else "",
        markersize=3 if num_points > 1 else 5,
        zorder=2 + index,
    )


def _sentence(chart: Chart, label: str, finite: Column, num_gaps: int) -> str:
    first, last = finite.values[0], finite.values[-1]
    sentence = (
        f"{label.capitalize()}: from {chart.number(first)} at step {number(finite.steps[0])} "
        f"to {chart.number(last)} at step {number(finite.steps[-1])}, "
        f"lowest {chart.number(min(finite.values))}, highest {chart.number(max(finite.values))}."
    )
    return f"{sentence} NaN or infinite: {counted(num_gaps, 'value')}." if num_gaps else sentence
