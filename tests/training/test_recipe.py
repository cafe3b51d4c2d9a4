"""Each setting of docs/recipe.md trains, and is in that document."""

from collections.abc import Callable
from typing import Any

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.config.kinds import Kind
from sharpgpt.config.resume_rules import KINDS
from sharpgpt.training.train import train
from tests.conftest import REPOSITORY
from tests.run_reading import records

MUON = {"optimizer": "muon", "muon_learning_rate": 6e-3}


@pytest.mark.usefixtures("quick_runs")
@pytest.mark.parametrize(
    "settings",
    [
        {"lr_schedule": "linear", "min_lr_ratio": 0.0},
        {"lr_schedule": "wsd", "lr_decay_fraction": 0.5},
        {"gradient_accumulation_steps": 4, "batch_size": 2, "batch_warmup_steps": 9},
        MUON | {"muon_momentum_warmup_steps": 9, "muon_nesterov": False, "muon_weight_decay": 0.0},
        MUON | {"muon_normalization": "neuron"},
        MUON | {"muon_split_qkv": True, "muon_momentum": 0.9},
    ],
)
def test_twenty_steps_lower_the_loss(
    tiny_config: Callable[..., TrainingConfig], settings: dict[str, Any]
) -> None:
    quick = {"num_generate_samples": 0, "eval_interval": 0, "eval_max_blocks": 4}
    result = train(tiny_config(**quick | settings))
    losses = [event["train/loss"] for event in records(result.run_folder) if "train/loss" in event]
    assert losses[0] > 4.0, "ln 65 and more"
    assert losses[-1] < losses[0] - 0.4, losses


def test_the_document_has_every_setting_of_a_schedule_and_of_muon() -> None:
    text = (REPOSITORY / "docs" / "recipe.md").read_text(encoding="utf-8")
    schedules = {name for name, kind in KINDS.items() if kind is Kind.SCHEDULE}
    wanted = {name for name in schedules if not name.startswith("penalty")}
    wanted |= {name for name in KINDS if name.startswith("muon_")}
    assert {name for name in wanted if f"`{name}" not in text} == set()
