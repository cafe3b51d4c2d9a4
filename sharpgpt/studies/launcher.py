"""What runs the runs of a study: the states of a run, and the loop that watches them."""

import abc
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sharpgpt
from sharpgpt.core.terminal import one_line
from sharpgpt.runtime.signals import StopSignal
from sharpgpt.studies.runs import StudyRun

TAIL_BYTES = 8192

WAITING, RUNNING, ELSEWHERE, FINISHED, FAILED = (
    "waiting", "running", "in another process", "finished", "failed",
)  # fmt: skip


@dataclass
class Work:
    """A run and where it stands."""

    run: StudyRun
    state: str = WAITING
    problem: str = ""
    """Why it failed, in one line."""
    started: float = 0.0
    handle: Any = field(default=None, repr=False)
    """What the launcher knows it by."""


class Launcher(abc.ABC):
    """Starts runs and sees how they end."""

    poll_s = 0.3
    stops = "the runs save and end, then this"
    """What a signal does."""

    def __init__(self, *, allow_import: bool = False) -> None:
        self._allow_import = allow_import

    @abc.abstractmethod
    def update(self, works: Sequence[Work]) -> list[Work]:
        """Take note of what has ended, and start what can be started; returns what has changed."""

    @abc.abstractmethod
    def close(self, works: Sequence[Work]) -> None:
        """The study ends; called however it does."""

    def command(self, run: StudyRun) -> list[str]:
        """What trains a run, whose settings are written."""
        path = config_file(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        run.config.to_yaml(path)
        log_file(run).parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-u", "-m", "sharpgpt", "train", "--config", str(path)]
        return [*command, "--allow_import"] if self._allow_import else command

    def environment(self) -> Mapping[str, str]:
        """The variables of its process, which finds this very package."""
        package = str(Path(sharpgpt.__path__[0]).parent)
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def run_all(
    runs: Sequence[StudyRun],
    launcher: Launcher,
    show: Callable[[Sequence[Work]], object],
    changed: Callable[[Work], object],
) -> tuple[list[Work], int | None]:
    """Train what is not finished; (each run as it ended, the signal that stopped it or None).

    `show` sees all runs several times a second, `changed` one that has started or ended. A run that
    fails does not end the others.
    """
    works = [Work(run, FINISHED if run.is_finished() else WAITING) for run in runs]
    with StopSignal(launcher.stops) as stop:
        try:
            while stop.number is None and any(w.state not in (FINISHED, FAILED) for w in works):
                for work in launcher.update(works):
                    changed(work)
                show(works)
                time.sleep(launcher.poll_s)
        finally:
            launcher.close(works)
    return works, stop.number


def config_file(run: StudyRun) -> Path:
    """The settings of a run, as its process reads them."""
    return run.folder.parents[1] / "configs" / f"{run.name}.yaml"


def log_file(run: StudyRun) -> Path:
    """What the processes of a run printed."""
    return run.folder.parents[1] / "logs" / f"{run.name}.txt"


def last_error(log: Path) -> str:
    """The last error that a run printed, else its last line."""
    try:
        with open(log, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    lines = [line.strip() for line in lines if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return one_line((errors or lines or [""])[-1])[:500]
