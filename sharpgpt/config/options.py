"""`Options`: the base of a dataclass of checked options, and the messages about bad values.

A subclass defines each option once: its annotation says what is allowed (pydantic checks it), the
docstring under it what it means. `--help`, the comments in YAML and every error message are made
from these two. All problems are collected and raised as one `ConfigError`.
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import textwrap
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    TypeVar,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from sharpgpt.config.scalars import read_short_value
from sharpgpt.core.errors import UserError
from sharpgpt.core.numbers import counted
from sharpgpt.core.terminal import one_line

MAX_NAME = 200
"""A longer word is no misspelling; the search for near ones takes time by the square of it."""

MAX_SHOWN = 20
"""Problems in one message, and names that are no settings."""

Text = Annotated[str, Field(min_length=1)]

F = TypeVar("F", bound=Callable[..., Any])
cached = cast(Callable[[F], F], functools.cache)
"""functools.cache for functions of a class, which mypy takes for unhashable."""


class ConfigError(UserError, ValueError):
    """All problems of a configuration in one message; `problems` holds them one by one."""

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        head = [f"{counted(len(problems), 'problem')}:"] if len(problems) > 1 else []
        more = [f"and {len(problems) - MAX_SHOWN:,} more"] if len(problems) > MAX_SHOWN else []
        super().__init__("\n  ".join([*head, *map(one_line, problems[:MAX_SHOWN]), *more]))


@dataclass_transform(kw_only_default=True)
class Options:
    """Base of a dataclass whose values are checked when it is made and when they are assigned.

    Raises `ConfigError` (a ValueError) with every problem of the values given.
    """

    sections: ClassVar[Mapping[str, str]] = {}
    """First option of a section: its title, in `--help` and in YAML."""

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(init=False)(cls)

    def __init__(self, /, **values: Any) -> None:
        vars(self).update(self._checked(values))

    def __setattr__(self, name: str, value: Any) -> None:
        value, problem = validated(type(self), name, value)
        if problem:
            raise ConfigError([problem])
        object.__setattr__(self, name, value)

    @classmethod
    def broken_rules(cls, values: Mapping[str, Any]) -> Iterable[tuple[Sequence[str], str]]:  # noqa: ARG003
        """(the options concerned, the problem) for each broken rule between options."""
        return ()

    def check(self) -> None:
        """Raise `ConfigError` with every rule between options that the current values break."""
        if problems := [problem for _, problem in self.broken_rules(vars(self))]:
            raise ConfigError(problems)

    def to_dict(self) -> dict[str, Any]:
        """Every option by name, in plain YAML types."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[Any, Any], *, problems: Iterable[str] = ()) -> Self:
        """The options with these values.

        `problems` were found while the values were read; the error lists them first.
        """
        found = list(problems)
        try:
            options = cls(**{str(name): value for name, value in values.items()})
        except ConfigError as error:
            found += error.problems
        if found:
            raise ConfigError(found)
        return options

    @classmethod
    def _checked(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values and defaults in their proper types."""
        checked: dict[str, Any] = {}
        problems, bad = [], set()
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if field.default is not dataclasses.MISSING:
                checked[field.name], _ = validated(cls, field.name, field.default)
            elif values.get(field.name) is None:
                problems.append(f"{field.name}: missing; {descriptions(cls)[field.name]}")
                bad.add(field.name)
        unknown = [name for name in values if name not in annotations(cls)]
        passed_over = set(unknown[MAX_SHOWN:])
        for name, given in values.items():
            if name in bad or name in passed_over:
                continue
            value, problem = validated(cls, name, given)
            if problem:
                problems.append(problem)
                bad.add(name)
            else:
                checked[name] = value
        # Rules between options are checked too, unless they concern a value that is bad already.
        problems += [text for names, text in cls.broken_rules(checked) if not bad & set(names)]
        problems += [f"{shown(name)}: no such setting" for name in unknown[MAX_SHOWN:]]
        if problems:
            raise ConfigError(problems)
        return {name: checked[name] for name in annotations(cls)}


@cached
def annotations(cls: type) -> dict[str, Any]:
    """What each option allows, as an annotation without labels (members of an Enum)."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: _without_labels(hints[field.name]) for field in dataclasses.fields(cls)}


def _without_labels(hint: Any) -> Any:
    if get_origin(hint) is not Annotated:
        return hint
    base, *extras = get_args(hint)
    kept = [extra for extra in extras if not isinstance(extra, Enum)]
    return Annotated[(base, *kept)] if kept else base


@cached
def descriptions(cls: type) -> dict[str, str]:
    """The docstring under each option, on one line, after the description of its annotation."""
    # A dataclass has the fields of its last base first.
    bases = [
        base
        for base in reversed(cls.__bases__)
        if issubclass(base, Options) and base is not Options
    ]
    found = {name: text for base in bases for name, text in descriptions(base).items()}
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    hints = annotations(cls)
    for statement, following in zip(body.body, body.body[1:], strict=False):
        match statement, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(docstring))),
            ) if name in hints:
                of_hint = [getattr(part, "description", None) for part in _parts(hints[name])]
                found[name] = " ".join(" ".join([*filter(None, of_hint), docstring]).split())
    return found


