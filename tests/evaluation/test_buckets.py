"""Statistics by buckets: every row in one, and means that add up to the whole."""

import pytest
import torch

from sharpgpt.evaluation.buckets import BucketMeans, Buckets, position_bounds
from sharpgpt.evaluation.passes import row_batches
from sharpgpt.evaluation.validation_text import EvaluationText, frequency_ranks
from tests.evaluation.tables import bigram_text, table_logits, table_statistics


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
    text = EvaluationText("text", blocks_BT, None, frequency_ranks(counts_V))
    buckets = Buckets(text, with_baseline=True)
    penalised_VV = 1.5 * table_VV
    passes = [
        row_batches(table_logits(logits_VV), blocks_BT, top_k=3, batch_size=7)
        for logits_VV in (penalised_VV, table_VV)
    ]
    for penalised, baseline in zip(*passes, strict=True):
        buckets.add(penalised, baseline)
    by = buckets.means()
    assert [*by] == ["position", "frequency", "baseline_entropy"]
    for division in by.values():
        assert sum(one["num_rows"] or 0 for one in division) == 50 * 16
        for name, logits_VV in (("ce", penalised_VV), ("baseline_ce", table_VV)):
            total = sum((one["num_rows"] or 0) * (one[name] or 0) for one in division)
            truth = table_statistics(logits_VV, blocks_BT).mean("ce")
            assert total / 800 == pytest.approx(truth, rel=1e-6)
    assert [one["num_rows"] for one in by["position"]] == [50, 100, 200, 400, 50]
    [first] = row_batches(table_logits(table_VV), blocks_BT.flip(0), top_k=3, batch_size=50)
    [second] = row_batches(table_logits(table_VV), blocks_BT, top_k=3, batch_size=50)
    with pytest.raises(ValueError, match="over other blocks"):
        buckets.add(first, second)
