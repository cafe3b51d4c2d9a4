"""Validation: the same metrics for any batch size."""

import pytest
import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.evaluation.metrics import evaluate
from sharpgpt.model.build import create_gpt2_model
from sharpgpt.model.lm import SharpnessLM
from sharpgpt.runtime.device import choose_device


def test_evaluation_is_the_same_for_any_batch_size_and_leaves_the_mode() -> None:
    causal_lm = create_gpt2_model(
        n_layer=1, n_head=2, n_embd=16, vocab_size=31, max_seq_length=8, dropout=0.5,
        end_of_text_id=None,
    )  # fmt: skip
    model = SharpnessLM(causal_lm, penalty="top_k_mass", top_k=3).train()
    blocks_BT = torch.randint(31, (7, 8), generator=torch.Generator().manual_seed(0))
    device = choose_device(TrainingConfig(device="cpu", dtype="float32"))
    metrics = [
        evaluate(model, blocks_BT.split(size), penalty_weight=0.1, device=device)
        for size in (1, 3, 7)
    ]
    for other in metrics[1:]:
        assert other == pytest.approx(metrics[0], rel=1e-5)
    assert model.training
