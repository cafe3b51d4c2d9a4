"""The command line of training: every setting of `TrainingConfig`, a YAML file, a dry run."""

import argparse
from collections.abc import Sequence
from typing import Any

from sharpgpt.config.flags import add_negation, add_options, flag_parser, read_flags
from sharpgpt.config.options import ConfigError
from sharpgpt.config.rules import code_in_file
from sharpgpt.config.settings import TrainingConfig
from sharpgpt.config.yaml_files import read_settings

EPILOG = """\
Later wins: defaults, then --config (a file, a pipe or /dev/stdin), then flags. A text is taken as
it is typed: 08, No and 1.10 are texts where a text is meant. null (in a file also nothing, on the
command line also None) is none where the setting may be null; 'null' in quotes is a text. In paths
~, $NAME and ${NAME} are expanded, in files too.

Exit codes: 0 success, 1 a failure that the message explains, 2 a usage or configuration error,
128 + N ended by signal N (130 for SIGINT, which is Ctrl-C, 143 for SIGTERM, 129 for SIGHUP,
138 for SIGUSR1). A run that trains saves a checkpoint first, after its current step; a second
signal ends it at once.
"""


def training_parser(prog: str) -> argparse.ArgumentParser:
    """The parser of the training command."""
    parser = flag_parser(
        prog=prog,
        usage="%(prog)s [--config FILE] [--dry_run] [--no_wandb] [--SETTING VALUE ...]",
        description="Train a GPT-2 from random weights with "
        "loss = cross_entropy + penalty_weight * sharpness_penalty + z_loss_weight * z_loss, "
        "with label smoothing if it is on.",
        epilog=EPILOG,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print the resolved configuration, parameters, steps, FLOPs and memory; train nothing",
    )
    parser.add_argument(
        "--allow_import",
        action="store_true",
        help="import and run the penalty module:name that the file of --config names; without "
        "this flag only one that --penalty_type names is",
    )
    add_negation(parser, "--no_wandb", of="use_wandb", help="the same as --no_use_wandb")
    add_options(parser, TrainingConfig)
    return parser


def parse_training_flags(argv: Sequence[str], prog: str) -> tuple[TrainingConfig, bool]:
    """The configuration that the command line asks for, and whether it is a dry run.

    Raises `ConfigError` with all problems of the file and of the flags. `--help` exits.
    """
    flags = read_flags(training_parser(prog), TrainingConfig, argv)
    in_file: dict[str, Any] = {}
    problems = flags.problems
    if (path := flags.others.get("config")) is not None:
        try:
            in_file = read_settings(path, TrainingConfig, may_be_pipe=True)
        except ConfigError as error:
            problems = error.problems + problems
        if "penalty_type" not in flags.values and not flags.others.get("allow_import"):
            problems = problems + code_in_file(in_file, path)
    config = TrainingConfig.from_dict(in_file | flags.values, problems=problems)
    return config, flags.others.get("dry_run", False)
