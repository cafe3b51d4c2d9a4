"""The plane of cross-entropy and entropy: a baseline at every temperature, and penalised models."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sharpgpt.core.numbers import fixed, typeset
from sharpgpt.report.arms import MARKERS, Arm, Json, mapping, number_of, points_of, value_at
from sharpgpt.report.drawing import GRID, INK, STRONG, Chart, Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]
Curve = Sequence[tuple[float, float, float]]
"""(temperature, entropy, CE), hottest first."""

LABEL_STEPS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
"""Temperatures in one of these steps are named at the curve: the first that names MIN_LABELS."""
MIN_LABELS = 4
LABEL_GAP = 42.0
"""Between two of them, in points of 1/72 inch."""

FONT_SIZE = 11.5

WIDE = (0.55, 1.5)
"""Temperatures that are shown where there is nothing but the curve."""

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
    chart = Chart(title, unit, x="entropy, nats (sharper to the left)", size=(8.6, 4.6), decimals=4)
    chart.axes.tick_params(labelsize=FONT_SIZE)
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
        _tell(chart, baseline.name, point)
    crosses: list[tuple[float, ...]] = []
    for arm, point in points:
        colour = arm.style["color"]
        for mapped in points_of([arm.content.get("own_map")], *POINT):
            crosses.append(mapped)
            chart.line([mapped], color=colour, marker="x", markersize=6, alpha=0.9, zorder=3)
            chart.spot(mapped, f"the baseline under the map of {arm.name}\n{_values(mapped)}")
        chart.line(
            [point], color=colour, alpha=0.35 + 0.65 * arm.strength, zorder=4,
            marker=MARKERS[arm.colour][0], markersize=4 + 4 * arm.strength,
        )  # fmt: skip
        _tell(chart, arm.name, point)
        weight = number_of(arm.content, "penalty_weight")
        if weight is not None:
            chart.axes.annotate(
                typeset(f"{weight:g}"), (point[0], point[1]), textcoords="offset points",
                xytext=(8, 5), fontsize=FONT_SIZE, color=INK,
            )  # fmt: skip
    shown: list[tuple[float, ...]] = [point for _, point in points]
    if curve:  # the line below or above each point
        shown += [(x, float(np.interp(x, *_rising(curve)))) for x, _ in shown]
    if not points:
        shown = [one[1:] for one in curve if WIDE[0] <= one[0] <= WIDE[1]]
        best = mapping(next(iter(baseline.runs), {}), "temperature")
        for point in [] if best.get("note") else points_of([best], *POINT):
            hollow = {"marker": "s", "markerfacecolor": "none"}
            chart.line([point], color=STRONG, markersize=6, zorder=3, **hollow)
            chart.spot(point, f"at the best temperature\n{_values(point)}")
            shown.append(point)
    _zoom(chart.axes, [*shown, *at_one], crosses)
    _name_temperatures(chart, curve)
    chart.axes.xaxis.label.set_fontsize(FONT_SIZE)
    chart.axes.set_ylabel("cross-entropy, nats", color=INK, fontsize=FONT_SIZE)
    return chart.drawing()


def _tell(chart: Chart, name: str, point: tuple[float, ...]) -> None:
    """A point in words: for screen readers, and under the pointer."""
    chart.sentences.append(
        f"{name} has entropy {fixed(point[0], 4)} and cross-entropy {fixed(point[1], 4)}."
    )
    chart.spot(point, f"{name}\n{_values(point)}")


def _values(point: tuple[float, ...]) -> str:
    return f"entropy {fixed(point[0], 4)}\ncross-entropy {fixed(point[1], 4)}"


def _paired(point: tuple[float, ...], arm: Arm, baseline: Arm, curve: Curve) -> tuple[float, ...]:
    """The point of an arm that has only some of the seeds, as far above the mean curve of all
    baselines as it is above that of its own."""
    paths = arm.content.get("baselines")
    known = paths if isinstance(paths, list) else []
    own = _mean_curve([run for run in baseline.runs if run.get("path") in known])
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
    tables = [{round(t, 6): point for t, *point in table if t >= 1e-6} for table in rows if table]
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


def _name_temperatures(chart: Chart, curve: Curve) -> None:
    """T at a few visible places of the curve, in round numbers."""
    if len(curve) < 2:
        return
    axes = chart.axes
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    logs = np.log([one[0] for one in curve])
    num_between = 12
    entropies, ces = smooth_curve(curve, num_between)
    if len(curve) < 3:
        num_between = 1
    fine = np.interp(np.arange(len(entropies)) / num_between, np.arange(len(curve)), logs)
    lowest = float(fine[np.argmin(ces)])

    def visible(step: float) -> list[tuple[float, float, float]]:
        """(T, entropy, CE), hottest first, without those too close to the one before."""
        found: list[tuple[float, float, float]] = []
        ends = math.exp(fine.min()), math.exp(fine.max())
        first, last = math.ceil(ends[0] / step - 1e-9), math.floor(ends[1] / step + 1e-9)
        taken: list[Floats] = []
        # 1 first: it is the model as it is.
        for k in sorted(range(first, last + 1), key=lambda k: (k * step != 1, -k)):
            x, y = (
                float(np.interp(math.log(k * step), fine[::-1], values[::-1]))
                for values in (entropies, ces)
            )
            if not (left < x < right and bottom < y < top):
                continue
            at = axes.transData.transform((x, y)) * 72 / chart.figure.dpi
            if all(np.linalg.norm(at - one) >= LABEL_GAP for one in taken):
                taken.append(at)
                found.append((k * step, x, y))
        return found

    shown = next((some for step in LABEL_STEPS if len(some := visible(step)) >= MIN_LABELS), [])
    for temperature, entropy, ce in shown or visible(LABEL_STEPS[-1]):
        axes.plot([entropy], [ce], color=STRONG, marker="|", markersize=8, zorder=3)
        side = -1 if math.log(temperature) < lowest else 1  # below the line on either branch
        rise = -15
        if ce - bottom < 0.08 * (top - bottom):  # above it, since below are the axis's numbers
            side, rise = 0, 9
        axes.annotate(
            f"T = {temperature:g}", (entropy, ce), textcoords="offset points",
            xytext=(4 * side, rise), fontsize=FONT_SIZE, color=INK,
            ha={-1: "right", 0: "center", 1: "left"}[side],
        )  # fmt: skip
        chart.spot((entropy, ce), f"T = {temperature:g}\n{_values((entropy, ce))}")


def shapes(arms: Sequence[Arm]) -> str:
    """Which marker of the plane is which penalty, in words; empty for a single one."""
    penalties = {arm.colour: str(arm.content.get("penalty") or arm.name) for arm in arms}
    if len(penalties) < 2:
        return ""
    words = [f"{MARKERS[colour][1]} {one}" for colour, one in penalties.items()]
    return f"Shapes: {', '.join(words)}; larger and stronger for larger weights."
