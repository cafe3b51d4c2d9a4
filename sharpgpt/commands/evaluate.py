"""`sharpgpt evaluate`: everything about one or more trained models on a validation split, with
intervals, as evaluation.json and evaluation.html."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpgpt.config.flags import parse_options
from sharpgpt.config.values import Folder
from sharpgpt.core.numbers import fixed, plain
from sharpgpt.core.terminal import one_line, show, show_line
from sharpgpt.evaluation import evaluate as evaluation
from sharpgpt.evaluation.options import EvaluationOptions, evaluation_parser
from sharpgpt.report.arms import number_of
from sharpgpt.report.evaluation import write_evaluation
from sharpgpt.report.statistics import (
    BEST,
    CALIBRATION,
    TEMPERATURE_DECIMALS,
    found_value,
    intervals,
)
from sharpgpt.runs.places import run_folder_of
from sharpgpt.runs.resolve import resolve_model


class EvaluateOptions(EvaluationOptions):
    """What to evaluate, and how."""

    checkpoints: tuple[Folder, ...]
    """Run folders (their newest checkpoint), RUN/best, checkpoints, or HuggingFace models."""

    output: Folder | None = None
    """Folder of evaluation.json and evaluation.html; null is the run's folder for one run, else
    evaluation."""


def parse(argv: Sequence[str], prog: str) -> EvaluateOptions:
    """The options that the command line asks for. Raises `ConfigError` with all problems."""
    description = "All metrics of trained models on a validation split, with intervals."
    parser = evaluation_parser(prog=prog, description=description)
    return parse_options(EvaluateOptions, argv, parser=parser, positional=("checkpoints",))


def run(options: EvaluateOptions) -> int:
    """Evaluate, write both files, print the main statistics and the path of the page."""
    models: list[str | Path] = [*options.checkpoints]
    output: str | Path | None = options.output
    if output is None:
        output = "evaluation"
        if len(models) == 1:
            models = [folder := resolve_model(models[0])]
            output = run_folder_of(folder) or output
    result = evaluation.evaluate(models, output=output, **options.of_evaluation())
    assert result.path is not None, "an output folder was given"
    page = write_evaluation(result.content, result.path.parent)  # though nobody reads the rest
    for model in result.models:
        show(statistics_text(model))
    show_line(f"Statistics {result.path}")
    show_line(page)
    return 0


def statistics_text(found: Mapping[str, Any]) -> str:
    """The main statistics of one model for a terminal, with their 95% intervals."""
    lines = [one_line(str(found["name"]))]
    for statistic, *interval in intervals(found):
        if statistic.is_main:
            estimate, low, high = map(statistic.text, interval)
            lines.append(_line(statistic.words, estimate, f"95% {low} to {high}"))
    best = found_value(found, "temperature", "best")
    for key, name in CALIBRATION.items():
        before, after = (
            found_value(found, "calibration", at, key) for at in ("unchanged", "best_temperature")
        )
        there = "" if after is None else f"{BEST} {fixed(after, 4)} "
        lines.append(_line(name, fixed(before, 4), f"{there}(report half)"))
    if best is None:
        note = one_line(str(found["temperature"]["note"])) or "there is no best temperature"
        lines.append(f"  {note}")
    else:
        ce, unchanged = (
            fixed(number_of(found, "temperature", one), 4) for one in ("ce", "ce_unchanged")
        )
        words = f"cross-entropy there {ce}, as it is {unchanged} (report half)"
        lines.append(_line("best temperature", fixed(best, TEMPERATURE_DECIMALS), words))
    return plain("\n".join(lines))


def _line(name: str, value: str, more: str) -> str:
    return f"  {name:<36}{value:>9}   {more}"
