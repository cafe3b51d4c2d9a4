"""The checkpoints of a run: finding the newest and the best, and which of them are kept.

Nothing points to a checkpoint, so nothing can dangle: the newest is the step_* folder with the
highest step whose files are all as they were written, the best the one whose manifest has the
lowest val/ce_loss. A checkpoint has that loss if the run was validated at its very step.

Kept are the newest `keep`, the best, and every one whose step `keep_every` divides. One that is
found damaged when its run is continued is renamed, and never deleted. One of a newer version is
neither taken nor passed over nor renamed: the message asks to upgrade.

A link is no checkpoint, wherever it leads. A checkpoint is removed only if everything in its folder
is named by its checkpoint.json, and only from a folder that is no link.
"""

import contextlib
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import remove_folder, rename_within, sync, write_text
from sharpgpt.runs.manifest import MANIFEST, DamagedCheckpointError, read_manifest, verify_files
from sharpgpt.runs.state import (
    STATE_JSON,
    AfterStep,
    IncompatibleCheckpointError,
    TrainingState,
    read_state,
)

__all__ = [
    "STATE_JSON",
    "Checkpoint",
    "CheckpointFolder",
    "DamagedCheckpointError",
    "step_folder",
]

logger = logging.getLogger(__name__)

UNFINISHED, REMOVED, DAMAGED = ".unfinished_", ".removed_", "damaged_"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint all of whose files are as they were written."""

    path: Path
    state: TrainingState
    after_step: AfterStep

    @classmethod
    def verified(cls, path: Path) -> "Checkpoint":
        """Check every byte of the folder `path`, and what the state says.

        Raises:
            DamagedCheckpointError: something is missing, added, changed or impossible.
            IncompatibleCheckpointError: a newer version wrote it.
        """
        manifest = verify_files(path)
        try:
            state = read_state(path)
            if state.step != manifest.step:
                raise ValueError(
                    f"{STATE_JSON}: it is of step {state.step}, {MANIFEST} of {manifest.step}"
                )
        except OSError as error:
            raise DamagedCheckpointError(path, f"{STATE_JSON}: {error.strerror}") from error
        except ValueError as error:
            raise DamagedCheckpointError(path, str(error)) from error
        return cls(path, state, manifest.after_step)


@dataclass(frozen=True)
class CheckpointFolder:
    """The folder of one run's checkpoints."""

    path: Path
    keep: int = 1
    keep_every: int = 0

    def all(self) -> list[Path]:
        """The checkpoints that are here, oldest first, whole or not; a link is none."""
        return sorted((path for path in self._named(r"step_\d{1,15}")), key=step_of)

    def _named(self, pattern: str, *, are_links: bool = False) -> list[Path]:
        """What is here under names of this pattern: no links, or links alone."""
        try:
            with os.scandir(self.path) as entries:
                return [
                    self.path / entry.name
                    for entry in entries
                    if re.fullmatch(pattern, entry.name) and entry.is_symlink() == are_links
                ]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def refuse_links(self) -> None:
        """Raise `UserError` if this folder, or what could be a checkpoint in it, is a link."""
        refuse_link(self.path)
        ours = rf"({re.escape(UNFINISHED)}|{re.escape(REMOVED)}|{DAMAGED})?step_\d+.*"
        for link in sorted(self._named(ours, are_links=True)):
            refuse_link(link)

    def newest(
        self,
        *,
        set_aside: bool = False,
        accept: Callable[[TrainingState], object] = lambda _: None,
    ) -> Checkpoint | None:
        """The newest checkpoint that is undamaged, or None where there never was one.

        A warning names each damaged one that is newer. With `set_aside` it is renamed to damaged_*,
        since the run will write a checkpoint of its step again; `accept` sees the state first, and
        raises if the run cannot be continued.

        Raises:
            UserError: there are checkpoints, and all are damaged.
            IncompatibleCheckpointError: a newer version wrote the newest undamaged one.
        """
        for link in self._named(r"step_\d+", are_links=True):
            text = f"{link} is a link and no checkpoint; it is passed over"
            logger.warning("%s", text, extra={"once": text})
        damaged: list[DamagedCheckpointError] = []
        present = self.all()
        for path in reversed(present):
            try:
                found = Checkpoint.verified(path)
            except DamagedCheckpointError as error:
                if os.path.lexists(path):
                    damaged.append(error)
                continue
            accept(found.state)
            for one in damaged:
                place = f"; it is now {_set_aside(one.checkpoint).name}" if set_aside else ""
                text = f"the checkpoint {one.checkpoint} is damaged ({one.reason}){place}"
                logger.warning("%s", text, extra={"once": text})
            if damaged:
                text = f"the one before is taken, {found.path}"
                logger.warning("%s", text, extra={"once": text})
            return found
        if self.all() != present:  # its run is training, and has removed the one that was read
            return self.newest(set_aside=set_aside, accept=accept)
        earlier = [path.name for path in sorted(self._named(rf"{DAMAGED}step_.*"))]
        if damaged or earlier:
            what = [f"{one.checkpoint.name} ({one.reason})" for one in damaged] + earlier
            raise UserError(
                f"every checkpoint in {self.path} is damaged: {', '.join(what)}. Give another "
                "run's checkpoint; to train, resume from one, give another run_name, or move these "
                "away to start over"
            )
        return None

    def best(self) -> Path | None:
        """The checkpoint with the lowest val/ce_loss, the earliest of equal ones; None without.

        A warning names each one whose loss cannot be read, for it might be the best.

        Raises:
            IncompatibleCheckpointError: a newer version wrote one of them, which might be the best.
        """
        best, unreadable = self._best_and_unreadable()
        for path, error in unreadable.items():
            if isinstance(error, IncompatibleCheckpointError):
                raise error
            if os.path.lexists(path):
                logger.warning("passed over as the best: %s", error, extra={"once": str(path)})
        return best

    def _best_and_unreadable(self) -> tuple[Path | None, dict[Path, UserError]]:
        """`best`, and those whose loss cannot be read, with the reason."""
        losses, unreadable = dict[Path, float](), dict[Path, UserError]()
        for path in self.all():
            try:
                loss = read_manifest(path).after_step.val_ce_loss
            except (DamagedCheckpointError, IncompatibleCheckpointError) as error:
                unreadable[path] = error
                continue
            if loss is not None:
                losses[path] = loss
        return min(losses, key=losses.__getitem__, default=None), unreadable

    def amend(self, step: int, after_step: AfterStep) -> None:
        """Record what was done after the checkpoint of `step` was written."""
        path = step_folder(self.path, step)
        manifest = read_manifest(path).model_copy(update={"after_step": after_step})
        write_text(path / MANIFEST, manifest.sealed_text())

    def prune(self) -> None:
        """Remove the checkpoints that are not to be kept.

        One that cannot be read stays: it may be the best, and the failure transient.
        """
        present = self.all()
        best, unreadable = self._best_and_unreadable()
        kept = {*present[-self.keep :], best, *unreadable}
        for path in present:
            is_kept = self.keep_every and step_of(path) % self.keep_every == 0
            if path not in kept and not is_kept:
                if foreign := _foreign(path):
                    text = f"{path} is kept: {foreign} in it is no file of the checkpoint"
                    logger.warning("%s", text, extra={"once": text})
                    continue
                with contextlib.suppress(OSError):  # it stays, and the next time tries again
                    _remove(path)

    def sweep(self) -> None:
        """Remove what a process left that was killed while it wrote or removed a checkpoint."""
        for prefix in (UNFINISHED, REMOVED):
            for path in self._named(rf"{re.escape(prefix)}step_\d{{8,15}}"):
                with contextlib.suppress(OSError):
                    remove_folder(self.path, path.name)


