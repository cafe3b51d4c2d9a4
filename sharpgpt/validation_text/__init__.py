"""Former place of `sharpgpt.evaluation.validation_text`."""

from sharpgpt.evaluation.validation_text import open_validation_text

__all__ = ["open_validation_text"]
