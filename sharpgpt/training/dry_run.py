"""`--dry_run`: the resolved settings, parameters, steps, FLOPs and memory of a run."""

import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.config.yaml_files import commented_yaml
from sharpgpt.core.numbers import counted
from sharpgpt.core.terminal import one_line
from sharpgpt.data.blocks import TrainingBlocks
from sharpgpt.model.build import create_model
from sharpgpt.runtime.device import choose_device
from sharpgpt.training.build import load_training_data, total_steps, training_flops_per_token
from sharpgpt.training.memory import estimate_text, memory_estimate


def describe(config: TrainingConfig) -> str:
    """The text that `--dry_run` prints. Raises as `train` does, as far as it needs no weights."""
    config.check()
    device = choose_device(config)
    data = load_training_data(config, may_prepare=False)
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
    note = [one_line(f"NOTE: {data.source['note']}")] if data.source["note"] else []
    return "\n".join(
        [
            settings,
            "",
            *note,
            f"data              {one_line(data.name)}: {len(data.train_tokens):,} training and "
            f"{counted(len(data.val_tokens), 'validation token')}, "
            f"{counted(len(blocks), 'block')} an epoch",
            f"model             {type(causal_lm).__name__}, "
            f"{counted(sum(p.numel() for p in causal_lm.parameters()), 'parameter')}",
            f"device            {device.name()}, {device.dtype_name}",
            f"tokens per step   {tokens_per_step:,}",
            f"steps             {steps:,} ({counted(steps * tokens_per_step, 'token')}, "
            f"{steps * config.batch_size * config.gradient_accumulation_steps / len(blocks):.2f} "
            "epochs)",
            f"FLOPs             {flops:.3g} a step, {flops * steps:.3g} in all",
            f"memory, estimate  {estimate_text(memory)}",
            "Nothing was trained.",
        ]
    )
