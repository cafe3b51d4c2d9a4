"""Runs of a study side by side on this machine, each a process of its own.

Each process has its share of the cores, or a GPU. Stopping the study stops them: each saves a
checkpoint after its step, and the next start continues it. On Linux that holds where the study
itself is killed: the kernel sends its processes SIGTERM.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen, TimeoutExpired

import sharpgpt
from sharpgpt.core.terminal import one_line
from sharpgpt.runtime.signals import StopSignal
from sharpgpt.studies.runs import StudyRun

POLL_S = 0.3
SAVE_S = 600.0
"""So long may a run take to save after it was asked to stop."""
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
    slot: int = 0
    process: "Popen[bytes] | None" = field(default=None, repr=False)


@dataclass(frozen=True)
class Launcher:
    """How the processes of the runs are started."""

    workers: int
    num_threads: int
    gpus: Sequence[str] = ()
    """Their names for CUDA_VISIBLE_DEVICES; empty for a CPU."""
    allow_import: bool = False

    def command(self, run: StudyRun) -> list[str]:
        """What trains a run."""
        command = [sys.executable, "-m", "sharpgpt", "train", "--config", str(config_file(run))]
        return [*command, "--allow_import"] if self.allow_import else command

    def start(self, work: Work, slot: int) -> None:
        """Start the process of a run; what it prints goes to logs/NAME.txt."""
        run = work.run
        log = log_file(run)
        log.parent.mkdir(parents=True, exist_ok=True)
        config_file(run).parent.mkdir(parents=True, exist_ok=True)
        run.config.to_yaml(config_file(run))
        with open(log, "ab") as output:
            work.process = Popen(
                self.command(run),
                stdin=DEVNULL,
                stdout=output,
                stderr=STDOUT,
                env=self._environment(slot),
                start_new_session=True,  # Ctrl-C reaches the study alone, which stops its runs
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        work.state, work.started, work.slot = RUNNING, time.monotonic(), slot

    def _environment(self, slot: int) -> Mapping[str, str]:
        package = str(Path(sharpgpt.__path__[0]).parent)
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        found = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        if self.gpus:
            found["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        else:
            found["OMP_NUM_THREADS"] = str(self.num_threads)
        return found


def config_file(run: StudyRun) -> Path:
    """The settings of a run, as its process reads them."""
    return run.folder.parents[1] / "configs" / f"{run.name}.yaml"


def log_file(run: StudyRun) -> Path:
    """What the processes of a run printed."""
    return run.folder.parents[1] / "logs" / f"{run.name}.txt"


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
    with StopSignal("the runs save and end, then this") as stop:
        try:
            while stop.number is None and any(w.state not in (FINISHED, FAILED) for w in works):
                for work in works:
                    if work.process is not None and work.process.poll() is not None:
                        _end(work)
                        changed(work)
                _start_next(works, launcher, changed)
                show(works)
                time.sleep(POLL_S)
        finally:
            _stop(works)
    return works, stop.number


def _start_next(
    works: Sequence[Work], launcher: Launcher, changed: Callable[[Work], object]
) -> None:
    """Start runs while there is a free slot. One that another process holds is left to it."""
    for work in works:
        taken = {other.slot for other in works if other.state == RUNNING}
        if len(taken) >= launcher.workers:
            return
        if work.state not in (WAITING, ELSEWHERE):
            continue
        if work.run.is_held():
            work.state = ELSEWHERE
            continue
        if work.state == ELSEWHERE and work.run.is_finished():
            work.state = FINISHED
            changed(work)
            continue
        launcher.start(work, next(s for s in range(launcher.workers) if s not in taken))
        changed(work)


def _end(work: Work) -> None:
    """Take note of a process that has ended."""
    assert work.process is not None, "only a started run ends"
    code, work.process = work.process.returncode, None
    if code == 0 and work.run.is_finished():
        work.state = FINISHED
        return
    work.state = FAILED
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    work.problem = f"{_last_line(log_file(work.run))} ({ended})".strip()


def _last_line(log: Path) -> str:
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


def _stop(works: Sequence[Work]) -> None:
    """Ask the processes that are left to save and end, and wait for them."""
    left = [work.process for work in works if work.process is not None]
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    deadline = time.monotonic() + SAVE_S
    for process in left:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except TimeoutExpired:
            process.kill()
            process.wait()


def _end_with_parent() -> None:
    """In a new process: SIGTERM when the thread that started it ends, however that happens."""
    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
