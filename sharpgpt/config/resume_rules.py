"""What a change of each setting means to a run that is resumed or forked; all of them.

A resumed run is the same run, so a setting that changes what is computed may differ from the
checkpoint's only where the user says so (`allow_config_change`); of the rest, what shows in the
results is named, and housekeeping is nobody's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sharpgpt.config.rules import shown


class Kind(Enum):
    """What a change of a setting changes."""

    FIXED = "the tensors of the checkpoint do not fit it: always refused"
    MATHEMATICS = "what is computed: refused unless allow_config_change"
    ROUNDING = "the same mathematics in other float operations: named"
    POLICY = "what is done about numbers gone wrong: named"
    RECORDS = "what is written down, and when: named"
    HOUSEKEEPING = "nothing in the results: not mentioned"


KINDS: dict[str, Kind] = {
    **dict.fromkeys(
        ("model_name", "n_layer", "n_head", "n_embd", "tokenizer", "max_seq_length", "optimizer"),
        Kind.FIXED,
    ),
    **dict.fromkeys(
        (
            "dropout", "document_boundaries", "penalty_type", "penalty_weight", "penalty_positions",
            "penalty_warmup_steps", "penalty_schedule", "penalty_final_ratio", "num_epochs",
            "max_steps", "learning_rate", "warmup_steps", "min_lr_ratio", "weight_decay", "betas",
            "eps", "max_grad_norm", "seed", "top_k",
        ),
        Kind.MATHEMATICS,
    ),
    **dict.fromkeys(
        ("batch_size", "gradient_accumulation_steps", "loss", "device", "compile",
         "gradient_checkpointing"),
        Kind.ROUNDING,
    ),
    **dict.fromkeys(
        ("on_nonfinite", "max_skipped_steps", "on_spike", "spike_threshold"), Kind.POLICY
    ),
    **dict.fromkeys(
        (
            "eval_interval", "eval_max_blocks", "log_interval", "generate_interval",
            "num_generate_samples", "generate_max_length", "generate_temperature",
            "generate_top_p", "generate_prompt",
        ),
        Kind.RECORDS,
    ),
    **dict.fromkeys(
        (
            "dataset", "dtype", "cache_dir", "num_workers", "save_interval", "keep_checkpoints",
            "keep_every_steps", "background_saving", "run_name", "output_dir", "checkpoint_dir",
            "resume", "allow_config_change", "use_wandb", "wandb_project", "wandb_entity",
            "wandb_mode",
        ),
        Kind.HOUSEKEEPING,
    ),
}  # fmt: skip
"""`dataset` and `dtype` are housekeeping since what they stand for is compared: `FACTS`."""

FACTS: dict[str, Kind] = {
    "vocabulary": Kind.FIXED,
    "text": Kind.MATHEMATICS,
    "arithmetic": Kind.MATHEMATICS,
    "blocks_per_step": Kind.MATHEMATICS,
}
"""What follows from settings, data and device and is compared too. A step of as many blocks,
divided otherwise into micro-batches, is the same step."""


@dataclass(frozen=True)
class Changes:
    """How a run differs from the checkpoint that it continues: `name before -> now` each."""

    fatal: list[str]
    """No tensors for these."""
    refused: list[str]
    """Other mathematics."""
    named: list[str]
    """The same mathematics, other records or roundings."""


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """Compare settings and facts, by name. A setting that `before` lacks counts as unchanged."""
    kinds = KINDS | FACTS
    different = {
        name: f"{name} {shown(before[name])} -> {shown(value)}"
        for name, value in now.items()
        if name in before and before[name] != value
    }

    def of(*wanted: Kind) -> list[str]:
        return [text for name, text in different.items() if kinds[name] in wanted]

    return Changes(
        fatal=of(Kind.FIXED),
        refused=of(Kind.MATHEMATICS),
        named=of(Kind.ROUNDING, Kind.POLICY, Kind.RECORDS),
    )
