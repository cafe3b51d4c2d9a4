import hashlib
import random

import datasets
import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data.sources.split import (
    OPENWEBTEXT_NUM_DOCUMENTS,
    hash_split,
    nanogpt_split,
    nanogpt_validation_documents,
    single_text_cut,
    text_val_fraction,
)


def never() -> bytes:
    raise AssertionError("this split needs no hash")


@pytest.mark.parametrize("num_documents", [2, 3, 10, 1999, 2000, 2001, 4001, 25_000])
def test_nanogpts_documents_are_those_of_datasets(num_documents: int) -> None:
    numbers = datasets.Dataset.from_dict({"number": range(num_documents)})
    parts = numbers.train_test_split(test_size=0.0005, seed=2357, shuffle=True)
    documents = nanogpt_validation_documents(num_documents)
    assert documents == sorted(parts["test"]["number"])
    split = nanogpt_split(lambda: num_documents)
    chosen = [i for i in range(num_documents) if split.is_validation(i, never)]
    assert chosen == documents


def test_openwebtext_has_as_many_as_nanogpt_says() -> None:
    """nanoGPT's prepare.py: 8,009,762 documents for training and 4,007 for validation."""
    documents = nanogpt_validation_documents(OPENWEBTEXT_NUM_DOCUMENTS)
    assert len(documents) == len(set(documents)) == 4007
    assert OPENWEBTEXT_NUM_DOCUMENTS - len(documents) == 8_009_762
    assert documents[0] >= 0
    assert documents[-1] < OPENWEBTEXT_NUM_DOCUMENTS


def test_the_number_of_documents_is_asked_for_once_and_late() -> None:
    asked = []

    def count() -> int:
        asked.append(1)
        return 10

    split = nanogpt_split(count)
    assert asked == []
    assert sum(split.is_validation(i, never) for i in range(10)) == 1
    assert asked == [1]


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def test_the_hash_decides_by_the_text_alone() -> None:
    texts = [f"document {i}" for i in range(20_000)]
    split = hash_split(0.1)
    chosen = {t for i, t in enumerate(texts) if split.is_validation(i, lambda t=t: digest(t))}
    assert len(chosen) == pytest.approx(2000, abs=150)
    shuffled = texts + [f"another {i}" for i in range(1000)]
    random.Random(0).shuffle(shuffled)
    again = {t for i, t in enumerate(shuffled) if split.is_validation(i, lambda t=t: digest(t))}
    assert again & set(texts) == chosen
    larger = hash_split(0.2)
    assert all(larger.is_validation(0, lambda t=t: digest(t)) for t in chosen)
    # The rule in numbers, which no later version may change: the first 8 bytes, as a fraction.
    assert chosen == {
        t for t in texts if int(hashlib.sha256(t.encode()).hexdigest()[:16], 16) < 0.1 * 2**64
    }


def test_the_cut_of_a_single_text_is_nanogpts() -> None:
    assert text_val_fraction(None) == 0.1
    for num_characters in [0, 1, 9, 10, 11, 19, 1_115_394, 10**9 + 7]:
        assert single_text_cut(num_characters, 0.1) == int(num_characters * 0.9)


@pytest.mark.parametrize("val_fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_that_is_none_is_refused(val_fraction: float) -> None:
    for make in (hash_split, text_val_fraction):
        with pytest.raises(UserError, match=r"val_fraction: given .*, allowed is a number above 0"):
            make(val_fraction)
