"""What a run is made of before its parts are built, and which checkpoints it may continue."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from sharpgpt.config import TrainingConfig
from sharpgpt.config.resume_rules import changes
from sharpgpt.core.errors import UserError
from sharpgpt.data.load import TextData
from sharpgpt.runs.state import TrainingState
from sharpgpt.runtime.device import Device
from sharpgpt.runtime.distributed import Processes


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
        """Training blocks of an optimizer step, over all micro-batches and ranks."""
        return self.config.batch_size * self.config.gradient_accumulation_steps

    def facts(self) -> dict[str, Any]:
        """What a checkpoint must share with the run that continues it, beside the settings."""
        return {
            "text": self.data.source["sha256"],
            "vocabulary": self.data.tokenizer.fingerprint,
            "arithmetic": self.device.dtype_name,
            "blocks_per_step": self.blocks_per_step,
        }

    def accepted_changes(self, state: TrainingState) -> list[str]:
        """The differences between a checkpoint and this run, for the user to read.

        Raises:
            UserError: the checkpoint's tensors do not fit, or the mathematics would change and
                `allow_config_change` is off. The message lists every such difference.
        """
        facts = self.facts()
        if state.text == self.data.source.get("sha256_of_ends"):  # of an earlier version
            facts["text"] = state.text
        before = {name: _shown(getattr(state, name)) for name in facts}
        now = {name: _shown(fact) for name, fact in facts.items()}
        different = changes({**state.config, **before}, {**self.config.to_dict(), **now})
        if different.fatal:
            raise UserError(
                "resume: the checkpoint cannot be continued with these settings: "
                f"{'; '.join(different.fatal)}. Use those of the checkpoint, or start a new run"
            )
        if different.refused and not self.config.allow_config_change:
            raise UserError(
                "resume: these changes since the checkpoint would change the mathematics: "
                f"{'; '.join(different.refused)}. Use the settings of the checkpoint, allow the "
                "change with --allow_config_change, or start a new run"
            )
        return different.refused + different.named


def _shown(fact: str | int) -> str | int:
    """A hash shortened."""
    return fact[:12] if isinstance(fact, str) else fact
