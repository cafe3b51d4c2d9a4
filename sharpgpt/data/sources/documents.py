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
    """How to read a dataset; see `open_source`."""

    text_column: str | None = None
    """Column of the documents in Parquet and JSON lines; None is the alias's, or "text"."""
    config_name: str | None = None
    """Subset of a dataset that has several; None is the alias's."""
    revision: str | None = None
    """Branch, tag or commit of a dataset of the hub; None is its main branch."""
    streaming: bool = False
    """Read a dataset of the hub over the network and keep nothing, instead of downloading its files
    into the cache, each while the one before is read."""
    val_fraction: float | None = None
    """Part for validation, above 0 and below 1. None is 0.1 of the characters of a single text,
    nanoGPT's split for OpenWebText, and 0.005 of the documents otherwise."""
    cache_dir: str | Path | None = None
    """Where downloads are kept; None is the cache of the HuggingFace hub ($HF_HOME), and for
    TinyShakespeare `cache_folder()`."""
