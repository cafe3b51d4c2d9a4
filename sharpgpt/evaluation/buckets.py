"""The same figures by buckets of rows: where in the block, how frequent the token, how certain the
baseline.

    position = BucketMeans(position_bounds(block_length))
    for batch in row_batches(...):
        position.add(positions_of(batch), {"ce": batch.rows("ce")})

Rows of two models are put side by side by running both through `row_batches` at once (`zip`).

Shapes: B blocks of a batch, T tokens of a block, K buckets, V vocabulary.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sharpgpt.evaluation.streaming import RowBatch

ENTROPY_BOUNDS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
"""In nats, for buckets by the entropy of the baseline."""


class BucketMeans:
    """Means of figures over the rows of each bucket.

    Bucket k holds the rows whose value is at least bounds[k - 1] and below bounds[k]; there is one
    bucket more than bounds.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._bounds = torch.tensor(self.bounds, dtype=torch.float64)
        self._num_rows = np.zeros(len(self.bounds) + 1)
        self._sums: dict[str, npt.NDArray[np.float64]] = {}

    def add(self, value: Tensor, figures: Mapping[str, Tensor]) -> None:
        """Add rows: the value that decides on the bucket, and figures of the same shape."""
        bucket = torch.bucketize(value.double(), self._bounds, right=True).flatten().numpy()
        self._num_rows += np.bincount(bucket, minlength=len(self._num_rows))
        for name, rows in figures.items():
            sums = np.bincount(bucket, rows.double().flatten().numpy(), len(self._num_rows))
            self._sums.setdefault(name, np.zeros(len(self._num_rows)))
            self._sums[name] += sums

    def means(self) -> list[dict[str, float | None]]:
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
    """Bounds 1, 2, 4, 8, ... of the number of tokens that a prediction has before it."""
    return [float(2**power) for power in range(1, (block_length - 1).bit_length())]


def positions_of(batch: RowBatch) -> Tensor:
    """How many tokens of its block each prediction has before it, [B, T-1]: 1 to T - 1."""
    num_blocks, block_length = batch.input_ids.shape
    return torch.arange(1, block_length).expand(num_blocks, -1)


def frequency_ranks(token_counts_V: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """For each token the share of all occurrences that more frequent tokens have, [V] in [0, 1].

    So bounds (0.2, 0.4, 0.6, 0.8) make buckets of about equal mass, the frequent tokens first.
    Of equally frequent tokens the lower index counts as more frequent. Without any occurrence, 0.
    """
    order = np.argsort(-token_counts_V, kind="stable")
    before = np.cumsum(token_counts_V[order]) - token_counts_V[order]
    ranks = np.empty(len(token_counts_V))
    ranks[order] = before / max(1, token_counts_V.sum())
    return ranks
