"""`write_report`: the files of a run folder -> one self-contained HTML page."""

import math
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpgpt.config import TrainingConfig
from sharpgpt.config.options import descriptions
from sharpgpt.config.settings import SECTIONS
from sharpgpt.core.metrics import BY_LOGGED_NAME, metrics_shown
from sharpgpt.core.numbers import fixed, number
from sharpgpt.report.arms import mapping, number_of, objects, value_at
from sharpgpt.report.drawing import Drawing, own_settings
from sharpgpt.report.evaluation import drawings, evaluated_models
from sharpgpt.report.model_words import loss_words, model_words, validated_on
from sharpgpt.report.pages import linked, write_page
from sharpgpt.report.plots import DISTRIBUTION, draw, draw_histogram, plots
from sharpgpt.report.statistics import (
    CALIBRATION,
    TEMPERATURE_DECIMALS,
    found_value,
    validation_scope,
)
from sharpgpt.runs.reader import RunFiles, read_run

MAX_SAMPLE_STEPS = 30
"""The page shows the samples of this many steps, the newest; samples.jsonl has all."""


@own_settings()
def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder, atomically, and return its path.

    The page is made from the folder's files alone, and lists those that are missing or unreadable.
    Raises `UserError` if `run_folder` is not a folder.
    """
    run = read_run(run_folder)
    steps = _samples_by_step(run.samples)
    never_finite = [name for name, one in run.metrics.columns.items() if not one.finite().steps]
    notes = list(run.notes)
    if never_finite:
        notes.append(f"Never a finite value, so not plotted: {', '.join(never_finite)}.")
    return write_page(
        run_folder / "report.html",
        "report.html.jinja",
        run=run,
        data=mapping(run.environment, "data"),
        subtitle=_subtitle(run),
        headline=_headline(run),
        sections=_sections(run) | drawings(evaluated_models(run.evaluation)),
        notes=notes,
        sample_steps=steps[:MAX_SAMPLE_STEPS],
        num_hidden_steps=len(steps[MAX_SAMPLE_STEPS:]),
        settings=_settings(run.config) if run.config else {},
        environment=_flat(run.environment),
        summary=_flat(run.summary),
    )


@dataclass(frozen=True)
class Headline:
    """A metric at the top: label, value and a few words about where it comes from."""

    label: str
    value: str
    note: str = ""


def _headline(run: RunFiles) -> list[Headline]:
    """The metrics at the top; those without a source are left out."""
    metrics = run.metrics
    split = "val" if metrics.column("val/ce_loss").steps else "train"
    words = "training, never validated"
    if split == "val":
        words = validated_on(run.config.to_dict() if run.config else {}, run.environment)
    found = []
    for metric in metrics_shown("report headline"):
        column = metrics.column(f"{split}/{metric.name}")
        if column.last is not None:
            note = words
            finite = column.finite()
            lowest = min(zip(finite.values, finite.steps, strict=True), default=None)
            if metric.name == "ce_loss" and lowest and lowest[1] != column.steps[-1]:
                note = f"{words}; lowest {metric.text(lowest[0])} at step {number(lowest[1])}"
            found.append(Headline(metric.label, metric.text(column.last), note))
    if speeds := metrics.column("train/tokens_per_s").finite().values:
        found.append(Headline("Tokens per second", fixed(statistics.median(speeds), 0), "median"))
    if metrics.columns:
        planned: Any = run.environment.get("num_steps")
        if planned is None and run.config:
            planned = run.config.max_steps
        note = f"of {number(planned)}" if _is_int(planned) else ""
        if _is_int(planned) and metrics.last_step > planned:
            note = f"more than the {number(planned)} of max_steps or num_epochs now"
        found.append(Headline("Steps", number(metrics.last_step), note))
    found += _evaluated(run)
    if num_parameters := number_of(run.environment, "model", "num_parameters"):
        found.append(Headline("Parameters", number(int(num_parameters))))
    return found


def _evaluated(run: RunFiles) -> list[Headline]:
    """What `sharpgpt evaluate` adds, if it was run."""
    one = next(iter(objects(run.evaluation.get("evaluations"))), {})
    scope = validation_scope(mapping(run.evaluation, "data"))
    best = "1 for a model of the right sharpness"
    found = []
    for label, names, decimals, note in (
        ("Bits per byte", ("figures", "bits_per_byte", "estimate"), 4, scope),
        ("Best temperature", ("temperature", "best"), TEMPERATURE_DECIMALS, best),
        *(
            (
                name.capitalize(),
                ("calibration", "unchanged", key),
                4,
                "on the report half",
            )
            for key, name in list(CALIBRATION.items())[:1]
        ),
    ):
        value = found_value(one, *names)
        if value is not None:
            found.append(Headline(label, fixed(value, decimals), note))
    return found


def _subtitle(run: RunFiles) -> str:
    """The run in one line: model, data, penalty."""
    if run.config is None:
        return ""
    settings = run.config.to_dict()
    name = value_at(run.environment, "data", "name") or run.config.dataset
    return f"{model_words(settings, run.environment)}, on {name}; {loss_words(settings)}"


def _sections(run: RunFiles) -> dict[str, list[Drawing]]:
    """Section -> its pictures; sections without any are left out."""
    config, metrics = run.config, run.metrics
    units = {}
    if config:
        units = {
            "penalty": config.penalty_type,
            "top_k_mass": f"mass of the {config.top_k} largest",
        }
    sections = {}
    for title, section_plots in plots(units).items():
        drawings = [drawing for plot in section_plots if (drawing := draw(plot, metrics))]
        if title == DISTRIBUTION and (histogram := draw_histogram(metrics)):
            drawings.append(histogram)
        if drawings:
            sections[title] = linked(drawings, [("metrics.jsonl", "metrics.jsonl")])
    return sections


def _samples_by_step(samples: Iterable[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(step, its samples), newest step first."""
    by_step: dict[int | None, list[dict[str, Any]]] = {}
    for sample in samples:
        step = sample.get("step")
        by_step.setdefault(step if _is_int(step) else None, []).append(sample)
    steps = sorted(by_step, key=lambda step: -math.inf if step is None else step, reverse=True)
    return [("unknown" if step is None else number(step), by_step[step]) for step in steps]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Setting:
    """One row of the table of settings; `default` is empty where it was not changed."""

    name: str
    value: str
    default: str
    meaning: str


