"""What a model does on text: figures over rows, and samples."""

from sharpgpt.evaluation.generation import generate_texts
from sharpgpt.evaluation.metrics import RowMeans, evaluate, perplexity

__all__ = ["RowMeans", "evaluate", "generate_texts", "perplexity"]
