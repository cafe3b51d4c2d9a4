"""Results of `evaluate` and `compare`: JSON content, and the file that it was written to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sharpgpt.core.files import user_path
from sharpgpt.core.jsonio import finite, write_json


@dataclass(frozen=True)
class Result:
    """The content of evaluation.json or comparison.json, which docs/verdict.md explains."""

    content: dict[str, Any] = field(repr=False)
    path: Path | None
    """The file, where an output folder was given."""

    @classmethod
    def written(cls, content: Mapping[str, Any], folder: str | Path | None, file_name: str) -> Self:
        """A result, in a file of `folder` unless that is None. Raises OSError."""
        made = cls(finite(content), user_path(folder) / file_name if folder else None)
        if made.path is not None:
            write_json(made.path, made.content)
        return made


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
