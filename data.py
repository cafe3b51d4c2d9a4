"""Text to batches: `load_data`, the tokenizers, training and validation blocks."""

from sharpgpt.data import (
    CharTokenizer,
    Gpt2Tokenizer,
    TextData,
    Tokenizer,
    TrainingBlocks,
    ValidationBlocks,
    load_data,
    load_text,
    load_tokenizer,
    prefetched,
    validation_blocks,
)

__all__ = [
    "CharTokenizer",
    "Gpt2Tokenizer",
    "TextData",
    "Tokenizer",
    "TrainingBlocks",
    "ValidationBlocks",
    "load_data",
    "load_text",
    "load_tokenizer",
    "prefetched",
    "validation_blocks",
]
