"""A run's folder: what it continues, what it refuses, and what it leaves as it is."""

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.runs.folder import RunFolder
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


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lead_elsewhere(how: str, checkpoints: Path, other: Path) -> None:
    """Put a link into the run `tiny` that leads to the checkpoints of `other`, or nowhere."""
    if how in ("folder", "dangling folder", "loop"):
        shutil.rmtree(checkpoints)
        target = {"folder": other, "dangling folder": other / "absent", "loop": checkpoints}[how]
        checkpoints.symlink_to(target)
    elif how == "step":
        shutil.rmtree(newest(checkpoints))
        newest(checkpoints).symlink_to(newest(other))
    elif how == "dangling step":
        (checkpoints / "step_00000009").symlink_to("absent")
    elif how == "unfinished":
        (checkpoints / ".unfinished_step_00000009").symlink_to(other)
    else:
        (checkpoints / ".removed_step_00000002").symlink_to(newest(other))


@pytest.mark.parametrize(
    "how",
    ["folder", "dangling folder", "loop", "step", "dangling step", "unfinished", "removed"],
)
@pytest.mark.parametrize("resume", ["auto", None])
def test_a_link_among_the_checkpoints_is_refused_and_nothing_is_touched(
    tiny_config: MakeConfig, checkpoints: Path, tmp_path: Path, how: str, resume: str | None
) -> None:
    """`RUN/checkpoints` led to another run, whose checkpoints were pruned and swept away."""
    other = tmp_path / "other" / "checkpoints"
    shutil.copytree(checkpoints, other)
    (other / ".unfinished_step_00000008").mkdir()
    lead_elsewhere(how, checkpoints, other)
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="is a link, and nothing of a run is read, written or"):
        RunFolder.open(tiny_config(resume=resume, **SETTINGS), "text")
    assert snapshot(tmp_path) == before
    assert (other / ".unfinished_step_00000008").is_dir()


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "report.html", "run.lock"])
def test_a_link_in_place_of_a_file_of_the_run_is_refused(
    tiny_config: MakeConfig, tmp_path: Path, name: str
) -> None:
    other, folder = tmp_path / "other", tmp_path / "outputs" / "tiny"
    other.write_text("precious\n", encoding="utf-8")
    folder.mkdir(parents=True)
    (folder / name).symlink_to(other)
    with pytest.raises(UserError, match=rf"run_name: .*{name} is a link"):
        RunFolder.open(tiny_config(resume="auto"), "text")
    (folder / name).unlink()
    (folder / "wandb").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"run_name: .*wandb is a link"):
        RunFolder.open(tiny_config(resume="auto"), "text")
    assert other.read_text(encoding="utf-8") == "precious\n"


