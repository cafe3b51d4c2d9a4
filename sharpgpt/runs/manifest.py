"""checkpoint.json: what a checkpoint folder holds, so that damage shows before anything is used.

It is the last file that is written. It names every file with its size and SHA-256, and ends with a
hash of its own text, so that no byte of the folder can change unnoticed. Names that lead out of the
folder, symbolic links, folders and files that it does not name are refused; only names that begin
with a dot, and a README.md, are ignored, since nothing here reads them.

The version and the hash at the end mean the same in every version of the format, so that a folder
of a newer version is known for what it is, and never taken for a damaged one.
"""

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sharpgpt.core import jsonio
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import open_plain
from sharpgpt.core.numbers import counted
from sharpgpt.runs.state import (
    FORMAT_VERSION,
    MAX_JSON_BYTES,
    AfterStep,
    Count,
    Strict,
    Version,
    refuse_newer,
)

MANIFEST = "checkpoint.json"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}$")]


class DamagedCheckpointError(UserError):
    """A checkpoint that is not what was written; the message names the first difference."""

    def __init__(self, checkpoint: Path, reason: str) -> None:
        self.checkpoint = checkpoint
        self.reason = reason
        super().__init__(
            f"the checkpoint {checkpoint} cannot be used: {reason}; give an earlier one"
        )


class FileFacts(Strict):
    """Size and hash of one file."""

    bytes: Count
    sha256: Sha256


class Manifest(Strict):
    """The content of checkpoint.json."""

    format: Literal["sharpgpt-checkpoint"] = "sharpgpt-checkpoint"
    format_version: Version = FORMAT_VERSION
    step: Count
    after_step: AfterStep
    versions: dict[str, str]
    """Of Python and the packages that wrote it."""
    files: Annotated[dict[FileName, FileFacts], Field(max_length=10_000)]
    manifest_sha256: Sha256 | Literal[""] = ""
    """Of this file with this field empty."""

    def sealed_text(self) -> str:
        """The text of checkpoint.json, its own hash included."""
        text = self.model_copy(update={"manifest_sha256": ""}).model_dump_json(indent=1)
        return text.removesuffix(_UNSEALED_END) + _sealed_end(text) + "\n"


_UNSEALED_END = '"manifest_sha256": ""\n}'


def _sealed_end(text: str) -> str:
    return _UNSEALED_END.replace('""', f'"{hashlib.sha256(text.encode()).hexdigest()}"')


def _is_sealed(data: bytes) -> bool:
    """Whether the hash at the end is that of the text with an empty hash."""
    body, _, _ = data.decode("utf-8", errors="replace").rpartition('"manifest_sha256": "')
    return data == (body + _sealed_end(body + _UNSEALED_END) + "\n").encode()


def file_facts(path: Path) -> FileFacts:
    """Size and hash of a plain file as it can be read back. Raises OSError, ValueError."""
    with open_plain(path, follow_links=False) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileFacts(bytes=os.fstat(file.fileno()).st_size, sha256=sha256)


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest of a checkpoint, its own hash checked, and nothing else.

    Raises:
        DamagedCheckpointError: it is missing or is not what was written.
        IncompatibleCheckpointError: a newer version wrote it.
    """
    try:
        data = jsonio.read_bytes(
            checkpoint / MANIFEST, max_bytes=MAX_JSON_BYTES, follow_links=False
        )
        if _is_sealed(data):
            refuse_newer(data, checkpoint, name=MANIFEST)
        manifest = jsonio.parse_model(data, Manifest, name=MANIFEST)
    except FileNotFoundError:
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST} is missing") from None
    except OSError as error:
        raise DamagedCheckpointError(checkpoint, f"{MANIFEST}: {error.strerror}") from error
    except ValueError as error:
        raise DamagedCheckpointError(checkpoint, str(error)) from error
    if not _is_sealed(data):
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
            raise ValueError(f"{name} has {counted(size, 'byte')}, written were {facts.bytes:,}")
    for name, facts in manifest.files.items():
        if file_facts(checkpoint / name).sha256 != facts.sha256:
            raise ValueError(f"{name} has another SHA-256 than what was written")
