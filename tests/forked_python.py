"""Python processes that start in milliseconds: forks of one that has imported what takes seconds.

`ForkedPython` is a `subprocess.Popen` of `python ARGUMENTS`, where the arguments are a script,
`-c CODE` or `-m MODULE`, after `-u` or `-W ACTION`. A process of `python train.py` imports torch
and transformers for 5 s and works for 2 s; a fork of a server that has imported them is otherwise
the same: its own arguments, folder, environment, module search path, standard streams, signals and
`__main__`, and Python itself ends it. The server has one thread and nothing of the project.
Of `-m torch.distributed.run`, which is torchrun, the ranks are forks too.

A variable of the environment that is not in LATE may have been read by an import. Where one is not
as in the server, as on systems without `pidfd_open`, the process is started in the ordinary way:
so is one whose start itself is under test, by `fresh_python`.
"""

import atexit
import contextlib
import gc
import importlib
import inspect
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PRELOADED = (
    "filelock", "huggingface_hub", "jinja2", "matplotlib.backends.backend_svg",
    "matplotlib.figure", "numpy", "psutil", "pydantic", "rich.progress", "rich.table",
    "safetensors.torch", "tiktoken", "tokenizers", "torch", "torch._dynamo",
    "torch.distributed.checkpoint.state_dict", "torch.distributed.elastic.agent.server",
    "transformers.generation.utils", "transformers.models.gpt2.modeling_gpt2", "yaml",
)  # fmt: skip
LATE = {
    "COLUMNS", "NETRC", "PYTHONPATH", "TERM",
    "GROUP_RANK", "GROUP_WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
    "MASTER_PORT", "RANK", "ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING", "WORLD_SIZE",
}  # fmt: skip
LATE_PREFIXES = (
    "INJECTED_", "KINETO_", "PYTEST_", "SHARPGPT_", "TORCHELASTIC_", "TORCHINDUCTOR_", "WANDB_",
    "_TORCHINDUCTOR_",
)  # fmt: skip
"""What nothing of PRELOADED reads while it is imported."""
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
"""What conftest.command_environment has, before any test has changed it."""
LARGEST = 1 << 20


