"""A file of documents, local or on the hub: its format, its content, and what can be wrong.

Files compressed with gzip or Zstandard are decompressed on the way. Offsets into them count
decompressed bytes, and resuming at one decompresses everything before it again.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sharpgpt.config.options import shown
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import readable, user_path
from sharpgpt.data.sources.archives import BUFFER_BYTES, COMPRESSIONS, decompressed

FORMATS = {
    ".txt": "text",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
}
FORMATS_IN_WORDS = ".txt, .jsonl (both also .gz and .zst) and .parquet"
NOT_READABLE = "change its permissions, or copy it"


@dataclass(frozen=True)
class DataFile:
    """A file of documents."""

    name: str
    """A path or an address, for messages."""
    num_bytes: int | None
    """Its size as stored, compressed if it is; None if unknown."""
    format: str
    """One of the values of `FORMATS`."""
    compression: str | None
    """One of the values of `COMPRESSIONS`, or None."""
    open: Callable[[], BinaryIO]
    """Opens it at its beginning, seekable. Raises `UserError`."""
    is_validation: bool | None = None
    """Whether it is of the validation split; None where its documents are split one by one."""
    label: str = ""
    """Its name inside its source, the same wherever the source is stored."""
    identity: str = ""
    """Equal identities mean equal content."""
    former_identity: Callable[[], str] | None = None
    """As earlier versions took it: of a local file, from its size, beginning and end."""
    stamp: Callable[[], list[int]] | None = None
    """Size, times and inode of a local file."""


def format_of(name: str) -> tuple[str, str | None] | None:
    """(format, compression) by the ending of a file's name, or None for another ending."""
    stem, compression = name.lower(), None
    for ending, kind in COMPRESSIONS.items():
        if stem.endswith(ending):
            stem, compression = stem.removesuffix(ending), kind
    for ending, kind in FORMATS.items():
        if stem.endswith(ending) and not (kind == "parquet" and compression):
            return kind, compression
    return None


def existing_path(dataset: str) -> Path | None:
    """The file or folder that the setting `dataset` names, `~` allowed; None if there is none.

    Raises `UserError` for a path that cannot be examined.
    """
    path = user_path(dataset)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL
        return None
    except OSError as error:  # a name that is too long, a folder that may not be searched
        raise UserError(f"dataset: {shown(dataset)} cannot be read: {error.strerror}") from None
    return path if dataset else None


def open_file(path: Path) -> BinaryIO:
    """A local file, opened for reading. Raises `UserError`."""
    if not path.is_file():
        raise UserError(
            f"{path}: neither a file nor a folder; allowed are text files, and files of "
            f"{FORMATS_IN_WORDS}"
        )
    with readable(path, NOT_READABLE):
        return open(path, "rb")


def content_from(raw: BinaryIO, file: DataFile, offset: int) -> BinaryIO:
    """The decompressed content of `file`, opened as `raw`, from `offset` on."""
    if file.compression is None:
        raw.seek(offset)
        return raw
    stream = decompressed(raw, file.compression, file.name)
    while offset > 0:
        block = stream.read(min(offset, BUFFER_BYTES))
        if not block:
            raise UserError(damaged(file.name, file.compression, "it is shorter than it was"))
        offset -= len(block)
    return stream


def position(raw: BinaryIO, file: DataFile, offset: int) -> int:
    """How many bytes of the stored file are read when `offset` bytes of its content are."""
    return offset if file.compression is None else raw.tell()


@contextlib.contextmanager
def reading(file: DataFile) -> Iterator[None]:
    """Turn what the libraries raise for a damaged file into one message."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, EOFError) as error:
        raise UserError(damaged(file.name, file.compression or file.format, error)) from None


def damaged(name: str, kind: str, error: Exception | str) -> str:
    """The message for a file that could not be read, for the reason `error`."""
    if isinstance(error, OSError) and error.errno is not None:
        return f"{name}: cannot be read: {error.strerror}"
    reason = " ".join(str(error).split())
    return (
        f"{name}: damaged, or not a {kind} file ({reason}); compare its size with the original's, "
        "and copy or download it again"
    )
