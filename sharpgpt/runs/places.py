"""Where the checkpoints of a run are, and of which run a checkpoint is.

They are in RUN/checkpoints, or in checkpoint_dir/run_name, as RUN/config.yaml and the state in each
of these checkpoints say. Both must say so: a run folder from anyone names what it likes. A relative
checkpoint_dir is looked for from the working folder, and beside the run folder as it was when the
run was made. RUN itself may be a link, since the user typed it; what lies in it may not.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import user_path
from sharpgpt.runs.checkpoint import CheckpointFolder, refuse_link
from sharpgpt.runs.reader import read_config
from sharpgpt.runs.state import read_state

CHECKPOINTS = "checkpoints"


def has_records(folder: Path) -> bool:
    """Whether this is the folder of a run."""
    return any((folder / name).is_file() for name in ("metrics.jsonl", "environment.json"))


def checkpoints_of(run_folder: Path) -> CheckpointFolder:
    """The checkpoints of a run, in its folder or outside.

    Raises:
        UserError: RUN/checkpoints is a link.
    """
    refuse_link(run_folder / CHECKPOINTS)
    return CheckpointFolder(checkpoints_outside(run_folder) or run_folder / CHECKPOINTS)


def checkpoints_outside(run_folder: Path) -> Path | None:
    """checkpoint_dir/run_name, if the run was made with a checkpoint_dir, and they are there."""
    config = read_config(run_folder)
    if config is None or not (config.checkpoint_dir and config.run_name):
        return None
    here, there = user_path(config.checkpoint_dir), user_path(config.output_dir)
    typed = here / config.run_name
    beside = run_folder / os.path.relpath(typed, there / config.run_name)
    wanted = {"run_name": config.run_name, "checkpoint_dir": config.checkpoint_dir}
    found = (
        folder
        for folder in dict.fromkeys((typed, beside))
        if not folder.is_symlink() and wanted.items() <= _settings(folder).items()
    )
    return next(found, None)


def run_folder_of(checkpoint: Path) -> Path | None:
    """The folder of the run that wrote this checkpoint; None if it is not where it was."""
    folder = Path(os.path.abspath(checkpoint)).parent  # noqa: PTH100 - keeps links
    if folder.name == CHECKPOINTS and has_records(folder.parent):
        return folder.parent
    return run_of_folder(folder)


def run_of_folder(folder: Path) -> Path | None:
    """The run whose checkpoints are in this folder of a checkpoint_dir."""
    settings = _settings(folder)
    if not (settings.get("checkpoint_dir") and settings.get("run_name") == folder.name):
        return None
    return next((run for run in _runs(folder, settings) if _names(run, folder)), None)


def _runs(folder: Path, settings: dict[str, str]) -> Iterator[Path]:
    """Where the run may be whose checkpoints are in `folder`."""
    typed = user_path(settings["output_dir"]) / folder.name
    yield typed
    yield folder / os.path.relpath(typed, user_path(settings["checkpoint_dir"]) / folder.name)


def _names(run_folder: Path, folder: Path) -> bool:
    """Whether the run says that its checkpoints are in `folder`."""
    if not has_records(run_folder):
        return False
    own = checkpoints_outside(run_folder)
    return own is not None and own.samefile(folder)


def _settings(folder: Path) -> dict[str, str]:
    """The names and paths among the settings of the newest checkpoint in `folder`."""
    for path in reversed(CheckpointFolder(folder).all()):
        try:
            config = read_state(path).config
        except (OSError, ValueError, UserError):
            continue
        names = ("run_name", "output_dir", "checkpoint_dir")
        return {name: found for name in names if isinstance(found := config.get(name), str)}
    return {}


def name_of_run(checkpoint: Path) -> str | None:
    """The name of a checkpoint's run; None if it lies in no folder of checkpoints."""
    folder = checkpoint.resolve().parent
    if not re.match(r"step_", checkpoint.resolve().name):
        return None
    if folder.name == CHECKPOINTS:
        return folder.parent.name
    return folder.name if _settings(folder).get("run_name") == folder.name else None


def place_for(config: TrainingConfig, run_folder: Path) -> tuple[Path, str | None]:
    """The folder of the checkpoints of the run that `config` asks for, and its checkpoint_dir.

    A run that is continued stays with the checkpoint_dir that it was made with.
    """
    if config.checkpoint_dir:
        return user_path(config.checkpoint_dir) / run_folder.name, config.checkpoint_dir
    if config.resume and (outside := checkpoints_outside(run_folder)):
        return outside, str(outside.parent)
    return run_folder / CHECKPOINTS, None
