"""Files: atomic writes, of which a reader sees the old file or the new one; plain files opened
without waiting and, in a folder from anyone, without following links; paths of users."""

import contextlib
import errno
import itertools
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from sharpgpt.core.errors import UserError
from sharpgpt.core.numbers import counted


@contextlib.contextmanager
def atomic_path(path: Path, *, temporary_name: str | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block succeeds.

    A reader sees the old file or the new one, never half of one, also after a power cut: the file
    is flushed before it gets its name, and its folder after. If the block raises, the temporary
    file is removed and `path` stays as it was. Its name is random, or `temporary_name` where one
    process at a time writes: that then replaces what a killed process left.

    Raises:
        OSError: as the system does; or `path` is a device or a pipe, which a file would replace.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "This is a device or a pipe, not a file", str(path))
    make_folder(path.parent)
    if temporary_name is None:
        descriptor, name = tempfile.mkstemp(".tmp", f".{path.name}.", path.parent)
        temporary = Path(name)
    else:
        temporary = path.parent / temporary_name
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    os.close(descriptor)
    try:
        with names_file(path):
            yield temporary
            with open(temporary, "rb+") as file:
                make_readable(temporary)
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing; they survive a power cut."""
    missing = list(itertools.takewhile(lambda folder: not folder.exists(), (path, *path.parents)))
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync(folder.parent)


def temporary_files(folder: Path, name: str) -> list[Path]:
    """What processes left that were killed in `atomic_path` for the file `name` of `folder`."""
    pattern = rf"\.{re.escape(name)}\.[a-z0-9_]{{8}}\.tmp"
    return [path for path in folder.iterdir() if re.fullmatch(pattern, path.name)]


def make_readable(path: Path) -> None:
    """Give `path` the permissions of any new file or folder; temporary ones are made private."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def write_text(path: Path, text: str, *, temporary_name: str | None = None) -> None:
    """Write `text` as UTF-8 to `path`, atomically; `temporary_name` as in `atomic_path`."""
    data = text.encode()
    with needs_room(len(data)), atomic_path(path, temporary_name=temporary_name) as temporary:
        temporary.write_bytes(data)


NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def open_plain(path: Path, *, follow_links: bool = True) -> BufferedReader:
    """Open a plain file for reading; a pipe is refused instead of awaited.

    Raises ValueError for a pipe, a folder, a device, and for a link unless they are followed;
    OSError as `open`.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if not (follow_links or NO_FOLLOW) and path.is_symlink():
            raise OSError(errno.ELOOP, "a link")
        descriptor = os.open(path, flags if follow_links else flags | NO_FOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(f"{path.name} is no plain file but a link") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # before open(), which refuses a folder
        os.close(descriptor)
        raise ValueError(f"{path.name} is no plain file")
    return open(descriptor, "rb")


@contextlib.contextmanager
def folder_itself(folder: Path) -> Iterator[int | None]:
    """A descriptor of a folder that is no link, for `dir_fd`; None where the system has none.

    Raises OSError for a link.
    """
    if os.rename not in os.supports_dir_fd or not NO_FOLLOW:
        yield None
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | NO_FOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def remove_folder(parent: Path, name: str) -> None:
    """Remove the folder `name` of the folder `parent`, never through a link.

    Raises OSError if one of the two is a link, or something cannot be removed.
    """
    with folder_itself(parent) as at:
        shutil.rmtree(parent / name if at is None else name, dir_fd=at)


def rename_within(parent: Path, old: str, new: str) -> None:
    """Rename in the folder `parent`, which is no link. Raises OSError."""
    with folder_itself(parent) as at:
        if at is None:
            (parent / old).rename(parent / new)
        else:
            os.rename(old, new, src_dir_fd=at, dst_dir_fd=at)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk: a rename then survives a power cut.

    A missing file is skipped, and so is what the system cannot flush, as Windows a folder.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EACCES, errno.EISDIR):
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # not for this file
            raise
    finally:
        os.close(descriptor)


def user_path(path: str | Path) -> Path:
    """The path with `~`, `~user`, `$NAME` and `${NAME}` expanded, as a shell does.

    Every path that a user gives, in settings and arguments, goes through here. A user or a variable
    that does not exist stays as it was typed.
    """
    # Not Path.expanduser, which raises for a user who does not exist.
    return Path(os.path.expanduser(os.path.expandvars(path)))  # noqa: PTH111


NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_REMEDIES = {
    errno.EROFS: "it is mounted read-only: give a place where you may write",
    errno.EACCES: "check its permissions and those of its folder, or give another place",
    errno.EPERM: "check its permissions and those of its folder, or give another place",
    errno.EIO: "check the disk",
    errno.EMFILE: "close files, or raise the limit (ulimit -n)",
    errno.ENFILE: "close files of other programs",
}


def os_error_text(
    error: OSError,
    path: Path | str | None = None,
    *,
    needed_bytes: float | None = None,
    remedy: str | None = None,
) -> str:
    """What the system refused, for which file, and what to do: the one place that words it.

    `path` is the file, where the error does not name it (`write` and `fsync` do not); `remedy` is
    what to do in place of the usual, "" to leave it out.
    """
    # Of a copy, the second is the file that is written.
    place = str(path or error.filename2 or error.filename or "")
    reason = error.strerror or str(error) or type(error).__name__
    text = f"{place}: {reason}" if place else reason
    if error.errno in NO_ROOM:
        needed_bytes = needed_bytes or getattr(error, "needed_bytes", None)
        facts = [f"{size_text(needed_bytes)} needed"] if needed_bytes is not None else []
        if (free := _free_bytes(place)) is not None:
            facts.append(f"{size_text(free)} free there")
        if error.errno == errno.EDQUOT:
            facts.append("a quota may allow less")
        text += f" ({', '.join(facts)})" if facts else ""
    if remedy is None:
        in_general = "make room, or give a place on another disk" if error.errno in NO_ROOM else ""
        remedy = _REMEDIES.get(error.errno or 0, in_general)
    return f"{text}; {remedy}" if remedy else text


def is_full(error: Exception) -> bool:
    """Whether a disk or quota is full; libraries in Rust say so in words only."""
    codes = "|".join(map(str, NO_ROOM))
    has_code = isinstance(error, OSError) and error.errno in NO_ROOM
    return has_code or re.search(rf"\(os error ({codes})\)", str(error)) is not None


def size_text(num_bytes: float) -> str:
    """Bytes with a unit; small numbers exactly."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return counted(round(num_bytes), "byte")


def _free_bytes(place: str) -> int | None:
    """Free space of the file system of `place`, or of its nearest folder that exists."""
    path = Path(place).absolute()
    for folder in (path, *path.parents) if place else ():
        with contextlib.suppress(OSError):
            return shutil.disk_usage(folder).free
    return None


@contextlib.contextmanager
def names_file(path: Path) -> Iterator[None]:
    """Give an `OSError` of the block the name of the file, which `write` and `fsync` leave out."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def needs_room(num_bytes: float) -> Iterator[None]:
    """Give an `OSError` of the block how many bytes it needs, for `os_error_text`."""
    try:
        yield
    except OSError as error:
        error.needed_bytes = num_bytes  # type: ignore[attr-defined]
        raise


@contextlib.contextmanager
def readable(path: Path, remedy: str) -> Iterator[None]:
    """Raise a `UserError` with `remedy` for an `OSError` within the block, which reads `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}; {remedy}") from None


WHOLE_BYTES = 1 << 17
"""Of a file up to this size `beginning_and_end` is the whole."""


def beginning_and_end(file: BinaryIO, num_bytes: int) -> bytes:
    """The first and the last 64 KiB of a file of `num_bytes`: what a quick identity hashes."""
    beginning = file.read(1 << 16)
    file.seek(max(0, num_bytes - (1 << 16)))
    return beginning + file.read(1 << 16)
