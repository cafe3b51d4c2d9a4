"""checkpoint.json: what is not as it was written is refused, and a newer version is named."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.runs.checkpoint import Checkpoint, CheckpointFolder, DamagedCheckpointError
from sharpgpt.runs.manifest import MANIFEST, read_manifest
from sharpgpt.runs.state import IncompatibleCheckpointError
from sharpgpt.training.train import train
from tests.runs.broken_checkpoints import (
    SETTINGS,
    newest,
    reseal,
    write_as_newer_version,
)

pytestmark = pytest.mark.usefixtures("quick_runs")
MakeConfig = Callable[..., TrainingConfig]


def link(path: Path) -> None:
    shutil.copy(path, path.parent.parent / "elsewhere")
    path.unlink()
    path.symlink_to(path.parent.parent / "elsewhere")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["checkpoint.json", "model.safetensors"])
@pytest.mark.parametrize("replace", [link, pipe])
def test_links_and_pipes_are_refused(
    checkpoints: Path, name: str, replace: Callable[[Path], None]
) -> None:
    replace(newest(checkpoints) / name)
    with pytest.raises(DamagedCheckpointError, match=f"{name} is no plain file"):
        Checkpoint.verified(newest(checkpoints))


def test_files_that_the_manifest_does_not_name_are_refused(checkpoints: Path) -> None:
    checkpoint = newest(checkpoints)
    (checkpoint / ".DS_Store").write_text("of a file system", encoding="utf-8")
    (checkpoint / "README.md").write_text("a model card", encoding="utf-8")
    Checkpoint.verified(checkpoint)
    for name in ("pytorch_model.bin", "modeling.py", "adapter_config.json", "a folder"):
        (checkpoint / name).mkdir() if "folder" in name else (checkpoint / name).touch()
        with pytest.raises(DamagedCheckpointError, match=f"{name}' is not in checkpoint.json"):
            Checkpoint.verified(checkpoint)
        (checkpoint / name).rmdir() if "folder" in name else (checkpoint / name).unlink()


@pytest.mark.parametrize("name", ["../../config.yaml", "/etc/hostname", "..", "", "a/b", "a\\b"])
def test_names_that_lead_out_of_the_folder_are_refused(checkpoints: Path, name: str) -> None:
    checkpoint = newest(checkpoints)
    files = read_manifest(checkpoint).files
    manifest = read_manifest(checkpoint).model_copy(
        update={"files": files | {name: files["config.json"]}}
    )
    (checkpoint / MANIFEST).write_text(manifest.sealed_text(), encoding="utf-8")
    with pytest.raises(DamagedCheckpointError, match=r"checkpoint.json: files"):
        Checkpoint.verified(checkpoint)


@pytest.mark.parametrize("name", ["checkpoint.json", "training_state.json"])
def test_a_checkpoint_of_a_newer_version_is_not_called_damaged_and_never_touched(
    tiny_config: MakeConfig, checkpoints: Path, name: str
) -> None:
    write_as_newer_version(newest(checkpoints), name)
    before = {path: path.read_bytes() for path in newest(checkpoints).iterdir()}
    message = "step_00000006 was written by a newer version .* 99; this one reads up to .* upgrade"
    with pytest.raises(IncompatibleCheckpointError, match=message):
        Checkpoint.verified(newest(checkpoints))
    for resume in ("auto", str(checkpoints.parent), str(newest(checkpoints))):
        with pytest.raises(IncompatibleCheckpointError, match=message):
            train(tiny_config(resume=resume, **SETTINGS))
    (newest(checkpoints) / "model.safetensors").rename(checkpoints / "elsewhere")
    folder = CheckpointFolder(checkpoints, keep=1)
    folder.sweep()
    folder.prune()
    (checkpoints / "elsewhere").rename(newest(checkpoints) / "model.safetensors")
    assert {path: path.read_bytes() for path in newest(checkpoints).iterdir()} == before
    assert newest(checkpoints) in folder.all()


def test_a_version_in_a_damaged_manifest_counts_for_nothing(checkpoints: Path) -> None:
    path = newest(checkpoints) / MANIFEST
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"format_version": 2', '"format_version": 3'), encoding="utf-8")
    with pytest.raises(DamagedCheckpointError, match="was changed after it was written"):
        Checkpoint.verified(newest(checkpoints))


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{}", '{"format": 1}', "\ufeff{}", "[" * 100_000, '{"a":' * 50_000,
        '{"step": ' + "9" * 5_000 + "}", "\x00" * 10, "{" + "x" * (1 << 21),
    ],
)  # fmt: skip
def test_no_text_is_too_strange_for_the_manifest(
    checkpoints: Path, made: list[Path], text: str
) -> None:
    for name in (MANIFEST, "training_state.json"):
        (newest(checkpoints) / name).write_text(text, encoding="utf-8")
        if name != MANIFEST:
            reseal(newest(checkpoints))
        with pytest.raises(DamagedCheckpointError, match=rf"cannot be used: {name}"):
            Checkpoint.verified(newest(checkpoints))
        shutil.rmtree(newest(checkpoints))
        shutil.copytree(made[0] / "checkpoints" / "step_00000006", newest(checkpoints))
