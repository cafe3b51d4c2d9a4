"""Worker processes that encode texts, each over a pair of pipes.

Not `multiprocessing`, whose workers run the caller's script again (which fails without
`if __name__ == "__main__"`), and not loky; the workers of both outlive a caller that is killed.
These end with their input, and import no torch. In the caller one thread per worker waits on the
pipes, without holding the GIL.

A message is one line of JSON followed by "num_bytes" bytes. The first carries the vocabulary, each
later one texts, and its answer their ids.
"""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from sharpgpt.core.errors import UserError
from sharpgpt.data.prepare.encoding import Encoded, Gpt2Coding, Gpt2Encoder, encode_texts

# The caller's package, installed or not; -P keeps the working folder off the path.
_PROGRAM = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r}); "
    "from sharpgpt.data.prepare.workers import main; main()"
)


class Pool(Protocol):
    """Encodes texts."""

    def submit(self, texts: Sequence[str], ends: Sequence[bool]) -> "Future[Encoded]":
        """Encode `texts`, adding the end-of-document ids where `ends` is true."""


class WorkerPool:
    """`num_workers` processes that share the submitted texts, until `close`."""

    def __init__(
        self, coding: Gpt2Coding, end_of_document: Sequence[int], num_workers: int
    ) -> None:
        setup = {"coding": dataclasses.asdict(coding), "end_of_document": list(end_of_document)}
        self._workers = [_Worker(setup) for _ in range(num_workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="encode")

    def submit(self, texts: Sequence[str], ends: Sequence[bool]) -> "Future[Encoded]":
        """See `Pool.submit`. The future raises `UserError` when a process has died."""
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

    def __init__(self, setup: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C reaches the whole process group of a terminal; a worker must finish its batch.
            start_new_session=os.name != "nt",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self._setup: dict[str, Any] | None = setup

    def encode(self, texts: Sequence[str], ends: Sequence[bool]) -> Encoded:
        parts = [text.encode() for text in texts]
        lengths = [len(part) for part in parts]
        request = {"lengths": lengths, "ends": list(ends)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            if self._setup is not None:
                _send(self._process.stdin, self._setup)
                self._setup = None
            _send(self._process.stdin, request, b"".join(parts))
            answer, data = _receive(self._process.stdout)
        except (OSError, EOFError, ValueError):
            raise UserError(_death(self._process)) from None
        if "error" in answer:
            raise UserError(answer["error"])
        return Encoded(np.frombuffer(data, dtype="<u2"), answer["counts"], lengths)

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
    cause = ""
    if code == -getattr(signal, "SIGKILL", 9):
        cause = "; most likely the system ran out of memory and killed it"
    return (
        f"a worker process ended {how}{cause}. What was committed is kept: run the same command "
        "again to continue, with fewer num_workers if memory was short"
    )


class LocalPool:
    """Encodes texts in this process when they are submitted."""

    def __init__(self, encode: Any, end_of_document: Any, audit: Any = None) -> None:
        self._encode, self._end_of_document, self._audit = encode, end_of_document, audit

    def submit(self, texts: Sequence[str], ends: Sequence[bool]) -> "Future[Encoded]":
        """See `Pool.submit`."""
        future: Future[Encoded] = Future()
        if self._audit is not None:
            self._audit(texts[0])
        future.set_result(encode_texts(self._encode, texts, ends, self._end_of_document))
        return future

    def close(self) -> None:
        """Nothing to close."""


def _send(file: IO[bytes], header: dict[str, Any], data: bytes = b"") -> None:
    line = json.dumps({**header, "num_bytes": len(data)})
    file.write(line.encode() + b"\n")
    file.write(data)
    file.flush()


def _receive(file: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """The next message. Raises EOFError if the other side has ended."""
    line = file.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    header: dict[str, Any] = json.loads(line)
    data = file.read(header["num_bytes"])
    if len(data) < header["num_bytes"]:
        raise EOFError
    return header, data


def _work(requests: IO[bytes], answers: IO[bytes]) -> None:
    setup, _ = _receive(requests)
    encoder = Gpt2Encoder(Gpt2Coding(**setup["coding"]))
    end_of_document = np.array(setup["end_of_document"], dtype=np.uint16)
    with contextlib.suppress(EOFError):  # the caller is done, or dead
        while True:
            request, data = _receive(requests)
            texts = list(_texts(request["lengths"], data))
            try:
                encoder.audit(texts[0])
                encoded = encode_texts(encoder.encode, texts, request["ends"], end_of_document)
            except UserError as error:
                _send(answers, {"error": str(error)})
                continue
            ids = encoded.ids.astype("<u2", copy=False)
            _send(answers, {"counts": encoded.counts}, ids.tobytes())


def _texts(lengths: list[int], data: bytes) -> Iterator[str]:
    start = 0
    for length in lengths:
        yield data[start : start + length].decode()
        start += length


def main() -> None:
    """The program of a worker, from standard input to standard output."""
    # Prints of a package must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):
        _work(sys.stdin.buffer, answers)
