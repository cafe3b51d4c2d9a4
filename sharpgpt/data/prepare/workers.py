"""Worker processes that encode texts, each over a pair of pipes.

Not `multiprocessing`, whose workers run the caller's script again (which fails without
`if __name__ == "__main__"`), and not loky; the workers of both outlive a caller that is killed.
These end with their input, and import no torch. In the caller one thread per worker waits on the
pipes, without holding the GIL. Messages are pickles between processes of one program.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from sharpgpt.core.errors import UserError
from sharpgpt.data.prepare.encoding import Encoded, Gpt2Coding, Gpt2Encoder, encode_texts
from sharpgpt.data.shards import TokenArray

# The caller's package, installed or not; -P keeps the working folder off the path.
_PROGRAM = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parents[3])!r}); "
    "from sharpgpt.data.prepare.workers import main; main()"
)


class WorkerPool:
    """`num_workers` processes that share the submitted texts, until `close`."""

    def __init__(self, coding: Gpt2Coding, end_of_document: TokenArray, num_workers: int) -> None:
        self._workers = [_Worker((coding, end_of_document)) for _ in range(num_workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="encode")

    def submit(self, texts: Sequence[str], ends: Sequence[bool]) -> "Future[Encoded]":
        """Encode `texts`, adding the end-of-document ids where `ends` is true.

        The future raises `UserError` when a process has died.
        """
        return self._threads.submit(self._encode, texts, ends)

    def _encode(self, texts: Sequence[str], ends: Sequence[bool]) -> Encoded:
        worker = self._idle.get()
        try:
            return worker.encode(texts, ends)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Kill the processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.end()
        self._threads.shutdown(wait=True)


class _Worker:
    """One process, seen from the caller."""

    def __init__(self, setup: tuple[Gpt2Coding, TokenArray]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C reaches the whole process group of a terminal; a worker must finish its batch.
            start_new_session=os.name != "nt",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self._setup: tuple[Gpt2Coding, TokenArray] | None = setup

    def encode(self, texts: Sequence[str], ends: Sequence[bool]) -> Encoded:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            if self._setup is not None:
                _send(self._process.stdin, self._setup)
                self._setup = None
            _send(self._process.stdin, (texts, ends))
            answer = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise UserError(_death(self._process)) from None
        if isinstance(answer, str):
            raise UserError(answer)
        encoded: Encoded = answer
        return encoded

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # unsent data
                pipe.close()


def _death(process: "subprocess.Popen[bytes]") -> str:
    """The message for a worker that ended unexpectedly."""
    code = process.wait()
    how = f"with exit code {code}"
    if code < 0:
        how = f"by signal {-code}"
        with contextlib.suppress(ValueError):
            how += f" ({signal.Signals(-code).name})"
    if code == -getattr(signal, "SIGKILL", 9):
        how += "; most likely the system ran out of memory and killed it"
    return (
        f"a worker process ended {how}. What was committed is kept: run the same command "
        "again to continue, with fewer num_workers if memory was short"
    )


def _send(file: IO[bytes], message: Any) -> None:
    pickle.dump(message, file, protocol=5)
    file.flush()


def _work(requests: IO[bytes], answers: IO[bytes]) -> None:
    coding, end_of_document = pickle.load(requests)
    encoder = Gpt2Encoder(coding)
    while True:
        texts, ends = pickle.load(requests)
        try:
            encoded = encode_texts(
                encoder.encode, texts, ends, end_of_document, audit=encoder.audit
            )
            _send(answers, encoded)
        except UserError as error:
            _send(answers, str(error))


def main() -> None:
    """The program of a worker, from standard input to standard output."""
    # Prints of a package must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(EOFError, BrokenPipeError):  # the caller is done, or dead
        _work(sys.stdin.buffer, answers)
