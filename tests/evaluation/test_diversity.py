"""Diversity of generated tokens against few-line definitions and texts where it is known."""

import math

import numpy as np
import pytest

from sharpgpt.evaluation.diversity import distinct_n, self_bleu, seq_rep_n, zipf_coefficient


def test_distinct_n_counts_over_the_whole_set() -> None:
    texts = [[1, 2, 1, 2], [1, 2, 3]]
    assert distinct_n(texts, 1) == 3 / 7
    assert distinct_n(texts, 2) == 3 / 5  # 12, 21, 23 of 12 21 12 | 12 23
    assert distinct_n(texts, 4) == 1
    assert math.isnan(distinct_n(texts, 5))


def test_repetition_is_within_a_sequence() -> None:
    assert seq_rep_n([[1, 2, 3, 4, 5]]) == 0
    # 8 four-grams of a text of period 2: two different ones
    assert seq_rep_n([[1, 2] * 5 + [1]]) == pytest.approx(1 - 2 / 8)
    same = [1, 2, 3, 4, 5, 6]
    assert seq_rep_n([same, same]) == 0, "two equal sequences repeat nothing within themselves"
    assert seq_rep_n([same, [1, 2]]) == 0, "a sequence that is too short does not count"
    assert math.isnan(seq_rep_n([[1, 2, 3]]))


def test_zipf_is_the_slope_of_frequency_against_rank() -> None:
    for exponent in (0.8, 1.0, 1.3):
        counts = np.round(1e5 / np.arange(1, 200) ** exponent).astype(int)
        text = np.repeat(np.arange(len(counts)), counts).tolist()
        assert zipf_coefficient([text[::2], text[1::2]]) == pytest.approx(exponent, rel=0.01)
    assert zipf_coefficient([[1, 2, 3, 4]]) == pytest.approx(0)
    assert math.isnan(zipf_coefficient([[1, 1]]))


def test_self_bleu_is_one_for_copies_and_small_for_strangers() -> None:
    copies = [[1, 2, 3, 4, 5, 6, 7]] * 3
    assert self_bleu(copies) == pytest.approx(1)
    strangers = [list(range(start, start + 20)) for start in (0, 100, 200)]
    assert self_bleu(strangers) < 0.02
    assert self_bleu([*copies, strangers[1]]) < 0.9
    assert math.isnan(self_bleu(copies[:1]))


def test_self_bleu_is_the_product_of_clipped_precisions() -> None:
    """BLEU-2 by hand: texts of one length, so no brevity penalty."""
    texts = [[1, 2, 3, 4], [1, 2, 4, 3]]
    # Each: 4 of 4 unigrams, 1 of 3 bigrams (1 2) occur in the other.
    assert self_bleu(texts, 2) == pytest.approx(math.sqrt(1 * 1 / 3))
