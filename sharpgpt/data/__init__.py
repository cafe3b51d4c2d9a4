"""Text -> tokens -> batches: `load_data` does the first half, `batches` the second.

The first 90% of the text's characters are for training, the rest for validation (nanoGPT's split),
and each part is encoded by itself.
"""

from dataclasses import dataclass
from typing import Any

from sharpgpt.data.batches import TrainingBlocks, ValidationBlocks, prefetched, validation_blocks
from sharpgpt.data.sources import SourceText, default_cache_dir, load_text
from sharpgpt.data.tokenizer import CharTokenizer, Gpt2Tokenizer, Tokenizer, load_tokenizer
from sharpgpt.data.tokens import ArrayTokens, TokenArray, Tokens
from sharpgpt.files import UserError

__all__ = [
    "ArrayTokens",
    "CharTokenizer",
    "Gpt2Tokenizer",
    "SourceText",
    "TextData",
    "TokenArray",
    "Tokenizer",
    "Tokens",
    "TrainingBlocks",
    "ValidationBlocks",
    "default_cache_dir",
    "load_data",
    "load_text",
    "load_tokenizer",
    "prefetched",
    "validation_blocks",
]

TRAIN_FRACTION = 0.9


@dataclass(frozen=True)
class TextData:
    """A text, tokenized and split."""

    name: str
    """Of the text; "shakespeare-standin" where TinyShakespeare could not be had."""
    source: dict[str, Any]
    """Plain facts for environment.json: origin of the text, its hash, its note, token counts."""
    tokenizer: Tokenizer
    train_tokens: Tokens
    val_tokens: Tokens


def load_data(
    *,
    dataset: str,
    tokenizer: str,
    max_seq_length: int,
    cache_dir: str | None = None,
    num_workers: int = 0,
) -> TextData:
    """Read the text, tokenize it and split it; the arguments are the settings of these names.

    `source["note"]` must be shown to the user when it is not None. Raises `UserError` for
    everything that is wrong with the text, and where either split is shorter than one block of
    `max_seq_length` tokens.
    """
    source = load_text(dataset, cache_dir)
    text = source.text
    coder = load_tokenizer(tokenizer, text)
    cut = int(len(text) * TRAIN_FRACTION)
    train_tokens = ArrayTokens(coder.encode(text[:cut], num_workers))
    val_tokens = ArrayTokens(coder.encode(text[cut:], num_workers))
    _require_blocks(source, train_tokens, val_tokens, max_seq_length)
    facts = {
        "name": source.name,
        "origin": source.origin,
        "sha256": source.sha256,
        "num_bytes": source.num_bytes,
        "num_characters": len(text),
        "is_stand_in": source.is_stand_in,
        "note": source.note,
        "tokenizer": coder.name,
        "tokenizer_sha256": coder.fingerprint,
        "vocab_size": coder.vocab_size,
        "num_train_tokens": len(train_tokens),
        "num_val_tokens": len(val_tokens),
    }
    return TextData(source.name, facts, coder, train_tokens, val_tokens)


def _require_blocks(
    source: SourceText, train_tokens: Tokens, val_tokens: Tokens, max_seq_length: int
) -> None:
    """One message for a text that is too short, whichever split it is."""
    shorter = min(len(train_tokens), len(val_tokens))
    if shorter >= max_seq_length:
        return
    lower = f"lower max_seq_length to at most {shorter}, or " if shorter >= 2 else ""
    times = max_seq_length / max(shorter, 1)
    raise UserError(
        f"{source.origin}: too short for blocks of max_seq_length = {max_seq_length} tokens: the "
        f"training split (the first 90%) has {len(train_tokens)}, the validation split (the rest) "
        f"{len(val_tokens)}, and each must have at least {max_seq_length}; {lower}give about "
        f"{times:.1f} times as much text"
    )
