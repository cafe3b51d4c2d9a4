"""A run that is killed again and again is, bit for bit, the run that was never stopped."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harness import Scenario, differences, repeated_steps
from tests.faults.kills import draw_moments, run_through

MakeScenario = Callable[..., Scenario]

QUICK = {"step": 1, "checkpoint": 1, "signal": 0}
LONG = {"startup": 8, "step": 46, "checkpoint": 46, "signal": 12}
"""Of each kind; a hundred SIGKILLs and some signals that save."""


@pytest.mark.parametrize(
    ("optimizer", "penalty"), [("adamw", "neg_entropy"), ("muon", "injected:PENALTY")]
)
def test_a_run_that_is_killed_often_is_the_run_that_was_not(
    scenario: MakeScenario, is_long: bool, optimizer: str, penalty: str
) -> None:
    kinds = LONG if is_long else QUICK
    num_kills = sum(kinds.values()) - kinds["signal"]
    settings = {
        "optimizer": optimizer,
        "penalty_type": penalty,
        "max_steps": 30 + 3 * sum(kinds.values()),
    }
    whole, killed = scenario("whole", **settings), scenario("killed", **settings)
    whole.finish(here=True)
    seed = ["adamw", "muon"].index(optimizer)
    hit = run_through(killed, draw_moments(seed, kinds, settings["max_steps"]))
    killed.finish(here=not is_long)
    print(f"{optimizer}: {dict(hit)}")
    assert hit["killed"] == num_kills
    assert hit["in a checkpoint"] >= kinds["checkpoint"] // 3
    assert differences(whole.run_folder, killed.run_folder) == []
    assert repeated_steps(killed.run_folder) == []
    logged = (whole.run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum("train/loss" in line for line in logged) == settings["max_steps"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, command_environment: dict[str, str]) -> Path:
    scenario = Scenario(tmp_path_factory.mktemp("finished") / "run", command_environment)
    scenario.finish(here=True, max_steps=10)
    return scenario.run_folder


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def change_a_line(change: dict[str, Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        *lines, last = path.read_text(encoding="utf-8").splitlines()
        event = json.loads(last) | change
        path.write_text("\n".join([*lines, json.dumps(event)]) + "\n", encoding="utf-8")

    return damage


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("checkpoints/step_00000010/model.safetensors", flip_a_byte),
        ("checkpoints/step_00000010/training_state.safetensors", flip_a_byte),
        ("checkpoints/step_00000005/tokenizer.json", Path.unlink),
        ("metrics.jsonl", change_a_line({"val/loss": 1.0})),
        ("samples.jsonl", change_a_line({"text": "another"})),
        ("left.tmp", Path.touch),
    ],
)  # fmt: skip
def test_the_comparison_sees_what_differs(
    finished: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    shutil.copytree(finished, tmp_path / "other")
    assert differences(finished, tmp_path / "other") == []
    assert repeated_steps(finished) == []
    damage(tmp_path / "other" / name)
    (found,) = differences(finished, tmp_path / "other")
    assert name in found
