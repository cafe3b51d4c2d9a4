"""The ranges that options share: counts, temperatures, devices, paths.

`Rule` is a label of an annotation with a test of its own, where pydantic's bounds do not say it.
"""

import os
import re
import stat
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from sharpgpt.core.files import user_path
from sharpgpt.core.terminal import one_line

MAX_COUNT = 10**12
"""The largest count: products of several counts stay within the range of a float."""
MAX_GENERATED = 10**6
"""More tokens of a text, or more texts, are refused: a slip of the finger."""
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-6, 1e6
"""Logits divided by a smaller temperature are infinite in float32."""
MAX_NAME_BYTES = 240
"""Of a file or folder to be made: file systems allow 255, and temporary names are longer."""
MAX_PATH_BYTES = 4000


@dataclass(frozen=True)
class Rule:
    """What a value must be, in words, and `problem`: "" for a good value, else why it is not."""

    words: str
    problem: Callable[[Any], str | None]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Check what the annotation before this label allows."""
        return core_schema.no_info_after_validator_function(self._utf8, handler(source))

    def _utf8(self, value: Any) -> Any:
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()  # pydantic's `str` lets halves of surrogate pairs through
            except UnicodeEncodeError:
                raise ValueError("is not UTF-8") from None
        return self._checked(value)

    def _checked(self, value: Any) -> Any:
        if (problem := self.problem(value)) is not None:
            raise ValueError(one_line(problem))
        return value


class PathRule(Rule):
    """Of a path, whose names are bytes on Linux and need not be UTF-8."""

    def __get_pydantic_core_schema__(
        self,
        source: Any,
        handler: GetCoreSchemaHandler,
    ) -> CoreSchema:
        """Any text; pydantic's own `str` refuses what is not UTF-8."""
        return core_schema.no_info_plain_validator_function(self._path)

    def _path(self, value: Any) -> str:
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        if not isinstance(value, str):
            raise ValueError("")
        return str(self._checked(value))


def path_problem(text: str) -> str | None:
    """Why no file or folder can have this path, wherever it is."""
    if not text:
        return ""
    if "\0" in text:
        return "has a NUL character"
    try:
        names = os.fsencode(user_path(text)).split(b"/")
    except UnicodeEncodeError:
        return "is not Unicode"
    if max(map(len, names)) > 255 or sum(map(len, names)) + len(names) > MAX_PATH_BYTES:
        return "is too long for a path"
    return None


def new_path_problem(text: str) -> str | None:
    """Why no file or folder of this path should be made."""
    if any(unicodedata.category(character) == "Cc" for character in text):
        return path_problem(text) or "has control characters"
    return path_problem(text)


def _place_problem(text: str, *, kinds: str, must_exist: bool = False) -> str | None:
    """Why a path is not that of a file or folder; one that does not exist may be either."""
    if (problem := path_problem(text)) is not None:
        return problem
    path = user_path(text)
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 (one call for all kinds)
    except FileNotFoundError:
        if must_exist:
            return "does not exist"
        if any(len(os.fsencode(name)) > MAX_NAME_BYTES for name in path.parts):
            return "is too long for a path"
        return new_path_problem(text)
    except NotADirectoryError:
        return "leads through a file"
    except PermissionError:
        return None  # whoever reads or writes it says so
    except OSError as error:
        return f"cannot be used: {error.strerror}"
    if stat.S_ISDIR(mode):
        return None if "folder" in kinds else "is a folder"
    return None if "file" in kinds else "is a file"


def _text_problem(text: str) -> str | None:
    if not text:
        return ""
    # Unlike Path.is_dir, this raises for no text, however long.
    return "is a folder" if os.path.isdir(user_path(text)) else None  # noqa: PTH112


Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
CountOrNone = Annotated[int, Field(ge=0, le=MAX_COUNT)]
NumGenerated = Annotated[int, Field(ge=1, le=MAX_GENERATED)]
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareAboveNone = Annotated[float, Field(gt=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]

Temperature = Annotated[
    float,
    Rule(
        f"a number, 0 or {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}",
        lambda value: None if value == 0 or MIN_TEMPERATURE <= value <= MAX_TEMPERATURE else "",
    ),
]
DeviceName = Annotated[
    str,
    Rule(
        "one of auto, cpu, mps, cuda, cuda:0, cuda:1, ...",
        lambda value: None if re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value) else "",
    ),
]

PathText = Annotated[str, Rule("a path, or a name", path_problem)]
"""A path, or what may also be one, such as the name of a dataset."""
NewPath = Annotated[str, Rule("a path of printable characters", new_path_problem)]
"""The path of a folder that is made if it does not exist."""
Folder = Annotated[str, PathRule("a folder", lambda text: _place_problem(text, kinds="folder"))]
File = Annotated[
    str, PathRule("a file", lambda text: _place_problem(text, kinds="file", must_exist=True))
]
FileOrFolder = Annotated[
    str, PathRule("a file or a folder", lambda text: _place_problem(text, kinds="file folder"))
]
NewFile = Annotated[
    str, PathRule("the path of a file", lambda text: _place_problem(text, kinds="file"))
]
FileOrText = Annotated[str, PathRule("a file, or a text itself", _text_problem)]
