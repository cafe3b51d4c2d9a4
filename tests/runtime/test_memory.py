"""Memory that is available: of the machine, and of the control groups of the process."""

from pathlib import Path

import pytest
import torch

from sharpgpt.runtime import memory
from sharpgpt.runtime.memory import Available, available_memory

GIB = 2**30


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GiB available."""
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    write(tmp_path / "proc/meminfo", f"MemTotal: {16 << 20} kB\nMemAvailable: {8 << 20} kB\n")
    return tmp_path


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n", encoding="utf-8")


def available() -> Available:
    found = available_memory(torch.device("cpu"))
    assert found is not None
    return found


def test_the_machine_alone(root: Path) -> None:
    assert available() == (8 * GIB, "on this machine")
    write(root / "proc/self/cgroup", "0::/\nbroken\n1:memory\n")
    assert available() == (8 * GIB, "on this machine")


def test_a_limit_of_a_group_above(root: Path) -> None:
    """A container, or a job of a cluster: the group itself has no limit, the one above has. What
    files take of it is given back."""
    write(root / "proc/self/cgroup", "0::/job/task")
    groups = root / "sys/fs/cgroup"
    write(groups / "job/task/memory.max", "max")
    write(groups / "job/task/memory.current", 1 * GIB)
    write(groups / "job/memory.max", 4 * GIB)
    write(groups / "job/memory.current", 3 * GIB)
    assert available() == (1 * GIB, "within memory.max of the group")
    write(groups / "job/memory.stat", f"anon {GIB}\ninactive_file {GIB}\nactive_file {GIB // 2}")
    assert available() == (2.5 * GIB, "within memory.max of the group")
    write(groups / "job/memory.current", 9 * GIB)
    write(groups / "job/memory.stat", "")
    assert available().num_bytes == 0


def test_a_limit_of_version_1(root: Path) -> None:
    write(root / "proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/job\n0::/")
    write(root / "sys/fs/cgroup/memory/job/memory.limit_in_bytes", 2 * GIB)
    write(root / "sys/fs/cgroup/memory/job/memory.usage_in_bytes", GIB)
    assert available() == (GIB, "within memory.limit_in_bytes of the group")


def test_a_system_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    monkeypatch.setattr(memory, "memory_bytes", lambda: 5 * GIB)
    assert available() == (5 * GIB, "on this machine")
    monkeypatch.setattr(memory, "memory_bytes", lambda: None)
    assert available_memory(torch.device("cpu")) is None


def test_a_gpu_has_what_is_free_and_what_this_process_keeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: GIB)
    assert available_memory(torch.device("cuda")) == (4 * GIB, "on the GPU")


def test_this_machine() -> None:
    assert 0 < available().num_bytes < 2**50
