"""One step of training on random tokens, for benchmarks: the same calls as in training/step.py."""

from dataclasses import replace
from typing import Any

import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.model.build import create_model
from sharpgpt.runtime.device import Device
from sharpgpt.training.build import loss_model
from sharpgpt.training.optimizer import create_optimizers
from sharpgpt.training.step import clip_gradients


class TrainingStep:
    """The micro-batches of a step, forward and backward, then clipping and the optimizers."""

    def __init__(
        self,
        config: TrainingConfig,
        vocab_size: int,
        *,
        device: Device,
        backend: str = "inductor",
    ) -> None:
        self.config, self.device = config, device
        self.causal_lm = create_model(config, vocab_size, None).to(device.torch_device)
        self.optimizers = create_optimizers(self.causal_lm, config)
        eager = replace(config, compile=False)
        model = loss_model(self.causal_lm, eager, device, end_of_text_id=None)
        self.model: Any = torch.compile(model, backend=backend) if config.compile else model
        weight = torch.tensor(config.penalty_weight, device=device.torch_device)
        self.weight = weight if config.penalty_weight else 0.0
        generator = torch.Generator().manual_seed(0)
        shape = (config.gradient_accumulation_steps, config.batch_size, config.max_seq_length)
        ids = torch.randint(vocab_size, shape, generator=generator)
        self.batches = ids.to(device.torch_device)
        self.num_tokens = ids.numel()

    def __call__(self) -> None:
        """One step."""
        config = self.config
        rows = len(self.batches) * config.batch_size * (config.max_seq_length - 1)
        for ids_BT in self.batches:
            with self.device.autocast():
                output = self.model(
                    ids_BT, penalty_weight=self.weight, normalizer=float(rows), per_row=True
                )
            output.loss.backward()
        clip_gradients(self.causal_lm, config.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
