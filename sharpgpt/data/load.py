"""Text or prepared shards -> tokens -> batches: `load_data` and `batches`.

A single text is tokenized in memory: the first 90% of its characters are for training, the rest
for validation (nanoGPT's split), and each part is encoded by itself. Prepared data is opened where
it lies. Everything else is prepared first (`sharpgpt.data.prepare`).
"""

from dataclasses import dataclass
from typing import Any

from sharpgpt.core.errors import UserError
from sharpgpt.data.blocks import TrainingBlocks, ValidationBlocks, prefetched, validation_blocks
from sharpgpt.data.prepared import PreparedData, data_tokenizer, open_prepared
from sharpgpt.data.sources.single_text import (
    TINYSHAKESPEARE,
    SourceText,
    default_cache_dir,
    load_text,
)
from sharpgpt.data.tokenizer import CharTokenizer, Gpt2Tokenizer, Tokenizer, load_tokenizer
from sharpgpt.data.tokens import ArrayTokens, TokenArray, Tokens

__all__ = [
    "ArrayTokens",
    "CharTokenizer",
    "Gpt2Tokenizer",
    "PreparedData",
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
    "open_prepared",
    "prefetched",
    "validation_blocks",
]

TRAIN_FRACTION = 0.9


@dataclass(frozen=True)
class TextData:
    """Text as tokens, split."""

    name: str
    """Of the text; "shakespeare-standin" where TinyShakespeare could not be had."""
    source: dict[str, Any]
    """Plain facts for environment.json: origin, hash, note, token counts."""
    tokenizer: Tokenizer
    train_tokens: Tokens
    val_tokens: Tokens


def load_data(
    *,
    dataset: str,
    tokenizer: str | Tokenizer,
    max_seq_length: int,
    cache_dir: str | None = None,
    num_workers: int = 0,
) -> TextData:
    """The tokens of TinyShakespeare, of one text file or of prepared data, split.

    The arguments are the settings of these names, but that `tokenizer` may also be a tokenizer,
    that of a trained model: a text is then encoded by it, and prepared data must have been.
    `source["note"]` must be shown to the user when it is not None. Raises `UserError` for
    everything that is wrong with the data, and where either split is shorter than one block of
    `max_seq_length` tokens.
    """
    prepared = None if dataset == TINYSHAKESPEARE else open_prepared(dataset)
    if prepared is not None:
        data = _from_prepared(prepared, tokenizer)
    else:
        data = _from_text(load_text(dataset, cache_dir), tokenizer, num_workers)
    _require_blocks(data, max_seq_length)
    return data


def _from_text(source: SourceText, tokenizer: str | Tokenizer, num_workers: int) -> TextData:
    text = source.text
    coder = load_tokenizer(tokenizer, text) if isinstance(tokenizer, str) else tokenizer
    cut = int(len(text) * TRAIN_FRACTION)
    train_tokens = ArrayTokens(coder.encode(text[:cut], num_workers))
    val_tokens = ArrayTokens(coder.encode(text[cut:], num_workers))
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


def _from_prepared(prepared: PreparedData, tokenizer: str | Tokenizer) -> TextData:
    name = tokenizer if isinstance(tokenizer, str) else tokenizer.name
    if prepared.tokenizer_name != name:
        raise UserError(
            f"tokenizer: given {name}, but {prepared.path} was made with "
            f"{prepared.tokenizer_name}; set tokenizer to {prepared.tokenizer_name}, or prepare "
            "the data again"
        )
    coder = data_tokenizer(prepared)
    if isinstance(tokenizer, Tokenizer) and tokenizer.fingerprint != coder.fingerprint:
        raise UserError(
            f"{prepared.path}: made with another vocabulary than the model's, though both are of "
            f"the tokenizer {name}; give the data that the model was trained on"
        )
    facts = {
        "name": prepared.name,
        "origin": str(prepared.path),
        "sha256": prepared.sha256,
        "form": prepared.form,
        "is_stand_in": prepared.source.get("is_stand_in") is True,
        "note": prepared.source.get("note"),
        "tokenizer": coder.name,
        "tokenizer_sha256": coder.fingerprint,
        "vocab_size": coder.vocab_size,
        "num_train_tokens": len(prepared.train),
        "num_val_tokens": len(prepared.val),
        "source": prepared.source,
    }
    return TextData(prepared.name, facts, coder, prepared.train, prepared.val)


def _require_blocks(data: TextData, max_seq_length: int) -> None:
    """One message for data that is too short, whichever split it is."""
    num_train, num_val = len(data.train_tokens), len(data.val_tokens)
    shorter = min(num_train, num_val)
    if shorter >= max_seq_length:
        return
    lower = f"lower max_seq_length to at most {shorter}, or " if shorter >= 2 else ""
    times = max_seq_length / max(shorter, 1)
    is_text = "num_characters" in data.source
    parts = ("the first 90%", "the rest") if is_text else ("train", "val")
    more = f"give about {times:.1f} times as much text"
    if not is_text:
        more += ", or prepare it with a larger val_fraction"
    raise UserError(
        f"{data.source['origin']}: too short for blocks of max_seq_length = {max_seq_length} "
        f"tokens: the training split ({parts[0]}) has {num_train}, the validation split "
        f"({parts[1]}) {num_val}, and each must have at least {max_seq_length}; {lower}{more}"
    )
