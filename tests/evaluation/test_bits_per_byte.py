"""Bits per byte: nats to bits, by the bytes of the text that is predicted and of nothing else."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from sharpgpt.data.tokenizer import CharTokenizer, Gpt2Tokenizer
from sharpgpt.evaluation.bits_per_byte import bits_per_byte, bytes_of_groups, token_byte_lengths
from sharpgpt.evaluation.groups import Groups


def test_the_end_of_a_text_has_no_bytes() -> None:
    """Counted as the 13 bytes of its name, a text of short documents looked easier than it is."""
    gpt2 = Gpt2Tokenizer()
    lengths_V = token_byte_lengths(gpt2.to_huggingface(64), gpt2)
    documents = ["Ein Text: 😀 naïve", " the", ""]
    ids = [id_ for text in documents for id_ in (*gpt2.encode(text).tolist(), 50256)]
    assert len(lengths_V) == 50257
    assert lengths_V[50256] == 0
    assert lengths_V[ids].sum() == len("".join(documents).encode())
    assert (lengths_V[:50256] > 0).all()


def test_bytes_are_those_of_utf8() -> None:
    tokenizer = CharTokenizer(["a", "é", "你", "😀"])
    huggingface: Any = tokenizer.to_huggingface(64)
    assert token_byte_lengths(huggingface, tokenizer).tolist() == [1, 2, 3, 4]


def test_the_first_token_of_a_block_is_not_predicted() -> None:
    lengths_V = np.array([1, 10, 100, 1000])
    blocks = torch.tensor([[3, 0, 1], [0, 2, 2], [2, 1, 1]])
    groups = Groups(num_blocks=3, num_groups=2)
    sums_G = bytes_of_groups(blocks, lengths_V, groups)
    of_block = [11, 200, 20]
    expected = [0, 0]
    for group, count in zip(groups.of_blocks(np.arange(3)).tolist(), of_block, strict=True):
        expected[group] += count
    assert sums_G.tolist() == expected
    assert sums_G.sum() == 231


def test_a_uniform_model_of_single_bytes_needs_the_bits_of_its_vocabulary() -> None:
    """ln 256 nats a byte are 8 bits; the ratio of the sums, not the mean of the ratios."""
    num_bytes_G = np.array([100.0, 300.0, 50.0])
    interval = bits_per_byte(num_bytes_G * math.log(256), num_bytes_G)
    assert interval.estimate == pytest.approx(8)
    interval = bits_per_byte(np.array([math.log(2) * 300, 0.0]), np.array([100.0, 50.0]))
    assert interval.estimate == pytest.approx(2)
