"""The runs of a study: one for each arm and seed, and how far each has come, from its files."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpgpt.config import TrainingConfig
from sharpgpt.core.jsonio import read_object
from sharpgpt.runs.folder import run_lock
from sharpgpt.runtime.lock import FolderInUseError
from sharpgpt.studies.study_file import Study

RUNS = "runs"
TAIL_BYTES = 16_384
"""Of metrics.jsonl, in which the newest lines are."""


@dataclass(frozen=True)
class StudyRun:
    """One arm with one seed."""

    arm: str
    seed: int
    config: TrainingConfig

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config.output_dir) / str(self.config.run_name)

    @property
    def name(self) -> str:
        """The name of the folder."""
        return str(self.config.run_name)

    def is_finished(self) -> bool:
        """Whether its summary names the last step, and its last checkpoint is there."""
        try:
            summary = read_object(self.folder / "summary.json")
        except (OSError, ValueError):
            return False
        has_weights = any((self.folder / "checkpoints").glob("step_*/config.json")) or bool(
            self.config.checkpoint_dir
        )
        return has_weights and summary.get("step") == summary.get("num_steps") is not None

    def is_held(self) -> bool:
        """Whether a process works in its folder: another study's, or one that was left over."""
        if not self.folder.is_dir():
            return False
        try:
            run_lock(self.folder).check()
        except FolderInUseError:
            return True
        return False

    def progress(self) -> Mapping[str, Any]:
        """The newest logged values by name, `step` among them; empty before the first."""
        try:
            with open(self.folder / "metrics.jsonl", "rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - TAIL_BYTES))
                lines = file.read().split(b"\n")
        except OSError:
            return {}
        newest: dict[str, Any] = {}
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # the half of a line, at either end
            if isinstance(event, dict) and isinstance(event.get("step"), int):
                newest |= event
        return newest


def runs_of(study: Study, folder: Path) -> list[StudyRun]:
    """Every run, seed by seed, so that a study cut short has whole seeds; the baseline first."""
    names = _folder_names(study.arms)
    arms = [study.baseline, *study.others]
    return [
        StudyRun(
            arm,
            seed,
            study.config(
                arm,
                seed,
                run_name=f"{names[arm]}_seed{seed}",
                output_dir=str(folder / RUNS),
                resume="auto",
            ),
        )
        for seed in study.seeds
        for arm in arms
    ]


def _folder_names(arms: Mapping[str, Any]) -> dict[str, str]:
    """The arms as names of folders, no two alike on a file system that ignores case."""
    found: dict[str, str] = {}
    for arm in arms:
        plain = re.sub(r"[^A-Za-z0-9.]+", "_", arm).strip("._")[:80] or "arm"
        taken = {name.lower() for name in found.values()}
        number = 2
        name = plain
        while name.lower() in taken:
            name = f"{plain}_{number}"
            number += 1
        found[arm] = name
    return found
