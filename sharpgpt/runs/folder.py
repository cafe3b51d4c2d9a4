"""The folder of a run: its name, whether it may be used, what it continues, what describes it."""

import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import (
    atomic_path,
    make_folder,
    os_error_text,
    sync,
    temporary_files,
    user_path,
)
from sharpgpt.core.jsonio import read_object, write_json
from sharpgpt.runs.checkpoint import Checkpoint, CheckpointFolder
from sharpgpt.runs.places import place_for, run_of_folder
from sharpgpt.runs.resolve import checkpoint_path, resolve_checkpoint
from sharpgpt.runs.state import TrainingState
from sharpgpt.runtime.lock import FolderLock

LOCK_FILE = "run.lock"
APPENDED = ("metrics.jsonl", "samples.jsonl", "log.txt")
WRITTEN = (
    *APPENDED, "config.yaml", "environment.json", "summary.json", "report.html", LOCK_FILE,
)  # fmt: skip
"""The files of a run folder, beside its checkpoints."""


def run_lock(folder: Path) -> FolderLock:
    """The lock on the folder of a run, or of its checkpoints."""
    return FolderLock(
        folder,
        LOCK_FILE,
        "run_name: {folder} is in use by {who}; wait for it, stop it, or give another run_name",
    )


@dataclass(frozen=True)
class RunFolder:
    """`path` exists, can be written, and is locked; `resume_from` is the checkpoint to continue.

    `is_continued` says that this checkpoint is the run's own, and not that of a run it forks.
    `checkpoint_dir` is the setting, which a run that is continued takes over.
    """

    path: Path
    checkpoints: CheckpointFolder
    resume_from: Checkpoint | None
    is_continued: bool
    checkpoint_dir: str | None = None
    _locks: list[FolderLock] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        config: TrainingConfig,
        data_name: str,
        *,
        accept: Callable[[TrainingState], object] = lambda _: None,
        checkpoint_bytes: int = 0,
        dry_run: bool = False,
    ) -> "RunFolder":
        """Find or make the folder that `config` asks for, and lock it and that of its checkpoints.

        `accept` sees the state of the checkpoint that is to be continued, and raises if this run
        cannot; nothing is made, renamed or removed then. With `dry_run` nothing is at all, and what
        is returned holds no lock.

        Raises:
            UserError: it holds another run, is in use, cannot be written, has no room for a
                checkpoint of `checkpoint_bytes`, or there is nothing to resume, or nothing that is
                undamaged; or it holds a link, which could lead into another run.
        """
        output_dir = user_path(config.output_dir)
        path = output_dir / config.run_name if config.run_name else None
        is_own = path is not None and _is_own_run(config, path)
        source = None
        if config.resume not in (None, "auto") and not is_own:
            source = resolve_checkpoint(str(config.resume), setting="resume")
            accept(source.state)
        try:
            _require_place(path or output_dir)
            if path is None:
                path = _new_folder(output_dir, config, data_name, dry_run=dry_run)
        except OSError as error:
            raise _unwritable(path or output_dir, error) from None
        place, checkpoint_dir = place_for(config, path)
        checkpoints = CheckpointFolder(place, config.keep_checkpoints, config.keep_every_steps)
        checkpoints.refuse_links()
        _require_plain_files(path)
        _require_room(path, checkpoints.path, checkpoint_bytes)
        locks: list[FolderLock] = []
        try:
            _make_and_lock(path, checkpoints.path, locks, dry_run=dry_run)
            _require_own(path, checkpoints)
            is_used = (path / "metrics.jsonl").exists() or checkpoints.all()
            if is_used and config.resume != "auto" and not is_own:
                raise UserError(
                    f"run_name: {path} already holds a run; use resume auto to continue it, give "
                    "another run_name, or delete the folder"
                )
            if is_own or config.resume == "auto":
                source = _own_checkpoint(config, path, checkpoints, accept, dry_run=dry_run)
            if not dry_run:  # from here on the run is accepted
                checkpoints.sweep()
                _sweep(path)
                if source is None:
                    _set_aside_earlier_records(path)
                _make_own(path)
        except BaseException:
            for lock in locks:
                lock.release()
            raise
        is_continued = is_own or config.resume == "auto"
        return cls(path, checkpoints, source, is_continued, checkpoint_dir, locks)

    @classmethod
    def of_follower(cls, path: Path, resume_from: Checkpoint | None) -> "RunFolder":
        """For a process that is not the first of its run: a folder that nobody reads."""
        return cls(path, CheckpointFolder(path / "checkpoints"), resume_from, False)

    def close(self) -> None:
        """Let other processes in."""
        for lock in self._locks:
            lock.release()

    def tracker_run_ids(self) -> dict[str, str | None]:
        """The ids that trackers gave an earlier part of this run, by key of environment.json."""
        try:
            earlier = read_object(self.path / "environment.json", follow_links=False).items()
        except (OSError, ValueError):
            return {}
        return {
            key: value
            for key, value in earlier
            if key.endswith("_run_id")
            and isinstance(value, str)
            and re.fullmatch(r"[\w.-]{1,128}", value)
        }

    def write_description(self, config: TrainingConfig, environment: dict[str, Any]) -> None:
        """Write config.yaml and environment.json."""
        config.to_yaml(self.path / "config.yaml")
        write_json(self.path / "environment.json", environment, indent=2)


