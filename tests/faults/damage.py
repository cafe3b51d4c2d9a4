"""What can happen to one file of a checkpoint, each as a function of its path."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], None]


def _rewritten(change: Callable[[bytes], bytes]) -> Damage:
    def damage(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return damage


def _flipped(place: Callable[[int], int]) -> Damage:
    """One bit of the byte at `place` of the file's size; in JSON 0x01 may leave a digit a digit."""

    def change(data: bytes) -> bytes:
        at = place(len(data))
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    return _rewritten(change)


def _to_symlink(path: Path) -> None:
    """The name leads to the very same bytes, outside the run folder."""
    outside = path.parents[4] / f"outside_{path.name}"
    shutil.move(path, outside)
    path.symlink_to(outside)


def _to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _to_pipe(path: Path) -> None:
    """Whoever opens it waits for ever."""
    path.unlink()
    os.mkfifo(path)


def _to_other_weights(path: Path) -> None:
    """Another file of the same name and size, as a copy of two checkpoints into one would make."""
    data = path.read_bytes()
    path.write_bytes(bytes(reversed(data)))


DAMAGES: dict[str, Damage] = {
    "truncated by a byte": _rewritten(lambda data: data[:-1]),
    "truncated to half": _rewritten(lambda data: data[: len(data) // 2]),
    "longer by a byte": _rewritten(lambda data: data + b"\n"),
    "first byte flipped": _flipped(lambda _: 0),
    "middle byte flipped": _flipped(lambda size: size // 2),
    "last byte flipped": _flipped(lambda size: size - 1),
    "zeros": _rewritten(lambda data: bytes(len(data))),
    "emptied": _rewritten(lambda _: b""),
    "other content": _to_other_weights,
    "deleted": Path.unlink,
    "a symlink": _to_symlink,
    "a folder": _to_folder,
    "a pipe": _to_pipe,
}
