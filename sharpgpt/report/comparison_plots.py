"""Pictures of a comparison: the plane of cross-entropy and entropy, and loss curves with bands."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sharpgpt.core.metrics import metrics_shown
from sharpgpt.report.arms import Arm, Json, mean_of, number_of, objects, value_at
from sharpgpt.report.drawing import GRID, INK, STRONG, Drawing, Key, new_figure, svg
from sharpgpt.report.numbers import number, short
from sharpgpt.runs.reader import Column, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

CURVE_LABELS = (2.0, 1.41, 1.19, 1.0, 0.84, 0.71, 0.59, 0.5)
"""Temperatures that are named at the curve."""

WIDE = (0.55, 1.5)
"""Temperatures that are shown where there is nothing but the curve."""

MARKERS = ("o", "s", "D", "^", "v", "P")


def plane(baseline: Arm, arms: Sequence[Arm]) -> tuple["Figure", str] | None:
    """Cross-entropy against entropy: the baseline at every temperature, and every arm."""
    curve = _mean_curve(baseline.runs)
    points = [
        (arm, *_paired(point, arm, baseline, curve))
        for arm in arms
        if (point := _point(arm.content.get("point")))
    ]
    if not curve and not points:
        return None
    figure, axes = new_figure(8.6, 4.6)
    axes.grid(axis="both", color=GRID, linewidth=0.8)
    axes.spines["left"].set_visible(False)
    sentences = []
    at_one = min(curve, key=lambda one: abs(math.log(one[0])), default=None)
    if curve:
        axes.plot(*smooth_curve(curve), color=STRONG, linewidth=1.6, zorder=2)
    if at_one:
        axes.plot([at_one[1]], [at_one[2]], color=STRONG, marker="o", markersize=6, zorder=3)
        sentences.append(
            f"The baseline has entropy {number(at_one[1])} and cross-entropy {number(at_one[2])}."
        )
    hues = list(dict.fromkeys(arm.colour for arm in arms))
    crosses = list[tuple[float, float]]()
    for arm, x, y in points:
        mapped = _point(arm.content.get("own_map"))
        if mapped:
            crosses.append(mapped)
            axes.plot(
                [mapped[0]], [mapped[1]], color=arm.ink, marker="x", markersize=6,
                linestyle="", alpha=0.9, zorder=3,
            )  # fmt: skip
        axes.plot(
            [x], [y], color=arm.ink, alpha=0.35 + 0.65 * arm.strength, zorder=4, linestyle="",
            marker=MARKERS[hues.index(arm.colour) % len(MARKERS)], markersize=5 + 3 * arm.strength,
        )  # fmt: skip
        sentences.append(f"{arm.name} has entropy {number(x)} and cross-entropy {number(y)}.")
    if points:
        _zoom(axes, [point[1:] for point in points], crosses, at_one)
    else:
        near = [one[1:] for one in curve if WIDE[0] <= one[0] <= WIDE[1]]
        best = _best_point(baseline)
        if best:
            axes.plot(
                *best, color=STRONG, marker="s", markersize=6, markerfacecolor="none", zorder=3
            )
        _zoom(axes, near, [], at_one)
    _name_temperatures(axes, curve)
    axes.set_xlabel("entropy, nats (sharper to the left)", color=INK, fontsize=10)
    axes.set_ylabel("cross-entropy, nats", color=INK, fontsize=10)
    return figure, " ".join(sentences)


def _best_point(arm: Arm) -> tuple[float, float] | None:
    """Entropy and CE of the first run at its best temperature, if it has one."""
    best = value_at(next(iter(arm.runs), {}), "temperature")
    return None if value_at(best, "note") else _point(best)


def _paired(
    point: tuple[float, float],
    arm: Arm,
    baseline: Arm,
    curve: Sequence[tuple[float, float, float]],
) -> tuple[float, float]:
    """The point of an arm that has only some of the seeds, as far above the mean curve of all
    baselines as it is above that of its own."""
    paths = arm.content.get("baselines") or []
    own = _mean_curve([run for run in baseline.runs if run.get("path") in paths])
    if not own or not curve:
        return point
    ours, all_ = (float(np.interp(point[0], *_rising(one))) for one in (own, curve))
    return point[0], point[1] + all_ - ours


def _rising(curve: Sequence[tuple[float, float, float]]) -> tuple[Floats, Floats]:
    entropies, ces = smooth_curve(curve)
    order = np.argsort(entropies)
    return entropies[order], ces[order]


def _mean_curve(runs: Sequence[Json]) -> list[tuple[float, float, float]]:
    """(temperature, entropy, CE), the mean over runs at each temperature that all have."""
    tables = []
    for run in runs:
        rows = objects(value_at(run, "temperature", "curve"))
        tables.append(
            {
                round(temperature, 6): (entropy, ce)
                for row in rows
                if (temperature := number_of(row, "temperature")) is not None
                and (entropy := number_of(row, "entropy")) is not None
                and (ce := number_of(row, "ce")) is not None
            }
        )
    tables = [table for table in tables if table]
    if not tables:
        return []
    shared = set.intersection(*map(set, tables))
    return [
        (
            temperature,
            sum(table[temperature][0] for table in tables) / len(tables),
            sum(table[temperature][1] for table in tables) / len(tables),
        )
        for temperature in sorted(shared, reverse=True)
    ]


def smooth_curve(
    curve: Sequence[tuple[float, float, float]], num_between: int = 12
) -> tuple[Floats, Floats]:
    """Entropies and CEs with `num_between` steps for each of the curve's own, by cubics in ln T.

    Straight lines would not do: a chord of this convex curve lies above it, so that a model which
    is slightly worse than a temperature would be drawn below the line.
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