def _is_own_run(config: TrainingConfig, path: Path) -> bool:
    """Whether `resume` is a path into the very run that `run_name` names."""
    if config.resume in (None, "auto"):
        return False
    target = checkpoint_path(str(config.resume)).resolve()
    checkpoints = place_for(config, path)[0].resolve()
    return target in (path.resolve(), checkpoints) or target.parent == checkpoints


def _own_checkpoint(
    config: TrainingConfig,
    path: Path,
    checkpoints: CheckpointFolder,
    accept: Callable[[TrainingState], object],
    *,
    dry_run: bool,
) -> Checkpoint | None:
    """The checkpoint from which the run in `path` continues; None only for resume auto."""
    target = checkpoint_path(str(config.resume))
    if config.resume != "auto" and target.resolve().parent == checkpoints.path.resolve():
        chosen = resolve_checkpoint(target, setting="resume")
        newest = checkpoints.newest()
        if newest and newest.path.name != chosen.path.name:
            raise UserError(
                f"resume: {target} is not the newest checkpoint of its run, {newest.path}; use "
                "resume auto to continue the run, or another run_name to fork it from here"
            )
    found = checkpoints.newest(set_aside=not dry_run, accept=accept)
    if found is None and config.resume != "auto":
        raise UserError(f"resume: there is no checkpoint in {path} yet; use resume auto to start")
    return found


def _make_and_lock(
    path: Path, checkpoints: Path, locks: list[FolderLock], *, dry_run: bool
) -> None:
    """Make and lock both folders: that of the checkpoints may be another run's too.

    With `dry_run` see whether that could be done.
    """
    try:
        for folder in (path, checkpoints):
            _require_place(folder)
            if not dry_run:
                make_folder(folder)
                _require_place(folder)
        is_same = path.exists() and checkpoints.exists() and checkpoints.samefile(path)
        for folder in [path] if is_same else [path, checkpoints]:
            lock = run_lock(folder)
            if dry_run:
                lock.check()
                continue
            lock.acquire()
            locks.append(lock)
    except OSError as error:
        raise _unwritable(path, error) from None


def _nearest(path: Path) -> Path:
    """The path, or the nearest one above it that exists."""
    return next(one for one in (path, *path.absolute().parents) if os.path.lexists(one))


def _require_place(folder: Path) -> None:
    """Raise OSError unless this is a folder that can be written, or could be made as one."""
    there = _nearest(folder)
    if not there.is_dir():
        number = errno.EEXIST if there == folder else errno.ENOTDIR
        raise OSError(number, os.strerror(number))
    tempfile.TemporaryFile(dir=there).close()  # which has no name


