"""Results of `evaluate` and `compare`: JSON content, and the file that it was written to."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sharpgpt.core.files import write_text


@dataclass(frozen=True)
class Result:
    """The content of evaluation.json or comparison.json, which docs/verdict.md explains."""

    content: dict[str, Any]
    path: Path | None
    """The file, where an output folder was given."""

    @classmethod
    def written(cls, content: Mapping[str, Any], folder: str | Path | None, file_name: str) -> Self:
        """A result, in a file of `folder` unless that is None. Raises OSError."""
        made = cls(finite(content), Path(folder).expanduser() / file_name if folder else None)
        if made.path is not None:
            text = json.dumps(made.content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
            # Of a path that is no UTF-8, as Linux allows, the undecodable bytes become "?".
            write_text(made.path, text.encode("utf-8", errors="replace").decode("utf-8"))
        return made


def finite(value: Any) -> Any:
    """JSON content with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def make_names_unique(found: Sequence[dict[str, Any]]) -> None:
    """Add the step to the name of models of one name, or take the path for it."""
    for distinct in (
        lambda one: f"{one['name']}, step {one['step']:,}" if one["step"] is not None else None,
        lambda one: one["path"],
    ):
        names = [one["name"] for one in found]
        for one, name in zip(found, names, strict=True):
            if names.count(name) > 1:
                one["name"] = distinct(one) or name
