"""Train GPT-2 with a sharpness penalty: `python train.py --config configs/quick_test.yaml`."""

import sys
from typing import TYPE_CHECKING

from sharpgpt.interruption import end_at_signals

if __name__ == "__main__":  # before the imports that take a moment: Ctrl-C is no traceback
    end_at_signals()

from sharpgpt.cli import train_command

if TYPE_CHECKING:
    from sharpgpt.config import TrainingConfig
    from sharpgpt.run import RunResult

__all__ = ["train"]


def train(config: "TrainingConfig") -> "RunResult":
    """Train as `config` says; see `sharpgpt.run.train`. Imports torch when called, not before."""
    from sharpgpt.run import train as run

    return run(config)


if __name__ == "__main__":
    sys.exit(train_command(sys.argv[1:]))
