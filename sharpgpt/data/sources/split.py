"""Which documents are for validation: three rules, each a pure function of the data.

- A single text: its end, from `single_text_cut` characters on (nanoGPT's split of Shakespeare).
- `hash_split`: by the SHA-256 of the document's text. Adding, removing or reordering documents
  moves none between training and validation, and equal documents stay together.
- `nanogpt_split`: by the document's number, exactly the documents that nanoGPT validates on.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharpgpt.config.options import shown
from sharpgpt.core.errors import UserError

DEFAULT_VAL_FRACTION = 0.005
"""Of the documents, by hash."""

DEFAULT_TEXT_VAL_FRACTION = 0.1
"""Of the characters of a single text."""

NANOGPT_TEST_SIZE = 0.0005
NANOGPT_SEED = 2357
OPENWEBTEXT_NUM_DOCUMENTS = 8_013_769


@dataclass(frozen=True)
class Split:
    """Decides for one document after the other."""

    facts: dict[str, Any]
    """The rule, plain JSON; equal facts and equal documents mean an equal split."""
    is_validation: Callable[[int, Callable[[], bytes]], bool]
    """(number, sha256) -> whether the document is for validation. `number` counts the documents of
    the source from 0; `sha256()` is the digest of the document's text as UTF-8."""


def hash_split(val_fraction: float | None = None) -> Split:
    """Documents whose SHA-256, read as a fraction between 0 and 1, is below `val_fraction`.

    The first 8 bytes of the digest decide. Raises `UserError` for a fraction out of range.
    """
    fraction = _checked(val_fraction, DEFAULT_VAL_FRACTION)
    limit = int(fraction * 2**64)
    return Split(
        {"rule": "sha256", "val_fraction": fraction},
        lambda _, sha256: int.from_bytes(sha256()[:8], "big") < limit,
    )


def nanogpt_split(num_documents: Callable[[], int]) -> Split:
    """The documents that nanoGPT's `train_test_split(test_size=0.0005, seed=2357)` validates on.

    `num_documents` is called once, when the first document is decided.
    """

    @functools.cache
    def numbers() -> frozenset[int]:
        return frozenset(nanogpt_validation_documents(num_documents()))

    facts = {"rule": "nanogpt", "test_size": NANOGPT_TEST_SIZE, "seed": NANOGPT_SEED}
    return Split(facts, lambda number, _: number in numbers())


def nanogpt_validation_documents(num_documents: int) -> list[int]:
    """The numbers of the documents in nanoGPT's validation split, ascending.

    They are those of `datasets`, whose `train_test_split(test_size=0.0005, seed=2357,
    shuffle=True)` takes the first ceil(0.0005 n) of `numpy.random.default_rng(2357).permutation(n)`
    (tested against it). Takes 8 bytes a document while it runs: 64 MB for OpenWebText.
    """
    num_validation = math.ceil(NANOGPT_TEST_SIZE * num_documents)
    order = np.random.default_rng(NANOGPT_SEED).permutation(num_documents)
    return sorted(order[:num_validation].tolist())


def text_val_fraction(val_fraction: float | None) -> float:
    """The fraction for a single text, the default for None. Raises `UserError`."""
    return _checked(val_fraction, DEFAULT_TEXT_VAL_FRACTION)


def single_text_cut(num_characters: int, val_fraction: float) -> int:
    """How many characters of a single text are for training, from its beginning."""
    return int(num_characters * (1 - val_fraction))


def _checked(val_fraction: float | None, default: float) -> float:
    if val_fraction is None:
        return default
    if not 0 < val_fraction < 1:
        raise UserError(
            f"val_fraction: given {shown(val_fraction)}, allowed is a number above 0 and below 1: "
            "the part of the documents (of a single text: of its characters) that is for validation"
        )
    return val_fraction
