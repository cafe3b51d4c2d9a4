"""Processes that encode texts, each over a pair of pipes.

Not `multiprocessing`: its processes run the caller's script again, which goes wrong in a script
without `if __name__ == "__main__"`, and outlive a caller that is killed. These see the end of their
input, whatever happens to the caller, and import no torch. For the caller, one thread stands for
each process; it waits in the pipes, where it does not hold Python's lock.

A message is one line of JSON and then as many bytes as its "num_bytes" says. The first one carries
the vocabulary; then each carries texts, and the answer their ids.
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

# The package is found where the caller found it, installed or not. -P keeps the working folder out.
_PROGRAM = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r}); "
    "from sharpgpt.data.prepare.workers import main; main()"
)


class Pool(Protocol):
    """Where texts are encoded."""

    def submit(self, texts: Sequence[str], ends: Sequence[bool]) -> "Future[Encoded]":
        """Encode `texts`, each followed by the end of a document where `ends` says so."""


class WorkerPool:
    """`num_workers` processes, which share the texts that are submitted.

    Close it, and no process is left.
    """

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
        """End the processes, whatever they are doing."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.end()
        self._threads.shutdown(wait=True)


class _Worker:
    """One process, as its caller sees it."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C reaches every process of a terminal's group; this one must end its batch.
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
            with contextlib.suppress(OSError):  # what was still to be sent
                pipe.close()


def _death(process: "subprocess.Popen[bytes]") -> str:
    """The message for a process that ended in the middle of its work."""
    code = process.wait()
    how = f"with exit code {code}"
    if code < 0:
        how = f"by signal {-code}"
        with contextlib.suppress(ValueError):
            how += f" ({signal.Signals(-code).name})"
    cause = ""
    if code == -getattr(signal, "SIGKILL", 9):
        cause = "; most likely the system had no memory left and ended it"
    return (
        f"a process that encodes was ended {how}{cause}. What was committed is kept: run the same "
        "command again and it goes on there, with fewer num_workers if memory was short"
    )


class LocalPool:
    """No other process: texts are encoded when they are submitted."""

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
        """Nothing to end."""


def _send(file: IO[bytes], header: dict[str, Any], data: bytes = b"") -> None:
    line = json.dumps({**header, "num_bytes": len(data)})
    file.write(line.encode() + b"\n")
    file.write(data)
    file.flush()


def _receive(file: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """The next message. Raises EOFError where the other side has ended."""
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
    with contextlib.suppress(EOFError):  # the caller is done, or gone
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
    """What a process runs, from its standard input to its standard output."""
    # What is printed by a package must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):
        _work(sys.stdin.buffer, answers)
