"""Diversity of generated texts: distinct-n, repetition, Zipf's coefficient, self-BLEU.

All functions take sequences of token ids. Do not compare sequences of different lengths or sets of
different sizes: all metrics but seq-rep depend on how much text there is.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

Tokens = Sequence[int]


def _ngrams(sequence: Tokens, n: int) -> Iterator[tuple[int, ...]]:
    return zip(*(sequence[start:] for start in range(n)), strict=False)


def diversity(sequences: Sequence[Tokens]) -> dict[str, float | None]:
    """All metrics of this file, None where they are no number.

    For one sequence those that depend on how much text there is are None too: they would not
    compare with those of a set.
    """
    is_set = len(sequences) > 1
    found = {f"distinct_{n}": distinct_n(sequences, n) if is_set else math.nan for n in (1, 2, 3)}
    found |= {
        "seq_rep_4": seq_rep_n(sequences, 4),
        "self_bleu": self_bleu(sequences),
        "zipf": zipf_coefficient(sequences) if is_set else math.nan,
    }
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def distinct_n(sequences: Sequence[Tokens], n: int) -> float:
    """Different n-grams over all n-grams of a set (Li et al. 2016); NaN where there is none."""
    counts = Counter(ngram for sequence in sequences for ngram in _ngrams(sequence, n))
    return len(counts) / counts.total() if counts else float("nan")


def seq_rep_n(sequences: Sequence[Tokens], n: int = 4) -> float:
    """1 - different n-grams / n-grams within a sequence, mean over sequences (Welleck et al. 2020).

    Sequences shorter than n do not count; NaN where none is long enough.
    """
    repetitions = [1 - distinct_n([one], n) for one in sequences if len(one) >= n]
    return float(np.mean(repetitions)) if repetitions else float("nan")


def zipf_coefficient(sequences: Sequence[Tokens], max_ranks: int = 5000) -> float:
    """-slope of ln frequency against ln rank, by least squares over the most frequent tokens.

    As in Holtzman et al. 2020; about 1 for natural text in words. NaN for fewer than two tokens.
    """
    counts = Counter(token for sequence in sequences for token in sequence)
    frequency = np.array([count for _, count in counts.most_common(max_ranks)], dtype=float)
    if len(frequency) < 2:
        return float("nan")
    log_rank = np.log(np.arange(1, len(frequency) + 1))
    slope, _ = np.polyfit(log_rank, np.log(frequency), 1)
    return float(-slope)


def self_bleu(sequences: Sequence[Tokens], n: int = 4) -> float:
    """BLEU-n of each sequence with all others as references, mean (Zhu et al. 2018): 1 is no
    variety.

    NLTK's sentence BLEU with its smoothing method 1. The time grows with the square of the number
    of sequences. NaN for fewer than two sequences.
    """
    if len(sequences) < 2:
        return float("nan")
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    texts = [list(sequence) for sequence in sequences]
    smoothing = SmoothingFunction().method1
    with warnings.catch_warnings():
        # NLTK warns where a sequence shares no n-gram with the others; the score is then near 0.
        warnings.simplefilter("ignore", UserWarning)
        scores = [
            sentence_bleu(
                texts[:i] + texts[i + 1 :],
                text,
                weights=[1 / n] * n,
                smoothing_function=smoothing,
            )
            for i, text in enumerate(texts)
        ]
    return float(np.mean(scores))
