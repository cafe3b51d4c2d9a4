"""The plane of cross-entropy and entropy: a baseline at every temperature, and penalised models."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sharpgpt.core.numbers import number
from sharpgpt.report.arms import Arm, Json, mapping, points_of, value_at
from sharpgpt.report.drawing import GRID, INK, STRONG, Chart, Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]
Curve = Sequence[tuple[float, float, float]]
"""(temperature, entropy, CE), hottest first."""

CURVE_LABELS = (2.0, 1.41, 1.19, 1.0, 0.84, 0.71, 0.59, 0.5)
"""Temperatures that are named at the curve."""

WIDE = (0.55, 1.5)
"""Temperatures that are shown where there is nothing but the curve."""

MARKERS = {"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼", "P": "✚"}
"""matplotlib's marker of a penalty -> the same as a character."""

POINT = ("entropy", "ce")


def plane(
    baseline: Arm,
    arms: Sequence[Arm],
    *,
    title: str = "Cross-entropy against entropy",
    unit: str = "report half, mean over seeds",
    text: str = "",
) -> Drawing | None:
    """Cross-entropy against entropy: the baseline at every temperature, and every arm."""
    curve = _mean_curve(baseline.runs)
    points = [
        (arm, _paired(point, arm, baseline, curve))
        for arm in arms
        for point in points_of([arm.content.get("point")], *POINT)
    ]
    chart = Chart(title, unit, size=(8.6, 4.6))
    chart.text = text
    chart.axes.grid(axis="both", color=GRID, linewidth=0.8)
    if curve:
        entropies, ces = smooth_curve(curve)
        chart.axes.plot(entropies, ces, color=STRONG, linewidth=1.6, zorder=2)
    at_one: list[tuple[float, ...]] = [
        one[1:] for one in sorted(curve, key=lambda one: abs(math.log(one[0])))[:1]
    ]
    for point in at_one:
        chart.line([point], color=STRONG, marker="o", markersize=6, zorder=3)
        chart.sentences.append(_sentence(baseline.name, point))
    hues = list(dict.fromkeys(arm.colour for arm in arms))
    crosses: list[tuple[float, ...]] = []
    for arm, point in points:
        colour = arm.style["color"]
        for mapped in points_of([arm.content.get("own_map")], *POINT):
            crosses.append(mapped)
            chart.line([mapped], color=colour, marker="x", markersize=6, alpha=0.9, zorder=3)
        chart.line(
            [point], color=colour, alpha=0.35 + 0.65 * arm.strength, zorder=4,
            marker=list(MARKERS)[hues.index(arm.colour) % len(MARKERS)],
            markersize=5 + 3 * arm.strength,
        )  # fmt: skip
        chart.sentences.append(_sentence(arm.name, point))
    shown: list[tuple[float, ...]] = [point for _, point in points]
    if curve:  # the line below or above each point
        shown += [(x, float(np.interp(x, *_rising(curve)))) for x, _ in shown]
    if not points:
        shown = [one[1:] for one in curve if WIDE[0] <= one[0] <= WIDE[1]]
        best = mapping(next(iter(baseline.runs), {}), "temperature")
        for point in [] if best.get("note") else points_of([best], *POINT):
            hollow = {"marker": "s", "markerfacecolor": "none"}
            chart.line([point], color=STRONG, markersize=6, zorder=3, **hollow)
            shown.append(point)
    _zoom(chart.axes, [*shown, *at_one], crosses)
    _name_temperatures(chart.axes, curve)
    chart.axes.set_xlabel("entropy, nats (sharper to the left)", color=INK, fontsize=10)
    chart.axes.set_ylabel("cross-entropy, nats", color=INK, fontsize=10)
    return chart.drawing()


def _sentence(name: str, point: tuple[float, ...]) -> str:
    return f"{name} has entropy {number(point[0])} and cross-entropy {number(point[1])}."


def _paired(point: tuple[float, ...], arm: Arm, baseline: Arm, curve: Curve) -> tuple[float, ...]:
    """The point of an arm that has only some of the seeds, as far above the mean curve of all
    baselines as it is above that of its own."""
    paths = arm.content.get("baselines") or []
    own = _mean_curve([run for run in baseline.runs if run.get("path") in paths])
    if not own or not curve:
        return point
    ours, all_ = (float(np.interp(point[0], *_rising(one))) for one in (own, curve))
    return point[0], point[1] + all_ - ours


