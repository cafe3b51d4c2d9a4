"""Is there room for the shards, and the message when there is not."""

import errno
import shutil
from pathlib import Path

from sharpgpt.core.errors import UserError
from sharpgpt.data.prepare.options import PrepareOptions
from sharpgpt.data.sources.documents import DocumentSource

LEAST_BYTES = 0.4
"""Bytes of shards for each byte of the source's files, at the least.

A token takes 2 bytes and stands for 4.4 bytes of English, fewer of other texts; a character for at
most 4. Compressed files hold more text than they have bytes: OpenWebText's and FineWeb-Edu's
Parquet files come to 0.75 and 0.7.
"""

_FULL = (errno.ENOSPC, errno.EDQUOT)


def require_room(
    folder: Path, source: DocumentSource, options: PrepareOptions, bytes_written: int
) -> None:
    """Raise `UserError` if the disk of `folder` surely cannot hold the shards of `source`.

    `bytes_written` of them are there already. Sources of unknown size pass.
    """
    if source.num_bytes is None or options.max_documents is not None:
        return
    needed = source.num_bytes * LEAST_BYTES
    if options.max_tokens is not None:
        needed = min(needed, 2 * options.max_tokens)
    needed -= bytes_written
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: the tokens take about {gigabytes(needed)} and the disk has "
            f"{gigabytes(free)} left; free some, give an output on another disk, or prepare less, "
            f"such as --max_tokens {int(free / 2.2):,}".replace(",", "_")
        )


def shortage(folder: Path, bytes_to_come: float) -> str | None:
    """A warning if the disk of `folder` has less room than is still to be written."""
    free = shutil.disk_usage(folder).free
    if bytes_to_come <= free:
        return None
    return (
        f"the disk of {folder} has {gigabytes(free)} left and about {gigabytes(bytes_to_come)} are "
        "still to be written; free some room meanwhile"
    )


def is_full(error: OSError) -> bool:
    """Whether an error says that a disk, or its quota, is full."""
    return error.errno in _FULL


def full_message(folder: Path) -> str:
    """The message for a disk that has become full."""
    return (
        f"{folder}: the disk is full. What was committed is kept: free some room and run the same "
        "command again, it goes on there"
    )


def gigabytes(num_bytes: float) -> str:
    """A number of bytes for a person."""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.1f} GB"
    return f"{num_bytes / 1e6:.1f} MB"
