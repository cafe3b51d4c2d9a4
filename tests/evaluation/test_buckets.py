"""Figures by buckets: every row in one, and means that add up to the whole."""

import numpy as np
import pytest
import torch

from sharpgpt.evaluation.buckets import (
    ENTROPY_BOUNDS,
    BucketMeans,
    frequency_ranks,
    position_bounds,
    positions_of,
)
from sharpgpt.evaluation.streaming import row_batches
from tests.evaluation.tables import bigram_text, table_figures, table_logits


def test_buckets_are_half_open_and_empty_ones_say_so() -> None:
    means = BucketMeans([1.0, 2.0])
    means.add(torch.tensor([[0.5, 1.0], [1.5, 0.0]]), {"ce": torch.tensor([[1.0, 2], [4, 3]])})
    assert means.means() == [
        {"from": None, "below": 1.0, "num_rows": 2, "ce": 2.0},
        {"from": 1.0, "below": 2.0, "num_rows": 2, "ce": 3.0},
        {"from": 2.0, "below": None, "num_rows": 0, "ce": None},
    ]


def test_buckets_of_two_models_by_position_frequency_and_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    table_VV = 2 * torch.randn(20, 20, generator=generator)
    blocks_BT = bigram_text(table_VV, 50, 17, generator)
    assert position_bounds(17) == [2.0, 4.0, 8.0, 16.0]
    counts_V = torch.bincount(blocks_BT.flatten(), minlength=20).numpy()
    ranks_V = torch.from_numpy(frequency_ranks(counts_V))
    by = {
        "position": BucketMeans(position_bounds(17)),
        "frequency": BucketMeans([0.25, 0.5, 0.75]),
        "entropy": BucketMeans(ENTROPY_BOUNDS),
    }
    passes = [
        row_batches(table_logits(table), blocks_BT, top_k=3, batch_size=7)
        for table in (table_VV, 1.5 * table_VV)
    ]
    for baseline, penalised in zip(*passes, strict=True):
        figures = {"baseline": baseline.rows("ce"), "penalised": penalised.rows("ce")}
        by["position"].add(positions_of(baseline), figures)
        by["frequency"].add(ranks_V[baseline.input_ids[:, 1:]], figures)
        by["entropy"].add(baseline.rows("entropy"), figures)
    whole = [table_figures(table, blocks_BT).mean("ce") for table in (table_VV, 1.5 * table_VV)]
    for means in by.values():
        buckets = means.means()
        assert sum(one["num_rows"] or 0 for one in buckets) == 50 * 16
        for name, truth in zip(("baseline", "penalised"), whole, strict=True):
            total = sum((one["num_rows"] or 0) * (one[name] or 0) for one in buckets)
            assert total / 800 == pytest.approx(truth, rel=1e-6)
    assert [one["num_rows"] for one in by["position"].means()] == [50, 100, 200, 400, 50]


def test_frequency_is_the_share_of_more_frequent_tokens() -> None:
    ranks = frequency_ranks(np.array([1, 5, 0, 4]))
    np.testing.assert_allclose(ranks, [0.9, 0.0, 1.0, 0.5])
    assert frequency_ranks(np.zeros(3, dtype=np.int64)).tolist() == [0, 0, 0]
