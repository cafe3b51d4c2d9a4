"""`sharpgpt report`: write report.html of a run folder again, or one page over several runs."""

import argparse
from pathlib import Path

from sharpgpt.core.errors import UserError
from sharpgpt.core.terminal import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sharpgpt report`."""
    parser.add_argument("run_folders", nargs="+", type=Path, help="such as outputs/NAME")
    parser.add_argument(
        "--output", type=Path, help="the page over several runs [runs.html]; not for one run"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the page and print its path. Raises `UserError` for a folder that holds no run."""
    from sharpgpt.report.page import write_report
    from sharpgpt.report.runs import write_runs_report
    from sharpgpt.runs.resolve import resolve_run

    folders = [resolve_run(folder) for folder in arguments.run_folders]
    if len(folders) > 1:
        show(write_runs_report(folders, arguments.output or Path("runs.html")))
        return 0
    if arguments.output is not None:
        raise UserError(
            f"--output: given {arguments.output}, but the report of one run is report.html in its "
            "folder; leave --output out, or give several runs"
        )
    show(write_report(folders[0]))
    return 0
