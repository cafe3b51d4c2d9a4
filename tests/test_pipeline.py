"""A checkpoint folder is a HuggingFace model: transformers alone loads it and writes with it."""

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest

from sharpgpt.commands.sample import parse, run
from sharpgpt.config import TrainingConfig
from sharpgpt.runs.resolve import resolve_model
from sharpgpt.training.train import train
from tests.conftest import make_runs_quick

PROMPT = "the queen"


@pytest.fixture(scope="module", params=["char", "gpt2"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "text.txt").write_text("the king sees the queen.\nthe queen sees a ship.\n" * 200)
    settings = {
        "tokenizer": request.param, "dataset": str(folder / "text.txt"), "n_layer": 1,
        "n_head": 2, "n_embd": 16, "max_seq_length": 32, "batch_size": 4, "max_steps": 10,
        "gradient_accumulation_steps": 1, "warmup_steps": 1, "learning_rate": 1e-2,
        "use_wandb": False, "device": "cpu", "num_workers": 0, "num_generate_samples": 0,
        "eval_max_blocks": 2, "output_dir": str(folder), "run_name": "tiny",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        make_runs_quick(patch)
        return resolve_model(train(TrainingConfig.from_dict(settings)).run_folder)


def sampled(checkpoint: Path, *words: Any) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run(parse([str(word) for word in (checkpoint, *words)], "sample")) == 0
    return out.getvalue()


def test_a_pipeline_writes_what_sample_writes(checkpoint: Path) -> None:
    """A warning of transformers about the folder would be an error here."""
    from transformers import pipeline

    generator = pipeline("text-generation", model=str(checkpoint))
    found = generator(PROMPT, max_new_tokens=15, do_sample=False)
    flags = ("--prompt", PROMPT, "--max_new_tokens", 15, "--temperature", 0)
    assert found == [{"generated_text": sampled(checkpoint, *flags).removesuffix("\n")}]
    drawn = generator(PROMPT, max_new_tokens=15, do_sample=True, num_return_sequences=3)
    assert len(drawn) == 3
    assert all(text["generated_text"].startswith(PROMPT) for text in drawn)


def test_the_folder_asks_for_no_code(checkpoint: Path) -> None:
    """Neither the model nor the tokenizer has a class of its own (auto_map), nor a pickle."""
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in (checkpoint / name).read_text()
    kinds = {path.suffix for path in checkpoint.iterdir()}
    assert kinds <= {".json", ".safetensors", ".txt"}
