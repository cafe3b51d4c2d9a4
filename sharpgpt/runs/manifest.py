"""checkpoint.json: what a checkpoint folder holds, so that damage shows before anything is used.

It is the last file that is written. It names every file with its size and SHA-256, and carries a
sum of its own, so that no byte of the folder can change unnoticed. Names that lead out of the
folder, symbolic links, folders and files that it does not name are refused; only names that begin
with a dot, and a README.md, are passed over, since nothing here reads them.
"""

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sharpgpt.core.errors import UserError
from sharpgpt.runs.state import AfterStep, Count, Strict, parsed, read_bytes

MANIFEST = "checkpoint.json"
FORMAT_VERSION = 1

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}$")]


class DamagedCheckpointError(UserError):
    """A checkpoint that must not be used; the message names it and says what is wrong."""

    def __init__(self, checkpoint: Path, reason: str) -> None:
        self.checkpoint = checkpoint
        self.reason = reason
        super().__init__(
            f"resume: the checkpoint {checkpoint} cannot be used: {reason}; resume from an earlier "
            "one"
        )


class FileFacts(Strict):
    """Size and hash of one file."""

    bytes: Count
    sha256: Sha256


class Manifest(Strict):
    """The content of checkpoint.json."""

    format: Literal["sharpgpt-checkpoint"] = "sharpgpt-checkpoint"
    format_version: int = FORMAT_VERSION
    step: Count
    after_step: AfterStep
    versions: dict[str, str]
    """Of Python and the packages that wrote it."""
    files: Annotated[dict[FileName, FileFacts], Field(max_length=10_000)]
    manifest_sha256: Sha256 | Literal[""] = ""
    """Of this file with this field empty."""

    def sealed_text(self) -> str:
        """The text of checkpoint.json, its own sum included."""
        text = self.model_copy(update={"manifest_sha256": ""}).model_dump_json(indent=1)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        return self.model_copy(update={"manifest_sha256": sha256}).model_dump_json(indent=1) + "\n"


def file_facts(path: Path) -> FileFacts:
    """Size and hash of a file as it can be read back."""
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileFacts(bytes=os.fstat(file.fileno()).st_size, sha256=sha256)


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint, its own sum checked, and nothing else.

    Raises:
        DamagedCheckpointError: it is missing or is not what was written.
    """
    try:
        if not stat.S_ISREG((checkpoint / MANIFEST).lstat().st_mode):
            raise ValueError(f"{MANIFEST} is no plain file")
        data = read_bytes(checkpoint / MANIFEST)
        manifest = parsed(Manifest, data)
    except FileNotFoundError:
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST} is missing") from None
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST}: {error}") from error
    if manifest.format_version != FORMAT_VERSION:
        reason = (
            f"its format is version {manifest.format_version}, this SharpGPT reads version "
            f"{FORMAT_VERSION}"
        )
        raise DamagedCheckpointError(checkpoint, reason)
    if data != manifest.sealed_text().encode():
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST} was changed after it was written")
    return manifest


def verify_files(checkpoint: Path) -> Manifest:
    """Compare every file of a checkpoint with its manifest, and return that.

    Sizes are compared before any content is read, so that a file of another size costs nothing.

    Raises:
        DamagedCheckpointError: anything is missing, added or different; the first of it is named.
    """
    manifest = read_manifest(checkpoint)
    try:
        _compare(checkpoint, manifest)
    except OSError as error:
        reason = f"{Path(str(error.filename or checkpoint)).name}: {error.strerror or error}"
        raise DamagedCheckpointError(checkpoint, reason) from error
    except ValueError as error:
        raise DamagedCheckpointError(checkpoint, str(error)) from error
    return manifest


def _compare(checkpoint: Path, manifest: Manifest) -> None:
    if re.fullmatch(r"step_\d+", checkpoint.name) and (
        int(checkpoint.name.removeprefix("step_")) != manifest.step
    ):
        raise ValueError(f"{MANIFEST} says that it is of step {manifest.step}")
    present = {entry.name: entry for entry in os.scandir(checkpoint)}
    for name, entry in present.items():
        if name in (MANIFEST, "README.md") or name.startswith("."):
            continue
        if name not in manifest.files:
            raise ValueError(f"{name[:80]!r} is not in {MANIFEST}; move it away")
        if not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            raise ValueError(f"{name} is no plain file")
    for name, facts in manifest.files.items():
        if name not in present:
            raise ValueError(f"{name} is missing")
        size = present[name].stat(follow_symlinks=False).st_size
        if size != facts.bytes:
            raise ValueError(f"{name} has {size} bytes, {facts.bytes} were written")
    for name, facts in manifest.files.items():
        if file_facts(checkpoint / name).sha256 != facts.sha256:
            raise ValueError(f"{name} has another SHA-256 than what was written")
