"""lm-evaluation-harness reads a checkpoint folder and finds what `sharpgpt evaluate` finds.

    lm_eval --model hf --model_args pretrained=FOLDER

The two cut a text in the same way when the harness is given the first token of the split as what
stands before the text, and one position less than a block has: each window then begins with the
last token of the one before it.
"""

import json
import math
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sharpgpt.commands.main import main
from sharpgpt.config import TrainingConfig
from sharpgpt.evaluation.predictions import predict_tokens
from sharpgpt.evaluation.saved_model import SavedModel, load_model
from sharpgpt.evaluation.validation_text import open_validation_text
from sharpgpt.runs.resolve import resolve_model
from sharpgpt.training.train import train

BLOCK = 48
TASKS = Path(__file__).parent / "tasks"
WORDS = "the the the and and king queen night shall see gold ship we you a of storm x qj"


@dataclass(frozen=True)
class Answers:
    """What the harness and `sharpgpt evaluate` say about one checkpoint."""

    saved: SavedModel
    ours: dict[str, Any]
    """EVALUATION."""
    theirs: dict[str, Any]
    """Task -> results."""
    choices: list[dict[str, Any]]
    """What the harness noted of each question."""
    num_predicted: int
    num_bytes: int
    """Of the text, without its first token."""


@pytest.fixture(scope="module", params=["char", "gpt2"])
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARPGPT_OFFLINE", "1")
        patch.setenv("SHARPGPT_CACHE", str(folder / "cache"))
        run_folder = trained(folder, request.param)
        flags = ["--num_texts", "0", "--device", "cpu", "--output", str(folder / "ours")]
        assert main(["evaluate", str(run_folder), *flags]) == 0
        saved = load_model(run_folder, torch.device("cpu"))
        blocks = open_validation_text(saved).blocks[:]
    ours = json.loads((folder / "ours/evaluation.json").read_text())["evaluations"][0]

    # Neighbouring blocks share a token: together they are the text, but for a rest at its end.
    ids = [int(blocks[0, 0]), *blocks[:, 1:].flatten().tolist()]
    text = saved.tokenizer.decode(ids[1:])
    assert saved.tokenizer(text)["input_ids"] == ids[1:], "the cut changed the tokens"
    shutil.copytree(TASKS, folder / "tasks")
    (folder / "tasks/text.jsonl").write_text(json.dumps({"text": text}) + "\n")
    # A character model has no token that begins a text; for GPT-2 it would be <|endoftext|>.
    model = (
        f"pretrained={resolve_model(run_folder)},max_length={BLOCK - 1},prefix_token_id={ids[0]}"
    )
    command = [
        sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", model,
        "--tasks", "sharpgpt_text,sharpgpt_choice", "--include_path", "tasks", "--device", "cpu",
        "--batch_size", "16", "--output_path", "theirs", "--log_samples",
    ]  # fmt: skip
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    subprocess.run(command, cwd=folder, env=environment, check=True)
    (results,) = (folder / "theirs").rglob("results_*.json")
    (samples,) = (folder / "theirs").rglob("samples_sharpgpt_choice_*.jsonl")
    return Answers(
        saved, ours, json.loads(results.read_text())["results"],
        [json.loads(line) for line in samples.read_text().splitlines()],
        len(ids) - 1, len(text.encode()),
    )  # fmt: skip


def trained(folder: Path, tokenizer: str) -> Path:
    """The run folder of a model that has learned a little of a text of random words."""
    draw, words = random.Random(0), WORDS.split()
    lines = (" ".join(draw.choice(words) for _ in range(10)) for _ in range(1500))
    (folder / "text.txt").write_text("\n".join(lines) + "\n")
    settings = {
        "tokenizer": tokenizer, "dataset": str(folder / "text.txt"), "n_layer": 1, "n_head": 2,
        "n_embd": 32, "max_seq_length": BLOCK, "batch_size": 8, "max_steps": 60,
        "gradient_accumulation_steps": 1, "warmup_steps": 5, "learning_rate": 1e-2,
        "use_wandb": False, "device": "cpu", "num_workers": 0, "num_generate_samples": 0,
        "eval_max_blocks": 4, "output_dir": str(folder / "outputs"), "run_name": "tiny",
        "penalty_type": "neg_entropy", "penalty_weight": 0.1,
    }  # fmt: skip
    return train(TrainingConfig.from_dict(settings)).run_folder


def test_the_log_likelihood_is_that_of_evaluate(answers: Answers) -> None:
    found = answers.theirs["sharpgpt_text"]
    nats = math.log(found["byte_perplexity,none"]) * answers.num_bytes
    ours = answers.ours["figures"]
    assert nats / answers.num_predicted == pytest.approx(ours["ce"]["estimate"], rel=1e-4)
    perplexity = math.exp(nats / answers.num_predicted)
    assert perplexity == pytest.approx(ours["perplexity"]["estimate"], rel=1e-4)
    bits = found["bits_per_byte,none"]
    assert bits == pytest.approx(ours["bits_per_byte"]["estimate"], rel=1e-4)
    assert ours["ce"]["estimate"] < 0.8 * math.log(len(answers.saved.tokenizer)), "it learned"


def test_choices_have_the_log_likelihood_of_their_tokens(answers: Answers) -> None:
    right = 0
    assert len(answers.choices) == 4
    for question in answers.choices:
        document = question["doc"]
        ours = [log_likelihood(answers.saved, document["context"], choice)
                for choice in document["choices"]]  # fmt: skip
        theirs = [float(response[0][0]) for response in question["resps"]]
        assert theirs == pytest.approx(ours, rel=1e-4)
        right += int(np.argmax(ours)) == document["answer"]
    assert answers.theirs["sharpgpt_choice"]["acc,none"] == right / 4


def log_likelihood(saved: SavedModel, context: str, choice: str) -> float:
    """Of the choice after the context, in nats."""
    before, both = (saved.tokenizer(text)["input_ids"] for text in (context, context + choice))
    assert both[: len(before)] == before
    rows = predict_tokens(
        saved.causal_lm, torch.tensor(both), window=saved.max_length, num_candidates=1
    )
    return -float(rows.ce[len(before) - 1 :].sum())
