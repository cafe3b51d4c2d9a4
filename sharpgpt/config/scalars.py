"""What a word of a settings file or of a command line means: YAML without its surprises.

YAML 1.1 reads `No` as false, 2024-01-01 as a date, 0x1F as 31, 5:30 as 330 (base 60), `1e5` as a
text, and takes the later of two equal keys in silence. Here a text setting is the text that was
typed, which needs no reading at all; numbers are decimal, and every other setting is read as below.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

UNREADABLE = (ValueError, TypeError, OverflowError, LookupError, AttributeError, RecursionError)
"""What yaml raises for a value that it cannot build: `!!bool ""`, 5000 digits, 5000 brackets."""

MAX_ALIASES = 20
"""In one file: too few to multiply into more than some thousand settings."""

MAX_VALUE_CHARACTERS = 1000
"""A longer text is no number, switch or short list."""

_OTHER_TYPES = (":int", ":float", ":timestamp", ":value")


class PlainLoader(yaml.SafeLoader):
    """The safe loader with decimal numbers, without dates, without equal keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - yaml's own way
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(_OTHER_TYPES)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    max_values = float("inf")
    num_values = 0
    num_aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Count names, values and aliases, and refuse too many."""
        self.num_values += 1
        if self.num_values > self.max_values:
            raise yaml.MarkedYAMLError(problem=f"more than {self.max_values:,} names and values")
        # Aliases of aliases grow without bound (the "billion laughs"); settings need few.
        if self.check_event(yaml.AliasEvent):
            self.num_aliases += 1
            if self.num_aliases > MAX_ALIASES:
                problem = f"more than {MAX_ALIASES} aliases (*name)"
                raise yaml.MarkedYAMLError(problem=problem)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are checked."""
        self.check_keys(node)
        return super().construct_mapping(node, deep)

    def check_keys(self, node: yaml.MappingNode) -> None:
        """Refuse equal keys, and keys that are lists or mappings."""
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
                    problem=f"{str(key)[:100]!r} appears twice", problem_mark=key_node.start_mark
                )
            seen.add(key)


_DIGITS = list("-+.0123456789")
PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), _DIGITS
)
PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?$|[-+]?\.inf$|\.nan$"
    ),
    _DIGITS,
)


class PlainDumper(yaml.SafeDumper):
    """Writes texts so that every reader of YAML takes them for texts, each on one line."""


for _first, _resolvers in PlainLoader.yaml_implicit_resolvers.items():
    for _tag, _pattern in _resolvers:
        PlainDumper.add_implicit_resolver(_tag, _pattern, [_first])
# YAML 1.2 has more numbers than 1.1: 4671e80, 0o17.
PlainDumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+.0-9][0-9A-Fa-fox_.:+-]*$"), _DIGITS
)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if text.isprintable() and text.strip() == text else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


PlainDumper.add_representer(str, _represent_text)


def read_value(text: str) -> Any:
    """The value that `text` has in YAML; `text` itself if it is not valid YAML."""
    try:
        return yaml.load(text, PlainLoader)
    except (yaml.YAMLError, *UNREADABLE):
        return text


def read_short_value(text: str) -> Any:
    """`read_value`, where an empty or long text is itself, and Python's None is YAML's null."""
    if not text.strip() or len(text) > MAX_VALUE_CHARACTERS:
        return text
    return None if text.strip().lower() in ("none", "null") else read_value(text)


def written_value(value: Any) -> str:
    """One value in YAML, on one line."""
    dumped: str = yaml.dump(
        value, Dumper=PlainDumper, default_flow_style=True, width=float("inf"), allow_unicode=True
    )
    return dumped.removesuffix("\n").removesuffix("\n...")
