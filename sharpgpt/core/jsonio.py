"""JSON files: read within limits, from plain files only, without NaN; written atomically.

A file may come from anyone, so nothing in it is believed: not its size, its kind, the depth of its
nesting, the size of a number, a name that appears twice, half of a surrogate pair. Every reader
raises `ValueError`, with a message that begins with the file's name, for a file that is not what it
should be, and `OSError` for one that cannot be read.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from sharpgpt.core.files import open_plain, write_text

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    Model = TypeVar("Model", bound=BaseModel)
else:
    Model = TypeVar("Model")

MAX_JSON_BYTES = 32 * 2**20
MAX_LINES = 2_000_000
"""Of a file of one object a line."""
MAX_DEPTH = 64
MAX_INT = 2**63 - 1
"""Larger whole numbers are refused: a float may not hold them."""
NO_LIMIT = int(1e30)
"""What transformers writes for a tokenizer without a longest text, in files of anyone."""
_SURROGATE = re.compile(r"\\u[dD]")


def read_bytes(path: Path, *, max_bytes: int = MAX_JSON_BYTES, follow_links: bool = True) -> bytes:
    """The content of a plain file of at most `max_bytes`; a larger one is not read."""
    with open_plain(path, follow_links=follow_links) as file:
        is_larger = os.fstat(file.fileno()).st_size > max_bytes
        data = b"" if is_larger else file.read(max_bytes + 1)
    if is_larger or len(data) > max_bytes:
        raise ValueError(f"{path.name} has more than {max_bytes:,} bytes")
    return data


def parse(text: str | bytes, *, allow_nan: bool = False) -> Any:
    """The JSON value in `text`. Raises ValueError, for what the head of this file lists too.

    With `allow_nan`, NaN and infinities stay, and half of a surrogate pair becomes "?".
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    try:
        content = json.loads(
            text,
            parse_constant=None if allow_nan else _refuse_constant,
            object_pairs_hook=_unique,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_values(content, allow_nan=allow_nan)
    if _SURROGATE.search(text):
        whole = _without_surrogates(content)
        if whole != content and not allow_nan:
            raise ValueError("half of a surrogate pair")
        return whole
    return content


def parse_object(text: str | bytes, *, allow_nan: bool = False) -> dict[str, Any]:
    """The JSON object in `text`. Raises ValueError for anything else."""
    content = parse(text, allow_nan=allow_nan)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def parse_lines(data: bytes) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects in `data`, one a line, and how many lines are none; NaN is allowed.

    Not splitlines(): a string may hold U+2028 and the like, which JSON leaves as they are. Raises
    ValueError for more than MAX_LINES.
    """
    if data.count(b"\n") > MAX_LINES:
        raise ValueError(f"more than {MAX_LINES:,} lines")
    objects, num_unreadable = [], 0
    for line in data.split(b"\n"):
        if line.strip():
            try:
                objects.append(parse_object(line.decode(errors="replace"), allow_nan=True))
            except ValueError:
                num_unreadable += 1
    return objects, num_unreadable


def parse_model(text: str | bytes, kind: "type[Model]", *, name: str) -> "Model":
    """The JSON in `text`, the content of the file `name`, as a pydantic model.

    Raises ValueError with the name and the first problem, short.
    """
    from pydantic import ValidationError

    try:
        parse(text)  # what pydantic takes: a name twice, a number of any size
    except ValueError as error:
        raise ValueError(f"{name}: {_short(error)}") from None
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{name}: {first_problem(error)}") from None


def first_problem(error: "ValidationError") -> str:
    """The first problem that pydantic found, short, with its place."""
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part)[:40] for part in problem["loc"])[:120]
    return f"{place}: {problem['msg'][:120]}" if place else problem["msg"][:120]


def read_object(
    path: Path,
    *,
    max_bytes: int = MAX_JSON_BYTES,
    follow_links: bool = True,
    allow_nan: bool = False,
) -> dict[str, Any]:
    """The JSON object in a file."""
    data = read_bytes(path, max_bytes=max_bytes, follow_links=follow_links)
    try:
        return parse_object(data, allow_nan=allow_nan)
    except ValueError as error:
        raise ValueError(f"{path.name}: {_short(error)}") from None


def read_model(path: Path, kind: "type[Model]", *, max_bytes: int = MAX_JSON_BYTES) -> "Model":
    """The JSON in a file as a pydantic model."""
    return parse_model(read_bytes(path, max_bytes=max_bytes), kind, name=path.name)


def write_json(path: Path, content: Any, *, indent: int | None = 1) -> None:
    """Write JSON atomically; what is not finite becomes null, and what is no Unicode "?"."""
    text = json.dumps(finite(content), indent=indent, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(path, text.encode("utf-8", errors="replace").decode("utf-8"))


def finite(content: Any) -> Any:
    """`content` with null for each float that is not finite, which JSON has no word for."""
    if isinstance(content, Mapping):
        return {name: finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _short(error: ValueError) -> str:
    return " ".join(str(error).split())[:200]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:80]!r} appears twice")
        found[name] = value
    return found


def _check_values(content: Any, *, allow_nan: bool) -> None:
    """Refuse deep nesting, which recursion would not survive, and what no float holds."""
    level, depth = [content], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, int):
                is_no_limit = allow_nan and value == NO_LIMIT
                if not (-MAX_INT <= value <= MAX_INT or is_no_limit):
                    raise ValueError("a whole number of more than 64 bits")
            elif isinstance(value, float) and not (allow_nan or math.isfinite(value)):
                raise ValueError("a number too large for a float")
        level = inner


def _without_surrogates(content: Any) -> Any:
    """`content` with "?" for each half of a surrogate pair, which no file can hold."""
    if isinstance(content, dict):
        return {
            _without_surrogates(name): _without_surrogates(one) for name, one in content.items()
        }
    if isinstance(content, list):
        return [_without_surrogates(one) for one in content]
    if isinstance(content, str):
        return content.encode(errors="replace").decode()
    return content
