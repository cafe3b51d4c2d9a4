"""Saving in the background: a copy where memory allows one, else training waits."""

from collections.abc import Callable
from typing import Any

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.runs.checkpoint_files import HostCopies
from sharpgpt.training.train import train
from tests.runs.broken_checkpoints import SETTINGS

pytestmark = pytest.mark.usefixtures("quick_runs")
MakeConfig = Callable[..., TrainingConfig]


def test_without_memory_for_a_copy_training_waits_and_says_so(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_memory(self: HostCopies, tensors: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 TB")

    monkeypatch.setattr(HostCopies, "of", no_memory)
    result = train(tiny_config(**SETTINGS))
    assert len(list((result.run_folder / "checkpoints").iterdir())) == 3
    assert capsys.readouterr().out.count("NOTE: no memory for a copy") == 1
