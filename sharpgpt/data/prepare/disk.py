"""Disk space for the shards: the check before and the message after."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import NO_ROOM, os_error_text, size_text
from sharpgpt.data.prepare.options import PrepareOptions
from sharpgpt.data.sources.documents import DocumentSource

MIN_SHARD_BYTES = 0.4
"""Lower bound for bytes of shards per byte of the source's files.

A token takes 2 bytes and covers 4.4 bytes of English, fewer of other text, and a character at most
4. Compressed files hold more text than bytes: the Parquet files of OpenWebText and FineWeb-Edu come
to 0.75 and 0.7.
"""


def require_room(
    folder: Path, source: DocumentSource, options: PrepareOptions, bytes_written: int
) -> None:
    """Raise `UserError` if the disk of `folder` certainly cannot hold the shards of `source`.

    `bytes_written` of them exist already. Sources of unknown size pass.
    """
    if source.num_bytes is None or options.max_documents is not None:
        return
    needed = source.num_bytes * MIN_SHARD_BYTES
    if options.max_tokens is not None:
        needed = min(needed, 2 * options.max_tokens)
    needed -= bytes_written
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: the tokens take about {size_text(needed)} and the disk has "
            f"{size_text(free)} left; free some, give an output on another disk, or prepare less, "
            f"such as --max_tokens {int(free / 2.2)}"
        )


def shortage(folder: Path, bytes_to_come: float) -> str | None:
    """A warning if the disk of `folder` has less room than is still to be written."""
    free = shutil.disk_usage(folder).free
    if bytes_to_come <= free:
        return None
    return (
        f"the disk of {folder} has {size_text(free)} left and about {size_text(bytes_to_come)} are "
        "still to be written; free some space meanwhile"
    )


@contextlib.contextmanager
def explained_if_full(folder: Path) -> Iterator[None]:
    """Raise `UserError` for a disk or quota that fills up within the block."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        text = os_error_text(
            error,
            error.filename or folder,
            remedy="what was committed is kept: make room and run the same command again",
        )
        raise UserError(f"the disk is full. {text}") from None
