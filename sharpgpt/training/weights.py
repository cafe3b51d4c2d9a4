"""Whether the weights are finite: no others are saved, so a run can always be resumed.

A step with a finite gradient can still make weights infinite, with a learning rate that is too
high. The loss shows it one step later; by then a checkpoint may be due.
"""

from typing import Any

import torch
from torch import Tensor, nn

from sharpgpt.runtime.distributed import Processes
from sharpgpt.training.state import CannotContinueError, Training


class BrokenWeightsError(CannotContinueError):
    """The weights after the last step hold NaN or infinite values, so they are not saved."""


def check_weights(run: Training) -> None:
    """Every rank calls this, at the same step.

    Raises:
        BrokenWeightsError: a weight is NaN or infinite, on all ranks together.
    """
    if not are_finite(run.setup.causal_lm, run.processes):
        raise BrokenWeightsError(
            f"the weights after step {run.progress.step} hold values that are NaN or infinite",
            "Try a lower learning_rate, more warmup_steps, or a max_grad_norm",
        )


def are_finite(model: nn.Module, processes: Processes) -> bool:
    """Whether all parameters and buffers are, of sharded ones the shards of every rank."""
    tensors = [
        local
        for tensor in [*model.parameters(), *model.buffers()]
        if (local := _local(tensor.detach())).is_floating_point() and local.numel()
    ]
    # A sum is the cheapest reduction; where it overflows, each value is looked at.
    broken = not torch.stack([tensor.sum().float() for tensor in tensors]).isfinite().all()
    if broken:
        broken = not all(bool(tensor.isfinite().all()) for tensor in tensors)
    return processes.all_reduce_max(int(broken)) == [0]


def _local(tensor: Any) -> Tensor:
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local
