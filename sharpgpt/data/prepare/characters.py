"""The vocabulary of the char tokenizer: a first pass over the source.

It has no end-of-text token, so documents are joined by a blank line.
"""

from collections.abc import Callable, Iterator
from typing import Any

from sharpgpt.data.prepare.progress import Pace, Progress
from sharpgpt.data.prepare.stopping import Limits, Stopped, ends_of
from sharpgpt.data.sources.documents import Batch, DocumentSource
from sharpgpt.runtime.signals import StopSignal

JOIN = "\n\n"
"""The text after a document."""


def join_of(source: DocumentSource) -> str:
    """The text after each document of `source`; empty for a single text."""
    return JOIN if source.joins_documents else ""


def batches_up_to(
    source: DocumentSource, start: dict[str, Any] | None, limits: Limits
) -> Iterator[Batch]:
    """The batches of `source` from `start` on, cut where `limits` are reached.

    Later texts may have characters that are not in the vocabulary.
    """
    for batch in source.batches(start):
        taken = limits.take(_counts(source, batch), ends_of(batch))
        if limits.is_reached:
            yield Batch(batch.pieces[:taken], batch.after)
            return
        yield batch


def find_characters(
    source: DocumentSource, limits: Limits, show: Callable[[Progress], None], stop: StopSignal
) -> list[str]:
    """Every character of `source` up to `limits`, sorted.

    Raises `Stopped` on a signal.
    """
    found = set(join_of(source))
    pace = Pace(0, source.num_bytes)
    num_characters = 0
    for batch in batches_up_to(source, None, limits):
        for piece in batch.pieces:
            found.update(piece.text)
        count = sum(_counts(source, batch))
        num_characters += count
        pace.add(count, count)
        show(pace.progress("characters", num_characters, batch.after["bytes_read"]))
        if stop.number is not None:
            raise Stopped(stop.number, "stopped before anything was written")
    return sorted(found)


def _counts(source: DocumentSource, batch: Batch) -> list[int]:
    join = len(join_of(source))
    return [len(piece.text) + join * piece.ends_document for piece in batch.pieces]