def early(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that an import may have read."""
    return {
        name: value
        for name, value in environment.items()
        if name not in LATE and not name.startswith(LATE_PREFIXES)
    }


_running: tuple[str, dict[str, str]] | None = None


def _server() -> tuple[str, dict[str, str]]:
    """Started when it is first needed: the address of its socket, and its environment."""
    global _running
    if _running is not None:
        return _running
    folder = tempfile.TemporaryDirectory(prefix="forked-python-")
    address = str(Path(folder.name) / "socket")
    environment = early(ENVIRONMENT)
    process = subprocess.Popen(
        [sys.executable, __file__, address],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"

    @atexit.register
    def stop() -> None:
        process.communicate()
        folder.cleanup()

    _running = (address, environment)
    return _running


class ForkedPython(subprocess.Popen[Any]):
    """`subprocess.Popen([sys.executable, *arguments], ...)`, by a fork of the server."""

    _connection: socket.socket | None = None

    def __init__(self, arguments: Sequence[str], **how: Any) -> None:
        super().__init__([sys.executable, *arguments], **how)

    def _execute_child(self, *given: Any) -> None:
        of = inspect.signature(super()._execute_child).bind(*given).arguments
        environment = os.environ if of["env"] is None else of["env"]
        if not hasattr(os, "pidfd_open") or early(environment) != _server()[1]:
            super()._execute_child(*given)  # type: ignore[misc]
            return
        ends = [of["p2cread"], of["c2pwrite"], of["errwrite"]]
        request = {
            "arguments": of["args"][1:],
            "cwd": os.fspath(of["cwd"] or Path.cwd()),
            "environment": dict(environment),
            "ignored": [n for n in _settable() if signal.getsignal(n) == signal.SIG_IGN],
            "new_session": of["start_new_session"],
        }
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.connect(_server()[0])
        streams = [number if end == -1 else end for number, end in enumerate(ends)]
        socket.send_fds(self._connection, [json.dumps(request).encode()], streams)
        self.pid = int(self._connection.recv(LARGEST))
        self._child_created = True
        self._close_pipe_fds(  # type: ignore[attr-defined]
            *(of[f"{name}{way}"] for name in ("p2c", "c2p", "err") for way in ("read", "write"))
        )

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._connection is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc, no-any-return]
        self._connection.setblocking(not wait_flags & os.WNOHANG)
        try:
            status = int(self._connection.recv(LARGEST))
        except BlockingIOError:
            return 0, 0
        self._connection.close()
        return self.pid, status

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        if self._connection is None:
            return super()._internal_poll(_deadstate)  # type: ignore[misc, no-any-return]
        return super()._internal_poll(  # type: ignore[misc, no-any-return]
            _deadstate, _waitpid=lambda _, flags: self._try_wait(flags)
        )


def fresh_python(arguments: Sequence[str], **how: Any) -> subprocess.Popen[Any]:
    """The same, by a new Python."""
    return subprocess.Popen([sys.executable, *arguments], **how)


def run_forked(
    arguments: Sequence[str], *, timeout: float = 300, **how: Any
) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run`."""
    with ForkedPython(arguments, **how) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class Server:
    """Forks for each connection, which is told the new process and, at its end, its status."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(address)
        self._listener.listen(64)
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._children: dict[int, tuple[int, socket.socket]] = {}

    def serve(self) -> dict[str, Any]:
        """Returns in the new processes alone, with what they are asked to be."""
        while True:
            for key, _ in self._selector.select():
                if key.fd == 0:  # whoever started the server is gone
                    os._exit(0)
                elif key.fileobj is not self._listener:
                    self._report(key.fd)
                elif request := self._fork():
                    return request

    def _fork(self) -> dict[str, Any] | None:
        connection, _ = self._listener.accept()
        message, streams, _, _ = socket.recv_fds(connection, LARGEST, 3)
        request: dict[str, Any] = json.loads(message)
        pid = os.fork()
        if pid == 0:
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            _settle(request)
            connection.send(str(os.getpid()).encode())  # from here on it may be signalled
            connection.close()
            self._close()
        for stream in streams:
            os.close(stream)
        if pid == 0:
            return request | {"address": self._address}
        watch = os.pidfd_open(pid)
        self._selector.register(watch, selectors.EVENT_READ)
        self._children[watch] = (pid, connection)
        return None

    def _report(self, watch: int) -> None:
        pid, connection = self._children.pop(watch)
        _, status = os.waitpid(pid, 0)
        self._selector.unregister(watch)
        os.close(watch)
        with connection, contextlib.suppress(BrokenPipeError):
            connection.send(str(status).encode())

    def _close(self) -> None:
        self._selector.close()
        self._listener.close()
        for watch, (_, connection) in self._children.items():
            os.close(watch)
            connection.close()


def _settle(request: Mapping[str, Any]) -> None:
    """Session and signals, as a new program has them under Python."""
    if request["new_session"]:
        os.setsid()
    for number in _settable():
        is_ignored = number in (*request["ignored"], signal.SIGPIPE, signal.SIGXFSZ)
        signal.signal(number, signal.SIG_IGN if is_ignored else signal.SIG_DFL)
    if signal.SIGINT not in request["ignored"]:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _become(request: Mapping[str, Any]) -> None:
    """Do what `python ARGUMENTS` does, from here on."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    arguments = list(request["arguments"])
    sys.orig_argv[:] = [sys.executable, *arguments]
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())  # type: ignore[union-attr]
    sys.modules["numpy"].random.seed()
    while (what := arguments.pop(0)) in ("-u", "-W"):
        if what == "-u":
            sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
        else:
            warnings.simplefilter(arguments.pop(0))  # type: ignore[arg-type]
    first = {"-c": "", "-m": str(Path.cwd())}.get(what, str(Path(what).resolve().parent))
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:1] = [first, *map(os.path.abspath, given)]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if what == "-m":
        sys.argv[:] = arguments
        if arguments[0] == "torch.distributed.run":
            _fork_the_ranks(request)
        runpy._run_module_as_main(arguments[0])  # type: ignore[attr-defined]
        return
    if what == "-c":
        sys.argv[:] = ["-c", *arguments[1:]]
        code = compile(arguments[0], "<string>", "exec")
    else:
        sys.argv[:] = [what, *arguments]
        main.__file__ = str(Path(what).absolute())
        code = compile(Path(what).read_bytes(), what, "exec")
    exec(code, main.__dict__)


def _fork_the_ranks(request: Mapping[str, Any]) -> None:
    """torchrun starts [python, "-u", script, ...]."""
    global _running
    _running = (request["address"], early(request["environment"]))
    handler = importlib.import_module(
        "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler"
    )
    handler.Popen = lambda args, **how: ForkedPython(args[1:], **how)  # type: ignore[attr-defined]


def _settable() -> list[signal.Signals]:
    fixed = (signal.SIGKILL, signal.SIGSTOP)
    return [number for number in signal.Signals if number not in fixed]


def _serve(address: str) -> None:
    os.environ["MATPLOTLIBRC"] = os.devnull  # as sharpgpt.commands.main has it
    for name in PRELOADED:
        importlib.import_module(name)
    del os.environ["MATPLOTLIBRC"]
    assert len([*Path("/proc/self/task").iterdir()]) == 1, "a fork would lose threads"
    assert not any(name.split(".")[0] == "sharpgpt" for name in sys.modules)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    gc.collect()
    gc.freeze()
    server = Server(address)
    os.write(1, b"ready\n")
    _become(server.serve())


if __name__ == "__main__":
    _serve(sys.argv[1])
