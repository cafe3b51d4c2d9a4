"""The device of a run, its arithmetic, and its peak FLOP/s."""

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.config.architectures import GPT2_SIZES
from sharpgpt.core.errors import UserError
from sharpgpt.core.numbers import counted
from sharpgpt.runtime.cpu_dtype import faster_cpu_dtype
from sharpgpt.sharpness.products import cpu_multiplies_bfloat16

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


ALL_BFLOAT16 = "bfloat16, output layer too"
ARITHMETICS = {
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.float32),
    ALL_BFLOAT16: (torch.bfloat16, torch.bfloat16),
}
"""Name -> dtypes of the forward pass and, on a CPU, of the products of the output layer. Earlier
versions kept the latter in float32 on every CPU, and what they began is continued so."""


@dataclass(frozen=True)
class Device:
    """A device and the dtypes of the forward pass on it."""

    torch_device: torch.device
    dtype: torch.dtype
    output_dtype: torch.dtype | None = None
    """Of the matrix products of the output layer; None leaves it to the loss."""
    reason: str = ""
    """Why `dtype: auto` chose this dtype, for the reader of a log."""

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass; weights stay float32 outside it."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.torch_device.type, dtype=self.dtype)

    @property
    def dtype_name(self) -> str:
        """Such as float32."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def arithmetic(self) -> str:
        """What a run must keep when it is continued: a key of `ARITHMETICS`."""
        if self.torch_device.type == "cpu" and self.dtype == self.output_dtype == torch.bfloat16:
            return ALL_BFLOAT16
        return self.dtype_name

    def with_arithmetic(self, arithmetic: str) -> "Device":
        """The device with the arithmetic of another, a key of `ARITHMETICS`."""
        dtype, output_dtype = ARITHMETICS[arithmetic]
        if self.torch_device.type != "cpu":
            return replace(self, dtype=dtype)
        return replace(self, dtype=dtype, output_dtype=output_dtype)

    def can_continue(self, arithmetic: str) -> bool:
        """Whether this is an arithmetic that the device has. A CPU has all, some of them slow."""
        if self.torch_device.type != "cuda" or arithmetic == "float32":
            return arithmetic in ARITHMETICS
        return arithmetic in ARITHMETICS and has_bfloat16(self.torch_device)

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
    name: str = config.dtype
    reason = ""
    if name == "auto" and device.type == "cpu":
        name, reason = faster_cpu_dtype(
            config.batch_size * config.max_seq_length, width=_width(config)
        )
    elif name == "auto":
        name = "bfloat16" if has_bfloat16(device) else "float32"
    if device.type != "cpu":
        return Device(device, getattr(torch, name))
    is_fast = name == "bfloat16" and cpu_multiplies_bfloat16()
    return Device(
        device, getattr(torch, name), getattr(torch, name if is_fast else "float32"), reason
    )


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 at full speed."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _width(config: TrainingConfig) -> int:
    size = GPT2_SIZES.get(config.model_name)
    return config.n_embd or (size.n_embd if size else GPT2_SIZES["gpt2"].n_embd)


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
