"""A run whose logits are capped: what was trained is what is evaluated, sampled and published."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sharpgpt.commands.main import main
from sharpgpt.config import TrainingConfig
from sharpgpt.core.jsonio import read_object
from sharpgpt.evaluation.evaluate import evaluate
from sharpgpt.evaluation.saved_model import load_model
from sharpgpt.training.train import train

CAP = 1.5
"""So low that a model of 20 steps has reached it."""


@pytest.mark.usefixtures("quick_runs")
def test_what_was_trained_is_what_is_evaluated_sampled_and_published(
    tiny_config: Callable[..., TrainingConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers import AutoModelForCausalLM

    how = {"logit_softcap": CAP, "learning_rate": 3e-2, "penalty_weight": 0.0, "dtype": "float32"}
    result = train(tiny_config(**how))
    log = (result.run_folder / "log.txt").read_text(encoding="utf-8")
    assert "transformers' own GPT2LMHeadModel ignores final_logit_softcapping" in log
    checkpoint = result.run_folder / "checkpoints" / "step_00000020"
    assert read_object(checkpoint / "config.json")["final_logit_softcapping"] == CAP

    evaluation = evaluate(
        checkpoint, num_texts=0, max_blocks=16, max_seq_length=32, dtype="float32"
    )
    ce = evaluation.models[0]["figures"]["ce"]["estimate"]
    assert ce == pytest.approx(result.metrics["val/ce_loss"], rel=1e-5)

    # Sampling calls the model; transformers alone does not cap what this architecture predicts.
    ids_BT = torch.arange(32)[None]
    ours, plain = load_model(checkpoint).causal_lm, AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        capped_BTV, raw_BTV = ours(ids_BT).logits, plain(ids_BT).logits
    assert raw_BTV.abs().max() > CAP
    torch.testing.assert_close(capped_BTV, CAP * (raw_BTV / CAP).tanh())

    capsys.readouterr()
    assert main(["push", str(checkpoint), "me/tiny", "--dry_run", str(tmp_path / "card")]) == 0
    said = capsys.readouterr()
    assert "whoever loads this one without SharpGPT gets other probabilities" in said.out + said.err
    card = (tmp_path / "card" / "README.md").read_text(encoding="utf-8")
    assert "transformers ignores it in `gpt2` models" in card
    assert "`logits = 1.5 * torch.tanh(logits / 1.5)`" in card
    assert "| `logit_softcap` | 1.5 |" in card
    assert "In full: loss = cross-entropy of logits capped at 1.5." in card.replace("\\", "")
