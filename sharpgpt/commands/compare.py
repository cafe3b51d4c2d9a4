"""`sharpgpt compare`: did the penalty do anything that a temperature cannot? The verdict on each
configuration, against the unpenalised model sharpened afterwards, as comparison.json and .html."""

import argparse

from sharpgpt.core.terminal import show
from sharpgpt.evaluation import compare as comparison
from sharpgpt.evaluation.options import add_flags, flag_values
from sharpgpt.evaluation.verdict import MARGIN
from sharpgpt.report.comparison import write_comparison
from sharpgpt.runs.resolve import MODEL_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sharpgpt compare`."""
    parser.add_argument(
        "--baseline",
        action="append",
        required=True,
        metavar="RUN",
        help=f"unpenalised model: {MODEL_HELP}; once for each seed",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="what is compared with it; runs that differ only in their seed are taken together",
    )
    parser.add_argument(
        "--output",
        default="comparison",
        help="folder of comparison.json, comparison.html and figures/ [comparison]",
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=MARGIN,
        help=f"nats within which nothing is called different [{MARGIN}]",
    )
    add_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compare, write the files, print the verdicts and the path of the page."""
    result = comparison.compare(
        arguments.runs,
        baseline=arguments.baseline,
        output=arguments.output,
        margin=arguments.margin,
        **flag_values(arguments),
    )
    assert result.path is not None, "an output folder was given"
    for note in result.content["notes"]:
        show(f"NOTE: {note}")
    for arm in result.arms:
        show(f"{arm['name']}: {arm['sentence']}")
    show(f"Statistics {result.path}")
    show(write_comparison(result.content, result.path.parent))
    return 0
