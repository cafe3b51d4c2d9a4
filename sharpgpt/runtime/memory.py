"""How much memory this process can still have: of the machine, of its control group, of the GPU."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from sharpgpt.runtime.environment import memory_bytes

ROOT = Path("/")


class Available(NamedTuple):
    """Bytes that are free or can be freed, and who says so."""

    num_bytes: int
    limit: str


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch, numpy or Python could not allocate memory."""
    texts = ("can't allocate memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )


def available_memory(device: torch.device) -> Available | None:
    """What a run on this device can allocate; None if unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device)  # by this process, for its own use
        return Available(free + reserved, "on the GPU")
    found = [*_of_machine(ROOT), *_of_groups(ROOT)]
    return min(found, default=None)


def _of_machine(root: Path) -> Iterator[Available]:
    """Linux's own estimate, which counts its caches as free; elsewhere all memory."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        (kib,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        yield Available(1024 * int(kib), "on this machine")
    except (OSError, ValueError, IndexError):
        if total := memory_bytes():
            yield Available(total, "on this machine")


def _of_groups(root: Path) -> Iterator[Available]:
    """What the limits of the control groups (version 2, and 1) of this process leave."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "none", "")
        if controllers == "":
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):  # each limits those below it
            if not folder.is_relative_to(base):
                break
            try:
                limit, used = (int((folder / name).read_text()) for name in names)
            except (OSError, ValueError):  # "max" is no limit
                continue
            yield Available(
                max(0, limit - used + _cache_bytes(folder)), f"within {names[0]} of the group"
            )


def _cache_bytes(folder: Path) -> int:
    """Of files, which the system gives back before it refuses memory."""
    try:
        pairs = [line.split() for line in (folder / "memory.stat").read_text().splitlines()]
        return sum(int(pair[1]) for pair in pairs if pair[0] in ("inactive_file", "active_file"))
    except (OSError, ValueError, IndexError):
        return 0
