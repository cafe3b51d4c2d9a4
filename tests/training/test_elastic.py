"""One run, on one process and on two: the same batches and curve, and checkpoints for both."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.training.build import check_world_size
from tests.forked_python import run_forked

REPOSITORY = Path(__file__).resolve().parents[2]
FLAGS = {
    "tokenizer": "char", "n_layer": 2, "n_head": 2, "n_embd": 32, "max_seq_length": 32,
    "batch_size": 2, "gradient_accumulation_steps": 4, "learning_rate": 3e-3, "warmup_steps": 2,
    "penalty_type": "neg_entropy", "penalty_weight": 0.1, "log_interval": 2, "min_lr_ratio": 1.0,
    "eval_interval": 4, "eval_max_blocks": 5, "generate_interval": 4, "num_generate_samples": 1,
    "generate_max_length": 12, "save_interval": 4, "use_wandb": "false", "device": "cpu",
    "num_workers": 2, "max_steps": 12, "keep_checkpoints": 9, "allow_config_change": "true",
    "batch_warmup_steps": 6, "batch_warmup_start": 2,
}  # fmt: skip


def train(
    folder: Path, environment: dict[str, str], num_processes: int, **changes: Any
) -> subprocess.CompletedProcess[str]:
    flags = FLAGS | {"output_dir": folder, "run_name": "run", "resume": "auto"} | changes
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
    return run_forked(
        [
            *("-W", "ignore", *(launcher if num_processes > 1 else ())),
            str(REPOSITORY / "train.py"),
            *(f"--{name}={value}" for name, value in flags.items()),
        ],
        env=environment, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def events(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "run" / "checkpoints" / f"step_{step:08d}" / "model.safetensors")


def test_two_processes_give_the_run_of_one_and_checkpoints_go_both_ways(
    tmp_path: Path, command_environment: dict[str, str]
) -> None:
    """One process all the way, beside two, one and two processes for four steps each.

    Dropout is off, since each process has its own random numbers. Float sums are in another order,
    so metrics agree to a few parts in ten thousand and not in every bit. The five validation blocks
    are three batches, of which one process has two and the other one.
    """
    alone, mixed = tmp_path / "alone", tmp_path / "mixed"
    for folder in (alone, mixed):
        folder.mkdir()
    done = train(alone, command_environment, 1)
    assert done.returncode == 0, done.stderr
    for num_processes, max_steps in ((2, 4), (1, 8), (2, 12)):
        last = {"profile": 1} if max_steps == 12 else {}
        done = train(mixed, command_environment, num_processes, max_steps=max_steps, **last)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Finished") == 1
    profile = (mixed / "run" / "profile" / "operations.txt").read_text()  # of rank 0
    assert "from step 12 to 12." in profile
    assert "\ncommunication " in profile
    facts = json.loads((mixed / "run" / "environment.json").read_text())
    assert facts["num_processes"] == 2
    assert len(events(alone)) >= 9
    for ours, expected in zip(events(mixed), events(alone), strict=True):
        assert ours.keys() == expected.keys()
        for name, value in expected.items():
            if name.endswith(("tokens_per_s", "mfu", "time_s")):
                continue
            assert ours[name] == pytest.approx(value, rel=5e-4, abs=1e-6), (name, ours, expected)
    for name, tensor in weights(alone, 12).items():
        assert (weights(mixed, 12)[name] - tensor).norm() <= 2e-3 * tensor.norm()


def test_micro_batches_that_processes_cannot_share_are_refused() -> None:
    config = TrainingConfig(
        gradient_accumulation_steps=3, on_spike="rollback", batch_warmup_steps=5
    )
    with pytest.raises(
        ConfigError, match="allowed with 2 processes, which share them, is a"
    ) as error:
        check_world_size(config, 2)
    assert "multiple of 2, such as 2" in str(error.value)
    assert "batch_warmup_start: given 1, allowed with 2 processes" in str(error.value)
    assert "on_spike: given rollback, allowed with several processes is log" in str(error.value)
    check_world_size(config, 1)
