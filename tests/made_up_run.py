"""A run folder as training leaves it, with figures that are easy to recognise."""

import json
from pathlib import Path
from typing import Any

import pytest

from sharpgpt.config import TrainingConfig

BOTH = ["loss", "ce_loss", "penalty", "avg_max_prob", "entropy", "top_k_mass", "accuracy"]
BOTH += ["perplexity"]
TRAIN_ONLY = ["learning_rate", "penalty_weight", "grad_norm", "tokens_per_s", "mfu"]


def write_lines(path: Path, objects: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(content) + "\n" for content in objects), encoding="utf-8")


def metric_lines(steps: int = 100) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl; metric number n has the value n + 1 / step."""
    lines: list[dict[str, Any]] = []
    for step in range(10, steps + 1, 10):
        train = {f"train/{name}": n + 1 / step for n, name in enumerate(BOTH + TRAIN_ONLY, 1)}
        histogram = [step, *[1] * 18, 2]
        line = {"step": step, "time_s": step / 10, **train, "train/max_prob_histogram": histogram}
        lines.append(line)
        if step % 50 == 0:
            val = {f"val/{name}": n + 2 / step for n, name in enumerate(BOTH, 1)}
            lines.append({"step": step, "time_s": step / 10, **val})
    return lines


@pytest.fixture
def made_up_run(tmp_path: Path) -> Path:
    folder = tmp_path / "made-up"
    folder.mkdir()
    config = TrainingConfig(run_name="made-up", max_steps=100, penalty_weight=0.25, top_k=7)
    config.to_yaml(folder / "config.yaml")
    environment = {
        "command": "python train.py --max_steps 100",
        "data": {"name": "tinyshakespeare", "is_stand_in": False, "train_tokens": 301966},
        "versions": {"torch": "2.13.0"},
        "model": {"num_parameters": 124439808},
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    write_lines(folder / "metrics.jsonl", metric_lines())
    settings = {"temperature": 0.5, "top_p": 0.75}
    write_lines(
        folder / "samples.jsonl",
        [
            {"step": step, "prompt": "To be", "text": f"To be at {step}", "settings": settings}
            for step in (50, 100)
        ],
    )
    return folder
