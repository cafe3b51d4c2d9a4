"""Jobs of a real Slurm of one node, which the test starts; `make test-slurm` installs it."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.studies.slurm import SlurmLauncher, TrainJob
from tests.forked_python import ForkedPython
from tests.studies.test_study import study_file, without_times  # noqa: F401

CONFIGURATION = """
ClusterName=test
SlurmctldHost=HOST(127.0.0.1)
SlurmctldPort=PORT0
SlurmdPort=PORT1
AuthType=auth/munge
AuthInfo=socket=FOLDER/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=FOLDER/state
SlurmdSpoolDir=FOLDER/spool
SlurmctldPidFile=FOLDER/slurmctld.pid
SlurmdPidFile=FOLDER/slurmd.pid
SlurmctldLogFile=FOLDER/slurmctld.log
SlurmdLogFile=FOLDER/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0
KillWait=5
NodeName=HOST NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
MISSING = [program for program in PROGRAMS if not shutil.which(program)]

needs_slurm = pytest.mark.skipif(
    bool(MISSING) or os.geteuid() != 0,
    reason=f"Slurm is not installed ({', '.join(MISSING)}), or not root: make test-slurm",
)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Slurm of this machine alone, its files in a folder of the test."""
    folder = tmp_path / "slurm"
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    ports = []
    for _ in range(2):
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            ports.append(str(found.getsockname()[1]))
    text = CONFIGURATION.replace("FOLDER", str(folder)).replace("PORT0", ports[0])
    text = text.replace("PORT1", ports[1]).replace("HOST", socket.gethostname().split(".")[0])
    (folder / "slurm.conf").write_text(text)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    munged = ["munged", "--force", *(f"--{name}={folder}/{file}" for name, file in (
        ("key-file", "munge.key"), ("socket", "munge.socket"), ("pid-file", "munged.pid"),
        ("log-file", "munged.log"), ("seed-file", "munged.seed")))]  # fmt: skip
    try:
        for command in (munged, ["slurmctld"], ["slurmd"]):
            subprocess.run(command, check=True, capture_output=True, timeout=30)
        wait_for(lambda: "idle" in run("sinfo", "--noheader", "--format", "%t"), 60)
        yield
    finally:
        with contextlib.suppress(subprocess.SubprocessError):
            run("scancel", "--user", "root")
        for name in ("slurmd", "slurmctld", "munged"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def wait_for(is_so: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
    return found


@needs_slurm
def test_a_study_whose_job_is_told_to_save_is_queued_again_and_ends_right(
    slurm: None,
    study_file: Path,  # noqa: F811
    tmp_path: Path,
    command_environment: Mapping[str, str],
) -> None:
    text = study_file.read_text(encoding="utf-8").replace("max_steps: 8", "max_steps: 1500")
    text = text.replace("seeds: [1, 2]", "seeds: [1]").replace(
        "save_interval: 2", "save_interval: 0"
    )
    text = text.replace("eval_interval: 4", "eval_interval: 0")
    study_file.write_text(text + "slurm: {time: 30, cpus_per_task: 1}\n", encoding="utf-8")
    environment = {**command_environment, "SLURM_CONF": os.environ["SLURM_CONF"]}

    def start(where: str, *flags: str) -> ForkedPython:
        (tmp_path / where).mkdir(exist_ok=True)
        command = ["-m", "sharpgpt", "study", str(study_file), "--output", "out", *flags]
        return ForkedPython(command, env=environment, cwd=tmp_path / where)

    with start("jobs", "--launcher", "slurm") as first:
        metrics = tmp_path / "jobs/out/runs/baseline_seed1/metrics.jsonl"
        wait_for(lambda: metrics.exists() and metrics.stat().st_size > 2000, 120)
        jobs = json.loads((tmp_path / "jobs/out/slurm/jobs.json").read_text())
        first.kill()  # the jobs outlive the study
    run("scancel", "--signal=USR1", jobs["baseline_seed1"])
    shown = lambda: run("scontrol", "show", "job", jobs["baseline_seed1"])  # noqa: E731
    wait_for(lambda: "Restarts=1" in shown(), 60)
    with start("jobs", "--launcher", "slurm") as second:
        assert second.wait(300) == 0
    assert json.loads((tmp_path / "jobs/out/slurm/jobs.json").read_text()) == jobs
    log = (tmp_path / "jobs/out/logs/baseline_seed1.txt").read_text()
    assert re.search(r"Continuing .* at step \d+", log)
    with start("here") as local:
        assert local.wait(300) == 0
    assert without_times(tmp_path / "jobs/out/study.json") == without_times(
        tmp_path / "here/out/study.json"
    )


def test_without_slurm_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"srun.*; start the study on a machine of the cluster"):
        SlurmLauncher(tmp_path, {})


def test_a_job_passes_the_signal_on_and_waits_until_its_run_has_saved(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    code = (
        "trap 'sleep 0.3; echo saved; exit 138' USR1; echo ready; while true; do sleep 0.05; done"
    )
    job = TrainJob(["sh", "-c", code], log, save_s=10)
    with log.open("wb") as output:
        job._process = subprocess.Popen(job.command, stdout=output)
    wait_for(lambda: b"ready" in log.read_bytes(), 10)
    again = job.checkpoint()
    assert log.read_text() == "ready\nsaved\n"
    assert again.function.command == job.command
    job._process.wait()


def test_a_run_that_fails_fails_its_job(tmp_path: Path) -> None:
    job = TrainJob(["sh", "-c", "echo error: no disk; exit 3"], tmp_path / "log.txt", save_s=1)
    with pytest.raises(RuntimeError, match=r"error: no disk \(exit code 3\)"):
        job()
