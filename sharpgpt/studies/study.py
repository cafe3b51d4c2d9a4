"""`study`: from a file that declares arms and seeds to the verdict, its numbers and its page.

OUTPUT/
  declaration.json         what was declared, before the first run
  configs/  logs/  runs/   settings, output and folder of each run
  comparison.json          what `sharpgpt compare` finds
  study.json  study.html   the answer, and the page
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import make_folder, user_path
from sharpgpt.core.jsonio import write_json
from sharpgpt.core.numbers import counted
from sharpgpt.evaluation.arms import BASELINE, ComparedRun, arms_of_runs
from sharpgpt.evaluation.compare import ComparisonResult, compare
from sharpgpt.evaluation.results import Result
from sharpgpt.report.study import write_study
from sharpgpt.runtime.console import console_logging
from sharpgpt.runtime.device import available_device, choose_device, torch_settings_kept
from sharpgpt.runtime.lock import FolderLock
from sharpgpt.runtime.signals import deliver
from sharpgpt.studies.answer import answer, facts_of_run
from sharpgpt.studies.declaration import DECLARATION, declare
from sharpgpt.studies.launcher import FAILED, Launcher, run_all
from sharpgpt.studies.local import LocalLauncher
from sharpgpt.studies.plan import StudyPlan, make_plan
from sharpgpt.studies.progress import Progress
from sharpgpt.studies.runs import StudyRun, runs_of
from sharpgpt.studies.study_file import Study

logger = logging.getLogger(__name__)

LOCK_FILE = "study.lock"


class StudyResult(Result):
    """What a study found: the content of study.json."""

    @property
    def verdicts(self) -> dict[str, str]:
        """Arm -> better, worse or not distinguishable."""
        return {arm["name"]: arm["verdict"] for arm in self.content["arms"]}


class StudyStoppedError(Exception):
    """A signal stopped the study; its runs have saved."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number


def study(
    path: str | Path,
    *,
    output: str | Path | None = None,
    launcher: str = "local",
    workers: int | None = None,
    allow_import: bool = False,
) -> StudyResult:
    """Train every run of a study that is not trained yet, compare, and write the page.

        result = study("experiments/tiny.yaml", output="outputs/tiny")
        result.verdicts

    Call it again after any interruption: finished runs are kept, broken ones continued.

    Args:
        path: the study file (`study_file.py`).
        output: folder of the study; None takes outputs/<name of the file>.
        launcher: local for processes on this machine, slurm for jobs of a cluster (slurm.py).
        workers: runs at a time on this machine; None takes one for each GPU, or as many as cores
            and memory allow.
        allow_import: import penalties (`module:name`) that the file names.

    Raises:
        ConfigError: the file is no study, with all problems.
        UserError: another study was declared in `output`, a run is refused or failed.
        KeyboardInterrupt: Ctrl-C, once the runs have saved.
    """
    declared = Study.read(path, allow_import=allow_import)
    folder = user_path(output) if output else default_output(path)
    try:
        return run_study(
            declared, folder, launcher=launcher, workers=workers, allow_import=allow_import
        )
    except StudyStoppedError as stopped:
        deliver(stopped.signal_number)
        raise


def default_output(path: str | Path) -> Path:
    """outputs/<name of the study file>."""
    return Path("outputs") / user_path(path).stem


def plan_study(
    study: Study, folder: Path, *, launcher: str = "local", workers: int | None = None
) -> StudyPlan:
    """What the study will cost; nothing is started or written."""
    with console_logging():
        runs = runs_of(study, folder)
        return make_plan(runs, workers=workers, is_dry=True, is_here=launcher == "local")


def run_study(
    study: Study,
    folder: Path,
    *,
    launcher: str = "local",
    workers: int | None = None,
    allow_import: bool = False,
) -> StudyResult:
    """`study` of what was read. Raises `StudyStoppedError` where it raises KeyboardInterrupt."""
    started = time.time()
    make_folder(folder)
    lock = FolderLock(
        folder,
        LOCK_FILE,
        "output: {folder} is in use by {who}; wait for it, stop it, or give another output",
    )
    with console_logging() as console, lock:
        runs = runs_of(study, folder)
        is_here = launcher == "local"
        plan = make_plan(runs, workers=workers, is_dry=False, is_here=is_here)
        is_new = not (folder / DECLARATION).exists()
        declaration = declare(study, folder, dtype=_dtype(study) if is_here else None)
        runs = [_with_dtype(run, declaration.get("dtype")) for run in runs]
        what = "Declared" if is_new else "Continuing"
        logger.info("%s %s (sha256 %s)", what, folder, declaration["sha256"][:16])
        logger.info("%s", plan.text())
        progress = Progress(console, {arm: one.num_steps for arm, one in plan.arms.items()})
        start = _launcher(study, runs, plan, folder, is_here=is_here, allow_import=allow_import)
        with progress.live():
            works, number = run_all(runs, start, progress.show, progress.changed)
        if number is not None:
            raise StudyStoppedError(number)
        if failed := [work for work in works if work.state == FAILED]:
            raise UserError(
                f"{counted(len(failed), 'run')} of {len(works)} failed: "
                + "; ".join(f"{work.run.name}: {work.problem}" for work in failed[:5])
                + f". The others are finished; see {folder / 'logs'}, mend what is wrong, and "
                "start the study again"
            )
        comparison = _compare(study, runs, folder)
        facts = [
            facts_of_run(
                run.folder, arm=run.arm, seed=run.seed, num_tokens=plan.arms[run.arm].num_tokens
            )
            for run in runs
        ]
        seconds = time.time() - started
        found = answer(comparison.content, runs=facts, declaration=declaration, seconds=seconds)
        return _written(found, comparison.content, folder)


