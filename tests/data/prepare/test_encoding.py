"""splintr must give tiktoken's ids to the last token, and be noticed where it does not.

pytest tests/faults tests/prepare --faults long encodes 30 MB of generated documents, else 1 MB.
"""

import importlib.util
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data.pieces import GPT2_PATTERN
from sharpgpt.data.prepare import encoding
from sharpgpt.data.prepare.encoding import (
    Gpt2Coding,
    Gpt2Encoder,
    encode_texts,
    gpt2_coding,
    probe_text,
)
from sharpgpt.data.sources.tinyshakespeare_standin import standin_text
from sharpgpt.data.tokenizer import Gpt2Tokenizer

CODES = [code for code in range(1, 0x110000) if not 0xD800 <= code < 0xE000]


@pytest.fixture(scope="module")
def tokenizer() -> Gpt2Tokenizer:
    return Gpt2Tokenizer()


@pytest.fixture(scope="module")
def fast(tokenizer: Gpt2Tokenizer) -> Gpt2Encoder:
    pytest.importorskip("splintr")
    return Gpt2Encoder(Gpt2Coding(coding(tokenizer).ranks, GPT2_PATTERN, is_fast=True))


@pytest.fixture(scope="module")
def same(fast: Gpt2Encoder, tokenizer: Gpt2Tokenizer) -> Callable[[str], bool]:
    """Whether both encoders give the same ids; tiktoken as the rest of the project uses it."""
    exact = tokenizer._encoding
    return lambda text: np.array_equal(fast.encode(text), exact.encode_ordinary(text))


def coding(tokenizer: Gpt2Tokenizer) -> Gpt2Coding:
    return gpt2_coding(tokenizer.ranks, GPT2_PATTERN)


def test_the_installed_encoders_agree_and_the_fast_one_is_used(tokenizer: Gpt2Tokenizer) -> None:
    pytest.importorskip("splintr")
    assert coding(tokenizer).is_fast


def test_every_character_of_unicode_is_split_alike(same: Callable[[str], bool]) -> None:
    """A package whose Unicode is a version ahead takes new letters for letters: 4,657 of them
    differ between Unicode 16 and 17, and before `'s` that gives other ids."""
    for start in range(0, len(CODES), 100_000):
        characters = map(chr, CODES[start : start + 100_000])
        text = "".join(f"{character}'s a{character}1 {character}" for character in characters)
        assert same(text), f"from U+{CODES[start]:04X} on"


def test_runs_of_one_character_are_split_alike(same: Callable[[str], bool]) -> None:
    for letter in "aZ7!'’é漢 \n\r\t\u00a0\u3000\u200b\u0301\x00\x1f👍":
        for length in (1, 2, 3, 15, 16, 17, 63, 64, 65, 4095, 4096, 4097):
            for before, after in (("", ""), ("x", "x"), (" ", "\n"), ("\r\n", " y")):
                text = before + letter * length + after
                assert same(text), (letter, length, before, after)


def test_contractions_and_their_look_alikes(same: Callable[[str], bool]) -> None:
    ends = ["s", "S", "t", "re", "RE", "Ve", "m", "ll", "LL", "d", "l", "", "'", "sx", "s's"]
    for before in ("I", "", " ", "1", "!", "I ", "\n", "é", "ǆ", "٣"):
        for apostrophe in ("'", "’", "ʼ", "＇", "`", "''"):
            text = " ".join(before + apostrophe + end for end in ends)
            assert same(text), text


def test_special_tokens_in_a_text_are_text(same: Callable[[str], bool]) -> None:
    assert same("<|endoftext|> a<|endoftext|>\n<|endoftext")
    assert same("<|endoftext|>" * 1000)


def test_shakespeare_is_encoded_alike(same: Callable[[str], bool]) -> None:
    assert same(standin_text())


def test_tinyshakespeare_is_encoded_alike(same: Callable[[str], bool]) -> None:
    path = Path(__file__).parents[3] / "../shared/data/tinyshakespeare.txt"
    if not path.is_file():
        pytest.skip("there is no copy of TinyShakespeare beside the repository")
    assert same(path.read_text())


def test_generated_documents_are_encoded_alike(
    same: Callable[[str], bool], pytestconfig: pytest.Config
) -> None:
    is_long = pytestconfig.getoption("--faults", default="quick") == "long"
    rng = random.Random(11)
    words = standin_text()[:200_000].split()
    num_bytes = 0
    while num_bytes < (30_000_000 if is_long else 1_000_000):
        document = generated_document(rng, words, rng.choice([1, 3, 10, 50, 300, 3000, 20000]))
        assert same(document), document[:200]
        num_bytes += len(document.encode())


