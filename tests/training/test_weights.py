"""Weights that are not finite: they end the run, and are never saved."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.runs.manifest import MANIFEST
from sharpgpt.runtime.distributed import Processes
from sharpgpt.training.train import train
from sharpgpt.training.weights import are_finite
from tests.faults.broken_checkpoints import sealer

pytestmark = pytest.mark.usefixtures("quick_runs")
MakeConfig = Callable[..., TrainingConfig]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_value_is_enough(value: float, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).to(dtype)
    assert are_finite(model, Processes())
    tensors: list[Any] = [p.data for p in model.parameters()]
    for tensor in [*tensors, model[1].running_var]:
        before = tensor.clone()
        tensor.view(-1)[-1] = value
        assert not are_finite(model, Processes())
        tensor.copy_(before)
    assert are_finite(model, Processes())


def test_large_weights_are_finite() -> None:
    """Their sum is not; and infinities of two signs have a sum that is NaN."""
    model = nn.Linear(8, 8)
    model.weight.data.fill_(3e38)
    assert are_finite(model, Processes())
    model.weight.data[0, 0], model.weight.data[0, 1] = torch.inf, -torch.inf
    assert not are_finite(model, Processes())


SETTINGS: dict[str, Any] = {
    "n_layer": 1, "n_embd": 16, "max_steps": 8, "warmup_steps": 0, "keep_checkpoints": 1,
    "on_nonfinite": "skip", "log_interval": 1, "eval_interval": 0, "num_generate_samples": 0,
}  # fmt: skip


def steps(run_folder: Path) -> list[str]:
    return sorted(path.name for path in (run_folder / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"save_interval": 0}, 4),  # noticed by the loss of step 6
        ({"save_interval": 5}, 4),  # where they would be saved
        ({"save_interval": 0, "max_steps": 5}, 4),  # where the run ends
        ({"save_interval": 0, "eval_interval": 5}, 4),  # where they would be validated
    ],
)
def test_the_last_finite_checkpoint_stays(
    tiny_config: MakeConfig, changes: dict[str, Any], step: int
) -> None:
    """A good run that was resumed with a learning rate of 1e308 had NaN in its only checkpoint, and
    could never be resumed."""
    good = train(tiny_config(run_name="run", **SETTINGS | {"max_steps": step}))
    config = tiny_config(
        run_name="run", resume="auto", allow_config_change=True, learning_rate=1e308,
        **SETTINGS | changes,
    )  # fmt: skip
    with pytest.raises(UserError) as caught:
        train(config)
    assert str(caught.value) == (
        "the weights after step 5 hold values that are NaN or infinite. They are not saved; the "
        f"newest checkpoint is {good.checkpoint}. Try a lower learning_rate, more warmup_steps, or "
        "a max_grad_norm"
    )
    assert steps(good.run_folder) == ["step_00000004"]
    again = tiny_config(
        run_name="run", resume="auto", allow_config_change=True, **SETTINGS | changes
    )
    assert train(again).step == again.max_steps


def test_without_a_checkpoint_and_with_a_broken_one(tiny_config: MakeConfig) -> None:
    """The broken one is as an earlier version wrote it."""
    with pytest.raises(UserError, match="not saved, and there is no earlier checkpoint"):
        train(tiny_config(**SETTINGS | {"learning_rate": 1e308}))
    checkpoint = train(tiny_config(run_name="run", **SETTINGS | {"max_steps": 4})).checkpoint
    assert checkpoint is not None
    seal = sealer({MANIFEST: (checkpoint / MANIFEST).read_bytes()})
    weights = load_file(checkpoint / "model.safetensors")
    next(iter(weights.values()))[0] = torch.nan
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    seal(checkpoint)
    with pytest.raises(UserError) as caught:
        train(tiny_config(run_name="run", resume="auto", allow_config_change=True, **SETTINGS))
    assert str(caught.value).startswith(
        "the weights after step 4 hold values that are NaN or infinite. So does the checkpoint "
        f"{checkpoint}; resume from an earlier one"
    )


def test_a_run_that_skipped_most_of_its_steps_failed(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sharpgpt.training import loop

    original = loop.accumulate_gradients
    for num_bad, fails in ((4, False), (5, True)):

        def with_nan(run: Any, *rest: Any, num_bad: int = num_bad) -> torch.Tensor:
            loss = original(run, *rest)
            return loss * torch.nan if run.progress.step in range(1, 1 + num_bad) else loss

        monkeypatch.setattr(loop, "accumulate_gradients", with_nan)
        config = tiny_config(run_name=f"bad{num_bad}", **SETTINGS | {"max_skipped_steps": 100})
        if not fails:
            assert train(config).step == 8
            continue
        with pytest.raises(UserError, match=r"5 of 8 steps skipped, .* hardly trained"):
            train(config)
        run_folder = Path(config.output_dir) / "bad5"
        assert steps(run_folder) == ["step_00000008"]
        assert json.loads((run_folder / "summary.json").read_text())["step"] == 8
