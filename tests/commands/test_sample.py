import argparse
import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpgpt.commands.sample import add_arguments, problems, run
from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.evaluation.saved_model import load_model
from sharpgpt.runs.resolve import resolve_model
from sharpgpt.training.train import train


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    settings = {
        "tokenizer": "char", "n_layer": 1, "n_head": 1, "n_embd": 16, "max_seq_length": 16,
        "max_steps": 2, "use_wandb": False, "device": "cpu", "num_workers": 0, "warmup_steps": 1,
        "num_generate_samples": 0, "output_dir": str(folder), "run_name": "tiny",
        "eval_max_blocks": 2,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARPGPT_OFFLINE", "1")
        patch.setenv("SHARPGPT_CACHE", str(folder / "cache"))
        return train(TrainingConfig.from_dict(settings)).run_folder


def flags(*words: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def sampled(*words: Any) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run(flags(*words)) == 0
    return out.getvalue()


def test_a_sample_has_its_length_and_follows_its_seed(run_folder: Path) -> None:
    """Past the model's window of 16 as well."""
    how = (run_folder, "--prompt", "ROMEO:", "--max_new_tokens", 50)
    text = sampled(*how, "--seed", 3)
    assert text.startswith("ROMEO:")
    assert len(text) == len("ROMEO:") + 50 + 1
    assert sampled(*how, "--seed", 3) == text
    assert sampled(*how, "--seed", 4) != text
    both = sampled(*how, "--seed", 3, "--num_samples", 2)
    assert both.startswith(f"--- sample 1 of 2\n{text}--- sample 2 of 2\nROMEO:")
    assert both.endswith(sampled(*how, "--seed", 4))


def test_temperature_0_and_top_k_1_take_the_most_probable(run_folder: Path) -> None:
    greedy = sampled(run_folder, "--temperature", 0)
    assert sampled(run_folder, "--temperature", 0, "--seed", 9) == greedy
    assert sampled(run_folder, "--top_k", 1, "--seed", 5) == greedy


def test_all_wrong_flags_are_named() -> None:
    wrong = flags("x", "--temperature", "-1", "--top_p", 0, "--num_samples", 0, "--prompt", "")
    names = [problem.split(":")[0] for problem in problems(wrong)]
    assert names == ["--num_samples", "--temperature", "--top_p", "--prompt"]
    assert problems(flags("x")) == []
    assert problems(flags("x", "--temperature", "nan"))


def test_a_character_without_a_token_is_named(run_folder: Path) -> None:
    with pytest.raises(UserError, match="--prompt: 'ж' cannot be encoded"):
        sampled(run_folder, "--prompt", "ж")


def test_folders_that_hold_no_model(run_folder: Path, tmp_path: Path) -> None:
    assert resolve_model(run_folder) == resolve_model(resolve_model(run_folder))
    with pytest.raises(UserError, match="no such folder"):
        resolve_model(tmp_path / "none")
    with pytest.raises(UserError, match="holds no model"):
        resolve_model(tmp_path)
    damaged = tmp_path / "damaged"
    shutil.copytree(resolve_model(run_folder), damaged)
    (damaged / "model.safetensors").write_bytes(b"123")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_model(damaged, torch.device("cpu"))
    (damaged / "checkpoint.json").unlink()
    with pytest.raises(UserError, match="cannot be read as a HuggingFace causal LM"):
        load_model(damaged, torch.device("cpu"))
    config = json.loads((damaged / "config.json").read_text("utf-8")) | {"n_layer": 10**9}
    (damaged / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(UserError, match="given 1000000000 layers, allowed are at most"):
        load_model(damaged, torch.device("cpu"))
