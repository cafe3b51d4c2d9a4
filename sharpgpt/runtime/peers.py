"""The other ranks of a run: who they are, and which of them is lost.

PyTorch says `Connection closed by peer [10.0.0.7]:31911` or `Timed out waiting`, and names no rank.
So each rank listens on a port where it never answers: the kernel accepts connections as long as the
process lives, whatever it waits for, and refuses them from then on. A rank whose collective fails
tries all others, and says which is gone. If all live, as where one is stopped, those are named that
do not notice the failure too. No thread and no heartbeat are needed.
"""

import contextlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from sharpgpt.core.errors import UserError
from sharpgpt.core.terminal import show
from sharpgpt.runtime.signals import end_by_itself, explained_by

logger = logging.getLogger(__name__)

JOIN_S = 10 * 60.0
"""How long ranks wait for the others to start."""

POLL_S = 0.2
PROBE_EVERY_S = 5.0
"""How often a waiting rank tries the one that it waits for."""

CONNECT_S = 2.0
"""After which a machine does not answer."""

ROLL_CALL_S = 10.0
"""How long a rank waits for the others to notice a failed collective too."""

AGAIN = "start all ranks again"


class LostRankError(UserError):
    """Another rank is gone, does not answer, or has failed."""


class Peers:
    """This rank among `world_size` ones, which all make this object together.

    `name` tells this meeting from earlier ones of the same processes.

    Raises:
        LostRankError: another one does not start, or rank 0 is not reached.
    """

    def __init__(self, rank: int, world_size: int, *, name: str = "") -> None:
        self.rank, self.world_size = rank, world_size
        self.advice = AGAIN
        """What to do after a loss."""
        self._facts = [dict[str, Any]() for _ in range(world_size)]
        # A restart by torchrun may meet at the same store.
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.store: Any = PrefixStore(f"{restart}/{name}", _open_store(rank, world_size))
        self._listener = socket.create_server((_own_address(), 0), backlog=1024)
        address, port = self._listener.getsockname()[:2]
        here = {"host": socket.gethostname(), "pid": os.getpid(), "address": address, "port": port}
        self.store.set(f"joined {rank}", json.dumps(here))
        try:
            for other in range(world_size):
                joined = self.wait(f"joined {other}", other, "to start", JOIN_S)
                self._facts[other] = json.loads(joined)
        except BaseException:
            self.close()
            raise

    def name(self, rank: int) -> str:
        """Such as `rank 1 (process 4242 on node-3)`."""
        facts = self._facts[rank]
        return f"rank {rank}" + (f" (process {facts['pid']} on {facts['host']})" if facts else "")

    def wait(self, key: str, rank: int, why: str, limit_s: float) -> bytes:
        """The value of `key` in the store, which `rank` sets.

        Raises:
            LostRankError: it is gone, or does not set it within `limit_s`.
        """
        began = probed = time.monotonic()
        while not self.store.check([key]):
            now = time.monotonic()
            if now - began > limit_s:
                waited = f"{limit_s / 60:,.0f} minutes" if limit_s >= 120 else f"{limit_s:.0f} s"
                raise LostRankError(f"waited {waited} for {self.name(rank)} {why}; {self.advice}")
            if now - probed > PROBE_EVERY_S:
                probed = now
                if self.gone([rank]) and not self.store.check([key]):
                    raise self._gone_error([rank])
            time.sleep(POLL_S)
        return bytes(self.store.get(key))

    def gone(self, ranks: Sequence[int] | None = None) -> list[int]:
        """Those of `ranks` (all) whose process has ended, or whose machine does not answer."""
        silent_hosts = set[str]()
        found = []
        for rank in range(self.world_size) if ranks is None else ranks:
            facts = self._facts[rank]
            is_elsewhere = facts and facts["host"] != self._facts[self.rank].get("host")
            if rank == self.rank or not facts:
                continue
            if is_elsewhere and facts["address"].startswith(("127.", "::1")):
                continue  # nobody reaches it from here
            try:
                if facts["host"] in silent_hosts:
                    raise TimeoutError
                socket.create_connection((facts["address"], facts["port"]), CONNECT_S).close()
            except TimeoutError:
                silent_hosts.add(facts["host"])
                found.append(rank)
            except OSError:
                found.append(rank)
        return found

    @contextlib.contextmanager
    def explain(self) -> Iterator[None]:
        """Turn the error of a collective into a `LostRankError`, and show it at once.

        torchrun ends this rank when another one has failed: by then the message is out.
        """
        with explained_by(self._loss_in_words):
            try:
                yield
            except RuntimeError as error:
                if not _is_of_a_collective(error):
                    raise
                end_by_itself()
                lost = self._error_after(error)
                logger.error("%s", lost, extra={"log_file_only": True})
                show(f"rank {self.rank}: {lost.label}{lost}\n", end="", file=sys.stderr)
                lost.is_shown = False
                raise lost from error

    def close(self) -> None:
        """From now on the others take this rank for gone."""
        self._listener.close()

    def _loss_in_words(self) -> str | None:
        gone = self.gone()
        return str(self._gone_error(gone)) if gone else None

    def _gone_error(self, ranks: Sequence[int]) -> LostRankError:
        """Of those that are gone the first, for those that notice when others have ended too."""
        with contextlib.suppress(RuntimeError):  # rank 0, which holds the store, may be gone
            if not self.store.check(["gone"]):
                self.store.set("gone", json.dumps(list(ranks)))
            ranks = json.loads(self.store.get("gone"))
        names = ", ".join(map(self.name, ranks[:8]))
        verb = "is" if len(ranks) == 1 else "are"
        return LostRankError(
            f"{names} {verb} gone: killed, ended with a message of its own, or out of reach; "
            f"{self.advice}"
        )

    def _error_after(self, error: Exception) -> LostRankError:
        reason = " ".join(str(error).split()).rpartition("] ")[2][:150]
        late = [rank for rank in range(self.world_size) if rank != self.rank]
        deadline = time.monotonic() + ROLL_CALL_S
        with contextlib.suppress(RuntimeError):
            self.store.set(f"noticed {self.rank}", "")
        while late and time.monotonic() < deadline:
            if gone := self.gone():
                return self._gone_error(gone)
            with contextlib.suppress(RuntimeError):
                late = [rank for rank in late if not self.store.check([f"noticed {rank}"])]
            time.sleep(POLL_S)
        if late:
            names = ", ".join(map(self.name, late[:8]))
            verb = "does" if len(late) == 1 else "do"
            return LostRankError(f"{names} {verb} not answer ({reason}); {self.advice}")
        return LostRankError(
            f"the connection between the ranks failed, though all live ({reason}); check the "
            f"network between them, then {self.advice}"
        )


def _is_of_a_collective(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in text or "nccl" in text


def _meeting_place() -> tuple[str, int]:
    try:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError):
        raise UserError(
            "MASTER_ADDR and MASTER_PORT in the environment do not name the place where the ranks "
            "meet; start with torchrun, or unset RANK and WORLD_SIZE to train in one process"
        ) from None


def _open_store(rank: int, world_size: int) -> TCPStore:
    """The store of torchrun where it keeps one, else that of rank 0."""
    host, port = _meeting_place()
    is_torchruns = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
    try:
        return TCPStore(
            host,
            port,
            world_size,
            is_master=rank == 0 and not is_torchruns,
            timeout=timedelta(seconds=JOIN_S),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise LostRankError(
            f"rank {rank} does not reach rank 0 at {host}:{port} (MASTER_ADDR, MASTER_PORT): "
            f"{reason}; {AGAIN}"
        ) from error


def _own_address() -> str:
    """The address of this machine on the way to the meeting place; it sends nothing."""
    host, port = _meeting_place()
    with contextlib.suppress(OSError):
        family, kind, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)
            return str(probe.getsockname()[0])
    return "127.0.0.1"
