"""SharpGPT: what do sharper output distributions do to a language model?

The public API. Names are imported when they are first used: `import sharpgpt` needs no torch.
"""

import os
import sys

if (
    sys.argv[:1] == ["-m"]
    and sys.orig_argv[-len(sys.argv)].endswith("sharpgpt")
    and not sys.flags.safe_path
    and sys.path[0] != os.path.dirname(__path__[0])  # noqa: PTH120
):
    # `python -m sharpgpt` puts the working folder first on the path. Anyone's folder may hold a
    # yaml.py, so it goes before anything is imported; a folder that holds this package stays.
    del sys.path[0]

import importlib
from typing import TYPE_CHECKING, Any

from sharpgpt.core import former_paths

if TYPE_CHECKING:
    from sharpgpt.config import TrainingConfig
    from sharpgpt.evaluation.compare import compare
    from sharpgpt.evaluation.evaluate import evaluate
    from sharpgpt.evaluation.power import power
    from sharpgpt.evaluation.saved_model import load_model
    from sharpgpt.model.huggingface import use_sharpness_loss
    from sharpgpt.model.trainer import SharpnessTrainer
    from sharpgpt.sharpness import Penalty, linear_sharpness_loss
    from sharpgpt.studies.study import study
    from sharpgpt.training.train import train

__version__ = "0.1.0"

__all__ = [
    "Penalty",
    "SharpnessTrainer",
    "TrainingConfig",
    "compare",
    "evaluate",
    "linear_sharpness_loss",
    "load_model",
    "power",
    "study",
    "train",
    "use_sharpness_loss",
]

_MODULES = {
    "Penalty": "sharpness",
    "SharpnessTrainer": "model.trainer",
    "TrainingConfig": "config",
    "compare": "evaluation.compare",
    "evaluate": "evaluation.evaluate",
    "linear_sharpness_loss": "sharpness",
    "load_model": "evaluation.saved_model",
    "power": "evaluation.power",
    "study": "studies.study",
    "train": "training.train",
    "use_sharpness_loss": "model.huggingface",
}

former_paths.install()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
