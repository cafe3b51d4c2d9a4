"""Curves over steps with several seeds: the mean, in a band from the lowest to the highest."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sharpgpt.core.metrics import metrics_shown
from sharpgpt.report.arms import Arm
from sharpgpt.report.drawing import Chart, Drawing
from sharpgpt.report.pages import relative_address
from sharpgpt.runs.reader import Column, read_metrics

MAX_POINTS = 300
"""Points of a curve: more would not be visible."""

MAX_KEYS = 14
"""Lines of a legend; with more arms the table of the page names them."""

MEASURES = tuple(
    (f"val/{metric.name}", f"Validation {metric.label.lower()}", metric)
    for metric in metrics_shown("comparison")
)


MAX_LINKS = 6
"""Files that are named below a picture; of more there is one link to what lists them all."""


def loss_curves(
    curves: Mapping[str, object], arms: Sequence[Arm], baseline: Arm, *, page: Path
) -> list[Drawing]:
    """For each penalty the curves of its arms and of the baseline, with links as seen from `page`.

    `curves` has the run folders of each arm; those that are not on this machine are left out.
    """
    files = {arm.name: _metrics_files(curves.get(arm.given_name)) for arm in (baseline, *arms)}
    metrics = {
        name: [read_metrics(path, only=[name for name, _, _ in MEASURES]) for path in paths]
        for name, paths in files.items()
    }
    drawings = []
    for colour in dict.fromkeys(arm.colour for arm in arms):
        group = [arm for arm in arms if arm.colour == colour]
        penalty = group[0].content.get("penalty") or group[0].name
        links = [
            (f"metrics.jsonl of {file.parent.name}", address)
            for arm in (baseline, *group)
            for file in files[arm.name]
            if (address := relative_address(file, page))
        ]
        if not links or len(links) > MAX_LINKS:
            links = [("comparison.json, which names the runs", "comparison.json")]
        for name, title, metric in MEASURES:
            chart = Chart(f"{title}, {penalty}", metric.unit, x="step", decimals=metric.decimals)
            columns = [(arm, [one.column(name) for one in metrics[arm.name]]) for arm in group]
            own = [one.column(name) for one in metrics[baseline.name]]
            drawing = draw_bands(chart, [(baseline, own), *columns])
            if drawing and len(drawing.keys) > 1:
                drawings.append(replace(drawing, sources=links))
    return drawings


def _metrics_files(folders: object) -> list[Path]:
    paths = (
        [Path(str(one)) / "metrics.jsonl" for one in folders] if isinstance(folders, list) else []
    )
    return [path for path in paths if path.is_file()]


def draw_bands(chart: Chart, arms: Sequence[tuple[Arm, Sequence[Column]]]) -> Drawing | None:
    """The band of each arm's runs; None without any."""
    lowest, highest = math.inf, -math.inf
    for arm, runs in arms:
        band = band_of([finite for run in runs if (finite := run.finite()).steps])
        if not band:
            continue
        steps, low, middle, high = zip(*band, strict=True)
        faint = {"color": arm.style["color"], "alpha": 0.16 * arm.strength, "linewidth": 0}
        chart.axes.fill_between(steps, low, high, **faint)
        marker = "o" if len(steps) == 1 else ""  # a line through one point is invisible
        style = arm.style | {"marker": marker, "markersize": 5}
        points = list(zip(steps, middle, strict=True))
        chart.line(points, **style, linewidth=1.4)
        chart.columns(arm.name, points)
        # The first values are far off and would flatten the rest.
        late = [index for index, step in enumerate(steps) if step >= 0.2 * steps[-1]]
        lowest = min(lowest, *(low[index] for index in late))
        highest = max(highest, *(high[index] for index in late))
        if len(arms) <= MAX_KEYS:
            chart.keys.append(arm.key(chart.number(middle[-1])))
        if len(chart.sentences) < MAX_KEYS:
            chart.sentences.append(f"{arm.name} ends at {chart.number(middle[-1])}.")
    if chart.sentences:
        pad = 0.06 * max(highest - lowest, 1e-3)
        chart.axes.set_ylim(lowest - pad, highest + pad)
        chart.short_numbers(y=highest >= 10_000)
    return chart.drawing()


def band_of(runs: Sequence[Column]) -> list[tuple[float, float, float, float]]:
    """(step, lowest, mean, highest) over runs, at the steps that all of them logged.

    Of more than MAX_POINTS steps neighbours are taken together: their mean step and mean, the
    lowest and the highest of them all.
    """
    if not runs:
        return []
    tables = [dict(zip(run.steps, run.values, strict=True)) for run in runs]
    shared = sorted(set.intersection(*map(set, tables)))
    if not shared:
        return []
    values_SR = np.array([[table[step] for table in tables] for step in shared])
    starts = np.unique(np.linspace(0, len(shared), MAX_POINTS + 1).astype(int)[:-1])
    sizes = np.diff(np.append(starts, len(shared)))
    columns = (
        np.add.reduceat(np.array(shared, dtype=float), starts) / sizes,
        np.minimum.reduceat(values_SR.min(1), starts),
        np.add.reduceat(values_SR.mean(1), starts) / sizes,
        np.maximum.reduceat(values_SR.max(1), starts),
    )
    return [tuple(map(float, point)) for point in zip(*columns, strict=True)]  # type: ignore[misc]
