"""A run's folder: what it continues, what it refuses, and what it leaves as it is."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.training.train import train
from tests.runs.broken_checkpoints import (
    SETTINGS,
    flip,
    newest,
    truncate,
)

pytestmark = pytest.mark.usefixtures("quick_runs")
MakeConfig = Callable[..., TrainingConfig]


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.json"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    tiny_config: MakeConfig, checkpoints: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = (newest(checkpoints) / "model.safetensors").read_bytes()
    flip(0.5)(newest(checkpoints) / name)
    result = train(tiny_config(resume="auto", **SETTINGS))
    assert f"step_00000006 is damaged ({name}" in capsys.readouterr().out
    assert result.checkpoint == newest(checkpoints)
    assert (newest(checkpoints) / "model.safetensors").read_bytes() == weights
    assert (checkpoints / "damaged_step_00000006" / name).exists()


def test_all_damaged_is_one_message_and_never_a_fresh_start(
    tiny_config: MakeConfig, checkpoints: Path
) -> None:
    for path in checkpoints.iterdir():
        truncate(path / "model.safetensors")
    before = sorted(path for path in checkpoints.parent.rglob("*"))
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged: step_00000006 \(mod"):
        train(tiny_config(resume="auto", **SETTINGS))
    assert sorted(path for path in checkpoints.parent.rglob("*")) == before
    for path in list(checkpoints.iterdir()):
        path.rename(path.with_name(f"damaged_{path.name}"))
    with pytest.raises(UserError, match="every checkpoint in"):
        train(tiny_config(resume="auto", **SETTINGS))


def test_a_path_to_a_damaged_checkpoint_is_refused_and_to_a_folder_takes_another(
    tiny_config: MakeConfig, checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(0.5)(newest(checkpoints) / "config.json")
    with pytest.raises(UserError, match=r"step_00000006 cannot be used: config.json has another"):
        train(tiny_config(resume=str(newest(checkpoints)), run_name="fork", **SETTINGS))
    train(tiny_config(resume=str(checkpoints.parent), run_name="fork", **SETTINGS))
    printed = capsys.readouterr().out
    assert f"NOTE: the one before is taken, {checkpoints / 'step_00000004'}" in printed
    assert newest(checkpoints).exists()  # another run's folder is left as it is


def test_the_earlier_one_may_be_named_when_the_later_is_damaged(
    tiny_config: MakeConfig, checkpoints: Path
) -> None:
    earlier = str(checkpoints / "step_00000004")
    with pytest.raises(UserError, match="is not the newest checkpoint of its run"):
        train(tiny_config(resume=earlier, **SETTINGS))
    truncate(newest(checkpoints) / "model.safetensors")
    assert train(tiny_config(resume=earlier, **SETTINGS)).step == 6


def test_old_damage_does_not_keep_a_new_run_from_the_folder_of_another(
    tiny_config: MakeConfig, checkpoints: Path
) -> None:
    (checkpoints.parent / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="already holds a run"):
        train(tiny_config(**SETTINGS))


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "samples.jsonl", "log.txt", "environment.json"]
)  # fmt: skip
@pytest.mark.parametrize("what", ["link", "pipe"])
def test_records_that_lead_elsewhere_are_refused(
    tiny_config: MakeConfig, tmp_path: Path, name: str, what: str
) -> None:
    """In a run folder from a stranger a link had another file cut off; a pipe waited for ever."""
    other, folder = tmp_path / "other", tmp_path / "outputs" / "tiny"
    other.write_text("precious\n", encoding="utf-8")
    folder.mkdir(parents=True)
    if what == "link":
        (folder / name).symlink_to(other)
    else:
        os.mkfifo(folder / name)
    with pytest.raises(UserError, match=rf"run_name: .*{name} is a link, a folder or a pipe"):
        train(tiny_config(resume="auto", max_steps=1))
    assert other.read_text(encoding="utf-8") == "precious\n"
