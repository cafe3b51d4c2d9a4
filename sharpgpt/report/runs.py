"""`write_runs_report`: many runs on one HTML page; those that differ only in their seed are one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.config.resume_rules import KINDS, Kind
from sharpgpt.core.errors import UserError
from sharpgpt.core.metrics import METRICS, SPLIT_LABELS, metrics_shown
from sharpgpt.report.arms import Arm, arms_of
from sharpgpt.report.comparison_plots import band_of
from sharpgpt.report.drawing import Drawing, Key, new_figure, svg
from sharpgpt.report.numbers import number, short
from sharpgpt.report.pages import write_page
from sharpgpt.runs.reader import Column, Metrics, read_metrics

PICTURES = tuple(
    (f"{split}/{metric.name}", f"{metric.label}, {SPLIT_LABELS[split]}", metric.unit)
    for metric in METRICS
    for split in metric.runs_plots
)

LAST = tuple(f"val/{metric.name}" for metric in metrics_shown("runs table"))

SAME = tuple(
    name for name, kind in KINDS.items() if kind is not Kind.HOUSEKEEPING and name != "seed"
)
"""Runs with the same values of these, and of the dataset, are shown together."""

MOST_KEYS = 14
"""Lines of a legend; with more groups the table of the page names them."""


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed."""

    settings: Mapping[str, Any]
    metrics: list[Metrics]
    names: list[str]


def write_runs_report(run_folders: Sequence[Path], path: Path) -> Path:
    """Write one page over several run folders; returns `path`.

    Raises:
        UserError: a folder that is none, or has no metrics.
    """
    groups = list(_grouped(run_folders).values())
    arms = _arms(groups)
    pictures = [
        drawing
        for metric, title, unit in PICTURES
        if (drawing := _picture(groups, arms, metric, title, unit))
    ]
    differing = [
        name
        for name in ("dataset", *SAME)
        if len({str(group.settings.get(name)) for group in groups}) > 1
    ]
    return write_page(
        path,
        "runs.html.jinja",
        num_runs=len(run_folders),
        pictures=pictures,
        legend=[arm.key() for arm in arms] if len(arms) <= MOST_KEYS else [],
        headings=[*(name.removeprefix("val/") for name in LAST), "runs"],
        rows=[
            (arm, [_last(group, name) for name in LAST], ", ".join(group.names))
            for arm, group in zip(arms, groups, strict=True)
        ],
        differing=[
            (name, [str(group.settings.get(name, "unknown")) for group in groups])
            for name in differing
        ],
        names=[arm.name for arm in arms],
    )


def _grouped(run_folders: Sequence[Path]) -> dict[str, Group]:
    wanted = {*(metric for metric, _, _ in PICTURES), *LAST}
    groups: dict[str, Group] = {}
    for folder in run_folders:
        metrics_path = folder / "metrics.jsonl"
        if not metrics_path.is_file():
            raise UserError(
                f"{folder}: holds no metrics.jsonl; expected run folders such as outputs/NAME"
            )
        settings: dict[str, Any] = {}
        key = str(folder)
        try:
            settings = TrainingConfig.from_yaml(folder / "config.yaml").to_dict()
            key = repr([settings.get(name) for name in ("dataset", *SAME)])
        except (OSError, ConfigError):
            pass  # a run without readable settings stands alone
        group = groups.setdefault(key, Group(settings, [], []))
        group.metrics.append(read_metrics(metrics_path, only=wanted))
        group.names.append(folder.resolve().name)
    return groups


def _arms(groups: Sequence[Group]) -> list[Arm]:
    """The groups as arms: named by penalty and weight, or by their run where that says nothing."""
    models = []
    for group in groups:
        penalty, weight = group.settings.get("penalty_type"), group.settings.get("penalty_weight")
        if penalty is None:
            name = group.names[0]
        else:
            name = f"{penalty} {weight:g}" if weight else "no penalty"
        shown = penalty if weight else "none"
        models.append({"name": name, "penalty": shown, "penalty_weight": weight})
    names = [str(model["name"]) for model in models]
    for model, group in zip(models, groups, strict=True):
        if names.count(str(model["name"])) > 1:
            model["name"] = f"{model['name']} ({group.names[0]})"
    return arms_of(models)


def _picture(
    groups: Sequence[Group], arms: Sequence[Arm], metric: str, title: str, unit: str
) -> Drawing | None:
    figure, axes = new_figure(4.6, 2.9)
    lowest, highest, sentences = math.inf, -math.inf, []
    keys: list[Key] = []
    for group, arm in zip(groups, arms, strict=True):
        columns = [one.column(metric).finite() for one in group.metrics]
        band = band_of([column for column in columns if column.steps])
        if not band:
            continue
        steps, low, middle, high = zip(*band, strict=True)
        axes.fill_between(steps, low, high, color=arm.ink, alpha=0.16, linewidth=0)
        axes.plot(steps, middle, color=arm.ink, alpha=arm.strength, linewidth=1.2)
        late = [index for index, step in enumerate(steps) if step >= 0.1 * steps[-1]]
        lowest = min(lowest, *(low[index] for index in late), middle[-1])
        highest = max(highest, *(high[index] for index in late), middle[-1])
        sentences.append(f"{arm.name} ends at {number(middle[-1])}.")
        if len(arms) <= MOST_KEYS:
            keys.append(arm.key(number(middle[-1])))
    if not sentences:
        return None
    pad = 0.06 * max(highest - lowest, 1e-9)
    axes.set_ylim(lowest - pad, highest + pad)
    axes.xaxis.set_major_formatter(short)
    if highest >= 10_000:
        axes.yaxis.set_major_formatter(short)
    words = f"{title}. {' '.join(sentences[:MOST_KEYS])}"
    return Drawing(title, unit, svg(figure, title, words), keys)


def _last(group: Group, metric: str) -> str:
    """The newest value: the mean over runs, and from where to where it goes."""
    columns: list[Column] = [one.column(metric).finite() for one in group.metrics]
    values = [column.values[-1] for column in columns if column.values]
    if not values:
        return "–"
    mean = number(math.fsum(values) / len(values))
    if len(values) == 1:
        return mean
    return f"{mean} ({number(min(values))} to {number(max(values))})"
