"""Documents from any source, in batches, always in the same order, from any position on.

Reading never holds more than a few documents, and every batch carries the position after it, so a
preparation that was stopped resumes without reading from the beginning.

Documents that are empty or only whitespace are kept, as nanoGPT keeps them, so that token counts
compare: such a document gives the tokens of its whitespace and the end-of-text token.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

State = dict[str, Any]
"""A position in a source, plain JSON."""


class Piece(NamedTuple):
    """A document or a part of one. The GPT-2 ids of a document's pieces join to its ids."""

    text: str
    is_validation: bool
    ends_document: bool


class Batch(NamedTuple):
    """About a million characters of text."""

    pieces: list[Piece]
    after: State
    """The position after this batch. `after["bytes_read"]` is roughly how much of the source's
    `num_bytes` has been read, for the progress bar."""

    @property
    def ends(self) -> list[bool]:
        """Which pieces end a document."""
        return [piece.ends_document for piece in self.pieces]


class DocumentSource(Protocol):
    """Documents that can be read again from any position, always the same."""

    name: str
    """Short, fit for a file name."""
    facts: dict[str, Any]
    """Plain JSON for the manifest: origin, revision, files, text column, split. `facts["note"]` is
    a warning for the user, or None."""
    identity: str
    """SHA-256, hex: equal means the same documents in the same order and the same split."""
    num_bytes: int | None
    """Size of the files as stored (compressed, if they are); None if unknown."""
    joins_documents: bool
    """Whether an end-of-text token follows each document; a single text has none."""

    def batches(self, start: State | None = None) -> Iterator[Batch]:
        """All documents from the beginning, or those after the batch with `after` = `start`.

        Raises `UserError`, while it is read, for files that are damaged or hold no text.
        """


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How to read a dataset: the options of `sharpgpt prepare` of these names.

    `PrepareOptions` and `sharpgpt prepare --help` explain each, and what None stands for.
    """

    text_column: str | None = None
    config_name: str | None = None
    revision: str | None = None
    streaming: bool = False
    val_fraction: float | None = None
    cache_dir: str | Path | None = None
