"""Where the checkpoints of a run are, when they are not in its folder."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.runs.places import checkpoints_of, checkpoints_outside, run_folder_of
from sharpgpt.runs.resolve import model_name, resolve_checkpoint, resolve_model, resolve_run
from sharpgpt.training.train import train

pytestmark = pytest.mark.usefixtures("quick_runs")
MakeConfig = Callable[..., TrainingConfig]


@pytest.fixture(params=["absolute", "relative"])
def run(
    request: pytest.FixtureRequest,
    tiny_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The folder of a run of 2 steps, whose checkpoints are in `tmp_path`/scratch/tiny."""
    root = tmp_path if request.param == "absolute" else Path()
    monkeypatch.chdir(tmp_path)
    train(
        tiny_config(
            max_steps=2, n_layer=1, eval_interval=2, num_generate_samples=0,
            output_dir=str(root / "outputs"), checkpoint_dir=str(root / "scratch"),
        )
    )  # fmt: skip
    return tmp_path / "outputs" / "tiny"


def test_a_run_and_its_checkpoints_find_each_other(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sample, evaluate and --resume found no model in the folder of such a run."""
    step = tmp_path / "scratch" / "tiny" / "step_00000002"
    monkeypatch.chdir("/")  # a relative checkpoint_dir is found from another folder too
    for given in (run, run / "best", run / "latest", step, step.parent, step.parent / "best"):
        assert resolve_model(given).resolve() == step
        assert resolve_checkpoint(given, setting="resume").path.resolve() == step
    for given in (run, step, step.parent, step.parent / "best"):
        assert resolve_run(given).resolve() == run
    assert run_folder_of(step) is not None
    assert model_name(step) == "tiny"


def test_both_moved_together_are_found_if_their_paths_were_relative(
    run: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    is_relative = not Path(TrainingConfig.from_yaml(run / "config.yaml").output_dir).is_absolute()
    moved.mkdir()
    for name in ("outputs", "scratch"):
        (tmp_path / name).rename(moved / name)
    found = checkpoints_outside(moved / "outputs" / "tiny")
    assert found is not None
    assert is_relative or found == moved / "outputs/tiny/../../scratch/tiny"
    assert found.resolve() == moved / "scratch" / "tiny"


def test_what_a_config_from_anyone_names_is_not_taken(run: Path, tmp_path: Path) -> None:
    """config.yaml of a downloaded folder may name any other run: both must name each other."""
    stranger = tmp_path / "downloads" / "tiny"
    stranger.mkdir(parents=True)
    shutil.copy(run / "config.yaml", stranger)
    (stranger / "config.yaml").write_text(
        (run / "config.yaml").read_text().replace("scratch", "./scratch"), encoding="utf-8"
    )
    assert checkpoints_outside(stranger) is None
    (stranger / "config.yaml").unlink()
    (stranger / "config.yaml").symlink_to(run / "config.yaml")
    assert checkpoints_outside(stranger) is None


def test_a_linked_folder_of_checkpoints_is_refused_by_every_reader(
    run: Path, tmp_path: Path
) -> None:
    (run / "checkpoints").rmdir() if (run / "checkpoints").exists() else None
    (run / "checkpoints").symlink_to(tmp_path / "scratch" / "tiny")
    for read in (resolve_model, checkpoints_of):
        with pytest.raises(UserError, match="checkpoints: is a link"):
            read(run)
