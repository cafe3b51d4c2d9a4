"""Which checkpoint a run may continue: the same data and mathematics, as far as they matter."""

from dataclasses import dataclass
from typing import Any

from sharpgpt.config import TrainingConfig
from sharpgpt.config.resume_rules import changes
from sharpgpt.core.errors import UserError
from sharpgpt.data.load import TextData
from sharpgpt.runs.state import TrainingState
from sharpgpt.runtime.device import Device


@dataclass(frozen=True)
class RunFacts:
    """What a checkpoint and the run that continues it must share, beside the settings."""

    text: str
    """SHA-256 of the text."""
    vocabulary: str
    """Fingerprint of the tokenizer."""
    arithmetic: str
    """The dtype of the forward and backward pass, such as float32."""
    blocks_per_step: int


def run_facts(config: TrainingConfig, data: TextData, device: Device) -> RunFacts:
    """The facts of this run."""
    return RunFacts(
        text=data.source["sha256"],
        vocabulary=data.tokenizer.fingerprint,
        arithmetic=device.dtype_name,
        blocks_per_step=config.batch_size * config.gradient_accumulation_steps,
    )


def accepted_changes(state: TrainingState, config: TrainingConfig, facts: RunFacts) -> list[str]:
    """The differences between a checkpoint and the run that continues it, for the user to read.

    Raises:
        UserError: the checkpoint's tensors do not fit, or the mathematics would change and
            `allow_config_change` is off. The message lists every such difference.
    """
    before = {**state.config, **_shown(state)}
    now = {**config.to_dict(), **_shown(facts)}
    different = changes(before, now)
    if different.fatal:
        raise UserError(
            "resume: the checkpoint cannot be continued with these settings: "
            f"{'; '.join(different.fatal)}. Use those of the checkpoint, or start a new run"
        )
    if different.refused and not config.allow_config_change:
        raise UserError(
            "resume: these changes since the checkpoint would change the mathematics: "
            f"{'; '.join(different.refused)}. Use the settings of the checkpoint, allow the "
            "change with --allow_config_change, or start a new run"
        )
    return different.refused + different.named


def _shown(facts: RunFacts | TrainingState) -> dict[str, Any]:
    return {
        "text": facts.text[:12],
        "vocabulary": facts.vocabulary[:12],
        "arithmetic": facts.arithmetic,
        "blocks_per_step": facts.blocks_per_step,
    }