def study_of_runs(
    runs: Sequence[str | Path],
    *,
    output: str | Path,
    baseline: Sequence[str | Path] = (),
    question: str = "What did the penalty do that sharpening afterwards cannot?",
    **rule: Any,
) -> StudyResult:
    """The verdict on runs that a sweep, or anyone, has trained, and the page of a study.

    Args:
        runs: run folders; those that differ in their seed alone are one arm.
        output: folder of comparison.json, study.json and study.html.
        baseline: run folders of the baseline; without any, the runs with penalty_weight 0.
        question: the heading of the page.
        rule: options of `compare`.

    Raises:
        UserError: as `compare`; or there is no baseline, or no single one.
    """
    started, folder = time.time(), user_path(output)
    given = [ComparedRun.of(path) for path in runs]
    plain = [ComparedRun.of(path) for path in baseline] or [run for run in given if not run.weight]
    others = [run for run in given if run.folder not in {one.folder for one in plain}]
    if len(arms_of_runs(plain)) != 1:
        folders = ", ".join(str(run.folder) for run in plain[:6]) or "none"
        raise UserError(
            f"baseline: of the runs without a penalty ({folders}) allowed are those of one arm, "
            "which differ in their seed alone; name them with --baseline"
        )
    with console_logging():
        comparison = compare(
            [run.folder for run in others], baseline=[run.folder for run in plain], output=folder,
            **rule,
        )  # fmt: skip
        arms = {BASELINE: plain} | {arm.name: arm.runs for arm in arms_of_runs(others)}
        facts = [
            facts_of_run(run.run_folder, arm=arm, seed=run.seed)
            for arm, group in arms.items()
            for run in group
            if run.run_folder
        ]
        seconds = time.time() - started
        found = answer(
            comparison.content, runs=facts, declaration=None, question=question, seconds=seconds
        )
        return _written(found, comparison.content, folder)


def _launcher(
    study: Study,
    runs: Sequence[StudyRun],
    plan: StudyPlan,
    folder: Path,
    *,
    is_here: bool,
    allow_import: bool,
) -> Launcher:
    if is_here:
        return LocalLauncher(
            plan.workers, num_threads=plan.num_threads, gpus=_gpus(runs), allow_import=allow_import
        )
    from sharpgpt.studies.slurm import SlurmLauncher

    return SlurmLauncher(folder, study.slurm, allow_import=allow_import)


def _compare(study: Study, runs: Sequence[StudyRun], folder: Path) -> ComparisonResult:
    by_arm: dict[str, list[str | Path]] = {}
    for run in runs:
        by_arm.setdefault(run.arm, []).append(run.folder)
    baseline = by_arm.pop(study.baseline)
    return compare(by_arm, baseline=baseline, output=folder, **study.rule)


def _written(found: Mapping[str, Any], comparison: Mapping[str, Any], folder: Path) -> StudyResult:
    write_json(folder / "study.json", found)
    page = write_study(found, comparison, folder)
    logger.info("%s", page)
    return StudyResult(dict(found), folder / "study.json")


def _dtype(study: Study) -> str | None:
    """What `dtype: auto` is on this machine: one choice for all runs, also after a restart."""
    config = study.config(study.baseline, study.seeds[0])
    with torch_settings_kept():
        return choose_device(config).dtype_name if config.dtype == "auto" else None


def _with_dtype(run: StudyRun, dtype: str | None) -> StudyRun:
    if dtype is None or run.config.dtype != "auto":
        return run
    return replace(run, config=type(run.config).from_dict({**run.config.to_dict(), "dtype": dtype}))


def _gpus(runs: Sequence[StudyRun]) -> list[str]:
    """The GPUs to divide, as CUDA_VISIBLE_DEVICES names them."""
    device = available_device(runs[0].config.device)
    if device.type != "cuda":
        return []
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [name.strip() for name in visible.split(",")]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
