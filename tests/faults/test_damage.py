"""Every file of a checkpoint damaged in every way: named, the one before taken, nothing wrong."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sharpgpt.core.errors import UserError
from sharpgpt.evaluation.saved_model import load_model
from sharpgpt.runs.checkpoint import Checkpoint, CheckpointFolder
from tests.faults.damage import DAMAGES
from tests.faults.harness import Scenario, differences

FILES = (
    "checkpoint.json", "config.json", "generation_config.json", "model.safetensors",
    "tokenizer.json", "tokenizer_config.json", "training_state.json", "training_state.safetensors",
)  # fmt: skip
NEWEST, BEFORE = "step_00000010", "step_00000005"


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, command_environment: Mapping[str, str]
) -> Scenario:
    """A finished run of ten steps with two checkpoints."""
    scenario = Scenario(
        tmp_path_factory.mktemp("whole") / "run", command_environment, {"max_steps": 10}
    )
    scenario.finish(here=True)
    return scenario


@pytest.fixture
def run(whole: Scenario, tmp_path: Path) -> Scenario:
    """A copy of it, to be damaged."""
    shutil.copytree(whole.folder, tmp_path / "run")
    copy = replace(whole, folder=tmp_path / "run")
    copy.settings = whole.settings | {"output_dir": str(tmp_path / "run" / "out")}
    return copy


def test_these_are_the_files_of_a_checkpoint(whole: Scenario) -> None:
    for name in (NEWEST, BEFORE):
        assert sorted(path.name for path in (whole.checkpoints / name).iterdir()) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_taken(
    run: Scenario, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    for what, damage in DAMAGES.items():
        newest = run.checkpoints / NEWEST
        shutil.copytree(newest, run.folder / "kept", symlinks=True)
        damage(newest / name)
        caplog.clear()
        found = CheckpointFolder(run.checkpoints).newest()
        assert found is not None
        assert found.path.name == BEFORE, what
        assert str(newest) in caplog.messages[0], what
        assert name in caplog.messages[0], f"{what}: {caplog.messages}"
        assert BEFORE in caplog.messages[1]
        with pytest.raises(UserError, match=NEWEST) as refused:
            Checkpoint.verified(newest)
        assert name in str(refused.value)
        shutil.rmtree(newest)
        (run.folder / "kept").rename(newest)
    whole_again = CheckpointFolder(run.checkpoints).newest()
    assert whole_again is not None
    assert whole_again.path.name == NEWEST


QUICK_CASES = {
    ("model.safetensors", "middle byte flipped"),
    ("training_state.safetensors", "truncated to half"),
    ("training_state.json", "deleted"),
    ("checkpoint.json", "emptied"),
    ("tokenizer.json", "a symlink"),
}
CASES = [
    pytest.param(name, what, marks=[] if (name, what) in QUICK_CASES else pytest.mark.long)
    for name in FILES
    for what in DAMAGES
]


@pytest.mark.parametrize(("name", "what"), CASES)
def test_a_run_with_a_damaged_checkpoint_goes_on_from_the_one_before(
    whole: Scenario, run: Scenario, name: str, what: str
) -> None:
    """The whole command; the run ends as it would have, so no damaged number was used."""
    DAMAGES[what](run.checkpoints / NEWEST / name)
    code, printed = run.run_here()
    assert code == 0, printed
    assert "Traceback" not in printed
    assert f"{NEWEST} is damaged (" in printed
    assert name in printed
    assert f"Continuing {run.checkpoints / BEFORE} at step 5" in printed
    aside = run.checkpoints / f"damaged_{NEWEST}"
    assert aside.is_dir()
    shutil.rmtree(aside)
    assert differences(whole.run_folder, run.run_folder) == []


def test_when_all_checkpoints_are_damaged_nothing_is_started_and_nothing_is_lost(
    run: Scenario,
) -> None:
    for name in (NEWEST, BEFORE):
        DAMAGES["middle byte flipped"](run.checkpoints / name / "model.safetensors")
    metrics = (run.run_folder / "metrics.jsonl").read_bytes()
    code, printed = run.run_here()
    assert code == 1
    assert printed.count("model.safetensors") == 2
    assert NEWEST in printed
    assert BEFORE in printed
    assert (run.run_folder / "metrics.jsonl").read_bytes() == metrics
    assert run.saved_steps() == [5, 10]


@pytest.mark.parametrize("name", ["checkpoint.json", "model.safetensors"])
def test_a_damaged_checkpoint_given_by_its_path_is_refused(run: Scenario, name: str) -> None:
    """There is none before it to take: who names one wants that one."""
    checkpoint = run.checkpoints / NEWEST
    DAMAGES["middle byte flipped"](checkpoint / name)
    code, printed = run.run_here(resume=str(checkpoint), run_name="fork")
    assert code == 1
    assert name in printed
    assert not (run.run_folder.parent / "fork").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_checkpoint_is_not_used_for_samples_or_figures(run: Scenario, name: str) -> None:
    """One changed byte in a weight leaves a file that loads, and a model that is wrong."""
    checkpoint = run.checkpoints / NEWEST
    DAMAGES["last byte flipped"](checkpoint / name)
    with pytest.raises(UserError, match=name):
        load_model(checkpoint, torch.device("cpu"))
