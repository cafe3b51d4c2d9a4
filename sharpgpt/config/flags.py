"""The command line: every setting of `TrainingConfig` as a flag with underscores.

Flags are made from the dataclass, and their values are checked by the same validator as YAML and
Python, so that one message lists every problem of the file and of the command line together.
Written for people and for `wandb sweep`, which passes `--name=value`, booleans included.
"""

import argparse
import re
from collections.abc import Sequence
from typing import Any, get_args

from sharpgpt.config.descriptions import setting_descriptions
from sharpgpt.config.rules import ConfigError, allowed, nearest, setting_types, shown
from sharpgpt.config.settings import SECTIONS, TrainingConfig
from sharpgpt.config.yaml_files import read_settings, read_value

EPILOG = """\
Later wins: defaults, then --config, then flags.

Exit codes: 0 success, 1 a failure that the message explains, 2 a usage or configuration error,
128 + N ended by signal N (130 for SIGINT, which is Ctrl-C, 143 for SIGTERM, 138 for SIGUSR1). A run
that trains saves a checkpoint first, after its current step; a second signal ends it at once.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ConfigError([f"{message}; --help lists every flag"])


def training_parser(prog: str) -> argparse.ArgumentParser:
    """The parser of the training command."""
    parser = _Parser(
        prog=prog,
        usage="%(prog)s [--config FILE] [--dry_run] [--no_wandb] [--SETTING VALUE ...]",
        description="Train a GPT-2 from random weights with "
        "loss = cross_entropy + penalty_weight * sharpness_penalty.",
        epilog=EPILOG,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print the resolved configuration, parameters, steps, FLOPs and memory; train nothing",
    )
    parser.add_argument("--no_wandb", action="store_true", help="the same as --no_use_wandb")
    descriptions, defaults = setting_descriptions(TrainingConfig), TrainingConfig().to_dict()
    group: Any = parser
    for name, hint in setting_types(TrainingConfig).items():
        if name in SECTIONS:
            group = parser.add_argument_group(SECTIONS[name])
        text = f"{descriptions[name]} [{shown(defaults[name])}]".replace("%", "%%")
        if hint is bool:
            group.add_argument(f"--{name}", nargs="?", const=True, metavar="BOOL", help=text)
            group.add_argument(f"--no_{name}", action="store_true", help=argparse.SUPPRESS)
        elif name == "betas":
            group.add_argument(f"--{name}", nargs="+", metavar=("B1", "B2"), help=text)
        else:
            group.add_argument(f"--{name}", metavar=_metavar(hint), help=text)
    return parser


def _metavar(hint: Any) -> str:
    words = allowed(hint).removesuffix(" or an import path module:name")
    if words.startswith("one of "):
        return "{" + words.removeprefix("one of ").replace(", ", ",") + "}"
    return {"a whole": "INT", "a numbe": "NUM", "a text": "TEXT"}[words[:7].split(",")[0]]


def parse_training_flags(argv: Sequence[str], prog: str) -> tuple[TrainingConfig, bool]:
    """The configuration that the command line asks for, and whether it is a dry run.

    Raises `ConfigError` with all problems of the file and of the flags. `--help` exits.
    """
    parser = training_parser(prog)
    known, unknown = parser.parse_known_args(_with_bound_numbers(argv))
    flags = vars(known)
    dry_run, config_path = flags.pop("dry_run", False), flags.pop("config", None)
    problems: list[str] = []
    settings: dict[str, Any] = {}
    if config_path is not None:
        try:
            settings = read_settings(config_path)
        except ConfigError as error:
            problems += error.problems
    if flags.pop("no_wandb", False):
        flags["no_use_wandb"] = True
    for name, value in flags.items():
        if name.startswith("no_"):
            settings[name.removeprefix("no_")] = False
        else:
            settings[name] = _python_value(name, value)
    names = [*setting_types(TrainingConfig), "config", "dry_run", "no_wandb", "help"]
    for argument in unknown:
        flag = argument.split("=")[0]
        if flag.startswith("--"):
            close = nearest(flag[2:].replace("-", "_"), names).replace("mean ", "mean --")
            problems.append(f"{flag}: no such flag{close or '; --help lists every flag'}")
        elif not problems or argument.startswith("-"):
            problems.append(f"{argument}: not a flag; settings are given as --name value")
    try:
        config = TrainingConfig.from_dict(settings)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return config, dry_run


def _with_bound_numbers(argv: Sequence[str]) -> list[str]:
    """Write `--name -1e-3` as `--name=-1e-3`: argparse takes such a number for a flag."""
    bound: list[str] = []
    for argument in argv:
        if re.fullmatch(r"-[\d.].*", argument) and bound and re.fullmatch(r"--\w+", bound[-1]):
            bound[-1] += f"={argument}"
        else:
            bound.append(argument)
    return bound


def _python_value(name: str, text: Any) -> Any:
    """A flag's text as the value that the same text has in YAML; texts stay as they are."""
    hint = setting_types(TrainingConfig)[name]
    if isinstance(text, list):
        text = text[0] if len(text) == 1 else f"[{', '.join(text)}]"
    if not isinstance(text, str):
        return text
    optional = type(None) in get_args(hint)
    if optional and text.lower() in ("null", "none"):
        return None
    if "a text" in allowed(hint):
        return text
    return read_value(text)
