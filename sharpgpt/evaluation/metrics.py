"""The metrics of a validation: means over the rows of fixed blocks.

Shapes: B batch, T positions in a block.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from sharpgpt.model.lm import SharpnessLM
from sharpgpt.model.row_means import RowMeans
from sharpgpt.runtime.device import Device
from sharpgpt.runtime.distributed import Processes


@torch.no_grad()
def evaluate(
    model: SharpnessLM,
    batches_BT: Iterable[Tensor],
    *,
    penalty_weight: float,
    z_loss_weight: float = 0.0,
    label_smoothing: float = 0.0,
    device: Device,
    processes: Processes | None = None,
    num_counted: int | None = None,
) -> dict[str, float]:
    """`val/*` of `model` over fixed blocks; leaves it in the mode in which it was.

    The ranks of `processes` call this together, each with its share of the blocks, in the same
    number of batches; only the first `num_counted` batches of this rank count.
    """
    was_training = model.training
    model.eval()
    totals = RowMeans(device.torch_device)
    for number, input_ids_BT in enumerate(batches_BT):
        with device.autocast():
            output = model(input_ids_BT.to(device.torch_device))
        if num_counted is None or number < num_counted:
            totals.add(output, penalty_weight, z_loss_weight, label_smoothing=label_smoothing)
    model.train(was_training)
    return (totals.over(processes.all_reduce_sum) if processes else totals).means("val/")
