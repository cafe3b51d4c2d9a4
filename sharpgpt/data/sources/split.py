"""Which documents are for validation: three rules, each a pure function of the data.

- One text: its end, from `single_text_cut` characters on (nanoGPT's split of Shakespeare).
- `HashSplit`: by the SHA-256 of the document's text. Adding, removing or reordering documents moves
  none between training and validation, and equal documents stay together.
- `NanoGptSplit`: by the document's number, the very documents that nanoGPT validates on.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

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


class Split(Protocol):
    """Decides for one document after the other."""

    facts: dict[str, Any]
    """The rule, plain JSON; equal facts and equal documents mean an equal split."""

    def is_validation(self, number: int, sha256: Callable[[], bytes]) -> bool:
        """Whether the document is for validation.

        `number` counts the documents of the source from 0; `sha256` gives the digest of the
        document's text as UTF-8.
        """


class HashSplit:
    """Documents whose SHA-256, read as a fraction between 0 and 1, lies below `val_fraction`."""

    def __init__(self, val_fraction: float) -> None:
        self.facts: dict[str, Any] = {"rule": "sha256", "val_fraction": val_fraction}
        self._limit = int(val_fraction * 2**64)

    def is_validation(self, number: int, sha256: Callable[[], bytes]) -> bool:  # noqa: ARG002
        """See `Split.is_validation`. The first 8 bytes of the digest decide."""
        return int.from_bytes(sha256()[:8], "big") < self._limit


class NanoGptSplit:
    """The documents that nanoGPT's `train_test_split(test_size=0.0005, seed=2357)` validates on.

    `num_documents` is asked for once, when the first document is decided.
    """

    def __init__(self, num_documents: Callable[[], int]) -> None:
        self.facts: dict[str, Any] = {
            "rule": "nanogpt",
            "test_size": NANOGPT_TEST_SIZE,
            "seed": NANOGPT_SEED,
        }
        self._num_documents = num_documents
        self._numbers: frozenset[int] | None = None

    def is_validation(self, number: int, sha256: Callable[[], bytes]) -> bool:  # noqa: ARG002
        """See `Split.is_validation`."""
        if self._numbers is None:
            self._numbers = frozenset(nanogpt_validation_documents(self._num_documents()))
        return number in self._numbers


def nanogpt_validation_documents(num_documents: int) -> list[int]:
    """The numbers of the documents in nanoGPT's validation split, ascending.

    They are those of `datasets`, whose `train_test_split(test_size=0.0005, seed=2357,
    shuffle=True)` takes the first ceil(0.0005 n) of `numpy.random.default_rng(2357).permutation(n)`
    (tested against it). While this runs it takes 8 bytes a document: 64 MB for OpenWebText.
    """
    num_validation = math.ceil(NANOGPT_TEST_SIZE * num_documents)
    order = np.random.default_rng(NANOGPT_SEED).permutation(num_documents)
    return sorted(order[:num_validation].tolist())


def hash_split(val_fraction: float | None) -> Split:
    """The split by hash, with the default fraction for None. Raises `UserError`."""
    return HashSplit(DEFAULT_VAL_FRACTION if val_fraction is None else _checked(val_fraction))


def text_val_fraction(val_fraction: float | None) -> float:
    """The fraction for a single text, the default for None. Raises `UserError`."""
    return DEFAULT_TEXT_VAL_FRACTION if val_fraction is None else _checked(val_fraction)


def single_text_cut(num_characters: int, val_fraction: float) -> int:
    """The characters of a single text that are for training, from its beginning."""
    return int(num_characters * (1 - val_fraction))


def _checked(val_fraction: float) -> float:
    if not 0 < val_fraction < 1:
        raise UserError(
            f"val_fraction: given {shown(val_fraction)}, allowed is a number above 0 and below 1: "
            "the part of the documents (of a single text: of its characters) that is for validation"
        )
    return val_fraction