def _settings(config: TrainingConfig) -> dict[str, list[Setting]]:
    """Section -> its settings, in the order of the configuration file."""
    meanings, defaults = descriptions(TrainingConfig), TrainingConfig().to_dict()
    sections: dict[str, list[Setting]] = {}
    rows: list[Setting] = []
    for name, value in config.to_dict().items():
        if name in SECTIONS:
            rows = sections.setdefault(SECTIONS[name], [])
        default = "" if value == defaults[name] else _shown(defaults[name])
        rows.append(Setting(name, _shown(value), default, meanings[name]))
    return sections


def _shown(value: Any) -> str:
    """A value as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return value if value.strip() == value and value else repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value)


def _flat(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON as (dotted name, value) rows."""
    if isinstance(content, dict) and content:
        return [
            row
            for name, value in content.items()
            for row in _flat(value, f"{prefix}.{name}" if prefix else str(name))
        ]
    if not prefix:
        return []
    if isinstance(content, float):
        logged = re.sub(r"^best\.(train|val)_", r"\1/", prefix)
        metric = BY_LOGGED_NAME.get(logged)
        return [(prefix, metric.text(content) if metric else number(content, digits=6))]
    if isinstance(content, int) and not isinstance(content, bool):
        return [(prefix, f"{content:,}")]
    return [(prefix, _shown(content))]
