"""Train GPT-2 with a sharpness penalty: `python train.py --config configs/quick_test.yaml`."""

import sys
from typing import TYPE_CHECKING

from sharpgpt.runtime.signals import install_exit_handlers

if __name__ == "__main__":  # before the slow imports: Ctrl-C gives no traceback
    install_exit_handlers()

from sharpgpt.commands.main import train_command

if TYPE_CHECKING:
    from sharpgpt.config import TrainingConfig
    from sharpgpt.training.train import RunResult

__all__ = ["train"]


def train(config: "TrainingConfig") -> "RunResult":
    """Train as `config` says; see `sharpgpt.training.train`. Imports torch when called."""
    from sharpgpt.training.train import train as run

    return run(config)


if __name__ == "__main__":
    sys.exit(train_command(sys.argv[1:]))
