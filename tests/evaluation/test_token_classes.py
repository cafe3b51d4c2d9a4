"""Classes of tokens that can be told by eye."""

from typing import Any

import numpy as np
import tokenizers
import torch
from transformers import PreTrainedTokenizerFast

from sharpgpt.data.tokenizer import CharTokenizer
from sharpgpt.evaluation.token_bytes import token_spaces
from sharpgpt.evaluation.token_classes import FREQUENCY, PLACE, SEEN, TokenClasses, seen_before
from sharpgpt.evaluation.validation_text import EvaluationText, frequency_ranks


def places(tokenizer: Any, ids: list[int], end_id: int | None = None) -> list[str]:
    """The place in the word of each token but the first."""
    spaces = token_spaces(tokenizer, len(tokenizer.get_vocab()), end_id)
    ids_BT = torch.tensor([ids])
    text_of = EvaluationText("text", ids_BT, None, np.zeros(len(spaces)), token_spaces=spaces)
    masks = TokenClasses(text_of).masks(ids_BT)
    return [
        name
        for row in range(len(ids) - 1)
        for (kind, name), mask in masks.items()
        if kind == PLACE and mask[0, row]
    ]


def test_words_of_byte_pairs_begin_with_a_space_or_after_a_line_break() -> None:
    words = ["The", "\u0120cat", ".", "\u010a", "Un", "believably", "<|endoftext|>"]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: id_ for id_, word in enumerate(words)})
    )
    inner.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>")
    assert places(tokenizer, [0, 1, 2, 3, 4, 5, 6, 4], end_id=6) == [
        "start of a word", "inside a word", "white space", "start of a word", "inside a word",
        "white space", "start of a word",
    ]  # fmt: skip


def test_words_of_characters_begin_after_white_space() -> None:
    tokenizer = CharTokenizer(sorted(set("a bc\n")))
    ids = tokenizer.encode("a bc\nb").tolist()
    assert places(tokenizer.to_huggingface(32), ids) == [
        "white space", "start of a word", "inside a word", "white space", "start of a word",
    ]  # fmt: skip


def test_copies_and_frequency() -> None:
    ids_BT = torch.tensor([[1, 2, 1, 0, 2], [0, 1, 3, 3, 3]])
    assert seen_before(ids_BT).tolist() == [
        [False, False, True, False, True],
        [False, False, False, True, True],
    ]
    ranks = frequency_ranks(np.array([50, 25, 15, 10]))  # 0, 0.5, 0.75 and 0.9 are more frequent
    masks = TokenClasses(EvaluationText("text", ids_BT, None, ranks)).masks(ids_BT)
    assert {kind for kind, _ in masks} == {FREQUENCY, SEEN}, "nothing is known of spaces"
    assert masks[FREQUENCY, "0 to 20%"].tolist() == [[False, False, True, False], [False] * 4]
    assert masks[FREQUENCY, "80 to 100%"].tolist() == [[False] * 4, [False, True, True, True]]
    assert masks[SEEN, "yes"].tolist() == [[False, True, False, True], [False, False, True, True]]
    assert torch.equal(masks[SEEN, "no"], ~masks[SEEN, "yes"])
