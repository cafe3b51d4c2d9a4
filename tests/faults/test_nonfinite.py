"""A gradient that is not a number, at a chosen step, under each policy."""

import importlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.faults.harness import Scenario, differences

MakeScenario = Callable[..., Scenario]
INJECTED = {"penalty_type": "injected:PENALTY", "max_steps": 24}


@pytest.fixture
def faults(scenario: MakeScenario) -> Iterator[Any]:
    """The plan of the penalty as the runs of this process import it; see injected.py."""
    plan = importlib.import_module("injected").FAULTS
    yield plan
    plan.plan("")


def run_with(faults: Any, scenario: Scenario, plan: str, **changes: Any) -> tuple[int, str]:
    faults.plan(plan)
    code, printed = scenario.run_here(**changes)
    faults.plan("")
    assert "Traceback" not in printed
    return code, printed


def logged(scenario: Scenario, step: int) -> dict[str, Any]:
    lines = (scenario.run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    (event,) = [e for e in map(json.loads, lines) if e["step"] == step and "train/loss" in e]
    assert isinstance(event, dict)
    return event


def test_stop_saves_the_step_before_and_the_run_can_go_on(
    scenario: MakeScenario, faults: Any
) -> None:
    whole, poisoned = scenario("whole", **INJECTED), scenario("poisoned", **INJECTED)
    whole.finish(here=True)
    code, printed = run_with(faults, poisoned, "nan@13")  # in step 7
    assert code == 1
    last = printed.splitlines()[-1]
    assert last.startswith("error: step 7: the loss is ")
    assert "the gradient norm nan" in last
    assert "The step was not taken" in last
    assert poisoned.saved_steps() == [5, 6]
    for name in ("model.safetensors", "training_state.safetensors"):
        tensors = load_file(poisoned.checkpoints / "step_00000006" / name)
        assert all(
            tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point()
        )
    poisoned.finish(here=True)
    assert differences(whole.run_folder, poisoned.run_folder) == []


def test_skip_leaves_the_step_out_whenever_the_run_is_killed(
    scenario: MakeScenario, faults: Any
) -> None:
    settings = INJECTED | {"on_nonfinite": "skip"}
    whole, killed = scenario("whole", **settings), scenario("killed", **settings)
    code, printed = run_with(faults, whole, "nan@13")
    assert code == 0, printed
    assert "NOTE: step 7 is skipped" in printed
    assert logged(whole, 6)["train/num_skipped_steps"] == 0
    assert logged(whole, 24)["train/num_skipped_steps"] == 1
    with killed.start(faults="nan@13,hold@19") as process:  # step 7 is left out, step 10 begun
        assert process.wait_for(killed.is_held), process.printed()
        assert process.wait_for(lambda: killed.saved_steps() and not killed.work_in_progress())
        process.kill()
    assert killed.saved_steps() == [5]
    code, printed = run_with(faults, killed, "nan@3")  # step 7 again
    assert code == 0, printed
    assert differences(whole.run_folder, killed.run_folder) == []


def test_too_many_skips_end_the_run(scenario: MakeScenario, faults: Any) -> None:
    settings = INJECTED | {"on_nonfinite": "skip", "max_skipped_steps": 3}
    poisoned = scenario("poisoned", **settings)
    code, printed = run_with(faults, poisoned, "nan@5,nan@7,nan@8,nan@13,nan@15,nan@17")
    assert code == 1
    assert "error: step 9: " in printed.splitlines()[-1]
    assert "after 2 skipped ones in a row" in printed.splitlines()[-1]
