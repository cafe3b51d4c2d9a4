"""Pieces of a text have the ids of the whole, whatever the text."""

import random

import numpy as np
import pytest
import tiktoken

from sharpgpt.data.pieces import GPT2_PATTERN, digestible_pieces, separable_pieces
from sharpgpt.data.prepare.encoding import Gpt2Coding, Gpt2Encoder, gpt2_coding
from sharpgpt.data.tokenizer import Gpt2Tokenizer

SPACES = [" ", "\n", "\t", "\r\n", "\x0b", "\x85", "\xa0", "\u3000", "\u2028"]
OTHERS = ["a", "Z", "7", "!", "-", "_", "é", "漢", "가", "\u0301", "👍", "👨‍👩‍👧", "\x1c", "\u200b"]


@pytest.fixture(scope="module")
def tokenizer() -> Gpt2Tokenizer:
    return Gpt2Tokenizer()


@pytest.fixture(scope="module")
def reference(tokenizer: Gpt2Tokenizer) -> tiktoken.Encoding:
    return tokenizer._encoding


@pytest.fixture(scope="module")
def coding(tokenizer: Gpt2Tokenizer) -> Gpt2Coding:
    return gpt2_coding(tokenizer.ranks, GPT2_PATTERN)


def nasty_text(seed: int, num_characters: int) -> str:
    alphabet = "aZé9 \n\t\r'.!-\u00a0\u2003\x1c\x85日👍\u0301\u200d"
    return "".join(random.Random(seed).choices(alphabet, k=num_characters))


def joined(reference: tiktoken.Encoding, pieces: list[str]) -> list[int]:
    return [token for piece in pieces for token in reference.encode_ordinary(piece)]


@pytest.mark.parametrize("num_characters", [1, 2, 3, 7, 50])
def test_pieces_have_the_ids_of_the_whole(
    reference: tiktoken.Encoding, num_characters: int
) -> None:
    for seed in range(200):
        text = nasty_text(seed, 300)
        pieces = list(separable_pieces(text, num_characters))
        assert len(pieces) >= 2
        assert "".join(pieces) == text
        assert joined(reference, pieces) == reference.encode_ordinary(text)


def test_a_text_without_spaces_is_one_piece() -> None:
    assert list(separable_pieces("a" * 1000, 10)) == ["a" * 1000]


@pytest.mark.parametrize("long_whitespace", [1, 2, 3, 8])
def test_runs_of_whitespace_are_cut_out_without_a_change(
    reference: tiktoken.Encoding, long_whitespace: int
) -> None:
    num_cuts = 0
    for seed in range(300):
        r = random.Random(seed)
        words = (r.choice([*SPACES, *OTHERS, "'s", " a"]) * r.randrange(1, 12) for _ in range(40))
        text = "".join(words)
        pieces = list(digestible_pieces(text, long_whitespace))
        assert "".join(pieces) == text
        assert joined(reference, pieces) == reference.encode_ordinary(text)
        num_cuts += len(pieces) - 1
    assert num_cuts > 300


@pytest.mark.parametrize("space", [" ", "\r\n", "\u3000"], ids=ascii)
def test_a_million_characters_of_whitespace(tokenizer: Gpt2Tokenizer, space: str) -> None:
    """They ended in a Rust panic, which no `except Exception` catches."""
    reference, run = tokenizer._encoding, space * (1_100_000 // len(space))
    ids = tokenizer.encode(f"a b{run}c d{run}")
    # At the end of a text there is no stepping back; the last character is apart before a word.
    before = reference.encode_ordinary("a b") + reference.encode_ordinary(run[:-1])
    after = reference.encode_ordinary(f"{space[-1]}c d{run}")
    np.testing.assert_array_equal(ids, np.array(before + after))


@pytest.mark.parametrize("letter", OTHERS, ids=ascii)
def test_many_of_one_character(tokenizer: Gpt2Tokenizer, coding: Gpt2Coding, letter: str) -> None:
    """They are one word to the pattern; each encoder gives the ids of the plain tiktoken."""
    text = f"x{letter * (50_000 // len(letter))}y"
    ids = tokenizer._encoding.encode_ordinary(text)
    np.testing.assert_array_equal(Gpt2Encoder(coding).encode(text), ids)
    np.testing.assert_array_equal(tokenizer.encode(text), ids)


def test_the_encoder_of_a_preparation_takes_a_million_spaces(coding: Gpt2Coding) -> None:
    """With tiktoken alone, which is what works where splintr is not installed."""
    text = f"a{' ' * 1_100_000}b"
    exact = Gpt2Encoder(Gpt2Coding(coding.ranks, coding.pattern, is_fast=False)).encode(text)
    np.testing.assert_array_equal(Gpt2Encoder(coding).encode(text), exact)
    assert exact.tolist() == [64, *[220] * 1_099_999, 275]
