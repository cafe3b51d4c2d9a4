"""The figures of a run, as means over rows: the same code for training windows and for validation.

`RowMeans` keeps sums on the device and brings them to the host once, when they are asked for.
Shapes: B batch, T positions in a block.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from sharpgpt.core.metrics import MEANS, NUM_HISTOGRAM_BINS
from sharpgpt.model.lm import SharpnessLM
from sharpgpt.runtime.device import Device
from sharpgpt.runtime.distributed import Processes
from sharpgpt.sharpness import SharpnessOutput


class RowMeans:
    """Sums of row statistics over any number of batches, weighted by their rows."""

    def __init__(self, device: torch.device) -> None:
        # MPS has no float64; a window there is short enough for float32.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sums = torch.zeros(len(MEANS), dtype=dtype, device=device)
        self._num_rows = torch.zeros((), dtype=dtype, device=device)
        self._histogram = torch.zeros(NUM_HISTOGRAM_BINS, device=device)

    def add(self, output: SharpnessOutput, penalty_weight: float) -> None:
        """Add one batch. Nothing here waits for the device."""
        means = torch.stack(
            [
                output.ce + penalty_weight * output.penalty,
                output.ce,
                output.penalty,
                output.max_prob,
                output.entropy,
                output.top_k_mass,
                output.accuracy,
            ]
        )
        self._sums += means.to(self._sums.dtype) * output.num_rows
        self._num_rows += output.num_rows
        if output.rows is not None:
            self._histogram += torch.histc(
                output.rows.max_prob.float(), bins=NUM_HISTOGRAM_BINS, min=0, max=1
            )

    def means(self, prefix: str) -> dict[str, float]:
        """`prefix/name` -> mean over all rows so far; perplexity is exp(ce_loss). Waits once."""
        *sums, num_rows = torch.cat([self._sums, self._num_rows[None]]).tolist()
        means = {name: total / num_rows for name, total in zip(MEANS, sums, strict=True)}
        means["perplexity"] = perplexity(means["ce_loss"])
        return {f"{prefix}/{name}": value for name, value in means.items()}

    def over(self, processes: Processes) -> "RowMeans":
        """The sums over all processes; of one process alone, these."""
        if processes.world_size == 1:
            return self
        together = RowMeans(self._sums.device)
        together._sums = processes.all_reduce_sum(self._sums)
        together._num_rows = processes.all_reduce_sum(self._num_rows)
        together._histogram = processes.all_reduce_sum(self._histogram)
        return together

    def state(self) -> dict[str, list[float]]:
        """The sums as plain numbers; `restore` takes them back."""
        return {
            "sums": self._sums.tolist(),
            "num_rows": [self._num_rows.item()],
            "histogram": self._histogram.tolist(),
        }

    def restore(self, state: dict[str, list[float]]) -> None:
        """Continue from the sums of `state`."""
        self._sums.copy_(torch.tensor(state["sums"], dtype=self._sums.dtype))
        self._num_rows.fill_(state["num_rows"][0])
        self._histogram.copy_(torch.tensor(state["histogram"]))

    def max_prob_histogram(self) -> list[int]:
        """Rows by their largest probability, in equal bins of [0, 1]."""
        return [int(count) for count in self._histogram.tolist()]


def perplexity(ce_loss: float) -> float:
    """exp(ce_loss), infinity where that overflows."""
    return math.exp(ce_loss) if ce_loss < 700 else math.inf


@torch.no_grad()
def evaluate(
    model: SharpnessLM,
    batches_BT: Iterable[Tensor],
    *,
    penalty_weight: float,
    device: Device,
) -> dict[str, float]:
    """`val/*` figures of `model` over fixed blocks; leaves it in the mode in which it was."""
    was_training = model.training
    model.eval()
    totals = RowMeans(device.torch_device)
    for input_ids_BT in batches_BT:
        with device.autocast():
            output = model(input_ids_BT.to(device.torch_device))
        totals.add(output, penalty_weight)
    model.train(was_training)
    return totals.means("val")
