"""Documents from anywhere, in batches, in an order that is always the same, from any place on.

`open_source` finds what the setting `dataset` names: TinyShakespeare, a dataset of the hub, or the
user's own files. Reading never holds more than a few documents, and every batch says where reading
goes on after it, so that a preparation that was stopped continues without reading from the
beginning.

Documents that are empty or only whitespace are kept, as nanoGPT keeps them, so that counts of
tokens compare: such a document gives the tokens of its whitespace and the end-of-text token.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sharpgpt.data.sources.single_text import TINYSHAKESPEARE

HUB_NAMES = {
    "openwebtext": "Skylion007/openwebtext",
    "fineweb-edu": "HuggingFaceFW/fineweb-edu",
}
"""Short names of datasets on the hub."""

ALLOWED = (
    f"{TINYSHAKESPEARE}, {', '.join(HUB_NAMES)}, a dataset of the HuggingFace hub as ORG/NAME, or "
    "the path of a file or folder, or a glob, of .txt, .jsonl (both also .gz and .zst) or .parquet"
)

State = dict[str, Any]
"""A place in a source, plain JSON."""


class Piece(NamedTuple):
    """A document or a part of one. The GPT-2 ids of a document's pieces join to its ids."""

    text: str
    is_validation: bool
    ends_document: bool


class Batch(NamedTuple):
    """About a million characters of text."""

    pieces: list[Piece]
    after: State
    """The place from which reading goes on after this batch. `after["bytes_read"]` is how much of
    the source's `num_bytes` lies behind, roughly: for progress."""


class DocumentSource(Protocol):
    """Documents that can be read again from any place, always the same."""

    name: str
    """Short, fit for a file name."""
    facts: dict[str, Any]
    """Plain JSON for the manifest: origin, revision, files, the column of the text, the split.
    `facts["note"]` is what the user must be told, or None."""
    identity: str
    """SHA-256, hex: equal means the same documents in the same order and the same split."""
    num_bytes: int | None
    """Size of the files as they lie there (compressed, if they are); None if not known."""
    joins_documents: bool
    """Whether an end-of-text token stands after each document; a single text has none."""

    def batches(self, start: State | None = None) -> Iterator[Batch]:
        """All documents from the beginning, or those after the batch with `after` = `start`.

        Raises `UserError`, while it is read, for files that are damaged or hold no text.
        """


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What is known beside the name of a dataset; see `open_source`."""

    text_column: str | None = None
    config_name: str | None = None
    revision: str | None = None
    streaming: bool = False
    val_fraction: float | None = None
    cache_dir: str | Path | None = None
    say: Callable[[str], None] = lambda _: None
