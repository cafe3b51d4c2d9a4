"""Is a setting allowed, do the settings agree, and what to tell the user when not.

`validated` judges one value against the type annotation of its setting (pydantic does the work);
`conflicts` judges the rules between settings. Both return problems instead of raising, so that a
user reads all of them at once.
"""

import difflib
import functools
import re
import types
from collections.abc import Collection, Iterable
from dataclasses import fields
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sharpgpt.config.architectures import GPT2_POSITIONS, GPT2_SIZES, GPT2_VOCABULARY
from sharpgpt.core.errors import UserError

if TYPE_CHECKING:
    from sharpgpt.config.settings import TrainingConfig


class ConfigError(UserError, ValueError):
    """All problems of a configuration in one message; `problems` holds them one by one."""

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        head = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  ".join([f"{head} in the configuration:", *problems]))


def nearest(name: str, candidates: Iterable[str]) -> str:
    """`; did you mean X?` for the closest candidate, or nothing when none is close."""
    close = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


@functools.cache
def setting_types(cls: type) -> dict[str, Any]:
    """The annotation of each setting, ranges included."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


@functools.cache
def _adapter(cls: type, name: str) -> TypeAdapter[Any]:
    config = ConfigDict(coerce_numbers_to_str=True, allow_inf_nan=False)
    return TypeAdapter(setting_types(cls)[name], config=config)


def allowed(hint: Any) -> str:
    """What an annotation allows, in words: `a whole number, at least 1, or null`."""
    if get_origin(hint) in (Union, types.UnionType):
        inner = [part for part in get_args(hint) if part is not type(None)]
        either = " or ".join(map(allowed, inner))
        return f"{either}, or null" if len(inner) < len(get_args(hint)) else either
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"a list of {len(get_args(hint))}, each {allowed(get_args(hint)[0])}"
    if get_origin(hint) is Annotated:
        base, *extras = get_args(hint)
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


def validated(cls: type, name: str, value: Any) -> tuple[Any, str | None]:
    """The value of setting `name` in its proper type, and the problem with it, or None."""
    settings = setting_types(cls)
    if name not in settings:
        hint = nearest(name, settings) or "; --help lists all settings"
        return value, f"{name}: no such setting (given {shown(value)}){hint}"
    hint = settings[name]
    # Python and pydantic take True for the number 1; a user who writes it means something else.
    candidate = str(value).lower() if isinstance(value, bool) and hint is not bool else value
    try:
        return _adapter(cls, name).validate_python(candidate), None
    except ValidationError:
        choices = [hint, *get_args(hint)]
        names = [n for part in choices if get_origin(part) is Literal for n in get_args(part)]
        suggestion = nearest(str(value), names)
        return value, f"{name}: given {shown(value)}, allowed is {allowed(hint)}{suggestion}"


def shown(value: Any) -> str:
    """A value as a message quotes it, short."""
    text = {True: "true", False: "false", None: "null"}.get(value) if _is_plain(value) else None
    text = text or (repr(value) if isinstance(value, str) else str(value))
    return text if len(text) <= 80 else text[:77] + "..."


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def conflicts(config: "TrainingConfig", ignoring: Collection[str] = ()) -> list[str]:
    """The rules between settings that `config` breaks, but none about settings in `ignoring`."""
    found = []
    for names, problem in _rules(config):
        if not set(names) & set(ignoring):
            found.append(problem)
    return found


def _rules(config: "TrainingConfig") -> Iterable[tuple[tuple[str, ...], str]]:
    """(the settings concerned, the problem) for each broken rule."""
    size = GPT2_SIZES.get(config.model_name)
    if size:
        width, heads = config.n_embd or size.n_embd, config.n_head or size.n_head
        if width % heads:
            yield (
                ("n_embd", "n_head", "model_name"),
                f"n_embd: given {width} with n_head {heads}, allowed is a multiple of n_head, "
                f"such as {max(1, round(width / heads)) * heads}",
            )
        if config.max_seq_length > GPT2_POSITIONS:
            yield (
                ("max_seq_length", "model_name"),
                f"max_seq_length: given {config.max_seq_length}, allowed for {config.model_name} "
                f"is at most {GPT2_POSITIONS}",
            )
    if config.tokenizer == "gpt2" and config.top_k > GPT2_VOCABULARY:
        yield (
            ("top_k", "tokenizer"),
            f"top_k: given {config.top_k}, allowed is at most the vocabulary size, "
            f"{GPT2_VOCABULARY} for the gpt2 tokenizer",
        )
    try:
        penalised_positions(config.penalty_positions, config.max_seq_length)
    except ValueError as error:
        yield ("penalty_positions", "max_seq_length"), f"penalty_positions: {error}"
    if config.run_name is not None and not re.fullmatch(r"[\w][\w.+=-]{0,199}", config.run_name):
        yield (
            ("run_name",),
            f"run_name: given {shown(config.run_name)}, allowed is a plain folder name: up to 200 "
            "letters, digits, '_', '-', '.', '+', '=', the first a letter, digit or '_'",
        )
    if config.resume == "auto" and config.run_name is None:
        yield (
            ("resume", "run_name"),
            "resume: given 'auto' without run_name; auto continues a run by its name, so set "
            "run_name too",
        )
    if config.document_boundaries == "respect" and config.tokenizer == "char":
        yield (
            ("document_boundaries", "tokenizer"),
            "document_boundaries: given respect with tokenizer char, which has no end-of-text "
            "token; allowed with it is ignore",
        )
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", config.device):
        yield (
            ("device",),
            f"device: given {shown(config.device)}, allowed is one of auto, cpu, mps, cuda, "
            f"cuda:0, cuda:1, ...{nearest(config.device, ['auto', 'cpu', 'mps', 'cuda'])}",
        )


def penalised_positions(text: str, block_length: int) -> tuple[int, int]:
    """First and last penalised position of a block of N = `block_length` tokens, both inclusive.

    `text` is `first:last`, each a number or N, N-2, N/2 and the like. The last position that
    predicts a token of the block is N-2. Raises ValueError outside 0 <= first <= last <= N-2.
    """

    def position(part: str) -> int:
        match = re.fullmatch(r"(N)?(?:([-/])?(\d+))?", part.replace(" ", ""))
        if not match or not part.strip() or bool(match[1]) == (match[3] and not match[2]):
            raise ValueError(
                f"given {text!r}, allowed is first:last, inclusive, each a number, N, N-2 or N/2"
            )
        number = int(match[3] or 0)
        if not match[1]:
            return number
        if match[2] == "/" and number == 0:
            raise ValueError(f"given {text!r}, which divides by zero")
        return block_length // number if match[2] == "/" else block_length - number

    first_text, colon, last_text = text.partition(":")
    if not colon:
        raise ValueError(
            f"given {text!r}, allowed is first:last, inclusive, each a number, N, N-2 or N/2"
        )
    first, last = position(first_text), position(last_text)
    if not 0 <= first <= last <= block_length - 2:
        raise ValueError(
            f"given {text!r}, which is {first}:{last} with N = max_seq_length = {block_length}; "
            f"allowed is 0 <= first <= last <= N-2 = {block_length - 2}"
        )
    return first, last
