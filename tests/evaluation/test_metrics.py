"""Means over rows: weighted by rows, whatever the batches."""

import math

import pytest
import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.evaluation.metrics import RowMeans, evaluate, perplexity
from sharpgpt.model.build import create_gpt2_model
from sharpgpt.model.lm import SharpnessLM
from sharpgpt.runtime.device import choose_device
from sharpgpt.sharpness import sharpness_loss


def test_means_are_over_rows_not_over_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_NV = torch.randn(10, 17, generator=generator)
    target_N = torch.randint(17, (10,), generator=generator)
    whole = sharpness_loss(logits_NV, target_N, penalty="neg_entropy")
    parts = RowMeans(torch.device("cpu"))
    for rows in (slice(0, 7), slice(7, 8), slice(8, 10)):
        output = sharpness_loss(
            logits_NV[rows], target_N[rows], penalty="neg_entropy", per_row=True
        )
        parts.add(output, penalty_weight=0.5)
    means = parts.means("x")
    assert means["x/ce_loss"] == pytest.approx(whole.ce.item())
    assert means["x/loss"] == pytest.approx((whole.ce + 0.5 * whole.penalty).item())
    assert means["x/avg_max_prob"] == pytest.approx(whole.max_prob.item())
    assert means["x/accuracy"] == pytest.approx(whole.accuracy.item())
    assert means["x/perplexity"] == pytest.approx(math.exp(whole.ce.item()))
    p_max_N = logits_NV.softmax(-1).amax(-1)
    assert parts.max_prob_histogram() == torch.histc(p_max_N, 20, 0, 1).int().tolist()

    again = RowMeans(torch.device("cpu"))
    again.restore(parts.state())
    assert again.means("x") == means
    assert again.max_prob_histogram() == parts.max_prob_histogram()


def test_evaluation_is_the_same_for_any_batch_size_and_leaves_the_mode() -> None:
    causal_lm = create_gpt2_model(
        n_layer=1, n_head=2, n_embd=16, vocab_size=31, max_seq_length=8, dropout=0.5,
        end_of_text_id=None,
    )  # fmt: skip
    model = SharpnessLM(causal_lm, penalty="top_k_mass", top_k=3).train()
    blocks_BT = torch.randint(31, (7, 8), generator=torch.Generator().manual_seed(0))
    device = choose_device(TrainingConfig(device="cpu"))
    figures = [
        evaluate(model, blocks_BT.split(size), penalty_weight=0.1, device=device)
        for size in (1, 3, 7)
    ]
    for other in figures[1:]:
        assert other == pytest.approx(figures[0], rel=1e-5)
    assert model.training


def test_perplexity_does_not_overflow() -> None:
    assert perplexity(1e4) == math.inf
