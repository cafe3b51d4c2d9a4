"""Signals in the middle of a step: saved, the documented exit code, and resumed as if never."""

import json
import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.harness import Scenario, TrainingProcess, differences, repeated_steps

MakeScenario = Callable[..., Scenario]
INJECTED = {"penalty_type": "injected:PENALTY", "max_steps": 24}


def start_and_hold(scenario: Scenario, call: int) -> TrainingProcess:
    """A process that stands in the backward pass of its micro-batch number `call`."""
    process = scenario.start(faults=f"hold@{call}")
    assert process.wait_for(scenario.is_held), process.printed()
    # The checkpoints before are written by another thread, which is not held.
    assert process.wait_for(lambda: not scenario.work_in_progress()), process.printed()
    return process


def state(scenario: Scenario, step: int) -> dict[str, object]:
    path = scenario.checkpoints / f"step_{step:08d}" / "training_state.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_signals_in_the_middle_of_a_step(scenario: MakeScenario) -> None:
    """SIGUSR1, then a second signal, then SIGTERM in three steps of one run; and in the first of
    them a second process, which is told who works there."""
    whole, stopped = scenario("whole", **INJECTED), scenario("stopped", **INJECTED)
    whole.finish(here=True)

    with start_and_hold(stopped, call=6) as process:  # the second half of step 3
        code, printed = stopped.run_here()
        assert code == 1
        assert f"is in use by process {process.process.pid}" in printed
        process.send(signal.SIGUSR1)
        time.sleep(0.1)
        stopped.let_go()
        assert process.wait() == 128 + signal.SIGUSR1 == 138, process.printed()
        assert "Interrupted after step 3 of 24; saved" in process.printed()
    assert stopped.saved_steps() == [3]
    assert state(stopped, 3)["step"] == 3

    with start_and_hold(stopped, call=17) as process:  # in step 12
        process.send(signal.SIGTERM)
        time.sleep(0.1)
        process.send(signal.SIGTERM)
        assert process.wait(timeout_s=30) == 128 + signal.SIGTERM == 143  # never let go
        assert "SIGTERM: ended at once; what was saved before is whole" in process.printed()
    assert stopped.saved_steps()[-1] == 10

    with start_and_hold(stopped, call=15) as process:  # in step 18, where samples are not due
        process.send(signal.SIGTERM)
        time.sleep(0.1)
        stopped.let_go()
        assert process.wait() == 143, process.printed()
        assert "Interrupted after step 18 of 24; saved" in process.printed()
    assert stopped.saved_steps()[-1] == 18

    stopped.finish(here=True)
    found = differences(whole.run_folder, stopped.run_folder)
    # Checkpoints of other steps were made on the way; the last ones are those of any run.
    assert found == []


TORCHRUN = (
    "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
    "--signals-to-handle=SIGTERM,SIGUSR1",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_torchrun_stops_all_processes_after_one_step(
    scenario: MakeScenario, number: signal.Signals
) -> None:
    """torchrun hands it on, and itself ends with exit code 1 and a traceback of its own."""
    run = scenario("run", **INJECTED, dropout=0.0)
    with run.start(faults="hold@6", launcher=TORCHRUN) as process:  # a call a step in each
        assert process.wait_for(run.is_held), process.printed()
        process.send(number)
        assert process.wait_for(lambda: process.printed().count("saving after this step") == 2)
        run.let_go()
        assert process.process.wait(timeout=60) == 1
    assert "Interrupted after step 6 of 24; saved" in process.printed()
    assert run.saved_steps() == [5, 6]
    assert f"Continuing {run.checkpoints / 'step_00000006'}" in run.finish(here=True)
    assert repeated_steps(run.run_folder) == []


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.long),
    ],
)
def test_a_signal_during_the_start_ends_at_once(
    scenario: MakeScenario, number: signal.Signals
) -> None:
    started = scenario("started")
    with started.start(is_fresh=True) as process:
        assert process.wait_for(lambda: "importing transformers" in process.printed())
        process.send(number)
        assert process.wait(timeout_s=30) == 128 + number, process.printed()
        assert f"{number.name}: ended at once" in process.printed()
    assert not started.run_folder.exists() or started.saved_steps() == []