SPECIAL = [
    *("'s", "'t", "'re", "'VE", "’s", "''", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\x0b"),
    *(
        "\u00a0",
        " \u00a0",
        "\u3000",
        "\u2028",
        "\u200b",
        "\u200d",
        "\ufeff",
        "\x85",
        "\x1c",
        "\x00",
    ),
    *(
        "👨\u200d👩\u200d👧",
        "🏳\ufe0f\u200d🌈",
        "🇩🇪",
        "e\u0301",
        "न\u094d",
        "\u0e33",
        "½",
        "²",
        "Ⅷ",
        "①",
    ),
]
SCRIPTS = [
    *(
        (0x20, 0x7F),
        (0x80, 0x250),
        (0x300, 0x530),
        (0x590, 0x700),
        (0x900, 0xE80),
        (0x1100, 0x1200),
    ),
    *((0x2000, 0x2100), (0x2150, 0x2190), (0x2460, 0x2700), (0x3000, 0x3100), (0x4E00, 0x9FFF)),
    *((0xA000, 0xA800), (0xAC00, 0xD7A4), (0xE000, 0xE100), (0xFB00, 0x10000), (0x10000, 0x12000)),
    *((0x16E00, 0x17000), (0x1D400, 0x1D800), (0x1E000, 0x1E900), (0x1F1E6, 0x1FA00)),
    *((0x20000, 0x20100), (0xE0000, 0xE0200), (0x10FF00, 0x110000)),
]


def generated_document(rng: random.Random, words: list[str], length: int) -> str:
    parts = []
    while length > 0:
        choice = rng.random()
        if choice < 0.3:
            part = rng.choice(words) + rng.choice([" ", "", "\n", ", "])
        elif choice < 0.6:
            part = rng.choice(SPECIAL)
        elif choice < 0.65:
            part = (rng.choice(" \n1aA!\t-é漢") * int(rng.paretovariate(0.7)))[:3000]
        elif choice < 0.9:
            first, end = rng.choice(SCRIPTS)
            part = "".join(chr(rng.randrange(first, end)) for _ in range(rng.randrange(1, 8)))
        else:
            part = chr(rng.choice(CODES)) * rng.randrange(1, 3)
        parts.append(part)
        length -= len(part)
    return "".join(parts)


def test_without_splintr_tiktoken_does_the_work(
    tokenizer: Gpt2Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    slow = Gpt2Encoder(coding(tokenizer))
    assert slow._fast is None
    assert slow.encode("Hello world<|endoftext|>").tolist() == [
        *(15496, 995, 27, 91, 437, 1659, 5239, 91, 29)
    ]
    slow.audit("nothing to compare")


@pytest.mark.parametrize("wrong_at", ["\u088f", "\u00a0", "漢漢漢"])
def test_an_encoder_that_differs_is_not_used(
    tokenizer: Gpt2Tokenizer, monkeypatch: pytest.MonkeyPatch, wrong_at: str
) -> None:
    """One wrong kind of character in the probe is enough."""
    assert wrong_at in probe_text()
    exact = tokenizer._encoding

    def differing(_: Gpt2Coding) -> Callable[[str], object]:
        return lambda text: np.array(exact.encode_ordinary(text.replace(wrong_at, "x")), np.uint16)

    monkeypatch.setattr(encoding, "_splintr", differing)
    encoding.fast_encoder_is_exact.cache_clear()
    assert not coding(tokenizer).is_fast
    encoding.fast_encoder_is_exact.cache_clear()


def test_an_encoder_that_breaks_is_not_used(
    tokenizer: Gpt2Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "splintr", None)  # its import fails
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    encoding.fast_encoder_is_exact.cache_clear()
    assert not coding(tokenizer).is_fast
    encoding.fast_encoder_is_exact.cache_clear()


def test_the_audit_notices_a_difference(fast: Gpt2Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    fast.audit("the same in both " * 1000)
    monkeypatch.setattr(fast, "_fast", lambda _: np.array([1, 2], np.uint16))
    with pytest.raises(UserError, match="pip uninstall splintr-rs"):
        fast.audit("another text")


def test_the_end_of_a_document_stands_after_it() -> None:
    def encode(text: str) -> encoding.TokenArray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.uint16)

    end = np.array([500], np.uint16)
    encoded = encode_texts(encode, ["ab", "", "é"], [False, True, True], end)
    assert encoded.ids.tolist() == [97, 98, 500, 0xC3, 0xA9, 500]
    assert encoded.ids.dtype == np.uint16
    assert encoded.counts == [2, 1, 3]
    assert encoded.num_bytes == [2, 0, 2]
    assert encode_texts(encode, [], [], end).ids.tolist() == []
