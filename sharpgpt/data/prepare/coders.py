"""The tokenizer of a preparation, and where its texts are encoded: here or in worker processes.

The char tokenizer needs a first pass over the source, which finds its vocabulary. It has no
end-of-text token, so documents are joined by a blank line.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sharpgpt.core.processors import num_processors
from sharpgpt.data.manifest import TokenizerEntry
from sharpgpt.data.pieces import GPT2_PATTERN
from sharpgpt.data.prepare.encoding import Encode, Encoded, Gpt2Encoder, encode_texts, gpt2_coding
from sharpgpt.data.prepare.options import PrepareOptions
from sharpgpt.data.prepare.progress import Pace, Progress
from sharpgpt.data.prepare.stopping import Limits, Stopped
from sharpgpt.data.prepare.workers import WorkerPool
from sharpgpt.data.shards import TokenArray
from sharpgpt.data.sources.documents import Batch, DocumentSource, State
from sharpgpt.data.tokenizer import CharTokenizer, Gpt2Tokenizer, Tokenizer
from sharpgpt.runtime.signals import StopSignal

logger = logging.getLogger(__name__)

JOIN = "\n\n"
"""The text after a document."""

MAX_WORKERS = 4
"""Default limit: more workers would wait for the process that reads."""

Submit = Callable[[Sequence[str], Sequence[bool]], "Future[Encoded]"]


@dataclass(frozen=True)
class Coder:
    """What the pipeline needs to know about the tokenizer."""

    tokenizer: Tokenizer
    submit: Submit
    """Encodes texts, with the end-of-document ids after those that end a document."""
    end_of_text_id: int | None = None
    """The id after each document, or None."""
    num_in_flight: int = 0
    """Number of batches that keeps the workers busy."""

    @property
    def dtype(self) -> Literal["uint16", "uint32"]:
        """Of the ids."""
        return "uint16" if self.tokenizer.dtype is np.uint16 else "uint32"

    @property
    def entry(self) -> TokenizerEntry:
        """The tokenizer in the manifest."""
        return TokenizerEntry(
            name=self.tokenizer.name,
            fingerprint=self.tokenizer.fingerprint,
            vocab_size=self.tokenizer.vocab_size,
            characters=getattr(self.tokenizer, "characters", None),
        )


@contextlib.contextmanager
def open_coder(
    options: PrepareOptions, source: DocumentSource, characters: Sequence[str] | None
) -> Iterator[Coder]:
    """The coder of `options.tokenizer`; `characters` are the vocabulary of the char tokenizer."""
    if options.tokenizer == "char":
        char = CharTokenizer(characters or [])
        yield Coder(char, _submit_here(char.encode, char.encode(join_of(source))))
        return
    tokenizer = Gpt2Tokenizer()
    coding = gpt2_coding(tokenizer.ranks, GPT2_PATTERN)
    if not coding.is_fast:
        logger.info("tokenizing with tiktoken; pip install splintr-rs makes it 3 to 6 times faster")
    end_of_text_id = tokenizer.end_of_text_id if source.joins_documents else None
    end_of_document = np.array([] if end_of_text_id is None else [end_of_text_id], np.uint16)
    num_workers = options.num_workers
    if num_workers is None:
        num_workers = min(num_processors(), MAX_WORKERS)
    if num_workers == 0:
        encoder = Gpt2Encoder(coding)
        submit = _submit_here(encoder.encode, end_of_document, encoder.audit)
        yield Coder(tokenizer, submit, end_of_text_id)
        return
    with contextlib.closing(WorkerPool(coding, end_of_document, num_workers)) as pool:
        yield Coder(tokenizer, pool.submit, end_of_text_id, 2 * num_workers)


def _submit_here(
    encode: Encode, end_of_document: TokenArray, audit: Callable[[str], None] | None = None
) -> Submit:
    """Encode in this process, at once."""

    def submit(texts: Sequence[str], ends: Sequence[bool]) -> "Future[Encoded]":
        future: Future[Encoded] = Future()
        future.set_result(encode_texts(encode, texts, ends, end_of_document, audit=audit))
        return future

    return submit


def join_of(source: DocumentSource) -> str:
    """The text after each document of `source`; empty for a single text."""
    return JOIN if source.joins_documents else ""


def batches_up_to(source: DocumentSource, start: State | None, limits: Limits) -> Iterator[Batch]:
    """The batches of `source` from `start` on, cut where `limits` are reached.

    Later texts may have characters that are not in the vocabulary.
    """
    for batch in source.batches(start):
        taken = limits.take(_counts(source, batch), batch.ends)
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
