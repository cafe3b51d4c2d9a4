"""The processes of a run: one alone, or those that torchrun started, and what they tell each other.

torchrun gives each process its place in the environment (RANK, WORLD_SIZE, LOCAL_RANK). Gradients
are summed by PyTorch's DistributedDataParallel; here is the rest: who writes files (`is_first`),
sums of figures over all processes, and a decision that all take together.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sharpgpt.core.errors import UserError

Result = TypeVar("Result")

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the sums of gradients and figures."""

PATIENCE = timedelta(days=3)
"""How long the others wait for what the first does alone: preparing a dataset, validating, saving.
If a process dies meanwhile, torchrun ends the others."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int = 0
    world_size: int = 1
    waiting: dist.ProcessGroup | None = None
    """All of them again, on the CPU and with `PATIENCE`."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and speaks to the user."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, the same on each; `values` stays as it is."""
        if self.world_size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def largest(self, *values: int) -> list[int]:
        """Of each value the largest of all processes, the same in each. Waits for them."""
        if self.world_size == 1:
            return list(values)
        largest = torch.tensor(values)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.waiting)
        return largest.tolist()

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.world_size > 1:
            dist.barrier(self.waiting)

    def text_from_first(self, text: str, device: torch.device) -> str:
        """The first process's `text` in every process."""
        if self.world_size == 1:
            return text
        data = text.encode() if self.is_first else b""
        num_bytes = int(self.total(torch.tensor(float(len(data)), device=device)).item())
        letters = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
        if self.is_first:
            letters.copy_(torch.tensor(list(data), dtype=torch.uint8))
        dist.broadcast(letters, src=0)
        return bytes(letters.tolist()).decode()

    def first_before_others(self, action: Callable[[], Result]) -> Result:
        """What `action` returns, done by the first process before the others begin.

        For what leaves files behind that the others then find, such as a download.
        """
        if self.is_first:
            result = action()
            self.wait()
            return result
        self.wait()
        return action()

    def seed_random(self, seed: int, step: int) -> None:
        """Give each process but the first its own random numbers, for dropout, from `step` on."""
        if not self.is_first:
            torch.manual_seed((seed + 1_000_003 * self.rank + 7_919 * step) % (1 << 63))

    def wrapped(self, model: nn.Module) -> nn.Module:
        """`model`, its gradients averaged over the processes in the backward pass."""
        if self.world_size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        # There are no buffers that training changes, and sending them would be one more wait.
        return DistributedDataParallel(model, forward_sync_buffers=False)


def place_from_environment() -> tuple[int, int, int]:
    """(rank, world size, rank on this machine); (0, 1, 0) where torchrun did not start us.

    Raises:
        UserError: the environment describes no process.
    """
    try:
        rank, size, local = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
    except ValueError:
        rank, size, local = -1, 0, 0
    if not 0 <= rank < size:
        raise UserError(
            "RANK and WORLD_SIZE in the environment do not describe a process; start with "
            "torchrun, or unset them to train in one process"
        )
    return rank, size, local


def is_launched() -> bool:
    """Whether torchrun, or the like, started this process: it hands on signals, which may have
    reached the process before."""
    return "RANK" in os.environ


@contextlib.contextmanager
def joined(device_type: str) -> Iterator[Processes]:
    """Within the block this process is one of those that torchrun started, or alone.

    CUDA devices speak NCCL, CPUs gloo, and so do all to wait for each other.
    """
    rank, world_size, _ = place_from_environment()
    if world_size == 1:
        yield Processes()
        return
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        waiting = dist.new_group(backend="gloo", timeout=PATIENCE)
        yield Processes(rank, world_size, waiting)
    finally:
        dist.destroy_process_group()
