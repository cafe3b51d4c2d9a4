"""The checkpoints that tests of this folder damage."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.training.train import train
from tests.runs.broken_checkpoints import SETTINGS

MakeConfig = Callable[..., TrainingConfig]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folder of the run, once it is trained."""
    return []


@pytest.fixture
def checkpoints(tiny_config: MakeConfig, tmp_path: Path, made: list[Path]) -> Path:
    """Checkpoints of steps 2, 4 and 6 of the run `tiny`; trained once, then copied."""
    if not made:
        made.append(train(tiny_config(run_name="made", **SETTINGS)).run_folder)
    run_folder = tmp_path / "outputs" / "tiny"
    shutil.copytree(made[0], run_folder)
    return run_folder / "checkpoints"
