"""The tokenizer of a preparation: its manifest entry, and the pool that encodes texts."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sharpgpt.data.manifest import TokenizerEntry
from sharpgpt.data.prepare.encoding import Gpt2Encoder, gpt2_coding
from sharpgpt.data.prepare.workers import LocalPool, Pool, WorkerPool
from sharpgpt.data.tokenizer import GPT2_PATTERN, CharTokenizer, Gpt2Tokenizer

logger = logging.getLogger(__name__)

MAX_WORKERS = 4
"""Default limit: more workers would wait for the process that reads."""


@dataclass(frozen=True)
class Coder:
    """What the pipeline needs to know about the tokenizer."""

    entry: TokenizerEntry
    dtype: Literal["uint16", "uint32"]
    """Of the ids."""
    end_of_text_id: int | None
    """The id after each document, or None."""
    pool: Pool
    num_in_flight: int
    """Number of batches that keeps the pool busy."""


def default_num_workers() -> int:
    """One process for each processor, at most `MAX_WORKERS`."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    return min(os.cpu_count() or 1, MAX_WORKERS)


@contextlib.contextmanager
def gpt2_coder(*, joins_documents: bool, num_workers: int) -> Iterator[Coder]:
    """GPT-2's byte-pair encoding in `num_workers` processes (0: in this one)."""
    tokenizer = Gpt2Tokenizer()
    coding = gpt2_coding(tokenizer.ranks, GPT2_PATTERN)
    if not coding.is_fast:
        logger.info("tokenizing with tiktoken; pip install splintr-rs makes it 3 to 6 times faster")
    end_of_text_id = tokenizer.end_of_text_id if joins_documents else None
    end_of_document = np.array([] if end_of_text_id is None else [end_of_text_id], np.uint16)
    pool: Pool
    if num_workers == 0:
        encoder = Gpt2Encoder(coding)
        pool = LocalPool(encoder.encode, end_of_document, encoder.audit)
    else:
        pool = WorkerPool(coding, end_of_document, num_workers)
    entry = TokenizerEntry(
        name=tokenizer.name, fingerprint=tokenizer.fingerprint, vocab_size=tokenizer.vocab_size
    )
    with contextlib.closing(pool):
        yield Coder(entry, "uint16", end_of_text_id, pool, 2 * num_workers)


@contextlib.contextmanager
def char_coder(characters: Sequence[str], join: str) -> Iterator[Coder]:
    """One token per character, looked up in this process; `join` after each document."""
    tokenizer = CharTokenizer(characters)
    entry = TokenizerEntry(
        name=tokenizer.name,
        fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        characters=tokenizer.characters,
    )
    pool = LocalPool(tokenizer.encode, tokenizer.encode(join))
    yield Coder(entry, "uint16" if tokenizer.dtype is np.uint16 else "uint32", None, pool, 0)
