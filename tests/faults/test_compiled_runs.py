"""Several runs with `compile` in one process."""

import functools
from collections.abc import Callable

import pytest
import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.training.train import train


@pytest.mark.long
@pytest.mark.usefixtures("quick_runs")
def test_every_run_of_a_loop_is_compiled(
    tiny_config: Callable[..., TrainingConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ninth model of a process ran uncompiled, with a warning of PyTorch; here it is the
    second. The backend is the quick one."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 2)
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    for n_embd in (16, 24):
        settings = {
            "max_steps": 1,
            "n_layer": 1,
            "eval_interval": 0,
            "num_generate_samples": 0,
            "n_embd": n_embd,
        }
        settings["run_name"] = f"width{n_embd}"
        assert train(tiny_config(compile=True, n_head=1, **settings)).step == 1
