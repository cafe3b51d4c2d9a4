"""Bits per byte: cross-entropy by the bytes of the text, which compares models across tokenizers.

    bits per byte = sum of ce / (ln 2 * bytes)

A ratio of two sums over the text, both of which vary with it, and is resampled as such.
"""

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpgpt.data.tokenizer import Tokenizer
from sharpgpt.evaluation.groups import Blocks, Groups
from sharpgpt.evaluation.intervals import Interval, bootstrap_means
from sharpgpt.evaluation.token_bytes import bytes_of_tokens

Floats = npt.NDArray[np.float64]


def bits_per_byte(ce_sums_G: Floats, num_bytes_G: Floats) -> Interval:
    """From sums of cross-entropy in nats and bytes of text, both for each group of blocks."""
    [interval] = bootstrap_means(ce_sums_G[None] / math.log(2), num_bytes_G)
    return interval


def token_byte_lengths(huggingface_tokenizer: Any, tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """Bytes of UTF-8 that each token stands for, [V]; the end of a text stands for none."""
    found = bytes_of_tokens(huggingface_tokenizer, range(tokenizer.vocab_size))
    lengths = np.array([len(found[id_]) for id_ in range(tokenizer.vocab_size)], dtype=np.int64)
    if tokenizer.end_of_text_id is not None:
        lengths[tokenizer.end_of_text_id] = 0
    return lengths


def bytes_of_groups(blocks: Blocks, token_bytes_V: npt.NDArray[np.int64], groups: Groups) -> Floats:
    """Bytes of the tokens that are predicted in each group of blocks, [G]."""
    group_of_block = groups.of_blocks(np.arange(groups.num_blocks))
    bounds = np.searchsorted(group_of_block, np.arange(groups.num_groups + 1)).tolist()
    return np.array(
        [
            token_bytes_V[blocks[first:end][:, 1:].numpy()].sum()
            for first, end in itertools.pairwise(bounds)
        ],
        dtype=np.float64,
    )