def _point(content: object) -> tuple[float, float] | None:
    entropy, ce = number_of(content, "entropy"), number_of(content, "ce")
    return None if entropy is None or ce is None else (entropy, ce)


def _zoom(
    axes: "Axes",
    points: Sequence[tuple[float, float]],
    crosses: Sequence[tuple[float, float]],
    at_one: tuple[float, float, float] | None,
) -> None:
    """Show the points, the baseline and the crosses that are not far off (the map of a large weight
    may collapse), and a little of the curve around them."""
    shown = [*points, *([at_one[1:]] if at_one else [])]
    if not shown:
        return

    def extent() -> tuple[tuple[float, ...], tuple[float, ...], float, float]:
        xs, ys = zip(*shown, strict=True)
        return xs, ys, max(max(xs) - min(xs), 0.1), max(max(ys) - min(ys), 0.01)

    xs, ys, wide, high = extent()
    shown += [
        (x, y)
        for x, y in crosses
        if min(xs) - 0.5 * wide < x < max(xs) + 0.5 * wide
        and min(ys) - 0.5 * high < y < max(ys) + 0.5 * high
    ]
    xs, ys, wide, high = extent()
    axes.set_xlim(min(xs) - 0.12 * wide, max(xs) + 0.2 * wide)
    axes.set_ylim(min(ys) - 0.12 * high, max(ys) + 0.18 * high)


def _name_temperatures(axes: "Axes", curve: Sequence[tuple[float, float, float]]) -> None:
    """T at a few points of the curve that are in sight."""
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    for temperature, entropy, ce in curve:
        named = min(CURVE_LABELS, key=lambda one: abs(math.log(one / temperature)))
        if abs(math.log(named / temperature)) > 0.01:
            continue
        if not (left < entropy < right and bottom < ce < top):
            continue
        axes.plot([entropy], [ce], color=STRONG, marker="|", markersize=8, zorder=3)
        side = -1 if named <= 1 else 1  # below the line on either branch
        axes.annotate(
            f"T = {named:g}", (entropy, ce), textcoords="offset points", xytext=(4 * side, -13),
            fontsize=8.5, color=INK, ha="right" if side < 0 else "left",
        )  # fmt: skip


MOST_POINTS = 300
"""Points of a curve: more could not be told apart."""

MEASURES = tuple(
    (f"val/{metric.name}", f"Validation {metric.label.lower()}", metric.unit)
    for metric in metrics_shown("comparison")
)


def loss_curves(curves: Mapping[str, object], arms: Sequence[Arm], baseline: Arm) -> list[Drawing]:
    """For each penalty the curves of its arms and of the baseline: mean over seeds, and the band
    from lowest to highest. Run folders that are not here are left out."""
    columns = {arm.name: _columns(curves.get(arm.name)) for arm in (baseline, *arms)}
    drawings = []
    for colour in dict.fromkeys(arm.colour for arm in arms):
        group = [arm for arm in arms if arm.colour == colour]
        for metric, title, unit in MEASURES:
            drawing = _bands(
                [baseline, *group], metric, f"{title}, {_penalty(group)}", unit, columns
            )
            if drawing:
                drawings.append(drawing)
    return drawings


