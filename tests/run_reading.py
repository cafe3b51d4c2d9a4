"""What a run folder holds, for tests that compare runs."""

import json
from pathlib import Path
from typing import Any

import torch

from sharpgpt.training.train import RunResult

TIMES = ("time_s", "train/tokens_per_s", "train/mfu")
"""All that may differ between two runs of the same settings."""


def records(run_folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The events of a run without their times; a torn line is an error."""
    lines = (run_folder / name).read_text(encoding="utf-8").split("\n")
    assert lines.pop() == "", f"{name} ends in half a line"
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def checkpoint_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Weights, optimizer state and random states."""
    from safetensors.torch import load_file

    found = load_file(checkpoint / "model.safetensors")
    return found | load_file(checkpoint / "training_state.safetensors")


def checkpoint_state(checkpoint: Path) -> dict[str, Any]:
    """The state of training, without times and without the settings of housekeeping."""
    values: dict[str, Any] = json.loads((checkpoint / "training_state.json").read_text("utf-8"))
    values["window"].pop("seconds")
    for name in ("run_name", "resume", "save_interval", "background_saving"):
        values["config"].pop(name)
    manifest = json.loads((checkpoint / "checkpoint.json").read_text("utf-8"))
    return values | {"after_step": manifest["after_step"]}


def assert_same_run(one: RunResult, other: RunResult) -> None:
    """All that two runs wrote is equal, bit for bit, times aside."""
    assert records(one.run_folder) == records(other.run_folder)
    assert records(one.run_folder, "samples.jsonl") == records(other.run_folder, "samples.jsonl")
    assert one.checkpoint is not None
    assert other.checkpoint is not None
    assert checkpoint_state(one.checkpoint) == checkpoint_state(other.checkpoint)
    a, b = checkpoint_tensors(one.checkpoint), checkpoint_tensors(other.checkpoint)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
