"""`write_runs_report`: several runs on one HTML page, with those that differ only in
their seed as one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpgpt.config.resume_rules import KINDS, Kind
from sharpgpt.core.errors import UserError
from sharpgpt.core.metrics import METRICS, SPLIT_LABELS, Metric, metrics_shown
from sharpgpt.core.numbers import typeset
from sharpgpt.report.arms import Arm, arms_of, mean
from sharpgpt.report.curves import MAX_KEYS, MAX_LINKS, draw_bands
from sharpgpt.report.drawing import Chart, own_settings
from sharpgpt.report.pages import linked, relative_address, write_page
from sharpgpt.runs.reader import Column, Metrics, read_config, read_metrics

PICTURES = tuple(
    (f"{split}/{metric.name}", f"{metric.label}, {SPLIT_LABELS[split]}", metric)
    for metric in METRICS
    for split in metric.runs_plots
)

LAST = {f"val/{metric.name}": metric for metric in metrics_shown("runs table")}


SAME = tuple(
    name for name, kind in KINDS.items() if kind is not Kind.HOUSEKEEPING and name != "seed"
)
"""Runs with the same values of these, and of the dataset, are shown together."""


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed."""

    settings: Mapping[str, Any]
    metrics: list[Metrics]
    names: list[str]
    files: list[Path]
    """Their metrics.jsonl."""

    @property
    def penalty(self) -> str:
        """What its penalty measures: values of different ones do not share an axis."""
        name = str(self.settings.get("penalty_type", "unknown"))
        return f"{name} {self.settings.get('top_k')}" if name == "top_k_mass" else name


@own_settings()
def write_runs_report(run_folders: Sequence[Path], path: Path) -> Path:
    """Write one page over several run folders; returns `path`.

    Raises:
        UserError: a folder that does not exist or has no metrics.
    """
    groups = list(_grouped(run_folders).values())
    arms = _arms(groups)
    pictures = []
    for name, title, metric in PICTURES:
        columns = [[one.column(name) for one in group.metrics] for group in groups]
        of_kind: dict[str, list[tuple[Arm, list[Column]]]] = {}
        for arm, group, own in zip(arms, groups, columns, strict=True):
            kind = group.penalty if metric.name == "penalty" else ""
            of_kind.setdefault(kind, []).append((arm, own))
        for kind, drawn in of_kind.items():
            whole = f"{title}: {kind}" if kind else title
            chart = Chart(whole, metric.unit, x="step", decimals=metric.decimals)
            if drawing := draw_bands(chart, drawn):
                pictures.append(drawing)
    addresses = [
        [(name, relative_address(file, path)) for name, file in zip(g.names, g.files, strict=True)]
        for g in groups
    ]
    links = [(f"metrics.jsonl of {name}", to) for of_arm in addresses for name, to in of_arm if to]
    if len(links) > MAX_LINKS:
        links = [("metrics.jsonl of each run", "#runs")]
    settings = {
        name: [typeset(group.settings.get(name, "unknown")) for group in groups]
        for name in ("dataset", *SAME)
    }
    return write_page(
        path,
        "runs.html.jinja",
        num_runs=len(run_folders),
        arms=arms,
        pictures=linked(pictures, links),
        legend_of=arms if len(arms) <= MAX_KEYS else [],
        rows=[
            (metric.label, [_last(group, name, metric) for group in groups])
            for name, metric in LAST.items()
        ],
        runs=list(zip(arms, addresses, strict=True)),
        settings=[(name, values) for name, values in settings.items() if len(set(values)) > 1],
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
        config = read_config(folder)
        settings = config.to_dict() if config else {}
        key = str(folder)  # a run without readable settings is a group of its own
        if config:
            key = repr([settings.get(name) for name in ("dataset", *SAME)])
        group = groups.setdefault(key, Group(settings, [], [], []))
        group.metrics.append(read_metrics(metrics_path, only=wanted))
        group.names.append(folder.resolve().name)
        group.files.append(metrics_path)
    return groups


def _arms(groups: Sequence[Group]) -> list[Arm]:
    """The groups as arms: named by penalty and weight, or by their run where these are unknown."""
    models = []
    for group in groups:
        penalty, weight = group.settings.get("penalty_type"), group.settings.get("penalty_weight")
        if penalty is None:
            name = group.names[0]
        else:
            target = group.settings.get("entropy_target")
            strength = f"to entropy {target:g}" if target else f"{weight:g}"
            name = f"{penalty} {strength}" if weight else "no penalty"
        shown = penalty if weight else "none"
        models.append({"name": name, "penalty": shown, "penalty_weight": weight})
    names = [str(model["name"]) for model in models]
    for model, group in zip(models, groups, strict=True):
        if names.count(str(model["name"])) > 1:
            model["name"] = f"{model['name']} ({group.names[0]})"
    return arms_of(models)


def _last(group: Group, name: str, metric: Metric) -> str:
    """The newest value: the mean over runs, and the lowest and highest."""
    columns = [one.column(name).finite() for one in group.metrics]
    values = [column.values[-1] for column in columns if column.values]
    words = metric.text(mean(values))
    if len(values) > 1:
        words += f" ({metric.text(min(values))} to {metric.text(max(values))})"
    return words
