"""Means of the row statistics over any number of batches: of a training window, of a validation.

`RowMeans` keeps sums on the device and brings them to the host once, when they are asked for.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from sharpgpt.core.metrics import NUM_HISTOGRAM_BINS, ROW_MEANS
from sharpgpt.sharpness import SharpnessOutput

logger = logging.getLogger(__name__)


class RowMeans:
    """Sums of row statistics over any number of batches, weighted by their rows."""

    def __init__(self, device: torch.device) -> None:
        # MPS has no float64; a window there is short enough for float32.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sums = torch.zeros(len(ROW_MEANS), dtype=dtype, device=device)
        self._num_rows = torch.zeros_like(self._sums)
        self._histogram = torch.zeros(NUM_HISTOGRAM_BINS, device=device)

    def add(
        self,
        output: SharpnessOutput,
        penalty_weight: float | Tensor,
        z_loss_weight: float | Tensor = 0.0,
        *,
        label_smoothing: float | Tensor = 0.0,
    ) -> None:
        """Add one batch. Nothing here waits for the device."""
        statistics = row_statistics(
            output, penalty_weight, z_loss_weight, label_smoothing=label_smoothing
        )
        means = torch.stack([statistics[str(metric.statistic)] for metric in ROW_MEANS])
        self._sums += means.to(self._sums.dtype) * output.num_rows
        self._num_rows += output.num_rows
        if output.rows is not None:
            self._histogram += torch.histc(
                output.rows.max_prob.float(), bins=NUM_HISTOGRAM_BINS, min=0, max=1
            )

    def means(self, prefix: str) -> dict[str, float]:
        """`prefix` + name -> mean over all rows so far; perplexity is exp(ce_loss). Waits once."""
        sums, num_rows = torch.stack([self._sums, self._num_rows]).tolist()
        means = {
            metric.name: total / count if count else math.nan
            for metric, total, count in zip(ROW_MEANS, sums, num_rows, strict=True)
        }
        means["perplexity"] = perplexity(means["ce_loss"])
        return {prefix + name: value for name, value in means.items()}

    def over(self, total: Callable[[Tensor], Tensor]) -> "RowMeans":
        """The sums over all processes; `total` adds up a tensor over them, and changes none."""
        together = RowMeans(self._sums.device)
        together._sums = total(self._sums)
        together._num_rows = total(self._num_rows)
        together._histogram = total(self._histogram)
        return together

    def sums(self) -> dict[str, tuple[float, float]]:
        """Metric -> (sum, its rows); `restore` takes it back."""
        pairs = torch.stack([self._sums, self._num_rows], dim=-1).tolist()
        return {
            metric.name: (total, num_rows)
            for metric, (total, num_rows) in zip(ROW_MEANS, pairs, strict=True)
        }

    def histogram(self) -> list[int]:
        """Rows by their largest probability, in equal bins of [0, 1]."""
        return [int(count) for count in self._histogram.tolist()]

    def restore(self, sums: Mapping[str, tuple[float, float]], histogram: Sequence[float]) -> None:
        """Continue from `sums()` and `histogram()`; a metric without a sum starts with no rows."""
        if unknown := sums.keys() - {metric.name for metric in ROW_MEANS}:
            logger.warning("sums of unknown metrics are dropped: %s", ", ".join(sorted(unknown)))
        pairs = [sums.get(metric.name, (0.0, 0.0)) for metric in ROW_MEANS]
        restored = torch.tensor(pairs, dtype=self._sums.dtype)
        self._sums.copy_(restored[:, 0])
        self._num_rows.copy_(restored[:, 1])
        self._histogram.copy_(torch.tensor(histogram))


def row_statistics(
    output: SharpnessOutput,
    penalty_weight: float | Tensor,
    z_loss_weight: float | Tensor,
    *,
    label_smoothing: float | Tensor = 0.0,
) -> dict[str, Tensor]:
    """Means over the rows of one batch; `Metric.statistic` names one of them."""
    # `output.loss` is divided by the rows of the whole step, not by those of this batch.
    loss = output.ce + penalty_weight * output.penalty + z_loss_weight * output.z_loss
    if isinstance(label_smoothing, Tensor) or label_smoothing != 0:
        loss = loss + label_smoothing * output.smoothing
    return output._asdict() | {"loss": loss}


def perplexity(ce_loss: float) -> float:
    """exp(ce_loss): NaN for NaN, infinity only where a float cannot hold it."""
    try:
        return math.exp(ce_loss)
    except OverflowError:
        return math.inf
