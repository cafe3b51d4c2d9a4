"""Texts to GPT-2 token ids, in one process of a preparation.

tiktoken is the default and the ground truth. The optional package splintr-rs is several times
faster (docs/data.md), but young, so it is used only where it provably gives tiktoken's ids:

- `fast_encoder_is_exact` compares the two before anything is encoded, on a text that puts about
  89,000 characters of all planes where a split can go wrong. This detects a change of the Unicode
  version in one of the two.
- While it runs, both encode the beginning of every batch (`AUDIT_CHARACTERS`).

If splintr is missing or differs, tiktoken does all the work. Nothing here imports torch, so a
worker starts in a quarter of a second and stays small.
"""

import base64
import functools
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sharpgpt.core.errors import UserError
from sharpgpt.data.pieces import digestible_pieces
from sharpgpt.data.shards import TokenArray
from sharpgpt.data.tokenizer import tiktoken_ids

if TYPE_CHECKING:
    import tiktoken

Encode = Callable[[str], TokenArray]

AUDIT_CHARACTERS = 4096
"""Characters per batch that tiktoken encodes too: half a percent of the text, 3% of the time."""


@dataclass(frozen=True)
class Gpt2Coding:
    """Plain values from which a process builds GPT-2's byte-pair encoder."""

    ranks: str
    """tiktoken's file format: lines of a token in base64 and its id."""
    pattern: str
    """The regular expression that splits a text into words."""
    is_fast: bool
    """Whether splintr encodes and tiktoken audits it."""


def gpt2_coding(ranks: dict[bytes, int], pattern: str) -> Gpt2Coding:
    """The coding of `ranks` (token -> id); fast if splintr is installed and exact."""
    lines = (
        f"{base64.b64encode(token).decode()} {id_}\n"
        for token, id_ in sorted(ranks.items(), key=lambda item: item[1])
    )
    coding = Gpt2Coding("".join(lines), pattern, is_fast=True)
    is_fast = importlib.util.find_spec("splintr") is not None and fast_encoder_is_exact(coding)
    return Gpt2Coding(coding.ranks, pattern, is_fast)


class Encoded(NamedTuple):
    """The ids of several texts, concatenated."""

    ids: TokenArray
    counts: list[int]
    """Number of ids of each text."""
    num_bytes: list[int]
    """The length of each text as UTF-8."""


class Gpt2Encoder:
    """Gives tiktoken's ids. Special tokens in a text are ordinary text."""

    def __init__(self, coding: Gpt2Coding) -> None:
        self._exact = _tiktoken(coding)
        self._fast = _splintr(coding) if coding.is_fast else None

    def encode(self, text: str) -> npt.NDArray[np.uint16]:
        """The ids of a text, [num_tokens]."""
        if self._fast is not None:
            return self._fast(text)
        return tiktoken_ids(self._exact, text)

    def audit(self, text: str) -> None:
        """Compare both encoders on the beginning of a text. Raises `UserError` if they differ."""
        if self._fast is None:
            return
        start = text[:AUDIT_CHARACTERS]
        if not np.array_equal(self._fast(start), tiktoken_ids(self._exact, start)):
            raise UserError(
                "the packages splintr-rs and tiktoken give different tokens for the same text, so "
                "the prepared data cannot be trusted: pip uninstall splintr-rs and prepare again "
                "into another output; tiktoken alone is slower and always right. The text "
                f"begins {start[:40]!r}"
            )


def encode_texts(
    encode: Encode,
    texts: Sequence[str],
    ends: Sequence[bool],
    end_of_document: TokenArray,
    *,
    audit: Callable[[str], None] | None = None,
) -> Encoded:
    """Encode `texts`, with the ids `end_of_document` after each one that ends a document.

    `audit` receives the first text.
    """
    if audit is not None:
        audit(texts[0])
    arrays: list[TokenArray] = [end_of_document[:0]]
    counts, num_bytes = [], []
    for text, is_end in zip(texts, ends, strict=True):
        ids = encode(text)
        arrays.append(ids)
        if is_end:
            arrays.append(end_of_document)
        counts.append(len(ids) + len(end_of_document) * is_end)
        num_bytes.append(len(text) if text.isascii() else len(text.encode()))
    return Encoded(np.concatenate(arrays), counts, num_bytes)


@functools.lru_cache(1)
def fast_encoder_is_exact(coding: Gpt2Coding) -> bool:
    """Whether splintr gives tiktoken's ids on `probe_text()`, and can be loaded at all."""
    try:
        fast = _splintr(coding)
        exact = _tiktoken(coding)
        # In parts, so that the lists of tiktoken stay small.
        lines = probe_text().splitlines(keepends=True)
        parts = ["".join(lines[i : i + 20_000]) for i in range(0, len(lines), 20_000)]
        return all(np.array_equal(fast(part), tiktoken_ids(exact, part)) for part in parts)
    except Exception:  # an optional package may fail in any way
        return False


@functools.cache
def probe_text() -> str:
    """A text in which encoders that disagree on any group of characters give different ids.

    A character is a letter, a number, whitespace or other. `'s` and a space after it show which:
    after "other" the apostrophe joins the previous word, after a letter it begins the word `'s`.
    Long uniform ranges (ideographs, Hangul, private use) are sampled.
    """
    lines = [f"{(c := chr(code))}'s {c}1a{c}a\n" for codes in _PROBED for code in codes]
    return "".join(lines) + "".join(_RUNS)


_PROBED = [
    range(0x1, 0x3400),
    range(0x3400, 0xA000, 61),  # ideographs
    range(0xA000, 0xAC00),
    range(0xAC00, 0xD800, 61),  # Hangul
    range(0xE000, 0xF900, 61),  # private
    range(0xF900, 0x17000),
    range(0x17000, 0x18D00, 8),  # Tangut
    range(0x18D00, 0x20000),
    range(0x20000, 0x33800, 8),  # ideographs; new ones come at the ends of the ranges in use
    range(0x33800, 0x110000, 1021),
]
"""Every character of the scripts, and a sample of the long uniform ranges."""

_RUNS = [
    f"{before}{letter * length}{after}\n"
    for letter in (*"aZ7! \n\t\u00a0\u3000é漢", "\r\n", "👍🏽")
    for length in (1, 2, 3, 7, 31, 64, 129, 1000)
    for before, after in (("", ""), ("x", "y"), (" ", " x"), ("I'll", "'LL"), ("’s", "don't"))
]


def _tiktoken(coding: Gpt2Coding) -> "tiktoken.Encoding":
    import tiktoken

    pairs = (line.split(" ") for line in coding.ranks.splitlines())
    ranks = {base64.b64decode(token): int(id_) for token, id_ in pairs}
    return tiktoken.Encoding(
        name="gpt2", pat_str=coding.pattern, mergeable_ranks=ranks, special_tokens={}
    )


def _splintr(coding: Gpt2Coding) -> Callable[[str], npt.NDArray[np.uint16]]:
    import splintr

    # Its regular expressions are compiled to machine code by default, which some systems forbid
    # and which gains nothing here. Special tokens are matched only if they are given.
    fast: Any = splintr.Tokenizer.from_bytes(coding.ranks.encode(), splintr.GPT2_PATTERN).jit(False)

    def encode(text: str) -> npt.NDArray[np.uint16]:
        parts = [fast.encode_flat(piece) for piece in digestible_pieces(text)]
        return np.frombuffer(b"".join(parts), dtype="<u4").astype(np.uint16)

    return encode
