"""The log of a run: every event goes to each of its trackers.

A tracker is a module in trackers/ with a function `start`, and a setting `use_NAME` that turns it
on; there is no other registry. metrics.jsonl and samples.jsonl (trackers/jsonl.py) are always
written. A tracker that fails costs a warning, never the run.
"""

import importlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sharpgpt.config import TrainingConfig
from sharpgpt.runs.state import DueWork
from sharpgpt.runs.trackers.jsonl import JsonLines

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where metrics and samples of a run go. `step` counts finished optimizer steps.

    Calls come from the training loop, which waits for them. Steps come in order, but are repeated
    after a resume or a rollback.
    """

    run_id: str | None
    """Continues this tracker's run when given to `start`; NAME_run_id in environment.json."""

    def log(
        self,
        step: int,
        metrics: Mapping[str, float],
        histograms: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Metrics by name, and counts over equal bins of [0, 1] by name."""

    def log_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Generated texts: mappings with prompt, text and settings (temperature, top_p, ...)."""

    def summary(self, metrics: Mapping[str, float]) -> None:
        """The last value of every metric, before `finish`."""

    def finish(self, exit_code: int) -> None:
        """Close; any exit code but 0 marks the run as failed."""


def start_trackers(
    config: TrainingConfig,
    *,
    run_folder: Path,
    run_ids: dict[str, str | None],
    environment: Mapping[str, Any],
) -> list[Tracker]:
    """The trackers that `config` turns on: `use_NAME` calls `start` in trackers/NAME.py.

    `start(config, run_folder=..., run_id=..., environment=...)` returns a tracker, or None when
    tracking is off after all. `run_ids` has the ids of earlier parts of the run as NAME_run_id, and
    is updated. `environment` describes the run.
    """
    trackers = list[Tracker]()
    for setting, value in config.to_dict().items():
        if not (setting.startswith("use_") and value):
            continue
        name = setting.removeprefix("use_")
        key = f"{name}_run_id"
        try:
            start = importlib.import_module(f"sharpgpt.runs.trackers.{name}").start
            tracker = start(
                config, run_folder=run_folder, run_id=run_ids.get(key), environment=environment
            )
        except Exception as error:
            logger.warning("%s: not tracked (%s: %s)", name, type(error).__name__, error)
            continue
        if tracker is not None:
            trackers.append(tracker)
            run_ids[key] = tracker.run_id
    return trackers


class RunLog:
    """Sends every event of a run to `records` (its files) and to the other trackers."""

    def __init__(
        self,
        run_folder: Path,
        trackers: Sequence[Tracker] = (),
        *,
        first_step: int = 0,
        due: Collection[DueWork] = (),
    ) -> None:
        self.records = JsonLines(run_folder, first_step, due=due)
        self._trackers: list[Tracker] = [self.records, *trackers]

    def log(
        self,
        step: int,
        metrics: Mapping[str, float],
        histograms: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """One event."""
        self._each(lambda tracker: tracker.log(step, metrics, histograms))

    def log_samples(
        self, step: int, prompt: str, texts: list[str], settings: dict[str, Any]
    ) -> None:
        """Generated texts with how they were made."""
        samples = [{"prompt": prompt, "text": text, "settings": settings} for text in texts]
        self._each(lambda tracker: tracker.log_samples(step, samples))

    def finish(self, exit_code: int) -> None:
        """Close all trackers; any exit code but 0 marks the run as failed."""
        self._each(lambda tracker: tracker.summary(self.records.latest))
        self._each(lambda tracker: tracker.finish(exit_code))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for tracker in self._trackers:
            try:
                call(tracker)
            except Exception as error:
                name = type(tracker).__name__
                reason = f"{type(error).__name__}: {error}"
                logger.warning(
                    "%s failed (%s); training continues", name, reason, extra={"once": name}
                )
