"""A user-defined source of documents: numbers, counted. docs/data.md explains how to use it."""

import hashlib
from collections.abc import Iterator
from typing import Any

from sharpgpt.data.sources.documents import Batch, Piece, State


class Numbers:
    """A thousand documents, one number each; every fiftieth is for validation."""

    name = "numbers"
    facts: dict[str, Any] = {"name": "numbers", "origin": "counted", "note": None}  # noqa: RUF012
    identity = hashlib.sha256(b"numbers 1").hexdigest()
    num_bytes = None
    joins_documents = True

    def batches(self, start: State | None = None) -> Iterator[Batch]:
        """See `DocumentSource.batches`."""
        first = start["number"] if start else 0
        for number in range(first, 1000, 100):
            pieces = [
                Piece(f"The number {i}.\n", is_validation=i % 50 == 0, ends_document=True)
                for i in range(number, number + 100)
            ]
            yield Batch(pieces, after={"number": number + 100, "bytes_read": 0})
