"""`sharpgpt compare`: did the penalty do anything that a temperature cannot? The verdict on each
configuration, against the unpenalised model sharpened afterwards, as comparison.json and .html."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from sharpgpt.config.flags import parse_options
from sharpgpt.config.values import Folder
from sharpgpt.core.terminal import show_line
from sharpgpt.evaluation import compare as comparison
from sharpgpt.evaluation.options import EvaluationOptions, evaluation_parser
from sharpgpt.evaluation.verdict import MARGIN, MIN_MARGIN
from sharpgpt.report.comparison import write_comparison


class CompareOptions(EvaluationOptions):
    """What to compare, and how."""

    baseline: tuple[Folder, ...]
    """An unpenalised model: a run folder (its newest checkpoint), RUN/best, a checkpoint, or a
    HuggingFace model; once for each seed."""

    runs: tuple[Folder, ...]
    """What is compared with it; runs that differ only in their seed are taken together."""

    output: Folder = "comparison"
    """Folder of comparison.json, comparison.html and figures/."""

    margin: Annotated[float, Field(ge=MIN_MARGIN)] = MARGIN
    """Nats within which nothing is called different."""


def parse(argv: Sequence[str], prog: str) -> CompareOptions:
    """The options that the command line asks for. Raises `ConfigError` with all problems."""
    description = (
        "The verdict on penalised models against an unpenalised one that is sharpened afterwards."
    )
    parser = evaluation_parser(prog=prog, description=description)
    return parse_options(
        CompareOptions, argv, parser=parser, positional=("runs",), repeated=("baseline",)
    )


def run(options: CompareOptions) -> int:
    """Compare, write the files, print the verdicts and the path of the page."""
    result = comparison.compare(
        options.runs,
        baseline=options.baseline,
        output=options.output,
        margin=options.margin,
        **options.of_evaluation(),
    )
    assert result.path is not None, "an output folder was given"
    page = write_comparison(result.content, result.path.parent)  # though nobody reads the rest
    for note in result.content["notes"]:
        show_line(f"NOTE: {note}")
    for arm in result.arms:
        show_line(f"{arm['name']}: {arm['sentence']}")
    show_line(f"Statistics {result.path}")
    show_line(page)
    return 0
