"""The command line: `sharpgpt train` (`python train.py`), prepare, inspect, sample, view,
evaluate, compare, power, study, push, report.

A command is one module of this package, imported when it is called. Its arguments are an `Options`
class, so they are checked as settings are: `parse(argv, prog)` makes it and raises `ConfigError`
with all problems, `run(options)` returns the exit code.

Where nobody reads the output of a command any more (`| head -1`) it ends with 141, as other
programs do; train and prepare go on, since their results are in files.

Exit codes: 0 success, 1 a failure that the message explains, 2 a usage or configuration error,
128 + N ended by signal N (130 for SIGINT, which is Ctrl-C, 143 for SIGTERM, 129 for SIGHUP,
138 for SIGUSR1). A run that trains saves a checkpoint first, after its current step; a second
signal ends it at once.
"""

import argparse
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import os_error_text
from sharpgpt.core.terminal import one_line, show, show_line
from sharpgpt.runtime.console import console_logging
from sharpgpt.runtime.signals import exit_on_signals
from sharpgpt.runtime.streams import standard_streams

COMMANDS = {
    "train": "train a model",
    "prepare": "turn texts into shards of tokens",
    "inspect": "show what prepared data holds, and verify it",
    "sample": "generate text with a trained model",
    "view": "show a text, token by token, as one or several models predict it",
    "evaluate": "all metrics of trained models, with intervals",
    "compare": "the verdict on penalised models against one sharpened after training",
    "power": "how many seeds, and how long a text, a difference needs, from a pilot",
    "study": "train the arms of a study with every seed, and give the verdict",
    "push": "publish a checkpoint on the HuggingFace hub",
    "report": "write report.html of a run folder again, or one page over several runs",
}

NEED_NO_STDOUT = ("train", "prepare")
"""Commands that succeed though stdout is gone: their result is in files."""


@contextlib.contextmanager
def _no_matplotlibrc() -> Iterator[None]:
    """matplotlib would read the one of the working folder, which may be anyone's."""
    if os.environ.get("MATPLOTLIBRC"):
        yield
        return
    os.environ["MATPLOTLIBRC"] = os.devnull
    try:
        yield
    finally:
        del os.environ["MATPLOTLIBRC"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, whatever was typed."""
        show(f"error: {one_line(message)[:300]}; {self.prog} --help lists all", file=sys.stderr)
        sys.exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """The `sharpgpt` command; returns the exit code."""
    with standard_streams():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        return run_command(arguments[0], arguments[1:])
    parser = _Parser(
        prog="sharpgpt",
        description="Train GPT-2 with a sharpness penalty.",
        epilog="sharpgpt COMMAND --help lists the flags of a command.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, help_text in COMMANDS.items():
        commands.add_parser(name, help=help_text)
    parser.parse_args(arguments)
    raise AssertionError("argparse accepts nothing but the commands")


def train_command(argv: Sequence[str], prog: str = "train.py") -> int:
    """Train as the command line says; returns the exit code."""
    with standard_streams():
        return run_command("train", argv, prog)


def run_command(name: str, argv: Sequence[str], prog: str | None = None) -> int:
    """Run a command; an error that the user can fix is one message on stderr, no traceback."""
    with exit_on_signals(), _no_matplotlibrc():
        try:
            with console_logging() as console:
                module: Any = importlib.import_module(f"sharpgpt.commands.{name}")
                exit_code = int(module.run(module.parse(argv, prog or f"sharpgpt {name}")))
                if name not in NEED_NO_STDOUT and isinstance(console.stdout_error, OSError):
                    raise console.stdout_error
                return exit_code
        except UserError as error:
            if error.is_shown:
                rank = os.environ.get("RANK", "0")  # torchrun mixes what all ranks print
                prefix = "" if rank == "0" else f"rank {rank}: "
                show(f"{prefix}{error.label}{error}", file=sys.stderr)
            return error.exit_code
        except BrokenPipeError:  # as `| head -1`, which has read enough
            return 128 + 13  # SIGPIPE, which Windows lacks
        except OSError as error:
            show_line(f"error: {os_error_text(error)}", file=sys.stderr)
            return 1
        except (MemoryError, RuntimeError) as error:
            from sharpgpt.runtime.memory import is_out_of_memory

            if not is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            show_line(
                f"error: out of memory ({reason}); give a smaller batch_size, fewer or shorter "
                "texts, or another device",
                file=sys.stderr,
            )
            return 1
        except KeyboardInterrupt:
            show("interrupted; what was saved before is whole", file=sys.stderr)
            return 128 + signal.SIGINT
