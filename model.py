"""The model: GPT-2 from HuggingFace with random weights, the penalties and the loss."""

from sharpgpt.model.build import create_gpt2_model
from sharpgpt.model.lm import SharpnessLM
from sharpgpt.sharpness import PENALTIES, SharpnessOutput, linear_sharpness_loss, sharpness_loss

__all__ = [
    "PENALTIES",
    "SharpnessLM",
    "SharpnessOutput",
    "create_gpt2_model",
    "linear_sharpness_loss",
    "sharpness_loss",
]
