"""Settings to and from YAML: safe loader, no silent duplicates, comments from the docstrings."""

import re
import textwrap
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from sharpgpt.config.options import ConfigError, Options, descriptions, nearest
from sharpgpt.core.files import write_text

UNREADABLE = (ValueError, TypeError, OverflowError, LookupError, AttributeError)
"""What yaml raises for a value that it cannot build: 2026-13-01, `!!bool ""`, 5000 digits."""

MAX_ALIASES = 20
"""In one file: too few to multiply into more than some thousand settings."""


class _SettingsLoader(yaml.SafeLoader):
    """The safe loader without two habits of YAML 1.1.

    YAML 1.1 silently takes the later of two equal keys, and reads 5:30 as 330 (base 60) but 6e-4 as
    a text.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - yaml's own way
        first: [
            (tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float"))
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    num_aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        # Aliases of aliases grow without bound (the "billion laughs"); settings need few.
        if self.check_event(yaml.AliasEvent):
            self.num_aliases += 1
            if self.num_aliases > MAX_ALIASES:
                problem = f"more than {MAX_ALIASES} aliases (*name)"
                raise yaml.MarkedYAMLError(problem=problem)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.MarkedYAMLError(
                    problem="a list or mapping as a name", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the setting {key!r} appears twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_DIGITS = list("-+.0123456789")
_SettingsLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), _DIGITS
)
_SettingsLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?$|[-+]?\.inf$|\.nan$"
    ),
    _DIGITS,
)


def read_settings(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `ConfigError` if the file is missing or not a mapping."""
    path = Path(path)
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), _SettingsLoader)
    except FileNotFoundError:
        folder = path.parent
        names = [str(file) for file in sorted(folder.glob("*.y*ml"))] if folder.is_dir() else []
        there = f"; {folder} contains {', '.join(names)}" if names else ""
        suggestion = nearest(str(path), names)
        raise ConfigError([f"{path}: no such file{there}{suggestion}"]) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError([f"{path}: cannot be read: {reason}"]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(
            [f"{path}{where}: {error.problem}; expected lines `name: value`"]
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: not valid YAML: {str(error).splitlines()[0]}"]) from None
    except UNREADABLE as error:
        raise ConfigError([f"{path}: a value cannot be read: {error}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: nested too deeply to be settings"]) from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(
            [f"{path}: contains a {type(settings).__name__}, allowed are lines `name: value`"]
        )
    return {str(name): value for name, value in settings.items()}


def read_value(text: str) -> Any:
    """The value that `text` has in a settings file; `text` itself if it is not valid YAML."""
    try:
        return yaml.load(text, _SettingsLoader)
    except (yaml.YAMLError, RecursionError, *UNREADABLE):
        return text


def write_settings(options: Options, path: str | Path) -> None:
    """Write all settings with comments, atomically."""
    write_text(Path(path), commented_yaml(options))


def commented_yaml(options: Options) -> str:
    """Every setting as YAML, in sections, each under a comment that says what it means."""
    meanings = descriptions(type(options))
    lines = []
    for name, value in options.to_dict().items():
        if name in options.sections:
            lines += ["", f"# ---- {options.sections[name]} ----"]
        lines.append("")
        lines += textwrap.wrap(meanings[name], 98, initial_indent="# ", subsequent_indent="# ")
        lines.append(f"{name}: {_scalar(value)}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _scalar(value: Any) -> str:
    """One value in YAML, on one line."""
    dumped = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return dumped.removesuffix("\n").removesuffix("\n...")
