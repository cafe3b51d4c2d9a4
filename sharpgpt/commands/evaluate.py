"""`sharpgpt evaluate`: everything about one or more trained models on a validation split, with
intervals, as evaluation.json and evaluation.html."""

import argparse
from collections.abc import Mapping
from typing import Any

from sharpgpt.core.terminal import show
from sharpgpt.evaluation import evaluate as evaluation
from sharpgpt.evaluation.options import add_flags, flag_values
from sharpgpt.report.evaluation import write_evaluation
from sharpgpt.report.numbers import number
from sharpgpt.report.statistics import intervals
from sharpgpt.runs.places import run_folder_of
from sharpgpt.runs.resolve import MODEL_HELP, resolve_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sharpgpt evaluate`."""
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help=MODEL_HELP,
    )
    parser.add_argument(
        "--output",
        help="folder of evaluation.json and evaluation.html "
        "[the run's folder for one run, else evaluation]",
    )
    add_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, write both files, print the main statistics and the path of the page."""
    models, output = arguments.checkpoints, arguments.output
    if output is None:
        output = "evaluation"
        if len(models) == 1:
            models = [folder := resolve_model(models[0])]
            output = run_folder_of(folder) or output
    result = evaluation.evaluate(models, output=output, **flag_values(arguments))
    assert result.path is not None, "an output folder was given"
    for model in result.models:
        show(statistics_text(model))
    show(f"Statistics {result.path}")
    show(write_evaluation(result.content, result.path.parent))
    return 0


def statistics_text(found: Mapping[str, Any]) -> str:
    """The main statistics of one model for a terminal, with their 95% intervals."""
    lines = [str(found["name"])]
    for statistic, *interval in intervals(found):
        if statistic.is_main:
            estimate, low, high = map(number, interval)
            lines.append(f"  {statistic.words:<24}{estimate:>9}   95% {low} to {high}")
    temperature, calibration = found["temperature"], found["calibration"]
    if note := temperature["note"]:
        lines.append(f"  {note}")
    lines.append(
        f"  {'best temperature':<24}{number(temperature['best']):>9}   cross-entropy there "
        f"{number(temperature['ce'])}, as it is {number(temperature['ce_unchanged'])} (report half)"
    )
    lines.append(
        f"  {'calibration error':<24}{number(calibration['unchanged']['ece']):>9}   at the best "
        f"temperature {number(calibration['best_temperature']['ece'])} (report half)"
    )
    return "\n".join(lines)
