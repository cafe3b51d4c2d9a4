"""The device of a run, the dtype of its forward pass, and its peak FLOP/s."""

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.core.numbers import counted

PEAK_FLOPS_BFLOAT16 = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Dense bfloat16 FLOP/s from NVIDIA's data sheets; the first key in the device's name counts."""


@dataclass(frozen=True)
class Device:
    """A device and the dtype of the forward pass on it."""

    torch_device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass; weights stay float32 outside it."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.torch_device.type, dtype=self.dtype)

    @property
    def dtype_name(self) -> str:
        """Such as float32."""
        return str(self.dtype).removeprefix("torch.")

    def for_rank(self, local_rank: int) -> "Device":
        """With CUDA, the GPU of one of several processes on this machine."""
        if self.torch_device.type != "cuda":
            return self
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"the machine has {counted(torch.cuda.device_count(), 'GPU')}, for at least "
                f"{counted(local_rank + 1, 'process', 'processes')}; start fewer with torchrun's "
                "--nproc_per_node"
            )
        torch.cuda.set_device(local_rank)
        return replace(self, torch_device=torch.device("cuda", local_rank))

    def name(self) -> str:
        """Such as cpu, or NVIDIA A100-SXM4-80GB."""
        if self.torch_device.type == "cuda":
            return torch.cuda.get_device_name(self.torch_device)
        return self.torch_device.type


def available_device(name: str) -> torch.device:
    """The device of this name, a value of `DeviceName`.

    Raises:
        ConfigError: this machine does not have it; the message lists the available ones.
    """
    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.append("mps")
    if torch.cuda.is_available():
        present += ["cuda"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if kind in present)
    if name not in present:
        problem = (
            f"device: given {name!r}, which this machine does not have (or this build of PyTorch, "
            f"{torch.__version__}, cannot use); here there is {', '.join(present)}, or use auto"
        )
        raise ConfigError([problem])
    return torch.device(name)


def choose_device(config: TrainingConfig) -> Device:
    """The device and dtype for these settings; enables TF32 on CUDA.

    Raises:
        ConfigError: this machine does not have the device; the message lists the available ones.
    """
    device = available_device(config.device)
    if device.type == "cuda":
        # TF32. The newer per-backend switches break torch.compile, which reads this one (2.13).
        torch.set_float32_matmul_precision("high")
    has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    wanted = config.dtype if config.dtype != "auto" else "bfloat16" if has_bfloat16 else "float32"
    return Device(device, getattr(torch, wanted))


def peak_flops(device: Device) -> tuple[float, str]:
    """The peak FLOP/s of the device, the denominator of MFU, and its source.

    For known GPUs the data sheet; otherwise the fastest of a few large square matrix products in
    the dtype of the run.
    """
    if device.torch_device.type == "cuda" and device.dtype == torch.bfloat16:
        for words, flops in PEAK_FLOPS_BFLOAT16.items():
            if re.search(rf"\b{words}\b(?!.*Laptop)", device.name()):
                return flops, "data sheet, dense bfloat16"
    size = {"cpu": 1024, "mps": 4096}.get(device.torch_device.type, 8192)
    a = torch.ones(size, size, dtype=device.dtype, device=device.torch_device)
    fastest_s, started = float("inf"), time.perf_counter()
    for repetition in range(20):
        before = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for the product
        fastest_s = min(fastest_s, time.perf_counter() - before)
        if repetition >= 3 and time.perf_counter() - started > 0.3:
            break
    return 2 * size**3 / fastest_s, f"measured, {size} x {size} products"


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of PyTorch's random number generators, on the CPU and on `device`."""
    states = {"random/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["random/cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["random/mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore `random_states`; those of another kind of device are ignored."""
    torch.set_rng_state(states["random/cpu"])
    if device.type == "cuda" and "random/cuda" in states:
        torch.cuda.set_rng_state(states["random/cuda"], device)
    elif device.type == "mps" and "random/mps" in states:
        torch.mps.set_rng_state(states["random/mps"])


@contextlib.contextmanager
def torch_settings_kept() -> Iterator[None]:
    """After the block, restore the random states and the matmul precision of PyTorch."""
    precision, random_cpu = torch.get_float32_matmul_precision(), torch.get_rng_state()
    random_cuda = (
        torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    )
    random_mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_rng_state(random_cpu)
        if random_cuda:
            torch.cuda.set_rng_state_all(random_cuda)
        if random_mps is not None:
            torch.mps.set_rng_state(random_mps)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the CPU and `device` for the block, then restore their random states."""
    before = random_states(device)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        set_random_states(before, device)
