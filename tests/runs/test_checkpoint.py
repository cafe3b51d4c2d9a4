"""Checkpoints: any damage is found, the one before is taken; the newest and the best are kept."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.runs import checkpoint
from sharpgpt.runs.checkpoint import CheckpointFolder, DamagedCheckpointError
from sharpgpt.runs.manifest import Manifest, read_manifest
from sharpgpt.runs.resolve import resolve_model
from sharpgpt.runs.state import FORMAT_VERSION, TrainingState
from sharpgpt.training.train import train
from tests.run_reading import records
from tests.runs.broken_checkpoints import (
    DAMAGES,
    FILES,
    SETTINGS,
    newest,
    reseal,
)

pytestmark = pytest.mark.usefixtures("quick_runs")
MakeConfig = Callable[..., TrainingConfig]


def test_a_checkpoint_holds_what_the_tests_damage(
    checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert {path.name for path in newest(checkpoints).iterdir()} == set(FILES)
    assert {path.stat().st_mode & 0o777 for path in newest(checkpoints).iterdir()} == {0o644}
    found = CheckpointFolder(checkpoints).newest()
    assert found is not None
    assert (found.path, found.state.step, caplog.messages) == (newest(checkpoints), 6, [])
    assert found.state.format_version == FORMAT_VERSION


def test_steps_are_numbers_and_a_link_is_no_checkpoint(tmp_path: Path) -> None:
    names = ["step_00000002", "step_99999999", "step_100000000"]
    for name in [*reversed(names), "step_", "step_1x", ".unfinished_step_00000003"]:
        (tmp_path / name).mkdir()
    (tmp_path / "step_00000005").symlink_to(tmp_path / "step_00000002")
    assert [path.name for path in CheckpointFolder(tmp_path).all()] == names


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_any_damage_is_found_and_the_one_before_is_taken(
    checkpoints: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(newest(checkpoints) / name)
    found = CheckpointFolder(checkpoints).newest(set_aside=True)
    assert found is not None
    assert found.path.name == "step_00000004"
    assert name in caplog.messages[0]
    assert "it is now damaged_step_00000006" in caplog.messages[0]
    assert (checkpoints / "damaged_step_00000006").is_dir()


def test_a_run_that_is_refused_leaves_a_damaged_checkpoint_as_it_is(checkpoints: Path) -> None:
    (newest(checkpoints) / "config.json").unlink()
    before = {path.name for path in checkpoints.iterdir()}

    def refuse(state: TrainingState) -> None:
        raise UserError(f"other settings than those of step {state.step}")

    with pytest.raises(UserError, match="of step 4"):
        CheckpointFolder(checkpoints).newest(set_aside=True, accept=refuse)
    assert {path.name for path in checkpoints.iterdir()} == before


def test_the_newest_the_best_and_every_kth_are_kept(
    tiny_config: MakeConfig, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {"step_00000002": 1.5, "step_00000004": 1.25, "step_00000006": 1.75}
    for name, figure in figures.items():
        after = read_manifest(checkpoints / name).after_step
        reseal(checkpoints / name, after_step=after.model_copy(update={"val_ce_loss": figure}))
    folder = CheckpointFolder(checkpoints, keep=1)
    assert folder.best() == checkpoints / "step_00000004"
    with pytest.raises(UserError, match="is not the newest checkpoint of its run"):
        train(tiny_config(resume=str(checkpoints.parent / "best"), **SETTINGS))
    fork = {"resume": str(checkpoints.parent / "best"), "run_name": "fork"}
    assert train(tiny_config(**SETTINGS | fork)).step == 6

    def unreadable(path: Path) -> Manifest:
        if path.name == "step_00000004":
            raise DamagedCheckpointError(path, "Too many open files")
        return read_manifest(path)

    with monkeypatch.context() as moment:
        moment.setattr(checkpoint, "read_manifest", unreadable)
        folder.prune()
    assert checkpoints / "step_00000004" in folder.all()
    folder.prune()
    assert [path.name for path in folder.all()] == ["step_00000004", "step_00000006"]

    settings = {"max_steps": 9, "save_interval": 1, "keep_checkpoints": 2, "keep_every_steps": 3}
    # Validated at the end alone, the best is the last one.
    result = train(tiny_config(run_name="kth", eval_interval=0, n_layer=1, **settings))
    kept = sorted(path.name for path in (result.run_folder / "checkpoints").iterdir())
    assert kept == [f"step_{step:08d}" for step in (3, 6, 8, 9)]


def test_the_best_checkpoint_is_the_one_with_the_lowest_validation_loss(
    tiny_config: MakeConfig,
) -> None:
    """A learning rate that grows past all reason: an early checkpoint outlives later ones."""
    settings = {"save_interval": 5, "eval_interval": 5, "keep_checkpoints": 1, "n_layer": 1}
    result = train(
        tiny_config(**settings, max_steps=20, learning_rate=2.0, warmup_steps=20, max_grad_norm=0)
    )
    figures = {
        event["step"]: event["val/ce_loss"]
        for event in records(result.run_folder)
        if "val/ce_loss" in event
    }
    best = min(figures, key=figures.__getitem__)
    assert best < 20, "the run was meant to get worse"
    folder = CheckpointFolder(result.run_folder / "checkpoints")
    assert folder.best() == folder.path / f"step_{best:08d}"
    assert len(folder.all()) == 2


def test_a_checkpoint_that_its_run_removes_while_it_is_read_is_not_called_damaged(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As `sharpgpt sample RUN` may come upon it while the run goes on, with keep_checkpoints 1."""
    (checkpoints / "step_00000006").rename(checkpoints / "later")
    original = checkpoint.verify_files

    def slow(path: Path) -> Any:
        if (checkpoints / "later").exists():  # the run writes another one, and removes the others
            (checkpoints / "later").rename(checkpoints / "step_00000006")
            for step in (2, 4):
                shutil.rmtree(checkpoints / f"step_{step:08d}")
        return original(path)

    monkeypatch.setattr(checkpoint, "verify_files", slow)
    assert resolve_model(checkpoints.parent) == newest(checkpoints)
    assert caplog.messages == []