def _rising(curve: Curve) -> tuple[Floats, Floats]:
    entropies, ces = smooth_curve(curve)
    order = np.argsort(entropies)
    return entropies[order], ces[order]


def _mean_curve(runs: Sequence[Json]) -> list[tuple[float, float, float]]:
    """The mean over runs at each temperature that all have."""
    rows = [points_of(value_at(run, "temperature", "curve"), "temperature", *POINT) for run in runs]
    tables = [{round(row[0], 6): row[1:] for row in table} for table in rows if table]
    if not tables:
        return []
    means = {
        temperature: np.mean([table[temperature] for table in tables], axis=0).tolist()
        for temperature in set.intersection(*map(set, tables))
    }
    return [(temperature, *means[temperature]) for temperature in sorted(means, reverse=True)]


def smooth_curve(curve: Curve, num_between: int = 12) -> tuple[Floats, Floats]:
    """Entropies and CEs with `num_between` steps for each of the curve's own, by cubics in ln T.

    Straight lines would not do: a chord of this convex curve is above it, so that a model which is
    slightly worse than a temperature would be drawn below the line.
    """
    x, *values = np.array(curve).T
    if len(x) < 3:
        return values[0], values[1]
    x = np.log(x)
    place = np.linspace(0, len(x) - 1, (len(x) - 1) * num_between + 1)
    low = np.minimum(place.astype(int), len(x) - 2)
    t = place - low
    width = np.diff(x)[low]
    entropy, ce = (
        y[low] * (1 + 2 * t) * (1 - t) ** 2
        + y[low + 1] * t**2 * (3 - 2 * t)
        + width * t * (1 - t) * (slope[low] * (1 - t) - slope[low + 1] * t)
        for y, slope in ((y, np.gradient(y, x, edge_order=2)) for y in values)
    )
    return entropy, ce


def _zoom(
    axes: "Axes", points: Sequence[tuple[float, ...]], crosses: Sequence[tuple[float, ...]]
) -> None:
    """Show the points, and the crosses that are not far off: the map of a large weight may
    collapse."""
    if not points:
        return

    def bounds(shown: Sequence[tuple[float, ...]]) -> tuple[Floats, Floats, Floats]:
        low, high = np.min(shown, axis=0), np.max(shown, axis=0)
        return low, high, np.maximum(high - low, [0.1, 0.01])

    low, high, size = bounds(points)
    near = [
        cross
        for cross in crosses
        if (low - 0.5 * size < cross).all() and (cross < high + 0.5 * size).all()
    ]
    low, high, size = bounds([*points, *near])
    (left, bottom), (right, top) = low - 0.12 * size, high + [0.2, 0.18] * size
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def _name_temperatures(axes: "Axes", curve: Curve) -> None:
    """T at a few visible points of the curve."""
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    lowest = min(curve, key=lambda one: one[2], default=(1.0,))[0]
    for temperature, entropy, ce in curve:
        named = min(CURVE_LABELS, key=lambda one: abs(math.log(one / temperature)))
        if abs(math.log(named / temperature)) > 0.01:
            continue
        if not (left < entropy < right and bottom < ce < top):
            continue
        axes.plot([entropy], [ce], color=STRONG, marker="|", markersize=8, zorder=3)
        side = -1 if temperature < lowest else 1  # below the line on either branch
        axes.annotate(
            f"T = {named:g}", (entropy, ce), textcoords="offset points", xytext=(4 * side, -13),
            fontsize=8.5, color=INK, ha="right" if side < 0 else "left",
        )  # fmt: skip


def shapes(arms: Sequence[Arm]) -> str:
    """Which marker of the plane is which penalty, in words; empty for a single one."""
    penalties = {arm.colour: str(arm.content.get("penalty") or arm.name) for arm in arms}
    if len(penalties) < 2:
        return ""
    signs = list(MARKERS.values())
    words = [f"{signs[k % len(signs)]} {one}" for k, one in enumerate(penalties.values())]
    return f"Shapes: {', '.join(words)}; larger and stronger for larger weights."
