"""`sharpgpt train`, `python train.py`: train a model."""

from sharpgpt.config import TrainingConfig
from sharpgpt.config.training_flags import parse_training_flags as parse
from sharpgpt.core.terminal import show

__all__ = ["parse", "run"]


def run(arguments: tuple[TrainingConfig, bool]) -> int:
    """Train, or describe the run for --dry_run; 128 + the number of the signal that ended it."""
    config, dry_run = arguments
    if dry_run:
        from sharpgpt.training.dry_run import describe

        show(describe(config))
        return 0
    from sharpgpt.training.startup import Startup
    from sharpgpt.training.train import run_training

    result = run_training(config, Startup.of_process())
    return 0 if result.interrupted_by is None else 128 + result.interrupted_by