def test_pruning_removes_nothing_that_is_not_the_checkpoints_own(
    checkpoints: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Notes that a user had put beside the weights went with them; a linked step left remains."""
    (checkpoints / "step_00000002" / "notes.txt").write_text("mine", encoding="utf-8")
    (checkpoints / "step_00000003").symlink_to(tmp_path)
    (checkpoints / "step_00000001").mkdir()
    (checkpoints / "step_00000001" / "model.safetensors").write_text("mine", encoding="utf-8")
    weights = checkpoints / "step_00000004" / "model.safetensors"
    shutil.copytree(checkpoints / "step_00000004", checkpoints / "step_00000005")
    reseal(checkpoints / "step_00000005", step=5)
    weights.rename(tmp_path / "weights")
    weights.symlink_to(tmp_path / "weights")
    best = CheckpointFolder(checkpoints).best()
    assert best is not None
    kept = {path.name for path in checkpoints.iterdir()} - {"step_00000005"} | {best.name}
    CheckpointFolder(checkpoints).prune()
    assert {path.name for path in checkpoints.iterdir()} == kept
    assert "notes.txt in it is no file of the checkpoint" in caplog.text
    assert (checkpoints / "step_00000003").is_symlink()


@pytest.mark.parametrize("what", ["file", "link", "folder", "own"])
def test_what_stands_in_the_way_of_a_checkpoint_is_set_aside_unless_it_is_one(
    checkpoints: Path, tmp_path: Path, what: str
) -> None:
    way, aside = newest(checkpoints), checkpoints / "damaged_step_00000006"
    if what == "own":
        checkpoint.make_way(way)
        assert {path.name for path in checkpoints.iterdir()} == {"step_00000002", "step_00000004"}
        return
    way.rename(tmp_path / "whole")
    if what == "file":
        way.write_text("mine", encoding="utf-8")
    elif what == "link":
        way.symlink_to(tmp_path / "whole")
    else:
        way.mkdir()
    checkpoint.make_way(way)
    assert os.path.lexists(aside)
    assert not os.path.lexists(way)
    assert (tmp_path / "whole" / "model.safetensors").is_file()
    way.write_text("mine too", encoding="utf-8")
    checkpoint.make_way(way)
    assert (checkpoints / "damaged_step_00000006_2").read_text(encoding="utf-8") == "mine too"
    assert aside.is_symlink() == (what == "link")


def test_a_folder_that_became_a_link_is_not_swept(checkpoints: Path, tmp_path: Path) -> None:
    remains = [checkpoints / f"{what}step_00000008" for what in (".unfinished_", ".removed_")]
    for path in remains:
        path.mkdir()
    (tmp_path / "link").symlink_to(checkpoints)
    CheckpointFolder(tmp_path / "link").sweep()
    assert all(path.is_dir() for path in remains)
    CheckpointFolder(checkpoints).sweep()
    assert not any(path.exists() for path in remains)
