"""The loss in other people's trainers; the code is in `sharpgpt.model.huggingface`."""

from typing import Any

from sharpgpt.model import huggingface
from sharpgpt.model.huggingface import SharpnessSettings, restore, use_sharpness_loss

__all__ = ["SharpnessSettings", "SharpnessTrainer", "restore", "use_sharpness_loss"]


def __getattr__(name: str) -> Any:
    """`SharpnessTrainer`, which needs the Trainer of transformers, when it is asked for."""
    return getattr(huggingface, name)
