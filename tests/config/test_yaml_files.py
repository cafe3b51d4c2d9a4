"""Settings files: what is read, what is written, and what is refused."""

from pathlib import Path

import pytest

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.config.yaml_files import read_settings


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = TrainingConfig(
        learning_rate=1e-5, betas=(0.8, 0.99), run_name="123", generate_prompt="\n: é #x", eps=1e-10
    )
    config.to_yaml(tmp_path / "a.yaml")
    assert TrainingConfig.from_yaml(tmp_path / "a.yaml") == config


def test_floats_in_yaml_without_a_dot(tmp_path: Path) -> None:
    """YAML 1.1 reads 6e-4 as a text; users write it so."""
    (tmp_path / "a.yaml").write_text("learning_rate: 6e-4\n", encoding="utf-8")
    assert TrainingConfig.from_yaml(tmp_path / "a.yaml").learning_rate == 6e-4


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
