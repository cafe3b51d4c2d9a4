"""journal.json: the state of an unfinished preparation.

It is written before the first token, replaced at every commit once the shards are on the disk, and
removed when manifest.json exists.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import write_text

JOURNAL = "journal.json"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Journal:
    """The content of the file."""

    recipe: dict[str, Any]
    """Every option that decides the bytes, and the identity of the source."""
    source: dict[str, Any]
    """The facts of the source, used to explain how two recipes differ."""
    characters: list[str] | None = None
    """The vocabulary of the char tokenizer, once the first pass has found it."""
    position: dict[str, Any] | None = None
    """The position in the source; None is its beginning."""
    counts: dict[str, Any] = field(default_factory=dict)
    """`Counts` as a dictionary."""
    writers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The state of the `ShardWriter` of each split."""
    version: int = VERSION


def write_journal(folder: Path, journal: Journal) -> None:
    """Replace the journal, atomically."""
    content = dataclasses.asdict(journal)
    write_text(folder / JOURNAL, json.dumps(content | {"sha256": _digest(content)}) + "\n")


def _digest(content: dict[str, Any]) -> str:
    """SHA-256 of the other fields: a journal that was edited is refused."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_journal(folder: Path) -> Journal | None:
    """The journal of a preparation that has not finished, or None.

    Raises `UserError` for one that is damaged or of another version.
    """
    path = folder / JOURNAL
    remedy = f"delete {folder} and prepare again"
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise UserError(f"{path}: not a regular file; {remedy}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {remedy}") from None
    if isinstance(content, dict) and content.get("version") == VERSION:
        digest = content.pop("sha256", None)
        if digest == _digest(content):
            return Journal(**content)
    raise UserError(f"{path}: damaged, or written by another version of SharpGPT; {remedy}")
