"""Settings to and from YAML: safe loader, no silent duplicates, comments from the docstrings.

A text setting is the text that stands in the file, quoted or not: `run_name: 1.10` is not 1.1, and
`wandb_project: No` is not false. Only `null`, or nothing, means none, where the setting may be
null; in quotes it is a text like any other.
"""

import os
import re
import select
import stat
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sharpgpt.config.options import (
    ConfigError,
    Options,
    annotations,
    descriptions,
    is_optional,
    is_text,
    nearest,
)
from sharpgpt.config.scalars import UNREADABLE, PlainLoader, written_value
from sharpgpt.core.files import user_path, write_text

Content = TypeVar("Content")

MAX_BYTES = 2**20
"""Of a settings file, which has a few thousand."""

MAX_VALUES = 10_000
"""Names and values in a file."""

PIPE_WAIT_S = 60.0
"""So long may a pipe be silent before it is refused."""


def read_settings(
    path: str | Path, options: type[Options], *, may_be_pipe: bool = False
) -> dict[str, Any]:
    """The mapping in a YAML file, each value read as its option is. Else as `read_mapping`."""
    return read_mapping(path, lambda part: part.settings(options), may_be_pipe=may_be_pipe)


def read_mapping(
    path: str | Path, read: Callable[["Part"], Content], *, may_be_pipe: bool = False
) -> Content:
    """What `read` makes of the mapping in a YAML file.

    `may_be_pipe` allows a pipe, a terminal or another device, which is read to its end. The time
    that this takes is bounded, whatever is in the file.

    Raises:
        ConfigError: the file is missing, unreadable, too long, or no mapping of names to values.
    """
    path = user_path(path)
    try:
        data = _read(path, may_be_pipe=may_be_pipe)
        is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))  # as Windows' tools write it
        return _read_root(data.decode("utf-16" if is_utf16 else "utf-8"), read)
    except ConfigError:  # what `read` refuses
        raise
    except FileNotFoundError:
        folder = path.parent
        names = [str(file) for file in sorted(folder.glob("*.y*ml"))] if folder.is_dir() else []
        there = f"; {folder} contains {', '.join(names[:20])}" if names else ""
        suggestion = nearest(str(path), names)
        raise ConfigError([f"{path}: no such file{there}{suggestion}"]) from None
    except _NoSettingsError as error:
        raise ConfigError([f"{path}: {error}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: cannot be read: it is not UTF-8 text"]) from None
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError([f"{str(path)[:200]}: cannot be read: {reason}"]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(
            [
                f"{path}{where}: {error.problem}; expected lines `name: value`, a value with "
                "special characters in quotes"
            ]
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: not valid YAML: {str(error).splitlines()[0]}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: nested too deeply to be settings"]) from None
    except UNREADABLE as error:
        raise ConfigError([f"{path}: a value cannot be read: {str(error)[:200]}"]) from None


class _NoSettingsError(Exception):
    """The file is none of settings; the message says why."""


class _SettingsLoader(PlainLoader):
    max_values = MAX_VALUES


def _read_root(text: str, read: Callable[["Part"], Content]) -> Content:
    loader = _SettingsLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            node = yaml.MappingNode("tag:yaml.org,2002:map", [])
        if not isinstance(node, yaml.MappingNode):
            kind = "list" if isinstance(node, yaml.SequenceNode) else "single value"
            raise _NoSettingsError(f"contains a {kind}, allowed are lines `name: value`")
        return read(Part(loader, node, text))
    finally:
        loader.dispose()


class Part:
    """A mapping of a YAML file that is being read, its names as they were typed."""

    def __init__(self, loader: PlainLoader, node: yaml.MappingNode, text: str) -> None:
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and not key_node.tag.endswith(":merge"):
                key_node.tag = "tag:yaml.org,2002:str"  # the name that was typed, not a date
        loader.check_keys(node)
        loader.flatten_mapping(node)
        self._loader, self._text = loader, text
        self._nodes = {
            str(loader.construct_object(key_node, deep=True)): value_node
            for key_node, value_node in node.value
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def settings(self, options: type[Options]) -> dict[str, Any]:
        """Each value, read as its option is."""
        hints = annotations(options)
        found: dict[str, Any] = {}
        for name, node in self._nodes.items():
            is_typed = name in hints and is_text(hints[name])
            if is_typed and not (is_optional(hints[name]) and _is_null(node)):
                typed = _typed_text(node, self._text)
            else:
                typed = None
            found[name] = self.value(name) if typed is None else typed
        return found

    def value(self, name: str) -> Any:
        """The value as YAML reads it."""
        return self._loader.construct_object(self._nodes[name], deep=True)

    def part(self, name: str) -> "Part | None":
        """The mapping under a name, empty where nothing is; None where something else is."""
        node = self._nodes.get(name)
        if node is None or _is_null(node):
            node = yaml.MappingNode("tag:yaml.org,2002:map", [])
        if not isinstance(node, yaml.MappingNode):
            return None
        return Part(self._loader, node, self._text)

    def lists(self, options: type[Options]) -> dict[str, list[Any]]:
        """Each value as a list of values, which are read as their option is."""
        return {
            name: [
                Part.of_one(self, name, node).settings(options)[name]
                for node in (listed.value if isinstance(listed, yaml.SequenceNode) else [listed])
            ]
            for name, listed in self._nodes.items()
        }

    def empty(self) -> "Part":
        """A mapping without names."""
        return Part(self._loader, yaml.MappingNode("tag:yaml.org,2002:map", []), self._text)

    @staticmethod
    def of_one(of: "Part", name: str, node: yaml.Node) -> "Part":
        """A mapping with one name."""
        key = yaml.ScalarNode("tag:yaml.org,2002:str", name)
        single = yaml.MappingNode("tag:yaml.org,2002:map", [(key, node)])
        return Part(of._loader, single, of._text)


def _is_null(node: yaml.Node) -> bool:
    return node.tag.endswith(":null") and node.value in ("null", "")


def _typed_text(node: yaml.Node, text: str) -> str | None:
    """The text of a value of one line as it was typed; None for what YAML must read."""
    is_standard = node.tag.startswith("tag:yaml.org,2002:")
    if isinstance(node, yaml.ScalarNode) and is_standard:
        plain = ("str", "null", "bool", "int", "float", "merge")
        return node.value if node.tag.rpartition(":")[2] in plain else None
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        return None
    return text[node.start_mark.index : node.end_mark.index]


def _read(path: Path, *, may_be_pipe: bool) -> bytes:
    """The bytes of a file. Raises OSError, and _NoSettingsError for what is no file or too long."""
    # Opened anew, a pipe whose writer has gone would look like one that has no writer yet.
    inherited = re.fullmatch(r"/dev/(stdin|fd/(\d{1,9}))", str(path)) if may_be_pipe else None
    if inherited:
        descriptor = os.dup(int(inherited[2] or 0))
    else:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise _NoSettingsError("it is a folder; give a file in it")
        if not stat.S_ISREG(mode) and not may_be_pipe:
            raise _NoSettingsError("it is no plain file")
        wait_s = None if stat.S_ISREG(mode) or os.isatty(descriptor) else PIPE_WAIT_S
        data, deadline = b"", time.monotonic() + PIPE_WAIT_S
        while len(data) <= MAX_BYTES:
            if wait_s is not None:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not select.select([descriptor], [], [], left_s)[0]:
                    raise _NoSettingsError(f"nobody wrote all of it within {PIPE_WAIT_S:g} s")
            piece = os.read(descriptor, 1 << 16)
            if not piece:
                return data
            data += piece
        raise _NoSettingsError(f"it has more than {MAX_BYTES:,} bytes, which settings never have")
    finally:
        os.close(descriptor)


def write_settings(options: Options, path: str | Path) -> None:
    """Write all settings with comments, atomically."""
    write_text(user_path(path), commented_yaml(options))


def commented_yaml(options: Options) -> str:
    """Every setting as YAML, in sections, each under a comment that says what it means."""
    meanings = descriptions(type(options))
    lines = []
    for name, value in options.to_dict().items():
        if name in options.sections:
            lines += ["", f"# ---- {options.sections[name]} ----"]
        lines.append("")
        lines += textwrap.wrap(meanings[name], 98, initial_indent="# ", subsequent_indent="# ")
        lines.append(f"{name}: {written_value(value)}")
    return "\n".join(lines).lstrip("\n") + "\n"
