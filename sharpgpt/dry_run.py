"""What a run would be: resolved settings, parameters, steps, FLOPs and memory. Trains nothing."""

from typing import Any, cast

import torch
from torch import nn

from sharpgpt.config import TrainingConfig
from sharpgpt.config.yaml_files import commented_yaml
from sharpgpt.data import TrainingBlocks
from sharpgpt.device import Device, choose_device
from sharpgpt.model import create_model
from sharpgpt.run import load_training_data, total_steps, training_flops_per_token
from sharpgpt.sharpness.fused import default_chunk_size
from sharpgpt.sharpness.rows import padded_width

GIB = 2**30


def describe(config: TrainingConfig) -> str:
    """The text that `--dry_run` prints. Raises as `train` does, for what shows without weights."""
    config.check()
    device = choose_device(config)
    data = load_training_data(config)
    blocks = TrainingBlocks(data.train_tokens, config.max_seq_length, config.seed)
    with torch.device("meta"):
        causal_lm = create_model(config, data.tokenizer.vocab_size, data.tokenizer.end_of_text_id)
    steps = total_steps(config, len(blocks))
    tokens_per_step = config.batch_size * config.gradient_accumulation_steps * config.max_seq_length
    flops = training_flops_per_token(causal_lm, config) * tokens_per_step
    memory = memory_estimate(causal_lm, config, device)
    settings = "\n".join(
        line for line in commented_yaml(config).splitlines() if line and not line.startswith("#")
    )
    note = [f"NOTE: {data.source['note']}"] if data.source["note"] else []
    return "\n".join(
        [
            settings,
            "",
            *note,
            f"data              {data.name}: {len(data.train_tokens):,} training and "
            f"{len(data.val_tokens):,} validation tokens, {len(blocks):,} blocks an epoch",
            f"model             {type(causal_lm).__name__}, "
            f"{sum(p.numel() for p in causal_lm.parameters()):,} parameters",
            f"device            {device.name()}, {str(device.dtype).removeprefix('torch.')}",
            f"tokens per step   {tokens_per_step:,}",
            f"steps             {steps:,} ({steps * tokens_per_step:,} tokens, "
            f"{steps * config.batch_size * config.gradient_accumulation_steps / len(blocks):.2f} "
            "epochs)",
            f"FLOPs             {flops:.3g} a step, {flops * steps:.3g} in all",
            f"memory, estimate  {sum(memory.values()) / GIB:.2f} GiB ("
            + ", ".join(f"{name} {size / GIB:.2f}" for name, size in memory.items())
            + ")",
            "Nothing was trained.",
        ]
    )


def memory_estimate(
    causal_lm: nn.Module, config: TrainingConfig, device: Device
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
    activations = 34 * bytes_per_value * layers * positions * shape.hidden_size
    return {
        "weights": 4.0 * num_parameters,
        "gradients": 4.0 * num_parameters,
        "optimizer": 8.0 * num_parameters,
        "activations": float(activations),
        "loss": float(_loss_bytes(config, positions, shape, device)),
    }


def _loss_bytes(config: TrainingConfig, positions: int, shape: Any, device: Device) -> int:
    if config.loss == "reference":
        return 10 * 4 * positions * int(shape.vocab_size)
    chunk = default_chunk_size(positions, shape.vocab_size, device.torch_device.type)
    buffer = chunk * padded_width(shape.vocab_size)
    return int(4 * (buffer + shape.vocab_size * shape.hidden_size))
