"""The metrics of a validation: means over the rows of fixed blocks.

Shapes: B batch, T positions in a block.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from sharpgpt.model.lm import SharpnessLM
from sharpgpt.model.row_means import RowMeans
from sharpgpt.runtime.device import Device


@torch.no_grad()
def evaluate(
    model: SharpnessLM,
    batches_BT: Iterable[Tensor],
    *,
    penalty_weight: float,
    device: Device,
) -> dict[str, float]:
    """`val/*` of `model` over fixed blocks; leaves it in the mode in which it was."""
    was_training = model.training
    model.eval()
    totals = RowMeans(device.torch_device)
    for input_ids_BT in batches_BT:
        with device.autocast():
            output = model(input_ids_BT.to(device.torch_device))
        totals.add(output, penalty_weight)
    model.train(was_training)
    return totals.means("val/")
