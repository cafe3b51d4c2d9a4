"""The command line of an `Options` class: every option is a flag with underscores.

Values are checked by the same validator as YAML and Python, so one message lists every problem of
the file and of the command line. Written for people and for `wandb sweep`, which passes
`--name=value`, booleans included.
"""

import argparse
import dataclasses
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, TypeVar, get_args, get_origin

from sharpgpt.config.options import (
    ConfigError,
    Options,
    allowed,
    annotations,
    descriptions,
    is_list,
    is_optional,
    is_text,
    nearest,
    short,
    shown,
)
from sharpgpt.config.scalars import read_short_value


class Flags(NamedTuple):
    """What a command line says."""

    values: dict[str, Any]
    """Options by name, unchecked."""
    others: dict[str, Any]
    """Flags of the parser that are no options."""
    problems: list[str]
    """Arguments that are no flags."""


AnyOptions = TypeVar("AnyOptions", bound=Options)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ConfigError([f"{short(message, 300)}; --help lists every flag"])


def flag_parser(**texts: Any) -> argparse.ArgumentParser:
    """A parser without flags; `texts` are argparse's prog, usage, description and epilog."""
    return _Parser(
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **texts,
    )


def add_options(
    parser: argparse.ArgumentParser,
    options: type[Options],
    *,
    positional: Collection[str] = (),
    repeated: Collection[str] = (),
) -> None:
    """Add a flag for each option: its description and default are the help text.

    `positional` ones are arguments without a name; a list is given after its flag, or, where it is
    `repeated`, one by one with a flag each.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(options)}  # type: ignore[arg-type]
    group: Any = parser
    for name, hint in annotations(options).items():
        if name in options.sections:
            group = parser.add_argument_group(options.sections[name])
        text, default = descriptions(options)[name], defaults[name]
        if default is not dataclasses.MISSING and default != ():
            text += f" [{shown(list(default) if isinstance(default, tuple) else default)}]"
        text = text.replace("%", "%%")
        one = name.upper()
        number: dict[str, Any] = {"nargs": "+"} if is_list(hint) else {}
        if is_list(hint):
            one = one.removesuffix("S")
        if name in positional:
            if default is None:
                number = {"nargs": "?"}
            group.add_argument(name, metavar=one, help=text, **number)
        elif name in repeated:
            group.add_argument(f"--{name}", action="append", metavar=one, help=text)
        elif is_list(hint):
            group.add_argument(f"--{name}", action="extend", metavar=one, help=text, **number)
        elif hint is bool:
            # With a value for a sweep, which has no positional arguments to mistake for it.
            value = {"action": "store_const"} if positional else {"nargs": "?", "metavar": "BOOL"}
            group.add_argument(f"--{name}", const=True, help=text, **value)
            add_negation(group, f"--no_{name}", of=name, help=argparse.SUPPRESS)
        elif get_origin(hint) is tuple:
            metavar = tuple(f"{name[0].upper()}{i + 1}" for i, _ in enumerate(get_args(hint)))
            group.add_argument(f"--{name}", nargs="+", metavar=metavar, help=text)
        else:
            group.add_argument(f"--{name}", metavar=_metavar(hint), help=text)


def add_negation(group: Any, flag: str, *, of: str, help: str) -> None:
    """Add a flag that sets the option `of` to false."""
    group.add_argument(flag, dest=of, action="store_const", const=False, help=help)


def _metavar(hint: Any) -> str:
    words = allowed(hint).removesuffix(", or null").removesuffix(" or an import path module:name")
    if words.startswith("one of "):
        return "{" + words.removeprefix("one of ").replace(", ", ",") + "}"
    kinds = {"a whole number": "INT", "a number": "NUM", "a file": "FILE", "a folder": "FOLDER"}
    kinds |= {"a path": "PATH", "the path": "FILE", "a file or": "PATH", "a file,": "TEXT"}
    found = [kind for start, kind in kinds.items() if words.startswith(start)]
    return found[-1] if found else "TEXT"


def read_flags(
    parser: argparse.ArgumentParser, options: type[Options], argv: Sequence[str]
) -> Flags:
    """Read a command line. `--help` exits; a flag without its value raises `ConfigError`."""
    known, unknown = parser.parse_known_args(_with_bound_numbers(argv))
    hints = annotations(options)
    given = vars(known)
    problems: list[str] = []
    names = [*hints, *(action.dest for action in parser._actions)]
    for argument in unknown:
        flag = argument.split("=")[0]
        if flag.startswith("--"):
            close = nearest(flag[2:].replace("-", "_"), names).replace("mean ", "mean --")
            problems.append(f"{short(flag)}: no such flag{close or '; --help lists every flag'}")
        elif not problems or argument.startswith("-"):
            problems.append(f"{short(argument)}: not a flag; settings are given as --name value")
    return Flags(
        values={name: python_value(hints[name], given[name]) for name in given if name in hints},
        others={name: value for name, value in given.items() if name not in hints},
        problems=problems,
    )


def _with_bound_numbers(argv: Sequence[str]) -> list[str]:
    """Write `--name -1e-3` as `--name=-1e-3`: argparse takes such a number for a flag."""
    bound: list[str] = []
    for argument in argv:
        if re.fullmatch(r"-[\d.].*", argument) and bound and re.fullmatch(r"--\w+", bound[-1]):
            bound[-1] += f"={argument}"
        else:
            bound.append(argument)
    return bound


def parse_options(
    options: type[AnyOptions],
    argv: Sequence[str],
    *,
    parser: argparse.ArgumentParser,
    positional: Collection[str] = (),
    repeated: Collection[str] = (),
) -> AnyOptions:
    """The options that a command line gives.

    Raises `ConfigError` with all problems. `--help` exits.
    """
    add_options(parser, options, positional=positional, repeated=repeated)
    flags = read_flags(parser, options, argv)
    return options.from_dict(flags.values, problems=flags.problems)


def python_value(hint: Any, text: Any) -> Any:
    """A flag's value: a text as it was typed, anything else as it is read in YAML.

    `null`, and Python's None as a `wandb sweep` writes it, are none where the option has that.
    """
    if isinstance(text, list) and get_origin(hint) is tuple and not is_list(hint):
        text = text[0] if len(text) == 1 else f"[{', '.join(text)}]"
    if isinstance(text, str) and not is_text(hint):
        return read_short_value(text)
    return None if is_optional(hint) and text in ("null", "None") else text
