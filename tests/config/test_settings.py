"""`TrainingConfig`: names and defaults that existing experiment files rely on, and its errors."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from sharpgpt.config import ConfigError, TrainingConfig, penalised_positions
from sharpgpt.config.options import descriptions
from sharpgpt.config.yaml_files import commented_yaml, read_settings

REPOSITORY = Path(__file__).resolve().parents[2]

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


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = TrainingConfig(
        learning_rate=1e-5, betas=(0.8, 0.99), run_name="123", generate_prompt="\n: é #x", eps=1e-10
    )
    config.to_yaml(tmp_path / "a.yaml")
    assert TrainingConfig.from_yaml(tmp_path / "a.yaml") == config


def test_config_yaml_is_the_defaults_written_out() -> None:
    text = (REPOSITORY / "config.yaml").read_text(encoding="utf-8")
    assert text == commented_yaml(TrainingConfig()), "regenerate config.yaml: see CONTRIBUTING.md"


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda p: p.stem
)
def test_committed_configurations_load_and_open_with_a_recipe(path: Path) -> None:
    TrainingConfig.from_yaml(path)
    head = path.read_text(encoding="utf-8").splitlines()[:8]
    assert any(f"--config configs/{path.name}" in line for line in head)
    assert any("hardware" in line for line in head)
    assert any("expect" in line for line in head)


def test_floats_in_yaml_without_a_dot(tmp_path: Path) -> None:
    """YAML 1.1 reads 6e-4 as a text; users write it so."""
    (tmp_path / "a.yaml").write_text("learning_rate: 6e-4\n", encoding="utf-8")
    assert TrainingConfig.from_yaml(tmp_path / "a.yaml").learning_rate == 6e-4


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("penalty_wieght", 0.1, "did you mean penalty_weight?"),
        ("penalty_type", "neg_entropi", "did you mean neg_entropy?"),
        ("penalty_type", "sharp", "allowed is one of non_max_sum, neg_entropy"),
        ("penalty_type", "a b:c", "or an import path module:name"),
        ("batch_size", -4, "given -4, allowed is a whole number, at least 1"),
        ("batch_size", 10**400, "at least 1, at most 1000000000000"),
        ("num_workers", 10**6, "at least 0, at most 1024"),
        ("n_layer", 10**9, "at least 1, at most 10000"),
        ("num_epochs", 1e308, "above 0, at most 1000000000000"),
        ("batch_size", 2.5, "given 2.5, allowed is a whole number"),
        ("batch_size", True, "given true, allowed is a whole number"),
        ("batch_size", None, "given null"),
        ("learning_rate", "fast", "given 'fast', allowed is a number, above 0"),
        ("learning_rate", float("nan"), "given nan"),
        ("betas", [0.9], "a list of 2"),
        ("betas", [0.9, 1.0], "below 1"),
        ("use_wandb", "perhaps", "true or false"),
        ("generate_top_p", 0, "above 0, at most 1"),
    ],
)
def test_a_bad_value_raises_at_once(name: str, value: Any, message: str) -> None:
    config = TrainingConfig()
    before = config.to_dict()
    with pytest.raises(ConfigError, match=name) as caught:
        setattr(config, name, value)
    assert message in str(caught.value)
    assert config.to_dict() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"n_embd": 100},
            "n_embd: given 100 with n_head 12, allowed is a multiple",
        ),
        ({"max_seq_length": 2048}, "allowed for gpt2 is at most 1024"),
        ({"top_k": 50258}, "at most the vocabulary size, 50257"),
        ({"penalty_positions": "0:N-1"}, "penalty_positions"),
        ({"run_name": "../elsewhere"}, "plain folder name"),
        ({"resume": "auto"}, "set run_name too"),
        ({"device": "gpu"}, "allowed is one of auto, cpu, mps, cuda"),
    ],
)
def test_rules_between_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.from_dict(settings)
    assert message in str(caught.value)
    with pytest.raises(ConfigError):
        TrainingConfig(**settings)


def test_settings_may_disagree_while_they_are_being_assigned() -> None:
    config = TrainingConfig()
    config.n_embd = 100
    with pytest.raises(ConfigError):
        config.check()
    config.n_head = 10
    config.check()


def test_a_misspelt_keyword_names_the_nearest_setting() -> None:
    with pytest.raises(ConfigError, match="did you mean batch_size"):
        TrainingConfig(batch_sise=8)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        TrainingConfig(8)  # type: ignore[misc]
    assert copy.deepcopy(TrainingConfig(seed=3)) == TrainingConfig(seed=3)


def test_a_long_text_that_starts_like_a_number_is_read_fast(tmp_path: Path) -> None:
    """Found in review: it took time by the square of its length, hours for a file of 1 MB."""
    path = tmp_path / "long.yaml"
    path.write_text(f"run_name: {'1' * 1_000_000}x\n", encoding="utf-8")
    assert read_settings(path)["run_name"].endswith("1x")


def test_yaml_anchors_and_merges(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("<<: &base {seed: 3, top_k: 7}\nseed: 4\npenalty_positions: 5:30\n", "utf-8")
    config = TrainingConfig.from_yaml(path)
    assert (config.seed, config.top_k, config.penalty_positions) == (4, 7, "5:30")


def test_all_problems_in_one_message() -> None:
    bad = {"batch_sise": 1, 5: 6, "seed": -1, "top_k": 0, "n_embd": 100, "run_name": "a/b"}
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.from_dict(bad)
    assert len(caught.value.problems) == 6
    assert "6 problems" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("penalty_weight: 0.1\npenalty_weight: 0.2\n", "appears twice"),
        ("- a\n- b\n", "contains a list"),
        ("a: [1\n", "line 2"),
        ("key: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("\ttab: 1\n", "line 1"),
        ("? [a, b]\n: 1\n", "a list or mapping as a name"),
        ("run_name: 2026-13-01\n", "a value cannot be read: month"),
        ("(: !!bool", "a value "),  # found by fuzzing: a KeyError
        ("seed: " + 5000 * "1" + "\n", "a value cannot be read"),
    ],
)
def test_files_that_are_not_settings(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.from_yaml(path)
    assert message in str(caught.value)
    assert "bad.yaml" in str(caught.value)


def test_a_missing_file_names_the_files_that_exist(tmp_path: Path) -> None:
    (tmp_path / "quick_test.yaml").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"did you mean .*quick_test\.yaml"):
        TrainingConfig.from_yaml(tmp_path / "quicktest.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"run_name: caf\xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        TrainingConfig.from_yaml(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:N-2", (0, 62)),
        ("N/2:N-2", (32, 62)),
        ("5:5", (5, 5)),
        (" 0 : N/4 ", (0, 16)),
    ],
)
def test_penalised_positions(text: str, expected: tuple[int, int]) -> None:
    assert penalised_positions(text, 64) == expected


@pytest.mark.parametrize("text", ["", "5", "N:0", "0:N", "a:b", "3:2", "0:N/0", "1-2:3", "-1:5"])
def test_positions_outside_the_block(text: str) -> None:
    with pytest.raises(ValueError, match="given"):
        penalised_positions(text, 64)
