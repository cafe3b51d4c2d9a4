from typing import Any

import tokenizers

from sharpgpt.data.tokenizer import CharTokenizer, Gpt2Tokenizer
from sharpgpt.evaluation.token_bytes import bytes_of_tokens

TEXT = "Ein Text: 😀 你好\r\n\tnaïve  Ġ\x00"


def test_gpt2_tokens_join_to_the_bytes_of_the_text() -> None:
    """Those that are a part of a character too, and letters that GPT-2 writes bytes with."""
    tokenizer: Any = Gpt2Tokenizer().to_huggingface(64)
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    found = bytes_of_tokens(tokenizer, ids)
    assert b"".join(found[id_] for id_ in ids) == TEXT.encode()
    assert any(not _is_text(token) for token in found.values())
    assert bytes_of_tokens(tokenizer, [50256, 262]) == {50256: b"<|endoftext|>", 262: b" the"}


def test_an_added_token_is_its_text() -> None:
    """And not the bytes that GPT-2 writes with its letters: ï alone is no UTF-8."""
    tokenizer: Any = Gpt2Tokenizer().to_huggingface(64)
    tokenizer.add_tokens(["naïve"])
    assert bytes_of_tokens(tokenizer, [50257]) == {50257: "naïve".encode()}


def test_every_gpt2_token_is_that_of_tiktoken() -> None:
    ours = Gpt2Tokenizer()
    found = bytes_of_tokens(ours.to_huggingface(64), range(50256))
    assert [found[id_] for id_ in range(50256)] == ours._in_order


def test_character_tokens_are_their_characters() -> None:
    tokenizer: Any = CharTokenizer(sorted(set(TEXT))).to_huggingface(64)
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    found = bytes_of_tokens(tokenizer, ids)
    assert b"".join(found[id_] for id_ in ids) == TEXT.encode()


def test_marked_spaces_and_tokens_of_single_bytes() -> None:
    """The form of Llama 2, made by hand; and an id that only a padded vocabulary has."""
    from transformers import PreTrainedTokenizerFast

    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE({"▁": 0, "a": 1, "▁a": 2, "<0xE2>": 3, "<s>": 4}, [("▁", "a")])
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    inner.decoder = tokenizers.decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")
    expected = {2: b" a", 1: b"a", 3: b"\xe2", 4: b"<s>", 9: b"<id 9>"}
    assert bytes_of_tokens(tokenizer, expected) == expected


def _is_text(token: bytes) -> bool:
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True
