"""Runs of a study side by side on this machine, each a process of its own.

Each process has its share of the cores, or a GPU. Stopping the study stops them: each saves a
checkpoint after its step, and the next start continues it. On Linux that holds where the study
itself is killed: the kernel sends its processes SIGTERM.
"""

import contextlib
import ctypes
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from subprocess import DEVNULL, STDOUT, Popen, TimeoutExpired

from sharpgpt.studies.launcher import (
    ELSEWHERE,
    FAILED,
    FINISHED,
    RUNNING,
    WAITING,
    Launcher,
    Work,
    last_error,
    log_file,
)

SAVE_S = 600.0
"""So long may a run take to save after it was asked to stop."""


@dataclass
class Running:
    """A process, and its place among those that run side by side."""

    process: "Popen[bytes]"
    slot: int


class LocalLauncher(Launcher):
    """Up to `workers` processes.

    Args:
        workers: how many at a time.
        num_threads: of each, on a CPU.
        gpus: their names for CUDA_VISIBLE_DEVICES; empty for a CPU.
        allow_import: whether a run may import the penalty that its settings name.
    """

    def __init__(
        self,
        workers: int,
        *,
        num_threads: int,
        gpus: Sequence[str] = (),
        allow_import: bool = False,
    ) -> None:
        super().__init__(allow_import=allow_import)
        self._workers, self._num_threads, self._gpus = workers, num_threads, gpus

    def update(self, works: Sequence[Work]) -> list[Work]:
        """As in `Launcher`. A run that another process holds is left to it."""
        ended = [w for w in works if w.handle and w.handle.process.poll() is not None]
        for work in ended:
            _end(work)
        return ended + self._start_next(works)

    def _start_next(self, works: Sequence[Work]) -> list[Work]:
        changed = []
        for work in works:
            taken = {other.handle.slot for other in works if other.handle}
            if len(taken) >= self._workers:
                break
            if work.state not in (WAITING, ELSEWHERE):
                continue
            if work.run.is_held():
                work.state = ELSEWHERE
                continue
            if work.state == ELSEWHERE and work.run.is_finished():
                work.state = FINISHED
            else:
                self._start(work, next(s for s in range(self._workers) if s not in taken))
            changed.append(work)
        return changed

    def _start(self, work: Work, slot: int) -> None:
        command = self.command(work.run)
        with open(log_file(work.run), "ab") as output:
            process = Popen(
                command,
                stdin=DEVNULL,
                stdout=output,
                stderr=STDOUT,
                env=self._environment_at(slot),
                start_new_session=True,  # Ctrl-C reaches the study alone, which stops its runs
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        work.handle, work.state, work.started = Running(process, slot), RUNNING, time.monotonic()

    def _environment_at(self, slot: int) -> Mapping[str, str]:
        if self._gpus:
            own = {"CUDA_VISIBLE_DEVICES": self._gpus[slot % len(self._gpus)]}
        else:
            own = {"OMP_NUM_THREADS": str(self._num_threads)}
        return {**self.environment(), **own}

    def close(self, works: Sequence[Work]) -> None:
        """Ask the processes that are left to save and end, and wait for them."""
        left = [work.handle.process for work in works if work.handle]
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


def _end(work: Work) -> None:
    """Take note of a process that has ended."""
    code, work.handle = work.handle.process.returncode, None
    if code == 0 and work.run.is_finished():
        work.state = FINISHED
        return
    work.state = FAILED
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    work.problem = f"{last_error(log_file(work.run))} ({ended})".strip()


def _end_with_parent() -> None:
    """In a new process: SIGTERM when the thread that started it ends, however that happens."""
    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