def _penalty(group: Sequence[Arm]) -> str:
    return str(group[0].content.get("penalty") or group[0].name)


def _columns(folders: object) -> list[dict[str, Column]]:
    if not isinstance(folders, list):
        return []
    found = []
    for folder in folders:
        path = Path(str(folder)) / "metrics.jsonl"
        if path.is_file():
            metrics = read_metrics(path, only=[name for name, _, _ in MEASURES])
            found.append({name: metrics.column(name).finite() for name, _, _ in MEASURES})
    return found


def _bands(
    arms: Sequence[Arm],
    metric: str,
    title: str,
    unit: str,
    columns: Mapping[str, Sequence[Mapping[str, Column]]],
) -> Drawing | None:
    figure, axes = new_figure(4.6, 2.8)
    keys: list[Key] = []
    sentences = []
    lowest, highest = math.inf, -math.inf
    for arm in arms:
        runs = [one[metric] for one in columns.get(arm.name, ()) if one[metric].steps]
        band = band_of(runs)
        if not band:
            continue
        steps, low, mean, high = zip(*band, strict=True)
        axes.fill_between(steps, low, high, color=arm.ink, alpha=0.16 * arm.strength, linewidth=0)
        axes.plot(
            steps, mean, color=arm.ink, alpha=arm.strength, linewidth=1.4,
            linestyle="-" if arm.colour else (0, (4, 2)),
        )  # fmt: skip
        # The first validations are far off and would flatten the rest.
        late = [index for index, step in enumerate(steps) if step >= 0.2 * steps[-1]]
        lowest = min(lowest, *(low[index] for index in late))
        highest = max(highest, *(high[index] for index in late))
        keys.append(arm.key(number(mean[-1])))
        sentences.append(f"{arm.name} ends at {number(mean[-1])}.")
    if len(keys) < 2:
        return None
    pad = 0.06 * max(highest - lowest, 1e-3)
    axes.set_ylim(lowest - pad, highest + pad)
    axes.xaxis.set_major_formatter(short)
    picture = svg(figure, title, f"{title}. {' '.join(sentences)}")
    return Drawing(title, unit, picture, keys, figure=figure)


def band_of(runs: Sequence[Column]) -> list[tuple[float, float, float, float]]:
    """(step, lowest, mean, highest) over runs, at the steps that all of them logged.

    Of more than MOST_POINTS steps neighbours are taken together: their mean step and mean, the
    lowest and the highest of them all.
    """
    if not runs:
        return []
    tables = [dict(zip(run.steps, run.values, strict=True)) for run in runs]
    shared = sorted(set.intersection(*map(set, tables)))
    if not shared:
        return []
    values_SR = np.array([[table[step] for table in tables] for step in shared])
    starts = np.unique(np.linspace(0, len(shared), MOST_POINTS + 1).astype(int)[:-1])
    sizes = np.diff(np.append(starts, len(shared)))
    columns = (
        np.add.reduceat(np.array(shared, dtype=float), starts) / sizes,
        np.minimum.reduceat(values_SR.min(1), starts),
        np.add.reduceat(values_SR.mean(1), starts) / sizes,
        np.maximum.reduceat(values_SR.max(1), starts),
    )
    return [tuple(map(float, point)) for point in zip(*columns, strict=True)]  # type: ignore[misc]


def headline(baseline: Arm) -> str:
    """The baseline's figures in a sentence; empty where they are missing."""
    ce = mean_of(baseline.runs, "figures", "ce", "estimate")
    entropy = mean_of(baseline.runs, "figures", "entropy", "estimate")
    best = mean_of(baseline.runs, "temperature", "best")
    if ce is None or entropy is None:
        return ""
    words = f"The baseline has cross-entropy {number(ce)} and entropy {number(entropy)} nats"
    return f"{words}; its own best temperature is {number(best)}." if best else f"{words}."


def has_point(arm: Json) -> bool:
    """Whether an arm can be drawn on the plane."""
    return _point(arm.get("point")) is not None
