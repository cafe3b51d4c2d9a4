"""`sharpgpt evaluate`: everything about one or more trained models on a validation split, with
intervals, as evaluation.json and evaluation.html."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpgpt.config.flags import parse_options
from sharpgpt.config.values import Folder
from sharpgpt.core.numbers import number
from sharpgpt.core.terminal import one_line, show, show_line
from sharpgpt.evaluation import evaluate as evaluation
from sharpgpt.evaluation.options import EvaluationOptions, evaluation_parser
from sharpgpt.report.evaluation import write_evaluation
from sharpgpt.report.statistics import intervals
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
    for model in result.models:
        show(statistics_text(model))
    show_line(f"Statistics {result.path}")
    show_line(write_evaluation(result.content, result.path.parent))
    return 0


def statistics_text(found: Mapping[str, Any]) -> str:
    """The main statistics of one model for a terminal, with their 95% intervals."""
    lines = [one_line(str(found["name"]))]
    for statistic, *interval in intervals(found):
        if statistic.is_main:
            estimate, low, high = map(number, interval)
            lines.append(f"  {statistic.words:<24}{estimate:>9}   95% {low} to {high}")
    temperature, calibration = found["temperature"], found["calibration"]
    if note := temperature["note"]:
        lines.append(f"  {one_line(str(note))}")
    lines.append(
        f"  {'best temperature':<24}{number(temperature['best']):>9}   cross-entropy there "
        f"{number(temperature['ce'])}, as it is {number(temperature['ce_unchanged'])} (report half)"
    )
    lines.append(
        f"  {'calibration error':<24}{number(calibration['unchanged']['ece']):>9}   at the best "
        f"temperature {number(calibration['best_temperature']['ece'])} (report half)"
    )
    return "\n".join(lines)
