"""Means over rows: weighted by rows, whatever the batches."""

import math

import pytest
import torch

from sharpgpt.core.metrics import ROW_MEANS
from sharpgpt.model.row_means import RowMeans, perplexity
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
        parts.add(output, penalty_weight=0.5, z_loss_weight=0.1, label_smoothing=0.2)
    means = parts.means("x/")
    assert means["x/ce_loss"] == pytest.approx(whole.ce.item())
    loss = whole.ce + 0.5 * whole.penalty + 0.1 * whole.z_loss + 0.2 * whole.smoothing
    assert means["x/loss"] == pytest.approx(loss.item())
    assert means["x/z_loss"] == pytest.approx(logits_NV.logsumexp(-1).square().mean().item())
    assert means["x/avg_max_prob"] == pytest.approx(whole.max_prob.item())
    assert means["x/accuracy"] == pytest.approx(whole.accuracy.item())
    assert means["x/perplexity"] == pytest.approx(math.exp(whole.ce.item()))
    p_max_N = logits_NV.softmax(-1).amax(-1)
    assert parts.histogram() == torch.histc(p_max_N, 20, 0, 1).int().tolist()

    again = RowMeans(torch.device("cpu"))
    again.restore(parts.sums(), parts.histogram())
    assert again.means("x/") == means
    assert again.histogram() == parts.histogram()


def test_a_metric_without_a_sum_starts_with_no_rows_and_one_of_no_metric_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As in a checkpoint written before the metric was added, or after it was removed."""
    sums = {metric.name: (8.0, 4.0) for metric in ROW_MEANS if metric.name != "entropy"}
    rows = RowMeans(torch.device("cpu"))
    rows.restore(sums | {"min_prob": (1.0, 4.0)}, [0] * 20)
    assert "min_prob" in caplog.text
    assert "min_prob" not in rows.sums()
    assert math.isnan(rows.means("x/")["x/entropy"])
    logits_NV, target_N = torch.zeros(4, 8), torch.arange(4)
    rows.add(sharpness_loss(logits_NV, target_N), penalty_weight=0.0)
    means = rows.means("x/")
    assert means["x/entropy"] == pytest.approx(math.log(8))  # over its own four rows
    assert means["x/avg_max_prob"] == pytest.approx((8 + 4 / 8) / 8)


def test_perplexity_does_not_overflow() -> None:
    assert perplexity(1e4) == math.inf


def test_perplexity_is_nan_for_nan_and_infinite_only_where_a_float_cannot_hold_it() -> None:
    """NaN was called infinite, and so was exp(705)."""
    assert math.isnan(perplexity(math.nan))
    assert perplexity(705.0) == math.exp(705.0)
    assert perplexity(710.0) == perplexity(math.inf) == math.inf
