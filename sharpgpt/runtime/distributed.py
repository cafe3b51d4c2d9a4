"""The processes of a run, one or those that torchrun started, and their collectives.

torchrun gives each process its rank in the environment (RANK, WORLD_SIZE, LOCAL_RANK).
DistributedDataParallel averages the gradients. Rank 0 (`is_main`) writes files and prints.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sharpgpt.core.errors import UserError
from sharpgpt.runtime.peers import LostRankError, Peers
from sharpgpt.runtime.signals import end_by_itself

T = TypeVar("T")

REDUCE_TIMEOUT = timedelta(minutes=30)
"""Of the sums of gradients and metrics."""

WAIT_TIMEOUT = timedelta(hours=2)
"""How long ranks wait while rank 0 samples or saves."""

PREPARE_S = 3 * 24 * 60 * 60.0
"""How long they wait while rank 0 prepares a dataset."""

_GROUPS = itertools.count()  # of this process; all ranks count alike


@dataclass(frozen=True)
class Processes:
    """This process and its collectives with the others; all ranks must call one together."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Among the processes of this machine."""
    cpu_group: dist.ProcessGroup | None = None
    """All ranks, over gloo and with the timeout `WAIT_TIMEOUT`."""
    peers: Peers | None = None
    """The other ranks; None for a process alone."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0

    @contextlib.contextmanager
    def raise_together(self) -> Iterator[None]:
        """For a block in which all ranks raise the same `UserError`: one per machine shows it."""
        try:
            yield
        except UserError as error:
            if self.world_size > 1:
                error.is_shown = self.local_rank == 0
                end_by_itself()
            raise

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, by rank, pickled."""
        values: list[Any] = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value, group=self.cpu_group)
        return values

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all ranks; `values` is not changed."""
        if self.world_size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def all_reduce_max(self, *values: int) -> list[int]:
        """The maximum of each value over all ranks."""
        if self.world_size == 1:
            return list(values)
        largest = torch.tensor(values)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.cpu_group)
        return largest.tolist()

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.world_size > 1:
            dist.barrier(self.cpu_group)

    def broadcast(self, value: T) -> T:
        """The `value` of rank 0, pickled."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.cpu_group)
        return values[0]

    def main_first(self, action: Callable[[], T]) -> T:
        """Call `action` on rank 0, then on the others, which find the files that it left."""
        if self.peers is None:
            return action()
        if not self.is_main:
            code = int(self.peers.wait("first", 0, "to read or prepare the text", PREPARE_S))
            if code:
                end_by_itself()
                error = LostRankError("rank 0 has failed; its message has the reason")
                error.exit_code, error.is_shown = code, False
                raise error
            return action()
        try:
            result = action()
        except BaseException as error:
            end_by_itself()
            self.peers.store.set("first", str(getattr(error, "exit_code", 1)))
            raise
        self.peers.store.set("first", "0")
        return result

    def seed_dropout(self, seed: int, step: int) -> None:
        """Seed every rank but 0, whose random state a checkpoint keeps, from `step` on."""
        if not self.is_main:
            torch.manual_seed((seed + 1_000_003 * self.rank + 7_919 * step) % (1 << 63))

    def data_parallel(self, model: nn.Module) -> nn.Module:
        """`model`, with its gradients averaged over the ranks in the backward pass."""
        if self.world_size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        # Training changes no buffers, so they need no broadcast.
        return DistributedDataParallel(model, forward_sync_buffers=False)


def ranks_from_environment() -> tuple[int, int, int]:
    """(rank, world size, local rank); (0, 1, 0) without torchrun.

    Raises:
        UserError: the environment variables contradict each other.
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


def is_torchrun() -> bool:
    """Whether torchrun, or the like, started this process."""
    return "RANK" in os.environ


@contextlib.contextmanager
def process_group(device_type: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, over NCCL on CUDA, otherwise gloo."""
    rank, world_size, local_rank = ranks_from_environment()
    if world_size == 1:
        yield Processes()
        return
    peers = Peers(rank, world_size, name=f"group {next(_GROUPS)}")
    with contextlib.closing(peers), peers.explain():
        backend = "nccl" if device_type == "cuda" else "gloo"
        dist.init_process_group(
            backend, store=peers.store, rank=rank, world_size=world_size, timeout=REDUCE_TIMEOUT
        )
        try:
            cpu_group = dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT)
            yield Processes(rank, world_size, local_rank, cpu_group=cpu_group, peers=peers)
        finally:
            dist.destroy_process_group()