def refuse_link(path: Path) -> None:
    """Raise `UserError` if the path, in a run folder or a folder of checkpoints, is a link."""
    if path.is_symlink():
        raise UserError(
            f"{path}: is a link, and nothing of a run is read, written or deleted through one; "
            "move it away, or give the folder that it leads to as checkpoint_dir"
        )


def make_way(checkpoint: Path) -> None:
    """Remove what is under the name of a new checkpoint, or rename it if it is not one of ours."""
    if not os.path.lexists(checkpoint):
        return
    try:
        is_ours = not checkpoint.is_symlink() and _foreign(checkpoint) is None
    except UserError:
        is_ours = False
    if is_ours:
        _remove(checkpoint)
    else:
        _set_aside(checkpoint)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint folder, so that a crash leaves no half of one under its name."""
    folder, going = checkpoint.parent, REMOVED + checkpoint.name
    with contextlib.suppress(FileNotFoundError):
        remove_folder(folder, going)
    rename_within(folder, checkpoint.name, going)
    sync(folder)
    remove_folder(folder, going)


def _foreign(checkpoint: Path) -> str | None:
    """The name of something in a checkpoint that its checkpoint.json does not name, or None."""
    named = {MANIFEST, *read_manifest(checkpoint).files}
    with os.scandir(checkpoint) as entries:
        foreign = [
            entry.name
            for entry in entries
            if entry.name not in named or not entry.is_file(follow_symlinks=False)
        ]
    return min(foreign, default=None)


def step_folder(folder: Path, step: int) -> Path:
    """The name of the checkpoint of `step`."""
    return folder / f"step_{step:08d}"


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's name says."""
    return int(checkpoint.name.removeprefix("step_"))


def _set_aside(checkpoint: Path) -> Path:
    number = 1
    while True:
        again = "" if number == 1 else f"_{number}"
        aside = checkpoint.with_name(f"{DAMAGED}{checkpoint.name}{again}")
        if not os.path.lexists(aside):
            rename_within(checkpoint.parent, checkpoint.name, aside.name)
            return aside
        number += 1
