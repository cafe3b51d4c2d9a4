"""Whole runs on a GPU: a short one, resumed, compiled, profiled."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.training.train import train

MakeConfig = Callable[..., TrainingConfig]


# torch's compiler imports its own deprecated parts (PyTorch 2.13).
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "changes",
    [{"dtype": "float32"}, {"dtype": "bfloat16"}, {"compile": True}, {"optimizer": "muon"},
     {"loss": "reference"}, {"gradient_checkpointing": True}],
    ids=str,
)  # fmt: skip
def test_a_run_learns(gpu: torch.device, tiny_config: MakeConfig, changes: dict[str, Any]) -> None:
    settings = {"penalty_type": "neg_entropy", "penalty_weight": 0.1, "num_workers": 2}
    result = train(tiny_config(device=gpu.type, **settings, **changes))
    assert result.metrics["train/ce_loss"] < math.log(65) - 0.4
    assert result.metrics["val/ce_loss"] < math.log(65) - 0.4
    assert 0 < result.metrics["train/mfu"] < 1
    environment = json.loads((result.run_folder / "environment.json").read_text("utf-8"))
    assert (environment["hardware"]["cuda"] is not None) == (gpu.type == "cuda")


def test_a_resumed_run_goes_on(gpu: torch.device, tiny_config: MakeConfig) -> None:
    """To the same losses; bit for bit only where the kernels of the GPU are deterministic."""
    settings = {"device": gpu.type, "dtype": "float32", "dropout": 0.1, "save_interval": 10}
    whole = train(tiny_config(run_name="whole", **settings))
    middle = whole.run_folder / "checkpoints" / "step_00000010"
    resumed = train(tiny_config(run_name="resumed", resume=str(middle), **settings))
    assert resumed.step == whole.step == 20
    for name in ("train/ce_loss", "val/ce_loss", "train/entropy"):
        assert resumed.metrics[name] == pytest.approx(whole.metrics[name], rel=2e-3), name
    other = train(tiny_config(run_name="other", **settings | {"seed": 43}))
    assert other.metrics["train/ce_loss"] != pytest.approx(whole.metrics["train/ce_loss"], rel=1e-6)


def test_a_profile_has_the_kernels(gpu: torch.device, tiny_config: MakeConfig) -> None:
    result = train(tiny_config(device=gpu.type, max_steps=8, profile=3))
    text = (result.run_folder / "profile" / "operations.txt").read_text("utf-8")
    assert ("Times are of GPU kernels" in text) == (gpu.type == "cuda")
    for name in ("forward", "loss", "backward", "optimizer", "matrix products"):
        assert f"\n{name} " in text, name
