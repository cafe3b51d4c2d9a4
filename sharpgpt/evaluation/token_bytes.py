"""The bytes that each token of a HuggingFace tokenizer stands for.

Decoding tokens one by one is not enough: a token of a byte-level vocabulary may be only a part of a
UTF-8 character, and decoders drop or add spaces at the beginning of a text.
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

BEGINS, ENDS, BLANK = 1, 2, 4
"""Bits of `token_spaces`: begins with white space, ends with it, is nothing else."""


def bytes_of_tokens(tokenizer: Any, ids: Iterable[int]) -> dict[int, bytes]:
    """Each id -> its bytes. Special tokens stand for their name, such as <|endoftext|>.

    Knows byte-level vocabularies (GPT-2, Llama 3, Qwen), those with a mark for the space and
    tokens like <0xE2> for single bytes (Llama 2, Gemma), and those whose tokens are their texts.
    An id that the tokenizer has no token for, as a padded vocabulary has, is shown as its number.
    """
    decoder = repr(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None))
    is_byte_level = "ByteLevel" in decoder
    is_marked = not is_byte_level and any(word in decoder for word in ("Metaspace", "▁"))
    byte_of_letter = _byte_of_letter() if is_byte_level else {}
    # Tokens added to a byte-level vocabulary are plain texts, not in GPT-2's letters.
    added = {int(id_) for id_ in getattr(tokenizer, "added_tokens_decoder", {})}
    found = {}
    for id_ in {int(id_) for id_ in ids}:
        token = tokenizer.convert_ids_to_tokens(id_)
        if token is None:
            found[id_] = f"<id {id_}>".encode()
        elif id_ in added:
            found[id_] = token.encode()
        elif is_byte_level and all(letter in byte_of_letter for letter in token):
            found[id_] = bytes(byte_of_letter[letter] for letter in token)
        elif byte := re.fullmatch("<0x([0-9A-Fa-f]{2})>", token):
            found[id_] = bytes.fromhex(byte[1])
        else:
            found[id_] = (token.replace("▁", " ") if is_marked else token).encode()
    return found


def token_spaces(
    tokenizer: Any, vocab_size: int, end_of_text_id: int | None
) -> npt.NDArray[np.uint8]:
    """Where each token has white space, [V]; the end of a text is white space."""
    found = np.zeros(vocab_size, dtype=np.uint8)
    for id_, text in bytes_of_tokens(tokenizer, range(vocab_size)).items():
        blank = not text.strip() or id_ == end_of_text_id
        begins, ends = blank or text[:1].isspace(), blank or text[-1:].isspace()
        found[id_] = BEGINS * begins | ENDS * ends | BLANK * blank
    return found


def _byte_of_letter() -> dict[str, int]:
    """GPT-2's visible letter for each byte -> the byte."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}
