"""What a run ran on: versions, commit, hardware and command, for environment.json."""

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from sharpgpt.runtime.device import Device

PACKAGES = (
    "sharpgpt", "torch", "transformers", "tokenizers", "tiktoken", "splintr-rs", "datasets",
    "numpy", "wandb",
)  # fmt: skip


def describe_environment(device: Device) -> dict[str, Any]:
    """Plain JSON values; a missing package or git is no error."""
    cuda = device.torch_device.type == "cuda"
    return {
        "command": sys.argv,
        "commit": commit_of_code(),
        "versions": {"python": platform.python_version(), **package_versions()},
        "hardware": {
            "device": device.name(),
            "dtype": device.dtype_name,
            "arithmetic": device.arithmetic,
            "dtype_reason": device.reason or None,
            "cpu": cpu_name(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "num_cpus": os.cpu_count(),
            "num_threads": torch.get_num_threads(),
            "memory_bytes": memory_bytes(),
            "cuda": torch.version.cuda if cuda else None,
            "platform": f"{platform.system()} {platform.machine()}",
        },
    }


@functools.cache
def package_versions() -> dict[str, str]:
    """The installed versions of `PACKAGES`."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"torch": torch.__version__}  # with its build, such as +cpu


def commit_of_code() -> str | None:
    """The commit of this code, `+changes` if the tree differs from it; None outside git."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None  # installed inside another repository
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_name() -> str:
    """The model name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory_bytes() -> int | None:
    """Main memory of this machine; None if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
