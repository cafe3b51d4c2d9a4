"""The command line: flags for every setting, precedence, and one message for all problems."""

import dataclasses
import os
from pathlib import Path

import pytest

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.config.training_flags import parse_training_flags, training_parser


def parse(*argv: str) -> TrainingConfig:
    return parse_training_flags(argv, "train.py")[0]


def test_every_setting_is_a_flag_with_underscores() -> None:
    help_text = training_parser("train.py").format_help()
    for field in dataclasses.fields(TrainingConfig):
        assert f"--{field.name} " in help_text


def test_defaults_then_file_then_flags(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("penalty_weight: 0.5\ntop_k: 7\n", encoding="utf-8")
    config = parse("--config", str(path), "--penalty_weight", "0.05")
    assert (config.penalty_weight, config.top_k, config.batch_size) == (0.05, 7, 8)


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--no_wandb"], "use_wandb", False),
        (["--no_use_wandb"], "use_wandb", False),
        (["--use_wandb=False"], "use_wandb", False),
        (["--use_wandb", "true"], "use_wandb", True),
        (["--compile"], "compile", True),
        (["--compile=true"], "compile", True),
        (["--penalty_weight", "-1e-3"], "penalty_weight", -1e-3),
        (["--penalty_weight=-.5"], "penalty_weight", -0.5),
        (["--learning_rate", "6e-4"], "learning_rate", 6e-4),
        (["--betas", "0.8", "0.99"], "betas", (0.8, 0.99)),
        (["--betas=[0.8, 0.99]"], "betas", (0.8, 0.99)),
        (["--max_steps", "null"], "max_steps", None),
        (["--run_name", "007"], "run_name", "007"),
        (["--penalty_positions", "N/2:N-2"], "penalty_positions", "N/2:N-2"),
        (["--generate_prompt", "ROMEO: "], "generate_prompt", "ROMEO: "),
        # as a wandb sweep writes Python's values
        (["--run_name=None"], "run_name", None),
        (["--max_steps=None"], "max_steps", None),
        (["--learning_rate=1e-05"], "learning_rate", 1e-5),
        (["--use_wandb=True"], "use_wandb", True),
        (["--batch_size=1_000"], "batch_size", 1000),
        (["--batch_size", "1e3"], "batch_size", 1000),
        (["--batch_size=3.0"], "batch_size", 3),
        (["--compile=on"], "compile", True),
        (["--wandb_project=None"], "wandb_project", "None"),
        (["--wandb_entity=~"], "wandb_entity", "~"),
    ],
)
def test_values(argv: list[str], name: str, value: object) -> None:
    assert getattr(parse(*argv), name) == value


def test_settings_from_a_pipe() -> None:
    """`--config <(...)` of bash is such a path."""
    reading, writing = os.pipe()
    os.write(writing, b"wandb_project: 1.10\n")
    os.close(writing)
    assert parse("--config", f"/dev/fd/{reading}").wandb_project == "1.10"
    os.close(reading)


def test_dry_run_is_no_setting() -> None:
    assert parse_training_flags(["--dry_run"], "train.py")[1]
    assert not parse_training_flags([], "train.py")[1]


def test_all_problems_of_file_and_flags_in_one_message(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("penalty_typo: x\nbatch_size: 0\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        parse("--config", str(path), "--top_k", "five", "--penalty_wieght", "3")
    message = str(caught.value)
    for part in (
        "penalty_typo: no such setting",
        "batch_size: given 0",
        "top_k: given 'five'",
        "--penalty_wieght: no such flag; did you mean --penalty_weight?",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--penalty-weight", "3"], "did you mean --penalty_weight"),
        (["quick_test.yaml"], "quick_test.yaml: not a flag"),
        (["--top_k"], "expected one argument"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--penalty_w", "1"], "--penalty_w: no such flag"),
        (["--n_layer", 5000 * "9"], "n_layer: given '999"),  # found by fuzzing: a ValueError
        (["--n_layer", "!!bool"], "n_layer: given '!!bool'"),
        (["--n_layer", 5000 * "["], "n_layer: given '[[["),
        (["--seed", "1:30"], "seed: given '1:30'"),  # not 90, as in the files
    ],
)
def test_bad_command_lines(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(*argv)
    assert message in str(caught.value)


def test_code_that_a_file_names_is_not_run_unless_the_user_says_so(tmp_path: Path) -> None:
    """A config.yaml from anyone named a module beside it, which --dry_run imported."""
    path = tmp_path / "a.yaml"
    path.write_text("penalty_type: some_module:PENALTY\n", encoding="utf-8")
    refused = "what is there would be imported and run"
    for argv in ([], ["--dry_run"], ["--penalty_weight=1"], ["--no_allow_import"]):
        with pytest.raises(ConfigError) as caught:
            parse("--config", str(path), *argv)
        assert refused in str(caught.value)
    with pytest.raises(ConfigError, match="some_module"):
        TrainingConfig.from_yaml(path)
    config = TrainingConfig.from_yaml(path, allow_import=True)
    assert parse("--config", str(path), "--allow_import") == config
    assert parse("--config", str(path), "--penalty_type", "some_module:PENALTY") == config
    assert parse("--penalty_type", "some_module:PENALTY") == config
    assert TrainingConfig(penalty_type="some_module:PENALTY") == config
    assert parse("--config", str(path), "--penalty_type", "neg_entropy").penalty_weight == 0.01
    path.write_text("penalty_type: some_module:PENALTY\nallow_import: true\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:  # which a file cannot allow itself
        parse("--config", str(path))
    assert "allow_import: no such setting" in str(caught.value)
    assert refused in str(caught.value)
