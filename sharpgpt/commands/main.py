"""The command line: `sharpgpt train` (`python train.py`), prepare, inspect, sample, view,
evaluate, compare, push, report.

Exit codes: 0 success, 1 a failure that the message explains, 2 a usage or configuration error,
128 + N ended by signal N (130 for SIGINT, which is Ctrl-C, 143 for SIGTERM, 138 for SIGUSR1). A run
that trains saves a checkpoint first, after its current step; a second signal ends it at once.
"""

import argparse
import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sharpgpt.core.errors import UserError
from sharpgpt.runtime.console import console_logging
from sharpgpt.runtime.signals import ending_at_signals


def main(argv: Sequence[str] | None = None) -> int:
    """The `sharpgpt` command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["train"]:
        return train_command(arguments[1:], prog="sharpgpt train")
    if arguments[:1] == ["prepare"]:
        with ending_at_signals():
            return _guarded(lambda: _prepare(arguments[1:]))
    if arguments and arguments[0] in ("sample", "view", "evaluate", "compare", "push"):
        with ending_at_signals():
            return _guarded(lambda: _look(arguments[0], arguments[1:]))
    parser = argparse.ArgumentParser(
        prog="sharpgpt", description="Train GPT-2 with a sharpness penalty."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train", help="train a model; sharpgpt train --help lists every setting")
    commands.add_parser(
        "prepare", help="turn texts into shards of tokens; sharpgpt prepare --help lists every flag"
    )
    inspect = commands.add_parser("inspect", help="show what prepared data holds, and verify it")
    inspect.add_argument("data", type=Path, help="a folder of shards, or .bin files")
    inspect.add_argument("--num_documents", type=int, default=3, help="documents to show [3]")
    inspect.add_argument("--no_hashes", action="store_true", help="leave the hashes unchecked")
    commands.add_parser("sample", help="text from a trained model; sharpgpt sample --help")
    commands.add_parser(
        "view", help="a text as one or two models read it, token by token; sharpgpt view --help"
    )
    commands.add_parser(
        "evaluate", help="all figures of trained models, with intervals; sharpgpt evaluate --help"
    )
    commands.add_parser(
        "compare",
        help="the verdict on penalised models against one sharpened afterwards; "
        "sharpgpt compare --help",
    )
    commands.add_parser(
        "push", help="publish a checkpoint on the HuggingFace hub; sharpgpt push --help"
    )
    report = commands.add_parser(
        "report", help="write report.html of a run folder anew, or one page over several runs"
    )
    report.add_argument("run_folders", nargs="+", type=Path, help="such as outputs/NAME")
    report.add_argument(
        "--output", type=Path, help="the page over several runs [runs.html]; not for one run"
    )
    parsed = parser.parse_args(arguments)
    if parsed.command == "inspect":
        return _guarded(lambda: _inspect(parsed.data, parsed.num_documents, not parsed.no_hashes))
    return _guarded(lambda: _report(parsed.run_folders, parsed.output))


def train_command(argv: Sequence[str], prog: str = "train.py") -> int:
    """Train as the command line says; returns the exit code."""
    with ending_at_signals():
        return _guarded(lambda: _train(argv, prog))


def _train(argv: Sequence[str], prog: str) -> int:
    from sharpgpt.config.training_flags import parse_training_flags

    config, dry_run = parse_training_flags(argv, prog)
    if dry_run:
        from sharpgpt.training.dry_run import describe

        print(describe(config))
        return 0
    from sharpgpt.training.train import train

    result = train(config)
    return 0 if result.interrupted_by is None else 128 + result.interrupted_by


def _prepare(argv: Sequence[str]) -> int:
    from sharpgpt.data.prepare.options import parse_prepare_flags

    options = parse_prepare_flags(argv, "sharpgpt prepare")
    from sharpgpt.data.prepare.pipeline import prepare

    prepare(options)
    return 0


def _inspect(data: Path, num_documents: int, with_hashes: bool) -> int:
    from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from sharpgpt.data.inspect import inspect_data

    columns = (TextColumn("checking hashes"), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("", total=None)
        text = inspect_data(
            data,
            num_documents=num_documents,
            with_hashes=with_hashes,
            progress=lambda num_bytes: bar.advance(task, num_bytes),
        )
    print(text)
    return 0


def _look(command: str, argv: Sequence[str]) -> int:
    """The commands that look at trained models, whose modules import torch."""
    from sharpgpt.config import ConfigError

    module: Any = importlib.import_module(f"sharpgpt.commands.{command}")
    parser = argparse.ArgumentParser(
        prog=f"sharpgpt {command}", description=(module.__doc__ or "").split("`: ", 1)[-1]
    )
    module.add_arguments(parser)
    parsed = parser.parse_args(argv)
    if found := module.problems(parsed):
        raise ConfigError(found)
    if page := getattr(module, command)(parsed):
        print(page)
    return 0


def _report(run_folders: Sequence[Path], output: Path | None) -> int:
    from sharpgpt.report.page import write_report
    from sharpgpt.report.runs import write_runs_report

    for folder in run_folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such run folder; expected a folder such as outputs/NAME")
        if not any((folder / name).is_file() for name in ("metrics.jsonl", "environment.json")):
            raise UserError(
                f"{folder}: holds no run (neither metrics.jsonl nor environment.json); expected a "
                "folder such as outputs/NAME"
            )
    if len(run_folders) == 1:
        if output is not None:
            raise UserError(
                f"--output: given {output}, but the report of one run is report.html in its "
                "folder; leave --output out, or give several runs"
            )
        print(write_report(run_folders[0]))
        return 0
    print(write_runs_report(run_folders, output or Path("runs.html")))
    return 0


def _guarded(command: Callable[[], int]) -> int:
    """Run a command; what the user can mend is one message on stderr, not a traceback."""
    try:
        with console_logging():
            return command()
    except UserError as error:
        print(f"{error.label}{error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was saved before is whole", file=sys.stderr)
        return 128 + signal.SIGINT
