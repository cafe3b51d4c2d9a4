"""Former place of `sharpgpt.data.sources.documents`, for user-defined sources of documents."""

from sharpgpt.data.sources.documents import Batch, DocumentSource, Piece, SourceOptions, State
from sharpgpt.data.sources.open import open_source

__all__ = ["Batch", "DocumentSource", "Piece", "SourceOptions", "State", "open_source"]
