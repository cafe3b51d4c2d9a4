"""The command line: `sharpgpt train`, `python train.py`, and the report of a run made anew.

Exit codes: 0 success, 1 a failure that the message explains, 2 a usage or configuration error,
128 + N ended by signal N after saving (130 for Ctrl-C).
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sharpgpt.files import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """The `sharpgpt` command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["train"]:
        return train_command(arguments[1:], prog="sharpgpt train")
    parser = argparse.ArgumentParser(
        prog="sharpgpt", description="Train GPT-2 with a sharpness penalty."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train", help="train a model; sharpgpt train --help lists every setting")
    report = commands.add_parser("report", help="write report.html of a run folder anew")
    report.add_argument("run_folder", type=Path, help="such as outputs/NAME")
    return _guarded(lambda: _report(parser.parse_args(arguments).run_folder))


def train_command(argv: Sequence[str], prog: str = "train.py") -> int:
    """Train as the command line says; returns the exit code."""
    return _guarded(lambda: _train(argv, prog))


def _train(argv: Sequence[str], prog: str) -> int:
    from sharpgpt.config.flags import parse_training_flags

    config, dry_run = parse_training_flags(argv, prog)
    if dry_run:
        from sharpgpt.dry_run import describe

        print(describe(config))
        return 0
    from sharpgpt.run import train

    result = train(config)
    return 0 if result.interrupted_by is None else 128 + result.interrupted_by


def _report(run_folder: Path) -> int:
    from sharpgpt.report import write_report

    if not run_folder.is_dir():
        raise UserError(f"{run_folder}: no such run folder; expected a folder such as outputs/NAME")
    print(write_report(run_folder))
    return 0


def _guarded(command: Callable[[], int]) -> int:
    """Run a command; what the user can mend is one message on stderr, not a traceback."""
    try:
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was saved before is whole", file=sys.stderr)
        return 128 + signal.SIGINT
