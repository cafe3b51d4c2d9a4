"""`sharpgpt compare` as a command: planted truths get their verdict, runs are taken together."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpgpt.commands.main import main
from sharpgpt.config import TrainingConfig
from sharpgpt.data.sources.tinyshakespeare_standin import standin_text
from sharpgpt.training.train import train
from tests.bigram_models import BLOCK, save_model, save_text, table, wte_of
from tests.conftest import make_runs_quick


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    noise = torch.randn(wte_of().shape, generator=torch.Generator().manual_seed(7))
    save_model(folder / "truth", wte_of())
    save_model(folder / "rescaled", wte_of(), scale=1.6)
    save_model(folder / "noisy", wte_of() + 0.12 * noise, scale=1.6)
    save_text(folder / "text.txt", table(wte_of()), 20_000)
    return folder


def compared(folder: Path, output: Path, baseline: str, *others: str) -> dict[str, Any]:
    words = ["--baseline", str(folder / baseline), *(str(folder / one) for one in others)]
    words += ["--data", str(folder / "text.txt"), "--max_seq_length", str(BLOCK)]
    assert main(["compare", *words, "--num_texts", "0", "--output", str(output)]) == 0
    assert (output / "comparison.html").is_file()
    content: dict[str, Any] = json.loads((output / "comparison.json").read_text())
    return content


@pytest.mark.usefixtures("no_picture_files")
def test_a_rescaling_and_a_harm(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = compared(planted, tmp_path, "truth", "rescaled", "noisy")
    rescaled, noisy = content["models"]
    control = rescaled["controls"]["temperature"]
    assert rescaled["verdict"] == "not distinguishable"
    assert control["parameter"] == [pytest.approx(1 / 1.6, rel=1e-4)]
    assert abs(control["estimate"]) < 1e-5
    assert control["high"] - control["low"] < 1e-4, "a rescaling leaves nothing to be unsure of"
    assert rescaled["unchanged_by_temperature"]["accuracy"]["estimate"] == 0
    assert noisy["verdict"] == "worse"
    assert noisy["controls"]["temperature"]["low"] > 0.001
    assert rescaled["corrected"]["verdict"] == "not distinguishable"
    assert noisy["corrected"]["verdict"] == "worse"
    assert noisy["corrected"]["p_value"] == pytest.approx(2 * noisy["p_value"])
    shown = capsys.readouterr().out
    assert "noisy: Worse than sharpening afterwards" in shown
    assert "rescaled: Not distinguishable from sharpening afterwards" in shown


@pytest.mark.usefixtures("no_picture_files")
def test_an_improvement(planted: Path, tmp_path: Path) -> None:
    [truth] = compared(planted, tmp_path, "noisy", "truth")["models"]
    assert truth["verdict"] == "better"
    assert set(truth["controls"]) == {"temperature", "entropy map"}
    assert all(control["call"] == "better" for control in truth["controls"].values())
    assert truth["best_temperatures"]["high"] < 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline and a penalised configuration with two seeds each, and one of another seed."""
    folder = tmp_path_factory.mktemp("runs")
    config = TrainingConfig(
        tokenizer="char", n_layer=1, n_head=1, n_embd=16, max_seq_length=16, batch_size=8,
        gradient_accumulation_steps=1, max_steps=4, warmup_steps=1, use_wandb=False, device="cpu",
        num_workers=0, num_generate_samples=0, eval_max_blocks=4, output_dir=str(folder), top_k=3,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARPGPT_OFFLINE", "1")
        patch.setenv("SHARPGPT_CACHE", str(folder / "cache"))
        make_runs_quick(patch)
        for weight, seed in ((0.0, 1), (0.0, 2), (0.5, 1), (0.5, 2), (0.5, 3), (0.25, 1)):
            name = f"w{weight:g}_seed{seed}"
            penalty = "top_k_mass" if weight == 0.25 else "neg_entropy"
            train(
                replace(
                    config, penalty_weight=weight, penalty_type=penalty, seed=seed, run_name=name
                )
            )
    return folder


def test_seeds_are_taken_together(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("w0.5_seed1", "w0.5_seed2", "w0.5_seed3", "w0.25_seed1")
    words = ["--baseline", str(runs / "w0_seed1"), "--baseline", str(runs / "w0_seed2")]
    words += [str(runs / name) for name in names]
    words += ["--max_blocks", "40", "--num_texts", "2", "--num_tokens", "12"]
    assert main(["compare", *words, "--output", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["top_k"] == 3
    assert content["data"]["is_stand_in"]
    entropy, top_k = content["models"]
    assert (entropy["name"], entropy["num_seeds"]) == ("neg_entropy 0.5", 2)
    assert len(entropy["controls"]["temperature"]["differences"]) == 2
    assert [run["seed"] for run in entropy["runs"]] == [1, 2]
    assert (top_k["name"], top_k["num_seeds"]) == ("top_k_mass 0.25", 1)
    assert set(top_k["controls"]) == {"temperature", "entropy map", "top-k map"}
    assert (
        top_k["own_map"]["entropy"]
        < content["baseline"]["runs"][0]["temperature"]["entropy_unchanged"]
    )
    assert len(content["curves"]["neg_entropy 0.5"]) == 2
    assert {row["name"] for row in content["settings"]} == {"penalty_type", "penalty_weight"}
    assert entropy["runs"][0]["generation"]["judge"] == "w0_seed1"
    assert "left out for want of a baseline of the same seed" in capsys.readouterr().out


def test_the_power_of_a_pilot_of_runs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`sharpgpt power` compares them first; one seed tells nothing of the variance between them."""
    words = ["--baseline", *(str(runs / f"w0_seed{seed}") for seed in (1, 2)), "--max_blocks=8"]
    words += ["--pilot", *(str(runs / f"w0.5_seed{seed}") for seed in (1, 2)), "--detect=0.01"]
    assert main(["power", *words]) == 0
    shown = capsys.readouterr().out
    assert "Pilot: 1 arm, 128 tokens" in shown
    assert "known from 2 seeds alone" in shown
    assert "earlier version" not in shown
    words = ["--pilot", str(runs / "w0.5_seed1"), "--baseline", str(runs / "w0_seed1")]
    assert main(["power", *words, "--max_blocks=4", "--detect=0.01"]) == 1
    assert "no arm was compared with at least 2 seeds" in capsys.readouterr().err


def test_invalid_comparisons_are_refused(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, penalised = str(runs / "w0_seed1"), str(runs / "w0.5_seed1")
    for words, code, message in (
        (["--baseline", penalised, base], 1, "was trained with penalty_weight 0.5"),
        (["--baseline", base, base], 1, "the same model as"),
        (["--baseline", base, penalised, "--margin", "0"], 2, "margin: given 0,"),
    ):
        assert main(["compare", *words, "--output", str(tmp_path / "out")]) == code
        shown = capsys.readouterr()
        assert message in shown.err
        assert "Traceback" not in shown.err
    assert not (tmp_path / "out").exists()


def test_two_checkpoints_of_one_run_are_no_two_seeds(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(runs / "w0.5_seed1", twin)
    words = ["--baseline", str(runs / "w0_seed1"), str(runs / "w0.5_seed1"), str(twin)]
    assert main(["compare", *words, "--output", str(tmp_path / "out")]) == 1
    assert "runs of the same settings with the same seed, 1" in capsys.readouterr().err


@pytest.mark.usefixtures("no_picture_files", "quick_runs")
def test_a_model_that_was_trained_on_another_text_gets_a_note(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second one, whose text is not that which is opened for the first."""
    other = tmp_path / "text.txt"
    other.write_text(standin_text() + "\nFinis.\n", "utf-8")
    config = TrainingConfig.from_yaml(runs / "w0.5_seed1" / "config.yaml")
    train(replace(config, dataset=str(other), run_name="other", output_dir=str(tmp_path)))
    words = ["--baseline", str(runs / "w0_seed1"), str(tmp_path / "other"), "--max_blocks", "8"]
    assert main(["compare", *words, "--num_texts", "0", "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "NOTE: other was trained on another text than what shakespeare-standin is here" in shown
    assert "not about the penalty alone: training text" in shown
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert "its training text may be in the validation text" in content["data"]["note"]
