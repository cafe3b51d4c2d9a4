"""The optimizers: fused AdamW, or Muon for the matrices of the layers and AdamW for the rest.

Weight decay applies to tensors of two or more dimensions, not to biases and normalisation gains.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer

from sharpgpt.config import TrainingConfig
from sharpgpt.training.muon import Muon, muon_groups
from sharpgpt.training.schedule import StepValues


def create_optimizers(causal_lm: nn.Module, config: TrainingConfig) -> list[Optimizer]:
    """The optimizers that together hold every parameter of `causal_lm` once.

    Muon orthogonalises the update of a matrix (Jordan et al. 2024). Embeddings and the output layer
    are tables of rows, not maps between spaces, and stay with AdamW. Its updates are scaled to
    AdamW's root mean square (Liu et al. 2025, eq. 4), so one learning rate serves both; that scale
    is symmetric in rows and columns, so HuggingFace's transposed Conv1D weights need no care. What
    PyTorch's Muon does not have is in muon.py.
    """
    parameters = [p for p in causal_lm.parameters() if p.requires_grad]
    optimizers: list[Optimizer] = []
    if config.optimizer == "muon":
        matrices = [p for p in layer_matrices(causal_lm) if p.requires_grad]
        chosen = {id(p) for p in matrices}
        parameters = [p for p in parameters if id(p) not in chosen]
        optimizers.append(_muon(causal_lm, matrices, config))
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers.append(
        torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            fused=True,
        )
    )
    return optimizers


def _muon(
    causal_lm: nn.Module, matrices: list[nn.Parameter], config: TrainingConfig
) -> torch.optim.Muon:
    rate, decay = config.muon_learning_rate, config.muon_weight_decay
    settings: dict[str, Any] = {
        "lr": config.learning_rate if rate is None else rate,
        "weight_decay": config.weight_decay if decay is None else decay,
        "momentum": config.muon_momentum,
        "nesterov": config.muon_nesterov,
        "ns_steps": config.muon_ns_steps,
        "adjust_lr_fn": "match_rms_adamw",
    }
    normalizes = config.muon_normalization == "neuron"
    if not (normalizes or config.muon_split_qkv):
        return torch.optim.Muon(matrices, **settings)
    groups = muon_groups(causal_lm, matrices, split_qkv=config.muon_split_qkv)
    return Muon(groups, normalizes=normalizes, **settings)


def state_bytes(causal_lm: nn.Module, config: TrainingConfig) -> int:
    """Of the optimizers' state: two float32 values for a parameter of AdamW, one for Muon's, and
    one for each output neuron of Muon's if it normalises by them."""
    num_values = 2 * sum(p.numel() for p in causal_lm.parameters())
    if config.optimizer == "muon":
        matrices = layer_matrices(causal_lm)
        num_values -= sum(p.numel() for p in matrices)
        if config.muon_normalization == "neuron":
            for group in muon_groups(causal_lm, matrices, split_qkv=False):
                num_values += sum(p.shape[group["out_dim"]] for p in group["params"])
    return 4 * num_values


def layer_matrices(causal_lm: nn.Module) -> list[nn.Parameter]:
    """The matrices inside the layers: neither embeddings nor the output layer."""
    tables = {id(m.weight) for m in causal_lm.modules() if isinstance(m, nn.Embedding)}
    tables.add(id(cast(Any, causal_lm).get_output_embeddings().weight))
    return [p for p in causal_lm.parameters() if p.ndim == 2 and id(p) not in tables]


def set_step_values(optimizers: Iterable[Optimizer], values: StepValues) -> None:
    """Set what the schedules give to this step in every parameter group."""
    for optimizer in optimizers:
        is_muon = isinstance(optimizer, torch.optim.Muon)
        for group in optimizer.param_groups:
            group["lr"] = values.muon_learning_rate if is_muon else values.learning_rate
            if is_muon:
                group["momentum"] = values.muon_momentum
