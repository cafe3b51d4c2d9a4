"""`sharpgpt train`, `python train.py`: train a model."""

import contextlib
import importlib.util
import os
import sys

from sharpgpt.config import TrainingConfig
from sharpgpt.config.training_flags import parse_training_flags as parse
from sharpgpt.core.terminal import show

__all__ = ["parse", "run"]


def run(arguments: tuple[TrainingConfig, bool]) -> int:
    """Train, or describe the run for --dry_run; 128 + the number of the signal that ended it."""
    config, dry_run = arguments
    if ":" in config.penalty_type:
        _find_in_working_folder(config.penalty_type)
    if dry_run:
        from sharpgpt.training.dry_run import describe

        show(describe(config))
        return 0
    from sharpgpt.training.startup import Startup
    from sharpgpt.training.train import run_training

    result = run_training(config, Startup.of_process())
    return 0 if result.interrupted_by is None else 128 + result.interrupted_by


def _find_in_working_folder(penalty_type: str) -> None:
    """Let the module of a penalty be imported from the working folder, where nothing else is found.

    The user allowed it: a path in a file alone was refused.
    """
    name = penalty_type.partition(":")[0].partition(".")[0]
    with contextlib.suppress(ValueError):
        if importlib.util.find_spec(name) is None:
            sys.path.append(os.getcwd())  # noqa: PTH109