DESCRIPTION_BYTES = 1 << 16
"""Of config.yaml, environment.json and the first lines of the records."""


def _require_room(path: Path, checkpoints: Path, checkpoint_bytes: int) -> None:
    """Refuse a disk that is too full for what describes the run, or for a single checkpoint."""
    for folder, what, num_bytes in (
        (path, "the files of a run", DESCRIPTION_BYTES),
        (checkpoints, "one checkpoint", DESCRIPTION_BYTES + checkpoint_bytes),
    ):
        try:
            is_full = shutil.disk_usage(_nearest(folder)).free < num_bytes
        except OSError:
            continue
        if is_full:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            text = os_error_text(full, folder, needed_bytes=num_bytes)
            raise UserError(f"output_dir: no room for {what}: {text} (output_dir, checkpoint_dir)")


def _require_own(path: Path, checkpoints: CheckpointFolder) -> None:
    """Refuse a folder of a checkpoint_dir whose checkpoints another run has written."""
    if checkpoints.path.parent == path:
        return
    other = run_of_folder(checkpoints.path)
    if other is not None and not other.samefile(path):
        raise UserError(
            f"checkpoint_dir: {checkpoints.path} holds the checkpoints of another run, {other}; "
            "give another run_name or another checkpoint_dir"
        )


def _require_plain_files(path: Path) -> None:
    """Refuse links, through which another file would be truncated, and pipes, which block."""
    kinds = dict.fromkeys(WRITTEN, stat.S_ISREG) | {"wandb": stat.S_ISDIR}
    for name, is_right in kinds.items():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if not is_right((path / name).lstat().st_mode):
                raise UserError(
                    f"run_name: {path / name} is a link, a folder or a pipe, and no file of a run; "
                    "move it away, or give another run_name"
                )


def _make_own(path: Path) -> None:
    """Copy records that share their content with a file elsewhere (hard links, as of a backup)."""
    for name in APPENDED:
        record = path / name
        with contextlib.suppress(FileNotFoundError):
            if record.lstat().st_nlink > 1:
                with atomic_path(record) as temporary:
                    shutil.copyfile(record, temporary, follow_symlinks=False)


def _sweep(path: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote."""
    for name in ("config.yaml", "environment.json", "summary.json", "report.html"):
        for left in temporary_files(path, name):
            with contextlib.suppress(OSError):
                left.unlink()


def _set_aside_earlier_records(path: Path) -> None:
    """Keep what a run wrote that ended before its first checkpoint, and is now started over.

    In a folder where no run has written its environment, such files are the user's, and kept too.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    described = ("config.yaml", "summary.json", "report.html")
    is_run = (path / "environment.json").exists()
    for name in ("metrics.jsonl", "samples.jsonl", *(() if is_run else described)):
        if (path / name).exists():
            (path / name).rename(path / f"{name}.before-{stamp}")


def _unwritable(path: Path, error: OSError) -> UserError:
    remedy = "give an output_dir (and checkpoint_dir) where you may write"
    text = os_error_text(error, error.filename or path, remedy=remedy)
    return UserError(f"output_dir: the run folder {path} cannot be written: {text}")


def _new_folder(output_dir: Path, config: TrainingConfig, data_name: str, *, dry_run: bool) -> Path:
    """Make a folder whose name says when and what; no other process gets the same."""
    what = re.sub(r"\W+", "-", data_name).strip("-")[:40] or "text"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    penalty = re.sub(r"\W+", "-", config.penalty_type)
    number = 1
    if dry_run:
        return output_dir / f"{stamp}_{what}_{penalty}_{config.penalty_weight:g}"
    make_folder(output_dir)
    while True:
        start = stamp if number == 1 else f"{stamp}-{number}"
        path = output_dir / f"{start}_{what}_{penalty}_{config.penalty_weight:g}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            sync(output_dir)
            return path
