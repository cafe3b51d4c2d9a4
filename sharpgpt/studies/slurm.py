"""Runs of a study as jobs of Slurm, one job each, by submitit.

A job saves its run on SIGUSR1, which Slurm sends before the time limit (and `scancel --signal=USR1`
when asked), and puts itself into the queue again, where `resume: auto` continues it. A preempted
job is queued again by Slurm. The jobs outlive the study: started again, it finds them in the queue.
"""

import contextlib
import getpass
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpgpt.core.errors import UserError
from sharpgpt.core.jsonio import read_object, write_json
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
from sharpgpt.studies.study_file import SlurmOptions

logger = logging.getLogger(__name__)

JOBS = "jobs.json"
MAX_TIMEOUTS = 1000
"""So often may a job reach its time limit and be queued again."""
LOST_S = 30.0
"""A job that is gone from the queue and has not finished its run has failed after this time: files
of another machine may be late."""


class TrainJob:
    """What a job does: the training of one run, in a process of its own."""

    def __init__(self, command: Sequence[str], log: Path, save_s: float) -> None:
        self.command, self.log, self.save_s = list(command), log, save_s
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Train to the end. Raises RuntimeError where it ends otherwise."""
        with open(self.log, "ab") as output:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
            while (code := self._process.poll()) is None:
                time.sleep(0.2)
        if code:
            raise RuntimeError(f"{last_error(self.log)} (exit code {code})")
        return 0

    def checkpoint(self) -> Any:
        """Called in submitit's handler of SIGUSR1: the run saves and ends; the same job follows."""
        import submitit

        if self._process is not None:
            # The process may have had the signal from Slurm already; it takes two for one.
            self._process.send_signal(signal.SIGUSR1)
            deadline = time.monotonic() + self.save_s
            while not _has_ended(self._process.pid) and time.monotonic() < deadline:
                time.sleep(0.1)
        return submitit.helpers.DelayedSubmission(TrainJob(self.command, self.log, self.save_s))


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; `Popen.wait` may be what the signal has interrupted."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except ChildProcessError:
        return True


class SlurmLauncher(Launcher):
    """A job for every run. Its jobs are named in FOLDER/slurm/jobs.json, run -> job."""

    poll_s = 2.0
    stops = "this ends; the jobs go on, and the same command finds them"

    def __init__(
        self, folder: Path, options: Mapping[str, Any], *, allow_import: bool = False
    ) -> None:
        super().__init__(allow_import=allow_import)
        self._folder = (folder / "slurm").absolute()
        self._options = SlurmOptions.from_dict(options)
        self._jobs: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):
            self._jobs = {str(k): str(v) for k, v in read_object(self._folder / JOBS).items()}
        self._gone_since: dict[str, float] = {}
        self._executor = self._make_executor()

    def _make_executor(self) -> Any:
        os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"
        try:
            import submitit
        except ImportError:
            raise UserError(
                "launcher slurm needs the package submitit: pip install 'sharpgpt[slurm]'"
            ) from None
        submitit.JobEnvironment.USR_SIG = "USR1"  # where it was imported before
        try:
            executor = submitit.SlurmExecutor(self._folder, max_num_timeout=MAX_TIMEOUTS)
        except RuntimeError as error:
            raise UserError(
                f"launcher slurm: {error}; start the study on a machine of the cluster, or with "
                "--launcher local"
            ) from None
        given = {n: v for n, v in self._options.to_dict().items() if v not in (None, [])}
        if "mem_gb" in given:
            given["mem"] = f"{round(1024 * given.pop('mem_gb'))}M"
        executor.update_parameters(**given, additional_parameters={"requeue": True})
        return executor

    def update(self, works: Sequence[Work]) -> list[Work]:
        """As in `Launcher`."""
        left = [work for work in works if work.state not in (FINISHED, FAILED)]
        states = queue()
        if states is None:
            return []
        changed = []
        for work in left:
            before = work.state
            self._update(work, states)
            if work.state != before and work.state in (RUNNING, FINISHED, FAILED):
                changed.append(work)
        return changed

    def _update(self, work: Work, states: Mapping[str, str]) -> None:
        name = work.run.name
        job = self._jobs.get(name, "")
        if job in states:
            is_running = states[job] in ("RUNNING", "COMPLETING")
            if is_running and work.state != RUNNING:
                work.started = work.started or time.monotonic()
            work.state = RUNNING if is_running else WAITING
            self._gone_since.pop(name, None)
        elif work.run.is_finished():
            work.state = FINISHED
        elif work.handle is None and not work.run.is_held():
            self._submit(work)  # also a run whose job failed in an earlier start of the study
        elif work.handle is None:
            work.state = ELSEWHERE
        elif time.monotonic() - self._gone_since.setdefault(name, time.monotonic()) > LOST_S:
            work.state = FAILED
            work.problem = f"{last_error(log_file(work.run))} (job {job})"
        if job in states:
            work.handle = job

    def _submit(self, work: Work) -> None:
        run = work.run
        self._executor.update_parameters(job_name=run.name)
        job = TrainJob(
            self.command(run), log_file(run).absolute(), save_s=self._options.signal_delay_s - 1.0
        )
        try:
            with _variables(self.environment()):
                work.handle = self._jobs[run.name] = str(self._executor.submit(job).job_id)
        except Exception as error:  # submitit has a class of its own for each step
            reason = " ".join(str(error).split())[-400:]
            raise UserError(
                f"launcher slurm: the job of {run.name} was refused ({reason}); see the part slurm "
                "of the study file"
            ) from None
        write_json(self._folder / JOBS, self._jobs)

    def close(self, works: Sequence[Work]) -> None:
        """The jobs go on."""


def queue() -> dict[str, str] | None:
    """This user's jobs in the queue: number -> state. None where Slurm does not answer."""
    command = ["squeue", "--noheader", "--user", getpass.getuser(), "--format", "%A %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        reason = " ".join(str(getattr(error, "stderr", None) or error).split())[:300]
        logger.warning("squeue fails (%s); asking again", reason, extra={"once": reason})
        return None
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip())


@contextlib.contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """The environment of this process, which sbatch gives to the job."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
