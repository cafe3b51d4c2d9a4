"""What fails around a run: the disk is full, a folder can no longer be written, W&B dies."""

import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from sharpgpt.runs.checkpoint import Checkpoint, DamagedCheckpointError
from tests.faults.harness import Scenario, TrainingProcess, differences
from tests.faults.mounts import Mounts, fill

MakeScenario = Callable[..., Scenario]
FAILED = "could not be written"
CHECKPOINT_BYTES = 120_000
"""More than a checkpoint of this model needs."""


def damaged_checkpoints(scenario: Scenario) -> list[str]:
    """Those of the checkpoints that are not whole; one that is removed meanwhile is left out."""
    found = []
    for path in sorted(scenario.checkpoints.glob("step_*")):
        try:
            Checkpoint.verified(path)
        except DamagedCheckpointError as error:
            if path.exists():
                found.append(str(error))
    return found


def fill_and_free(scenario: Scenario, process: TrainingProcess, draw: random.Random) -> None:
    """Let a checkpoint meet a full disk at a random point, and then let one succeed."""
    start, num_files = scenario.saved_steps(), draw.randint(0, 9)
    wait_for_writing = draw.random() < 0.5

    def is_so_far() -> bool:
        written = [len(list(path.iterdir())) for path in scenario.work_in_progress()]
        return max(written, default=-1) >= num_files or scenario.saved_steps() != start

    if wait_for_writing:
        assert process.wait_for(is_so_far), process.printed()
    failures = process.printed().count(FAILED)
    filler = fill(scenario.run_folder.parent, leaving=draw.randrange(CHECKPOINT_BYTES // 3))
    assert process.wait_for(lambda: process.printed().count(FAILED) > failures), process.printed()
    assert damaged_checkpoints(scenario) == []
    assert scenario.saved_steps() != []
    filler.unlink()
    newest = scenario.saved_steps()[-1]
    assert process.wait_for(lambda: scenario.saved_steps()[-1] > newest), process.printed()
    assert damaged_checkpoints(scenario) == []


def test_a_full_disk_costs_a_checkpoint_and_never_the_run(
    scenario: MakeScenario,
    mounts: Mounts,
    is_long: bool,
) -> None:
    """At random moments of a checkpoint the disk is full, and a while later it is not.

    At last it stays full: then the last checkpoint cannot be written, which is a failure of the
    run, and what the earlier ones hold is enough to end it when there is room again.
    """
    num_moments = 20 if is_long else 2
    settings = {"penalty_type": "injected:PENALTY", "max_steps": 40 + 30 * num_moments}
    whole, full = scenario("whole", **settings), scenario("full", **settings)
    whole.finish(here=True)
    disk = full.run_folder.parent
    mounts.small(disk, 4_000_000)
    draw = random.Random(1)
    with full.start(faults="slow@1") as process:
        assert process.wait_for(full.saved_steps), process.printed()
        for _ in range(num_moments):
            fill_and_free(full, process, draw)
        filler = fill(disk, leaving=0)
        assert process.wait() == 1, process.printed()
        last = process.printed().splitlines()[-1]
        assert last.startswith("error: The checkpoint of step")
        assert "No space left on device" in last
        assert "Earlier checkpoints are whole; make room there" in last
    assert process.printed().count("Training continues") >= num_moments
    assert damaged_checkpoints(full) == []
    filler.unlink()
    full.finish(here=True)
    found = differences(whole.run_folder, full.run_folder, last_checkpoint_alone=True)
    assert found == []


def test_a_folder_that_becomes_read_only(scenario: MakeScenario, mounts: Mounts) -> None:
    settings = {"penalty_type": "injected:PENALTY", "max_steps": 24}
    whole, fixed = scenario("whole", **settings), scenario("fixed", **settings)
    whole.finish(here=True)
    with fixed.start(faults="hold@25") as process:  # in step 13
        assert process.wait_for(fixed.is_held), process.printed()
        mounts.read_only(fixed.run_folder.parent)
        fixed.let_go()
        assert process.wait() == 1, process.printed()
    printed = process.printed()
    assert re.search(r"cannot be written: \S+/metrics\.jsonl: Read-only file system", printed)
    assert "The checkpoint of step 15 could not be written" in printed
    assert "error: The checkpoint of step 24 could not be written" in printed.splitlines()[-1]
    code, printed = fixed.run_here()
    assert code == 1
    assert re.search(r"cannot be written: \S+: Read-only file system", printed)
    mounts.end(fixed.run_folder.parent)
    fixed.finish(here=True)
    assert differences(whole.run_folder, fixed.run_folder) == []


def test_a_run_folder_that_cannot_be_made(
    scenario: MakeScenario, mounts: Mounts, tmp_path: Path
) -> None:
    folder = tmp_path / "read_only"
    folder.mkdir()
    mounts.read_only(folder)
    code, printed = scenario("run").run_here(output_dir=str(folder), max_steps=1)
    assert code == 1
    assert f"output_dir: the run folder {folder}/run cannot be written" in printed
    assert "Traceback" not in printed


def wandb_service(process: TrainingProcess) -> psutil.Process | None:
    for child in psutil.Process(process.process.pid).children(recursive=True):
        if "wandb-core" in child.name() or "wandb-core" in " ".join(child.cmdline()):
            return child
    return None


def test_a_run_outlives_weights_and_biases(scenario: MakeScenario) -> None:
    settings = {"penalty_type": "injected:PENALTY", "max_steps": 24}
    whole, tracked = scenario("whole", **settings), scenario("tracked", **settings)
    whole.finish(here=True)
    changes = {"use_wandb": True, "wandb_mode": "offline"}
    with tracked.start(faults="hold@13", **changes) as process:
        assert process.wait_for(tracked.is_held), process.printed()
        service = wandb_service(process)
        assert service is not None
        service.kill()
        tracked.let_go()
        began = time.monotonic()
        assert process.wait() == 0, process.printed()
        assert time.monotonic() - began < 60
    assert "Finished 24 steps" in process.printed()
    assert differences(whole.run_folder, tracked.run_folder) == []
