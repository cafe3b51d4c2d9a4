"""What a run is made of before its parts are built, and which checkpoints it may continue."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.config.resume_rules import changes
from sharpgpt.core.errors import UserError
from sharpgpt.data.blocks import num_training_blocks
from sharpgpt.data.load import TextData
from sharpgpt.runs.state import TrainingState
from sharpgpt.runtime.device import Device
from sharpgpt.runtime.distributed import Processes
from sharpgpt.training.schedule import decay_start, step_values, total_steps

MAX_COMPARED_STEPS = 2_000_000
"""Of a checkpoint; comparing the schedules of so many takes some seconds."""


@dataclass(frozen=True)
class Setup:
    """The settings of a run, where it computes, its data and its model."""

    config: TrainingConfig
    device: Device
    processes: Processes
    data: TextData
    causal_lm: nn.Module

    @property
    def blocks_per_step(self) -> int:
        """Training blocks of an optimizer step, over all micro-batches and ranks, once a batch-size
        warm-up is over."""
        return self.config.batch_size * self.config.gradient_accumulation_steps

    @property
    def num_blocks(self) -> int:
        """Training blocks of an epoch."""
        return num_training_blocks(len(self.data.train_tokens), self.config.max_seq_length)

    def facts(self) -> dict[str, Any]:
        """What a checkpoint must share with the run that continues it, beside the settings."""
        return {
            "text": self.data.source["sha256"],
            "vocabulary": self.data.tokenizer.fingerprint,
            "arithmetic": self.device.arithmetic,
            "blocks_per_step": self.blocks_per_step,
        }

    def device_to_continue(self, state: TrainingState) -> Device:
        """The device, with the arithmetic that the run began with where `dtype` allows it."""
        device, arithmetic = self.device, state.arithmetic
        is_allowed = self.config.dtype == "auto" or _dtype(arithmetic) == device.dtype_name
        if not is_allowed or not device.can_continue(arithmetic):
            return device
        return device.with_arithmetic(arithmetic)

    def accepted_changes(self, state: TrainingState) -> list[str]:
        """The differences between a checkpoint and this run, for the user to read.

        Raises:
            UserError: the checkpoint's tensors do not fit, or the mathematics would change and
                `allow_config_change` is off. The message lists every such difference.
        """
        facts = self.facts()
        if state.text == self.data.source.get("sha256_of_ends"):  # of an earlier version
            facts["text"] = state.text
        # A setting that did not exist then had what is now its default.
        before = TrainingConfig().to_dict() | state.config
        before |= {name: _shown(getattr(state, name)) for name in facts}
        before["arithmetic"] = _dtype(state.arithmetic)
        facts["arithmetic"] = self.device_to_continue(state).dtype_name
        now = self.config.to_dict() | {name: _shown(fact) for name, fact in facts.items()}
        if config := _config_of(state):
            before["blocks_in_first_step"] = _first_blocks(config)
            now["blocks_in_first_step"] = _first_blocks(self.config)
        different = changes(before, now)
        if different.refused and self._had_same_steps(state):
            different = changes(before, now, is_same_past=True)
        if different.fatal:
            raise UserError(
                "resume: the checkpoint cannot be continued with these settings: "
                f"{'; '.join(different.fatal)}. Use those of the checkpoint, or start a new run"
            )
        if different.refused and not self.config.allow_config_change:
            raise UserError(
                "resume: these changes since the checkpoint would change the mathematics: "
                f"{'; '.join(different.refused)}{self._decay_hint(state)}. Use the settings of the "
                "checkpoint, allow the change with --allow_config_change, or start a new run"
            )
        return different.refused + different.named

    def _had_same_steps(self, state: TrainingState) -> bool:
        """Whether the schedules of these settings have the values of all steps that were taken."""
        before, now = _config_of(state), self.config
        if before is None or state.step > MAX_COMPARED_STEPS:
            return False
        total_before, total_now = (total_steps(each, self.num_blocks) for each in (before, now))
        return all(
            step_values(step, total_before, before) == step_values(step, total_now, now)
            for step in reversed(range(state.step))
        )

    def _decay_hint(self, state: TrainingState) -> str:
        """Why the decay of lr_schedule wsd cannot be moved at this checkpoint."""
        before, now = _config_of(state), self.config
        if before is None or {before.lr_schedule, now.lr_schedule} != {"wsd"}:
            return ""
        began, begins = (decay_start(total_steps(c, self.num_blocks), c) for c in (before, now))
        if began < min(state.step, begins):
            return f" (the decay began after step {began:,}: continue a checkpoint before it)"
        if begins < min(state.step, began):
            return (
                f" (the decay would begin after step {begins:,}, and the checkpoint is of step "
                f"{state.step:,}: give more max_steps or fewer lr_decay_steps)"
            )
        return ""


def _config_of(state: TrainingState) -> TrainingConfig | None:
    """The settings of a checkpoint; None if they are not this version's."""
    try:
        return TrainingConfig.from_dict(dict(state.config))
    except ConfigError:
        return None


def _first_blocks(config: TrainingConfig) -> int | None:
    """What batch_warmup_start stands for; None without a batch-size warm-up."""
    return config.batch_warmup_start * config.batch_size if config.batch_warmup_steps else None


def _dtype(arithmetic: str) -> str:
    """Of the forward pass; that of the output layer is always kept, so it is not compared."""
    return arithmetic.partition(",")[0]


def _shown(fact: str | int) -> str | int:
    """A hash shortened."""
    return fact[:12] if isinstance(fact, str) else fact