def test_the_run_folder_itself_may_be_a_link_that_the_user_made(
    tiny_config: MakeConfig, checkpoints: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "large disk"
    checkpoints.parent.rename(moved)
    checkpoints.parent.symlink_to(moved)
    folder = RunFolder.open(tiny_config(resume="auto", **SETTINGS), "text")
    folder.close()
    assert folder.resume_from is not None
    assert folder.resume_from.state.step == 6


def test_what_was_left_unfinished_is_removed_only_when_the_run_is_accepted(
    tiny_config: MakeConfig, checkpoints: Path
) -> None:
    """A refused run swept folders, of a run that another machine was still writing perhaps."""
    (checkpoints / ".unfinished_step_00000008").mkdir()
    (checkpoints / ".unfinished_step_00000008_mine").mkdir()
    flip(0.5)(newest(checkpoints) / "config.json")
    before = sorted(checkpoints.iterdir())

    def refuse(_: object) -> None:
        raise UserError("other settings")

    with pytest.raises(UserError, match="already holds a run"):
        RunFolder.open(tiny_config(**SETTINGS), "text")
    with pytest.raises(UserError, match="other settings"):
        RunFolder.open(tiny_config(resume="auto", **SETTINGS), "text", accept=refuse)
    assert sorted(path for path in checkpoints.iterdir() if path.name != "run.lock") == before
    RunFolder.open(tiny_config(resume="auto", **SETTINGS), "text").close()
    names = [path.name for path in sorted(checkpoints.iterdir())]
    assert names == [
        ".unfinished_step_00000008_mine", "damaged_step_00000006", "step_00000002", "step_00000004",
    ]  # fmt: skip


def test_records_shared_with_a_backup_by_hard_links_are_copied_first(
    tiny_config: MakeConfig, checkpoints: Path, tmp_path: Path
) -> None:
    """`cp -al` makes a backup in no time; the resumed run then cut the backup's metrics off."""
    for name in ("metrics.jsonl", "log.txt"):
        os.link(checkpoints.parent / name, tmp_path / name)
    before = snapshot(tmp_path)["metrics.jsonl"]
    train(tiny_config(resume="auto", allow_config_change=True, **SETTINGS | {"max_steps": 7}))
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert len((checkpoints.parent / "metrics.jsonl").read_bytes()) > len(before)


def test_a_folder_that_is_another_runs_checkpoints_is_locked_too(
    tiny_config: MakeConfig, checkpoints: Path
) -> None:
    """checkpoint_dir RUN and run_name "checkpoints" is the folder of RUN's own checkpoints."""
    config = tiny_config(
        run_name="checkpoints", checkpoint_dir=str(checkpoints.parent), resume="auto"
    )
    with (
        closing(RunFolder.open(tiny_config(resume="auto", **SETTINGS), "text")),
        pytest.raises(UserError, match="is in use by process"),
    ):
        RunFolder.open(config, "text")


def test_two_runs_of_one_name_do_not_share_a_checkpoint_dir(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    """The second took the checkpoints of the first for its own, and pruned them."""
    shared = str(tmp_path / "scratch")
    config = tiny_config(checkpoint_dir=shared, **SETTINGS)
    train(config)
    before = snapshot(tmp_path / "scratch")
    elsewhere = {"checkpoint_dir": shared, "output_dir": str(tmp_path / "others"), **SETTINGS}
    with pytest.raises(UserError, match=r"holds the checkpoints of another run, .*outputs/tiny"):
        RunFolder.open(tiny_config(resume="auto", **elsewhere), "text")
    assert snapshot(tmp_path / "scratch") == before
    RunFolder.open(tiny_config(run_name="mine", **elsewhere), "text").close()
    assert snapshot(tmp_path / "scratch") == before


def test_a_run_that_is_continued_stays_with_its_checkpoint_dir(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    """Without the flag, the run started over in its folder, beside checkpoints of 6 steps."""
    train(tiny_config(checkpoint_dir=str(tmp_path / "scratch"), **SETTINGS))
    result = train(
        tiny_config(resume="auto", allow_config_change=True, **SETTINGS | {"max_steps": 7})
    )
    assert result.checkpoint == tmp_path / "scratch" / "tiny" / "step_00000007"
    config = TrainingConfig.from_yaml(result.run_folder / "config.yaml")
    assert config.checkpoint_dir == str(tmp_path / "scratch")


def test_files_of_the_user_in_the_folder_of_a_new_run_are_kept(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    """outputs/tiny/config.yaml, written by hand and given as --config, was replaced."""
    folder = tmp_path / "outputs" / "tiny"
    folder.mkdir(parents=True)
    for name in ("config.yaml", "report.html", "notes.md"):
        (folder / name).write_text(f"my {name}", encoding="utf-8")
    with closing(RunFolder.open(tiny_config(), "text")) as opened:
        opened.write_description(tiny_config(), {})
    for name in ("config.yaml", "report.html"):
        (kept,) = folder.glob(f"{name}.before-*")
        assert kept.read_text(encoding="utf-8") == f"my {name}"
    assert (folder / "notes.md").read_text(encoding="utf-8") == "my notes.md"
    with closing(RunFolder.open(tiny_config(), "text")):  # that of a run that had no checkpoint yet
        assert len(list(folder.glob("config.yaml.before-*"))) == 1
