"""`TrainingConfig`: names and defaults that existing experiment files rely on, and its errors."""

import copy
import dataclasses
from pathlib import Path

import pytest

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.config.options import descriptions
from sharpgpt.config.yaml_files import commented_yaml
from tests.conftest import REPOSITORY, committed_configurations

ESTABLISHED = {
    "model_name": "gpt2",
    "dataset": "tinyshakespeare",
    "max_seq_length": 1024,
    "batch_size": 8,
    "gradient_accumulation_steps": 4,
    "num_epochs": 10,
    "learning_rate": 6e-4,
    "weight_decay": 0.1,
    "warmup_steps": 500,
    "max_grad_norm": 1.0,
    "min_lr_ratio": 0.1,
    "penalty_type": "non_max_sum",
    "penalty_weight": 0.01,
    "top_k": 5,
    "betas": (0.9, 0.95),
    "eps": 1e-8,
    "use_wandb": True,
    "wandb_project": "gpt2-entropy-regularization",
    "wandb_entity": None,
    "log_interval": 10,
    "eval_interval": 500,
    "save_interval": 1000,
    "generate_interval": 500,
    "num_generate_samples": 3,
    "generate_max_length": 100,
    "generate_temperature": 1.0,
    "generate_top_p": 0.9,
    "device": "auto",
    "seed": 42,
    "output_dir": "./outputs",
    "checkpoint_dir": None,
    "dropout": 0.0,
    "penalty_positions": "0:N-2",
}


def test_established_names_and_defaults() -> None:
    config = TrainingConfig()
    assert {name: getattr(config, name) for name in ESTABLISHED} == ESTABLISHED


def test_every_setting_has_a_description() -> None:
    names = [field.name for field in dataclasses.fields(TrainingConfig)]
    assert list(descriptions(TrainingConfig)) == names


def test_config_yaml_is_the_defaults_written_out() -> None:
    text = (REPOSITORY / "config.yaml").read_text(encoding="utf-8")
    assert text == commented_yaml(TrainingConfig()), "regenerate config.yaml: see CONTRIBUTING.md"


@pytest.mark.parametrize("path", committed_configurations(), ids=lambda p: p.stem)
def test_committed_configurations_load_and_open_with_a_recipe(path: Path) -> None:
    TrainingConfig.from_yaml(path)
    head = path.read_text(encoding="utf-8").splitlines()[:8]
    assert any(f"--config configs/{path.name}" in line for line in head)
    assert any("hardware" in line for line in head)
    assert any("expect" in line for line in head)


def test_a_misspelt_keyword_names_the_nearest_setting() -> None:
    with pytest.raises(ConfigError, match="did you mean batch_size"):
        TrainingConfig(batch_sise=8)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        TrainingConfig(8)  # type: ignore[misc]
    assert copy.deepcopy(TrainingConfig(seed=3)) == TrainingConfig(seed=3)
