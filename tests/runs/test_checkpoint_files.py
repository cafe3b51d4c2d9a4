"""Optimizer state in a checkpoint's files is what the optimizers hold, and nothing is made up."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer

from sharpgpt.config import TrainingConfig
from sharpgpt.model.build import create_gpt2_model
from sharpgpt.runs import checkpoint_files
from sharpgpt.runs.checkpoint_files import STATE_TENSORS, load_tensors, training_tensors
from sharpgpt.training.optimizer import create_optimizers

CPU = torch.device("cpu")
UNUSED = "transformer.h.0.mlp.c_fc.weight"


def model_and_optimizers() -> tuple[nn.Module, list[Optimizer]]:
    causal_lm = create_gpt2_model(
        n_layer=1, n_head=2, n_embd=32, vocab_size=64, max_seq_length=32, end_of_text_id=None
    )
    return causal_lm, create_optimizers(causal_lm, TrainingConfig(optimizer="muon"))


@pytest.mark.parametrize("steps", [0, 2])
def test_state_is_saved_and_loaded_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Two optimizers, tied weights, a parameter that never had a gradient; before the first step
    there is no state, and saving makes none."""
    causal_lm, optimizers = model_and_optimizers()
    for _ in range(steps):
        for name, parameter in causal_lm.named_parameters():
            parameter.grad = None if name == UNUSED else torch.randn_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
    weights = {name: value.clone() for name, value in causal_lm.state_dict().items()}
    saved = training_tensors(causal_lm, optimizers, CPU)
    assert all(torch.equal(weights[name], value) for name, value in causal_lm.state_dict().items())
    stateful = {name.split("/")[1] for name in saved if name.startswith("optimizer/")}
    names = {name for name, _ in causal_lm.named_parameters()} - {UNUSED}
    assert stateful == (names if steps else set())

    save_file(saved, tmp_path / STATE_TENSORS)
    other, others = model_and_optimizers()
    monkeypatch.setattr(checkpoint_files, "_read_weights", lambda *_: weights)
    load_tensors(tmp_path, other, others, CPU)
    loaded = training_tensors(other, others, CPU)
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], value) for name, value in saved.items())
    assert all(torch.equal(weights[name], value) for name, value in other.state_dict().items())
    for group in others[1].param_groups:
        assert group["lr"] == TrainingConfig().learning_rate
