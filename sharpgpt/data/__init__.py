"""Text to tokens on disk to batches.

Names are imported when they are first used, so that the readers and the tokenizers need no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharpgpt.data.blocks import (
        TrainingBlocks,
        ValidationBlocks,
        prefetched,
        validation_blocks,
    )
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

_MODULES = {
    "blocks": ["TrainingBlocks", "ValidationBlocks", "prefetched", "validation_blocks"],
    "load": ["TextData", "load_data", "load_text"],
    "tokenizer": ["CharTokenizer", "Gpt2Tokenizer", "Tokenizer", "load_tokenizer"],
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
