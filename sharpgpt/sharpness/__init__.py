"""Cross-entropy with a penalty on the sharpness of the output distribution. Needs torch alone."""

from sharpgpt.sharpness.fused import linear_sharpness_loss
from sharpgpt.sharpness.module import LinearSharpnessLoss
from sharpgpt.sharpness.output import Reduction, SharpnessOutput, SharpnessRows
from sharpgpt.sharpness.penalties import PENALTIES, Penalty, find_penalty
from sharpgpt.sharpness.reference import sharpness_loss

__all__ = [
    "PENALTIES",
    "LinearSharpnessLoss",
    "Penalty",
    "Reduction",
    "SharpnessOutput",
    "SharpnessRows",
    "find_penalty",
    "linear_sharpness_loss",
    "sharpness_loss",
]
