"""training_state.json: what a run must know to continue, beside its tensors. Checked when read.

The file may come from anyone, so nothing in it is believed: pydantic refuses other names, other
types, other lengths, numbers out of range, and what is not finite.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sharpgpt.core import jsonio
from sharpgpt.core.errors import UserError
from sharpgpt.core.metrics import NUM_HISTOGRAM_BINS

STATE_JSON = "training_state.json"
MAX_JSON_BYTES = 1 << 20
"""No state and no manifest comes near it, and larger ones are not read."""

FORMAT_VERSION = 2
"""Of a checkpoint folder. Version 1 had the sums of a window as a list, without names."""

SUMS_OF_VERSION_1 = (
    "loss", "ce_loss", "penalty", "avg_max_prob", "entropy", "top_k_mass", "accuracy",
)  # fmt: skip

Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Version = Annotated[int, Field(ge=1, lt=1 << 31)]
Scalar = str | int | float | bool | None
DueWork = Literal["validate", "sample"]
MAX_LOSSES = 100
"""Losses of the last steps against which a spike is measured."""


class IncompatibleCheckpointError(UserError):
    """A checkpoint of a newer version; it is whole, and this version cannot read it."""

    def __init__(self, checkpoint: Path, version: int) -> None:
        self.checkpoint = checkpoint
        super().__init__(
            f"the checkpoint {checkpoint} was written by a newer version of SharpGPT (format "
            f"{version}; this one reads up to {FORMAT_VERSION}); upgrade sharpgpt, or give a "
            "checkpoint that this version wrote (in training with another run_name)"
        )


class Strict(BaseModel):
    """Exactly these names, in these types, finite."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class RowSum(Strict):
    """The sum of one metric over rows, and how many they are."""

    sum: float | None
    """Null where it is not finite, which it stays."""
    num_rows: Annotated[float, Field(ge=0)]


class RowSums(Strict):
    """`RowMeans.sums()` and its histogram.

    By name, so that a metric may be added: it has no sum in an older checkpoint.
    """

    sums: Annotated[dict[str, RowSum], Field(max_length=1000)]
    histogram: Annotated[
        list[Annotated[float, Field(ge=0)]],
        Field(min_length=NUM_HISTOGRAM_BINS, max_length=NUM_HISTOGRAM_BINS),
    ]

    @model_validator(mode="before")
    @classmethod
    def _name_sums_of_version_1(cls, content: Any) -> Any:
        if not isinstance(content, dict) or not isinstance(content.get("sums"), list):
            return content
        match content:
            case {"sums": sums, "num_rows": [num_rows], "histogram": histogram} if (
                len(sums) == len(SUMS_OF_VERSION_1) and len(content) == 3
            ):
                pairs = zip(SUMS_OF_VERSION_1, sums, strict=True)
                named = {name: {"sum": total, "num_rows": num_rows} for name, total in pairs}
                return {"sums": named, "histogram": histogram}
        return content

    @classmethod
    def of(cls, sums: Mapping[str, tuple[float, float]], histogram: Sequence[float]) -> "RowSums":
        """From metric -> (sum, rows) and the counts of the histogram."""
        return cls(
            sums={
                name: RowSum(sum=total if math.isfinite(total) else None, num_rows=num_rows)
                for name, (total, num_rows) in sums.items()
            },
            histogram=list(histogram),
        )

    def pairs(self) -> dict[str, tuple[float, float]]:
        """Metric -> (sum, rows)."""
        return {
            name: (math.nan if one.sum is None else one.sum, one.num_rows)
            for name, one in self.sums.items()
        }


class WindowState(Strict):
    """The rows and steps since the last log line."""

    rows: RowSums
    num_steps: Count
    num_skipped_steps: Count
    seconds: Annotated[float, Field(ge=0)]


class Figure(Strict):
    """A validation loss and the step that it belongs to."""

    step: Count
    val_ce_loss: float


class AfterStep(Strict):
    """What was done after the step of a checkpoint, and what was not yet.

    It is part of checkpoint.json, which can be replaced, since some of it may come later.
    """

    val_ce_loss: float | None
    """`val/ce_loss` of these weights; null where they were not validated."""
    best: Figure | None
    """The best validation so far, by val/ce_loss."""
    due: list[DueWork]
    """What a signal kept the run from doing; done first when it is resumed."""


class WatchState(Strict):
    """What `anomalies.AnomalyDetector` remembers: recent losses, counts of anomalies."""

    losses: Annotated[list[float], Field(max_length=MAX_LOSSES)]
    in_spike: bool
    num_loss_spikes: Count
    num_skipped_steps: Count
    num_skipped_in_a_row: Count
    num_rollbacks: Count


class EntropyControlState(Strict):
    """What `entropy_control.EntropyController` remembers."""

    integral: float
    next: float
    """The penalty weight of the next step."""
    weight: float
    """That of the last one."""


class TrainingState(Strict):
    """The state of a run after `step` steps."""

    format_version: Version = 1
    """`FORMAT_VERSION` when it was written; version 1 did not write it."""
    step: Count
    next_block: Count
    """Place of the next training block in the order of all epochs: the data position."""
    config: dict[str, Scalar | list[Scalar]]
    """Every setting, as resolved."""
    text: str
    """SHA-256 of the text; `vocabulary` likewise of the tokenizer."""
    vocabulary: str
    arithmetic: str
    """Of the forward and backward pass: float32 or bfloat16."""
    blocks_per_step: Count
    window: WindowState
    watch: WatchState
    entropy_control: EntropyControlState | None = None
    """Null without entropy_target, and in older checkpoints."""


def read_state(checkpoint: Path) -> TrainingState:
    """The state in a checkpoint folder.

    Raises:
        IncompatibleCheckpointError: a newer version wrote it.
        OSError, ValueError: it is no state of a run.
    """
    data = jsonio.read_bytes(checkpoint / STATE_JSON, max_bytes=MAX_JSON_BYTES, follow_links=False)
    refuse_newer(data, checkpoint, name=STATE_JSON)
    return jsonio.parse_model(data, TrainingState, name=STATE_JSON)


class _AnyVersion(BaseModel):
    model_config = ConfigDict(strict=True)

    format_version: Version = 1


def refuse_newer(data: bytes, checkpoint: Path, *, name: str) -> None:
    """Refuse a JSON file of a newer version; the field means the same in every version.

    Raises:
        IncompatibleCheckpointError: it is of a newer version.
        ValueError: it is no JSON object, or its version is no number.
    """
    version = jsonio.parse_model(data, _AnyVersion, name=name).format_version
    if version > FORMAT_VERSION:
        raise IncompatibleCheckpointError(checkpoint, version)
