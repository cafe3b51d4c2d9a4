"""Reading a run folder, whatever state it is in.

A run that crashed, or is still training, has files that are missing, short, or end in half a line.
Everything that can be read is read; `RunFiles.notes` names what cannot, and nothing is raised.

The folder may come from anyone: only plain files that lie in it are read, never through a link, and
none of more than `MAX_FILE_BYTES`.
"""

import math
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.core import jsonio
from sharpgpt.core.errors import UserError
from sharpgpt.core.metrics import MAX_PROB_HISTOGRAM
from sharpgpt.core.numbers import counted

MAX_FILE_BYTES = 256 * 2**20
"""Of metrics.jsonl and samples.jsonl: 100 times those of a long run."""
MAX_CONFIG_BYTES = 2**20
MAX_STEP = 10**12


@dataclass(frozen=True)
class Column:
    """One metric over the run: `values[i]` was logged at `steps[i]`, steps ascending."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def finite(self) -> "Column":
        """The column without its NaN and infinite values."""
        kept = [i for i, value in enumerate(self.values) if math.isfinite(value)]
        return Column([self.steps[i] for i in kept], [self.values[i] for i in kept])

    @property
    def last(self) -> float | None:
        """The newest value, or None for an empty column."""
        return self.values[-1] if self.values else None


@dataclass(frozen=True)
class Metrics:
    """The content of metrics.jsonl, as one column for each metric."""

    columns: dict[str, Column]
    histograms: list[tuple[int, list[float]]]
    """(step, counts over equal bins of [0, 1]) of the largest probability, steps ascending."""

    def column(self, name: str) -> Column:
        """The column `name`, such as `val/ce_loss`; empty if it was never logged."""
        return self.columns.get(name, Column())

    @property
    def last_step(self) -> int:
        """The newest step of any metric, 0 without metrics."""
        return max((column.steps[-1] for column in self.columns.values()), default=0)


@dataclass(frozen=True)
class RunFiles:
    """What a run folder holds. Absent files are None or empty, and named in `notes`."""

    name: str
    config: TrainingConfig | None
    environment: dict[str, Any]
    metrics: Metrics
    samples: list[dict[str, Any]]
    summary: dict[str, Any]
    evaluation: dict[str, Any]
    """evaluation.json, where `sharpgpt evaluate` wrote it into the folder."""
    notes: list[str]


def read_run(run_folder: Path) -> RunFiles:
    """Read a run folder. Raises `UserError` only if it is no folder."""
    if not run_folder.is_dir():
        raise UserError(f"{run_folder}: no such run folder; a run is outputs/<run name>")
    notes: list[str] = []
    config = read_config(run_folder, notes)
    environment = _read_object(run_folder / "environment.json", notes)
    metrics = read_metrics(run_folder / "metrics.jsonl", notes)
    samples = _read_lines(run_folder / "samples.jsonl", notes)
    return RunFiles(
        name=run_folder.resolve().name,
        config=config,
        environment=environment,
        metrics=metrics,
        samples=[line for line in samples if isinstance(line.get("text"), str)],
        summary=_read_object(run_folder / "summary.json", notes, optional=True),
        evaluation=_read_object(run_folder / "evaluation.json", notes, optional=True),
        notes=notes,
    )


def read_metrics(
    path: Path, notes: list[str] | None = None, only: Collection[str] | None = None
) -> Metrics:
    """Read metrics.jsonl into columns, `only` some or all; problems are appended to `notes`.

    A resumed run logs the steps since its checkpoint again: when the step goes back, what was
    logged at that step or later is replaced. Values that are null become NaN.
    """
    found: dict[str, dict[int, float]] = {}
    histograms: dict[int, list[float]] = {}
    newest = -1
    for line in _read_lines(path, notes if notes is not None else []):
        step = line.get("step")
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= MAX_STEP:
            continue
        if step < newest:
            tables: list[dict[int, Any]] = [*found.values(), histograms]
            for by_step in tables:
                for stale in [logged for logged in by_step if logged >= step]:
                    del by_step[stale]
        newest = step
        for name in line if only is None else line.keys() & only:
            value = line[name]
            if name == MAX_PROB_HISTOGRAM and _is_histogram(value):
                histograms[step] = [float(count) for count in value]
            elif name.startswith(("train/", "val/")) and _is_number(value):
                found.setdefault(name, {})[step] = math.nan if value is None else float(value)
    columns = {
        name: Column(list(by_step), list(by_step.values()))
        for name, by_step in found.items()
        if by_step
    }
    return Metrics(columns, list(histograms.items()))


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_histogram(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_count, value))


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def read_config(run_folder: Path, notes: list[str] | None = None) -> TrainingConfig | None:
    """The settings of a run; None, with a note, if they cannot be read."""
    path, notes = run_folder / "config.yaml", [] if notes is None else notes
    if _read(path, notes, max_bytes=MAX_CONFIG_BYTES) is None:
        return None
    try:
        return TrainingConfig.from_yaml(path, allow_import=True)  # which reading does not
    except ConfigError as error:
        notes.append(f"{path.name} cannot be used: {'; '.join(error.problems)}")
        return None


def _read_object(path: Path, notes: list[str], *, optional: bool = False) -> dict[str, Any]:
    """The JSON object in a file; a missing one is no problem if it is `optional`."""
    if optional and not os.path.lexists(path):
        return {}
    data = _read(path, notes, max_bytes=jsonio.MAX_JSON_BYTES)
    if data is None:
        return {}
    try:
        return jsonio.parse_object(data.decode(errors="replace"), allow_nan=True)
    except ValueError:
        notes.append(f"{path.name} holds no JSON object.")
        return {}


def _read_lines(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The JSON objects in a file, one a line; the last line may be torn."""
    data = _read(path, notes, max_bytes=MAX_FILE_BYTES)
    if data is None:
        return []
    try:
        objects, num_unreadable = jsonio.parse_lines(data)
    except ValueError as error:
        notes.append(f"{path.name} has {error}.")
        return []
    if not objects:
        notes.append(f"{path.name} is empty.")
    elif num_unreadable:
        num_lines = len(objects) + num_unreadable
        notes.append(
            f"{path.name}: {num_unreadable:,} of {counted(num_lines, 'line')} cannot be read."
        )
    return objects


def _read(path: Path, notes: list[str], *, max_bytes: int) -> bytes | None:
    try:
        return jsonio.read_bytes(path, max_bytes=max_bytes, follow_links=False)
    except FileNotFoundError:
        notes.append(f"{path.name} is missing.")
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error.strerror}.")
    except ValueError as error:
        notes.append(f"{error}.")
    return None
