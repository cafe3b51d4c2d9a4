"""Former import path of the loss in HuggingFace models and their Trainer: see `sharpgpt.model`."""

from typing import TYPE_CHECKING, Any

from sharpgpt.model.huggingface import SharpnessSettings, restore, use_sharpness_loss

if TYPE_CHECKING:
    from sharpgpt.model.trainer import SharpnessTrainer

__all__ = ["SharpnessSettings", "SharpnessTrainer", "restore", "use_sharpness_loss"]


def __getattr__(name: str) -> Any:
    """`SharpnessTrainer`, imported when it is used: the Trainer of transformers takes seconds."""
    if name != "SharpnessTrainer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sharpgpt.model.trainer import SharpnessTrainer

    return SharpnessTrainer
