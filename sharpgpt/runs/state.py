"""training_state.json: what a run must know to go on, beside its tensors. Checked when it is read.

The file may come from a stranger, so nothing in it is believed: pydantic refuses other names, other
types, other lengths, numbers out of range, and what is not finite.
"""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sharpgpt.core.metrics import MEANS, NUM_HISTOGRAM_BINS

STATE_JSON = "training_state.json"
MAX_JSON_BYTES = 1 << 20
"""No state and no manifest of ours comes near it, and larger ones are not read."""

Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Sums = list[float | None]
"""Float sums; null where one is not finite, which it stays."""
Scalar = str | int | float | bool | None
DueWork = Literal["validate", "sample"]
MAX_LOSSES = 100
"""Losses of the last steps among which a spike is told."""

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """Exactly these names, in these types, finite."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class RowSums(Strict):
    """`RowMeans.state()`."""

    sums: Annotated[Sums, Field(min_length=len(MEANS), max_length=len(MEANS))]
    num_rows: Annotated[Sums, Field(min_length=1, max_length=1)]
    histogram: Annotated[Sums, Field(min_length=NUM_HISTOGRAM_BINS, max_length=NUM_HISTOGRAM_BINS)]


class WindowState(Strict):
    """The rows and steps since the last log line."""

    rows: RowSums
    num_steps: Count
    num_skipped_steps: Count
    seconds: Annotated[float, Field(ge=0)]


class Figure(Strict):
    """A validation figure and the step that it belongs to."""

    step: Count
    val_ce_loss: float


class AfterStep(Strict):
    """What was done after the step of a checkpoint, and what was not yet.

    It stands in checkpoint.json, which can be replaced, since some of it may come later.
    """

    val_ce_loss: float | None
    """`val/ce_loss` of these weights; null where they were not validated."""
    best: Figure | None
    """The best validation so far, by val/ce_loss."""
    due: list[DueWork]
    """What a signal kept the run from doing; done first when it is resumed."""


class WatchState(Strict):
    """What `anomalies.Watch` remembers of the losses and of the steps that went wrong."""

    losses: Annotated[list[float], Field(max_length=MAX_LOSSES)]
    in_spike: bool
    num_loss_spikes: Count
    num_skipped_steps: Count
    num_skipped_in_a_row: Count
    num_rollbacks: Count


class TrainingState(Strict):
    """The state of a run after `step` steps."""

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


def read_state(checkpoint: Path) -> TrainingState:
    """The state in a checkpoint folder. Raises ValueError or OSError for what cannot be one."""
    return parsed(TrainingState, read_bytes(checkpoint / STATE_JSON))


def parsed(kind: type[Model], data: bytes) -> Model:
    """The JSON in `data` as a `kind`. Raises ValueError with the first problem, short."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:40] for part in problem["loc"])
        raise ValueError(f"{place[:120]}: {problem['msg'][:120]}".removeprefix(": ")) from None


def read_bytes(path: Path) -> bytes:
    """A small file. Raises ValueError for one of more than `MAX_JSON_BYTES`, or OSError."""
    with open(path, "rb") as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"it has more than {MAX_JSON_BYTES} bytes")
    return data