def _parts(hint: Any) -> list[Any]:
    """An annotation, the alternatives and types that it is made of, and its metadata."""
    return [hint, *(part for argument in get_args(hint) for part in _parts(argument))]


@cached
def _adapter(cls: type, name: str) -> TypeAdapter[Any]:
    config = ConfigDict(coerce_numbers_to_str=True, allow_inf_nan=False)
    return TypeAdapter(annotations(cls)[name], config=config)


def allowed(hint: Any) -> str:
    """What an annotation allows, in words: `a whole number, at least 1, or null`."""
    if get_origin(hint) in (Union, types.UnionType):
        inner = [part for part in get_args(hint) if part is not type(None)]
        either = " or ".join(map(allowed, inner))
        return f"{either}, or null" if len(inner) < len(get_args(hint)) else either
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if is_list(hint):
        return f"one or more, each {allowed(get_args(hint)[0])}"
    if get_origin(hint) is tuple:
        return f"a list of {len(get_args(hint))}, each {allowed(get_args(hint)[0])}"
    if get_origin(hint) is Annotated:
        base, *extras = get_args(hint)
        for extra in reversed(extras):
            if words := getattr(extra, "words", None):  # a Rule
                return str(words)
        bounds = [bound for extra in extras for bound in extra.metadata]
        if any(getattr(bound, "pattern", None) for bound in bounds):
            return "an import path module:name"
        words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
        ranges = [
            f"{words[key]} {getattr(bound, key)}"
            for bound in bounds
            for key in words
            if hasattr(bound, key)
        ]
        return ", ".join([allowed(base), *ranges])
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[hint]


def is_text(hint: Any) -> bool:
    """Whether an annotation allows texts (or words): what is typed for it needs no reading."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(map(is_text, get_args(hint)))
    if get_origin(hint) is Annotated:
        return is_text(get_args(hint)[0])
    return hint is str or get_origin(hint) is Literal


def is_list(hint: Any) -> bool:
    """Whether an annotation allows any number of values."""
    return get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis


def is_optional(hint: Any) -> bool:
    """Whether an annotation allows None."""
    return type(None) in get_args(hint)


def choices(hint: Any) -> list[str]:
    """The words that an annotation lists."""
    return [part for part in _parts(hint) if isinstance(part, str)]


def validated(cls: type, name: str, value: Any) -> tuple[Any, str | None]:
    """The value of option `name` in its proper type, and the problem with it, or None."""
    hints = annotations(cls)
    if name not in hints:
        suggestion = nearest(name, hints) or "; --help lists all settings"
        return value, f"{short(name)}: no such setting (given {shown(value)}){suggestion}"
    hint = hints[name]
    if isinstance(value, str) and not is_text(hint):
        value = read_short_value(value)  # a number in quotes, or from a command line
    # Python and pydantic take True for the number 1; a user who writes it means something else.
    candidate = str(value).lower() if isinstance(value, bool) and hint is not bool else value
    try:
        return _adapter(cls, name).validate_python(candidate), None
    except ValidationError as error:
        reasons = [
            str(found["ctx"]["error"])
            for found in error.errors()
            if "error" in found.get("ctx", {})
        ]
        reason = next((f", which {reason}" for reason in reasons if reason), "")
        suggestion = nearest(str(value), choices(hint))
        return (
            value,
            f"{name}: given {shown(value)}{reason}, allowed is {allowed(hint)}{suggestion}",
        )


def nearest(name: str, candidates: Iterable[str]) -> str:
    """`; did you mean X?` for the closest candidate, or nothing when none is close."""
    if len(name) > MAX_NAME:
        return ""
    close = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def shown(value: Any) -> str:
    """A value as a message quotes it, short."""
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    return short(repr(value) if isinstance(value, str) else str(value))


def short(text: str, max_characters: int = 80) -> str:
    """A text, cut where it is long."""
    return text if len(text) <= max_characters else text[: max_characters - 3] + "..."
