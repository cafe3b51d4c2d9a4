"""JSON files: read within a size limit, from plain files only, without NaN; written atomically.

A file may come from anyone, so nothing in it is believed. Every reader raises `ValueError`, with a
message that begins with the file's name, for a file that is not what it should be, and `OSError`
for one that cannot be read.
"""

import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from sharpgpt.core.files import write_text

if TYPE_CHECKING:
    from pydantic import BaseModel

    Model = TypeVar("Model", bound=BaseModel)
else:
    Model = TypeVar("Model")

MAX_JSON_BYTES = 100 * 2**20


def read_bytes(path: Path, *, max_bytes: int = MAX_JSON_BYTES, follow_links: bool = True) -> bytes:
    """The content of a plain file of at most `max_bytes`; a pipe is refused instead of awaited."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow_links and path.is_symlink():
        raise ValueError(f"{path.name} is no plain file but a link")
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # before open(), which refuses a folder
        os.close(descriptor)
        raise ValueError(f"{path.name} is no plain file")
    with open(descriptor, "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"{path.name} has more than {max_bytes:,} bytes")
    return data


def parse(text: str | bytes, *, allow_nan: bool = False) -> Any:
    """The JSON value in `text`. Raises ValueError, for NaN and deep nesting too."""
    try:
        return json.loads(text, parse_constant=None if allow_nan else _refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_object(text: str | bytes, *, allow_nan: bool = False) -> dict[str, Any]:
    """The JSON object in `text`. Raises ValueError for anything else."""
    content = parse(text, allow_nan=allow_nan)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def parse_lines(data: bytes) -> tuple[list[dict[str, Any]], int]:
    """The JSON objects in `data`, one a line, and how many lines are none; NaN is allowed.

    Not splitlines(): a string may hold U+2028 and the like, which JSON leaves as they are.
    """
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
        return kind.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:40] for part in problem["loc"])[:120]
        where = f"{name}: {place}" if place else name
        raise ValueError(f"{where}: {problem['msg'][:120]}") from None


def read_object(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file."""
    data = read_bytes(path, max_bytes=max_bytes)
    try:
        return parse_object(data)
    except ValueError as error:
        raise ValueError(f"{path.name}: {' '.join(str(error).split())[:200]}") from None


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


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
