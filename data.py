"""Text to batches: `load_data`, the tokenizers, training and validation blocks."""

from sharpgpt.data.blocks import TrainingBlocks, ValidationBlocks, prefetched, validation_blocks
from sharpgpt.data.load import TextData, load_data, load_text
from sharpgpt.data.tokenizer import CharTokenizer, Gpt2Tokenizer, Tokenizer, load_tokenizer

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
