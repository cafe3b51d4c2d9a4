"""The settings of `TrainingConfig` for the optimisation; docs/recipe.md has their formulas."""

from typing import Annotated, Literal

from pydantic import Field

from sharpgpt.config.kinds import Fixed, Mathematics, Policy, Rounding, Schedule
from sharpgpt.config.options import Options
from sharpgpt.config.values import (
    MAX_COUNT,
    BelowOne,
    Count,
    CountOrNone,
    NonNegative,
    Positive,
    Seed,
    Share,
)

MAX_BATCH_WARMUP = 100_000
"""Steps of a batch-size warm-up, whose tokens are counted one step at a time."""


class OptimisationSettings(Options):
    """How it is trained: batches, schedule, optimizer, and what happens to bad numbers."""

    batch_size: Rounding[Count] = 8
    """Blocks in one forward pass (a micro-batch)."""

    gradient_accumulation_steps: Rounding[Count] = 4
    """Micro-batches in one optimizer step; their gradients equal those of one large batch."""

    batch_warmup_steps: Schedule[Annotated[int, Field(ge=0, le=MAX_BATCH_WARMUP)]] = 0
    """Steps over which the number of micro-batches rises from batch_warmup_start to
    gradient_accumulation_steps; 0 has all of them in every step (docs/recipe.md)."""

    batch_warmup_start: Schedule[Count] = 1
    """Micro-batches in the first step of the batch-size warm-up; later steps have multiples of it.
    Must divide gradient_accumulation_steps, and be a multiple of the number of processes."""

    num_epochs: Schedule[Annotated[float, Field(gt=0, le=MAX_COUNT)]] = 10
    """Passes over the training text; max_steps overrides it."""

    max_steps: Schedule[Count | None] = None
    """Optimizer steps; null trains for num_epochs."""

    optimizer: Fixed[Literal["adamw", "muon"]] = "adamw"
    """adamw for all parameters, or muon for the matrices inside the layers, adamw for the rest."""

    learning_rate: Mathematics[Positive] = 6e-4
    """Peak learning rate."""

    warmup_steps: Schedule[CountOrNone] = 500
    """Steps of linear learning-rate warm-up."""

    lr_schedule: Schedule[Literal["cosine", "linear", "wsd"]] = "cosine"
    """Learning rate after its warm-up: cosine or linear, to min_lr_ratio at the last step; or wsd
    (warm-up, stable, decay): constant, then linear to there over the last steps, so a run can be
    continued from before its decay with another max_steps (docs/recipe.md)."""

    min_lr_ratio: Schedule[Share] = 0.1
    """Learning rate at the last step over learning_rate; 0 decays to zero."""

    lr_decay_fraction: Schedule[Share] = 0.2
    """Share of the steps that are the decay of lr_schedule wsd."""

    lr_decay_steps: Schedule[CountOrNone | None] = None
    """Steps of the decay of lr_schedule wsd; null takes lr_decay_fraction of all."""

    weight_decay: Mathematics[NonNegative] = 0.1
    """Decoupled weight decay, on matrices and embeddings only."""

    betas: Mathematics[tuple[BelowOne, BelowOne]] = (0.9, 0.95)
    """Adam's two decay rates, each in [0, 1)."""

    eps: Mathematics[Positive] = 1e-8
    """Adam's epsilon."""

    muon_learning_rate: Mathematics[Positive | None] = None
    """Peak learning rate of Muon, on the same schedule; null takes learning_rate."""

    muon_momentum: Mathematics[BelowOne] = 0.95
    """Muon's momentum, in [0, 1)."""

    muon_momentum_warmup_steps: Schedule[CountOrNone] = 0
    """Steps over which Muon's momentum rises linearly from 0.85 (at most muon_momentum)."""

    muon_nesterov: Mathematics[bool] = True
    """Nesterov momentum in Muon."""

    muon_ns_steps: Mathematics[Annotated[int, Field(ge=1, le=20)]] = 5
    """Newton-Schulz steps of Muon's orthogonalisation. Fewer are rougher and cheaper, which counts
    where the batch is small beside the width."""

    muon_weight_decay: Mathematics[NonNegative | None] = None
    """Decoupled weight decay of Muon's matrices; null takes weight_decay."""

    muon_normalization: Fixed[Literal["none", "neuron"]] = "none"
    """neuron: NorMuon (Li et al. 2025), the update of each output neuron is divided by the root of
    a running mean of its squares, and the whole scaled back to its norm."""

    muon_split_qkv: Mathematics[bool] = False
    """Let Muon orthogonalise the queries, keys and values of GPT-2's c_attn one by one."""

    max_grad_norm: Mathematics[NonNegative] = 1.0
    """Gradient clipping: gradients are scaled down to this global norm; 0 turns it off."""

    on_nonfinite: Policy[Literal["stop", "skip"]] = "stop"
    """A loss or gradient that is not finite: stop saves the weights before that step and ends the
    run; skip skips the step, counts it (train/num_skipped_steps) and continues."""

    max_skipped_steps: Policy[Count] = 10
    """With on_nonfinite skip: this many skipped steps in a row end the run."""

    on_spike: Policy[Literal["log", "rollback"]] = "log"
    """A loss spike: log counts it (train/num_loss_spikes) and continues; rollback also returns to
    the newest checkpoint and skips the batches since then."""

    spike_threshold: Policy[Positive] = 10
    """A loss is a spike if it is this many spreads above the median loss of the last 100 steps; the
    spread is the median absolute deviation from that median, at least 0.02."""

    seed: Mathematics[Seed] = 42
    """Seed of the weights, the order of the blocks, dropout and the samples."""
