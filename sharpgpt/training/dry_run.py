"""`--dry_run`: the resolved settings, parameters, steps, FLOPs and memory of a run."""

from contextlib import ExitStack

from sharpgpt.config import TrainingConfig
from sharpgpt.config.yaml_files import commented_yaml
from sharpgpt.core.numbers import counted
from sharpgpt.core.terminal import one_line
from sharpgpt.runtime.device import torch_settings_kept
from sharpgpt.training.build import training_flops_per_token
from sharpgpt.training.checks import Prospect
from sharpgpt.training.memory import estimate_text, explain_out_of_memory, memory_estimate
from sharpgpt.training.schedule import blocks_between


def describe(config: TrainingConfig) -> str:
    """The text that `--dry_run` prints. Raises as `train` does before its first step."""
    with ExitStack() as stack:
        stack.enter_context(torch_settings_kept())
        memory_check = stack.enter_context(explain_out_of_memory(config))
        run = Prospect(config, memory_check, stack, is_dry=True)
        run.check()
    device, data, causal_lm, steps = run.device, run.data, run.causal_lm, run.num_steps
    tokens_per_step = config.batch_size * config.gradient_accumulation_steps * config.max_seq_length
    num_blocks = blocks_between(0, steps, config)
    num_tokens, num_epochs = num_blocks * config.max_seq_length, num_blocks / run.num_blocks
    first_tokens = blocks_between(0, 1, config) * config.max_seq_length
    flops = training_flops_per_token(causal_lm, config)
    memory = memory_estimate(causal_lm, config, device)
    settings = "\n".join(
        line for line in commented_yaml(config).splitlines() if line and not line.startswith("#")
    )
    return "\n".join(
        [
            settings,
            "",
            f"data              {one_line(data.name)}: {len(data.train_tokens):,} training and "
            f"{counted(len(data.val_tokens), 'validation token')}, "
            f"{counted(run.num_blocks, 'block')} an epoch",
            f"model             {type(causal_lm).__name__}, "
            f"{counted(sum(p.numel() for p in causal_lm.parameters()), 'parameter')}",
            f"device            {device.name()}, {device.dtype_name}",
            f"tokens per step   {tokens_per_step:,}"
            + (f" ({first_tokens:,} in the first)" if first_tokens < tokens_per_step else ""),
            f"steps             {steps:,} ({counted(num_tokens, 'token')}, "
            f"{num_epochs:.2f} epochs)",
            f"FLOPs             {flops * tokens_per_step:.3g} a step, "
            f"{flops * num_tokens:.3g} in all",
            f"memory, estimate  {estimate_text(memory)}",
            "Nothing was trained.",
        ]
    )
