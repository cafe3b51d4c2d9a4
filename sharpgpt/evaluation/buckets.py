"""Means of statistics by buckets of rows: position in the block, token frequency, and the entropy
of the baseline's prediction.

Shapes: B blocks of a batch, T tokens of a block, V vocabulary.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sharpgpt.evaluation.passes import RowBatch
from sharpgpt.evaluation.validation_text import FREQUENCY_BOUNDS, EvaluationText

ENTROPY_BOUNDS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
"""In nats."""

STATISTICS = ("ce", "entropy", "max_prob", "accuracy")
"""What is averaged."""

Means = list[dict[str, float | None]]


class Buckets:
    """The rows of a model, or of a model and its baseline, in each division into buckets."""

    def __init__(self, text: EvaluationText, *, with_baseline: bool) -> None:
        self._rank_V = torch.from_numpy(text.token_ranks)
        self._by = {
            "position": BucketMeans(position_bounds(text.blocks.shape[1])),
            "frequency": BucketMeans(FREQUENCY_BOUNDS),
        }
        if with_baseline:
            self._by["baseline_entropy"] = BucketMeans(ENTROPY_BOUNDS)

    def add(self, batch: RowBatch, baseline: RowBatch | None) -> None:
        """Add a batch and that of the baseline. Raises ValueError for one of other blocks."""
        rows = {name: batch.rows(name) for name in STATISTICS}
        if baseline is not None:
            if not torch.equal(batch.input_ids, baseline.input_ids):
                raise ValueError("the baseline's passes are over other blocks")
            rows |= {f"baseline_{name}": baseline.rows(name) for name in STATISTICS}
            self._by["baseline_entropy"].add(baseline.rows("entropy"), rows)
        target_BT = batch.input_ids[:, 1:]
        num_before_BT = torch.arange(1, target_BT.shape[1] + 1).expand_as(target_BT)
        self._by["position"].add(num_before_BT, rows)
        self._by["frequency"].add(self._rank_V[target_BT], rows)

    def means(self) -> dict[str, Means]:
        """The buckets of each division."""
        return {name: buckets.means() for name, buckets in self._by.items()}


class BucketMeans:
    """Means of statistics over the rows of each bucket.

    Bucket k holds the rows whose value is at least bounds[k - 1] and below bounds[k]; there is one
    bucket more than bounds.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._bounds = torch.tensor(self.bounds, dtype=torch.float64)
        self._num_rows = np.zeros(len(self.bounds) + 1)
        self._sums: dict[str, npt.NDArray[np.float64]] = {}

    def add(self, value: Tensor, statistics: Mapping[str, Tensor]) -> None:
        """Add rows: the value that decides on the bucket, and statistics of the same shape."""
        bucket = torch.bucketize(value.double(), self._bounds, right=True).flatten().numpy()
        size = len(self._num_rows)
        self._num_rows += np.bincount(bucket, minlength=size)
        for name, rows in statistics.items():
            sums = np.bincount(bucket, rows.double().flatten().numpy(), size)
            self._sums[name] = self._sums.get(name, np.zeros(size)) + sums

    def means(self) -> Means:
        """For each bucket from low to high its bounds (None at the ends), `num_rows`, and means.

        A bucket without rows has None for its means.
        """
        ends = [None, *self.bounds, None]
        return [
            {"from": ends[k], "below": ends[k + 1], "num_rows": float(count)}
            | {name: float(sums[k] / count) if count else None for name, sums in self._sums.items()}
            for k, count in enumerate(self._num_rows)
        ]


def position_bounds(block_length: int) -> list[float]:
    """Bounds 2, 4, 8, ... of the number of tokens that a prediction has before it."""
    return [float(2**power) for power in range(1, (block_length - 1).bit_length())]
