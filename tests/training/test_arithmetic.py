"""A continued run keeps the arithmetic that it began with."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.runtime import device as devices
from sharpgpt.runtime.device import ALL_BFLOAT16
from sharpgpt.training.train import train
from tests.run_reading import checkpoint_tensors

MakeConfig = Callable[..., TrainingConfig]


def begin_on(monkeypatch: pytest.MonkeyPatch, *, has_instructions: bool, faster: str) -> None:
    """A CPU with or without products in bfloat16, and what `dtype: auto` measures on it."""
    monkeypatch.setattr(devices, "cpu_multiplies_bfloat16", lambda: has_instructions)
    monkeypatch.setattr(devices, "faster_cpu_dtype", lambda *_, **__: (faster, "as a test says"))


def arithmetic_of(checkpoint: Path) -> str:
    state = json.loads((checkpoint / "training_state.json").read_text(encoding="utf-8"))
    return str(state["arithmetic"])


@pytest.mark.parametrize(
    ("faster", "has_instructions", "expected"),
    [
        ("float32", True, "float32"),
        ("bfloat16", True, ALL_BFLOAT16),
        # As earlier versions computed bfloat16 on every CPU.
        ("bfloat16", False, "bfloat16"),
    ],
)
def test_a_run_continues_on_another_machine_in_its_own_arithmetic(
    faster: str,
    has_instructions: bool,
    expected: str,
    tiny_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the other machine would choose another one; its weights are the same bits."""
    settings = {"max_steps": 8, "save_interval": 4, "keep_checkpoints": 5}
    begin_on(monkeypatch, has_instructions=has_instructions, faster=faster)
    whole = train(tiny_config(run_name="whole", **settings))
    half = whole.checkpoint.parent / "step_00000004"
    assert arithmetic_of(half) == expected
    other = "float32" if faster == "bfloat16" else "bfloat16"
    begin_on(monkeypatch, has_instructions=not has_instructions, faster=other)
    continued = train(tiny_config(run_name="fork", resume=str(half), **settings))
    assert arithmetic_of(continued.checkpoint) == expected
    ours, theirs = (checkpoint_tensors(run.checkpoint) for run in (continued, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_another_dtype_is_still_refused(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_on(monkeypatch, has_instructions=True, faster="float32")
    first = train(tiny_config(max_steps=2))
    with pytest.raises(UserError, match="arithmetic 'float32' -> 'bfloat16'"):
        train(
            tiny_config(
                run_name="fork", resume=str(first.checkpoint), dtype="bfloat16", max_steps=2
            )
        )
