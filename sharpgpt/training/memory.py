"""Estimates the memory of a run, and explains running out of it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.runtime.device import Device
from sharpgpt.runtime.memory import available_memory, is_out_of_memory
from sharpgpt.sharpness.fused import default_chunk_size
from sharpgpt.sharpness.rows import padded_width

GIB = 2**30


def memory_estimate(
    causal_lm: nn.Module, config: TrainingConfig, device: Device, num_processes: int = 1
) -> dict[str, float]:
    """Bytes by purpose, at the peak of a training step; allocator overhead is left out.

    Activations: per layer and position about 34 D bytes in half precision (Korthikanti et al. 2022,
    eq. 1 without the attention matrix, which flash attention does not keep), twice that in float32.
    Loss: the fused one holds one chunk of logits and the gradient of the output layer's weight; the
    reference up to ten float32 arrays of [rows, vocabulary] (8.5 to 9.7 measured on a CPU).
    """
    shape = cast(Any, causal_lm).config
    num_parameters = sum(p.numel() for p in causal_lm.parameters())
    positions = config.batch_size * config.max_seq_length
    bytes_per_value = 1 if device.dtype == torch.bfloat16 else 2
    layers = 1 if config.gradient_checkpointing else shape.num_hidden_layers
    if config.loss == "reference":
        loss = 10 * 4 * positions * shape.vocab_size
    else:
        kind, dtype = device.torch_device.type, device.output_dtype or torch.float32
        chunk = default_chunk_size(positions, shape.vocab_size, kind, dtype)
        loss = dtype.itemsize * chunk * padded_width(shape.vocab_size)
        loss += 4 * shape.vocab_size * shape.hidden_size
    return {
        "weights": 4.0 * num_parameters,
        "gradients": 4.0 * num_parameters,
        "optimizer": 8.0 * num_parameters,
        "activations": float(34 * bytes_per_value * layers * positions * shape.hidden_size),
        "loss": float(loss),
        # The loop reads all micro-batches of a step before it begins.
        "tokens": 8.0 * positions * config.gradient_accumulation_steps / num_processes,
    }


def estimate_text(memory: dict[str, float]) -> str:
    """The estimate on one line: `2.87 GiB (weights 0.46, ...)`."""
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in memory.items())
    return f"{sum(memory.values()) / GIB:.2f} GiB ({parts})"


@dataclass
class MemoryCheck:
    """The estimate of a run, for the message of `explain_out_of_memory`."""

    config: TrainingConfig
    estimate: str = ""

    def check(self, causal_lm: nn.Module, device: Device, num_processes: int = 1) -> None:
        """Estimate the memory that a step of this model needs on this device.

        Raises:
            UserError: there is less; the message names both.
        """
        memory = memory_estimate(causal_lm, self.config, device, num_processes)
        available, here = available_memory(device.torch_device), ""
        if available:
            here = f"; {available.num_bytes / GIB:.2f} GiB are available {available.limit}"
        self.estimate = f"A step is estimated to need {estimate_text(memory)}{here}. "
        if available and (needed := sum(memory.values())) > available.num_bytes:
            raise UserError(
                f"Out of memory {_sizes(self.config)}. {self.estimate}That is {needed:,.0f} bytes "
                f"of {available.num_bytes:,}, and nothing was allocated. {_REMEDY}"
            )


_REMEDY = (
    "Lower batch_size and raise gradient_accumulation_steps by the same factor (the same "
    "mathematics), or set gradient_checkpointing, or lower max_seq_length; --dry_run shows the "
    "estimate for other settings"
)


def _sizes(config: TrainingConfig) -> str:
    return f"with batch_size {config.batch_size} and max_seq_length {config.max_seq_length}"


@contextlib.contextmanager
def explain_out_of_memory(config: TrainingConfig) -> Iterator[MemoryCheck]:
    """Turn running out of memory into a message that names the settings to change."""
    memory = MemoryCheck(config)
    try:
        yield memory
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"Out of memory {_sizes(config)}. {memory.estimate}{_REMEDY}. "
            f"({' '.join(str(error).split())[:200]})"
        ) from None
