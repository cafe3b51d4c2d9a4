"""The folder of a run: its name, whether it may be used, and what describes it."""

import json
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sharpgpt.config import TrainingConfig
from sharpgpt.files import UserError, write_text
from sharpgpt.training.checkpoint import CheckpointFolder, find_checkpoint


@dataclass(frozen=True)
class RunFolder:
    """`path` exists and can be written; `resume_from` is the checkpoint to continue, or None.

    `is_continued` says that this checkpoint is the run's own, and not that of a run it forks.
    """

    path: Path
    checkpoints: Path
    resume_from: Path | None
    is_continued: bool

    @classmethod
    def open(cls, config: TrainingConfig, data_name: str) -> "RunFolder":
        """Find or make the folder that `config` asks for.

        Raises:
            UserError: it holds another run, cannot be written, or there is nothing to resume.
        """
        output_dir = Path(config.output_dir).expanduser()
        path = output_dir / config.run_name if config.run_name else None
        try:
            path = path or _new_folder(output_dir, config, data_name)
        except OSError as error:
            raise _unwritable(output_dir, error) from None
        checkpoints = (
            Path(config.checkpoint_dir).expanduser() / path.name
            if config.checkpoint_dir
            else path / "checkpoints"
        )
        resume_from = None
        if config.resume == "auto":
            resume_from = CheckpointFolder(checkpoints, config.keep_checkpoints).newest()
        elif config.resume is not None:
            resume_from = find_checkpoint(Path(config.resume).expanduser())
        own = resume_from is not None and resume_from.parent.resolve() == checkpoints.resolve()
        newest = CheckpointFolder(checkpoints, config.keep_checkpoints).newest()
        if own and resume_from != newest and newest is not None:
            raise UserError(
                f"resume: {resume_from} is not the newest checkpoint of its run, {newest}; use "
                "resume auto to continue the run, or another run_name to fork it from here"
            )
        if (path / "metrics.jsonl").exists() and config.resume != "auto" and not own:
            raise UserError(
                f"run_name: {path} already holds a run; use resume auto to continue it, give "
                "another run_name, or delete the folder"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            checkpoints.mkdir(parents=True, exist_ok=True)
            for folder in (path, checkpoints):
                tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise _unwritable(path, error) from None
        if resume_from is None:
            _set_aside_earlier_records(path)
        return cls(path, checkpoints, resume_from, own)

    def wandb_run_id(self) -> str | None:
        """The W&B run that an earlier part of this run was tracked in."""
        try:
            text = (self.path / "environment.json").read_text(encoding="utf-8")
            return cast("str | None", json.loads(text).get("wandb_run_id"))
        except (OSError, ValueError, AttributeError):
            return None

    def write_description(self, config: TrainingConfig, environment: dict[str, Any]) -> None:
        """Write config.yaml and environment.json."""
        config.to_yaml(self.path / "config.yaml")
        write_text(self.path / "environment.json", json.dumps(environment, indent=2))


def _set_aside_earlier_records(path: Path) -> None:
    """Keep what a run wrote that ended before its first checkpoint, and is now started over."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for name in ("metrics.jsonl", "samples.jsonl"):
        if (path / name).exists():
            (path / name).rename(path / f"{name}.before-{stamp}")


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"output_dir: the run folder {path} cannot be written: {error.strerror}; give an "
        "output_dir (and checkpoint_dir) where you may write"
    )


def _new_folder(output_dir: Path, config: TrainingConfig, data_name: str) -> Path:
    """Make a folder whose name says when and what; no other process gets the same."""
    what = re.sub(r"\W+", "-", data_name).strip("-")[:40] or "text"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    penalty = re.sub(r"\W+", "-", config.penalty_type)
    number = 1
    while True:
        start = stamp if number == 1 else f"{stamp}-{number}"
        path = output_dir / f"{start}_{what}_{penalty}_{config.penalty_weight:g}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if output_dir.exists() and not output_dir.is_dir():
                raise
            number += 1
        else:
            return path
