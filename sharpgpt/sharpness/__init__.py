"""Cross-entropy with a penalty on the sharpness of the output distribution. Needs only torch.

Names are imported when they are first used, so that `sharpgpt.sharpness.penalties` needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "fused": ["linear_sharpness_loss"],
    "module": ["LinearSharpnessLoss"],
    "output": ["Reduction", "SharpnessOutput", "SharpnessRows"],
    "penalties": ["PENALTIES", "Penalty", "find_penalty"],
    "reference": ["sharpness_loss"],
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
