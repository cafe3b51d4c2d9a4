"""Fuzzing: inputs from hypothesis, and what every one of them must end in.

A case ends in success or in one clear message, soon; it writes nothing outside its sandbox, starts
no program, reaches no network and unpickles nothing. What Python does is watched through its audit
hook, what native code leaves by looking at the folder around the sandbox.
"""

import contextlib
import os
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from sharpgpt.commands.main import COMMANDS
from sharpgpt.core.errors import UserError

CASES = {
    "YAML files": (60, 2500),
    "command lines": (60, 2500),
    "dry runs": (25, 500),
    **{f"arguments of {command}": (8, 1000) for command in COMMANDS},
    "checkpoints": (60, 2000),
    "resumed runs": (8, 150),
    "run folders": (0, 1000),
    "manifests": (60, 2000),
    "shards": (30, 1000),
    "other forms": (15, 400),
    "texts": (15, 400),
    "remains of a preparation": (10, 200),
}
"""Of each kind of input, how many cases in the quick and in the long form."""

CASE_TIMEOUT_S = 20
"""A case takes milliseconds; one that takes this long on a busy machine hangs."""

MAX_MESSAGE = 20_000


def fuzz(
    kind: str, strategy: SearchStrategy[Any], case: Callable[[Any], object], *, is_long: bool
) -> None:
    """Try `case` on as many examples of `strategy` as CASES says; no fewer.

    It returns what the case ended in, in a word, and raises where that is wrong.
    """
    num_cases = CASES[kind][is_long]
    outcomes: Counter[object] = Counter()

    @settings(
        max_examples=num_cases,
        derandomize=not is_long,
        database=None,
        deadline=None,  # `time_limit` ends a case that hangs, and a slow machine is no failure
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )
    @given(strategy)
    def each(example: Any) -> None:
        with time_limit(CASE_TIMEOUT_S), warnings.catch_warnings():
            outcomes[case(example)] += 1

    each()
    print(f"{kind}: {sum(outcomes.values())} cases, {dict(outcomes)}")
    assert sum(outcomes.values()) >= num_cases


class Hang(BaseException):
    """A case took too long. No Exception, since the code under test catches those."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `Hang` in the block after so many seconds; pytest-timeout's timer stops meanwhile."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Hang(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    timer_before = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer_before)


def message_of(call: Callable[[], object]) -> str | None:
    """None if `call` succeeds, or the message of its `UserError`; anything else is a failure."""
    try:
        call()
    except UserError as error:
        message = str(error)
    else:
        return None
    require_clear(message)
    return message


def require_clear(message: str) -> None:
    """A message that a person can read on a terminal, whatever the input was.

    No control characters, which could clear the screen or hide text, and no lone surrogates, which
    cannot be printed.
    """
    assert 10 < len(message) < MAX_MESSAGE, len(message)
    assert "Traceback" not in message, ascii(message)
    unprintable = [c for c in message if (ord(c) < 32 and c not in "\n\t") or c in "\x7f\x9b"]
    unprintable += [c for c in message if "\ud800" <= c <= "\udfff"]
    assert not unprintable, f"{unprintable!a} in {message!a}"


class _Watch:
    """What the process does, as Python's audit hook sees it; hooks cannot be removed again."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] | None = None
        self.violations: list[str] = []
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = flags is not None and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and not isinstance(path, int) and not self._is_allowed(path):
                self.violations.append(f"open {path!r} {mode!r}")
        elif event in _CHANGES:
            paths = [a for a in arguments if isinstance(a, str | bytes | os.PathLike)]
            if not all(map(self._is_allowed, paths)):
                self.violations.append(f"{event} {paths}")
        elif event in _NEVER and arguments[0] not in _ALLOWED:
            self.violations.append(f"{event} {arguments!r:.200}")

    def _is_allowed(self, path: Any) -> bool:
        assert self.allowed is not None
        text = os.fsdecode(path)
        if text == os.devnull or not text:
            return True
        place = Path(text)
        return str(place.parent.resolve() / place.name).startswith(self.allowed)


_CHANGES = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate",
    "os.chmod", "os.chown", "os.utime", "os.setxattr", "shutil.rmtree", "shutil.move",
}  # fmt: skip
_NEVER = {
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty",
    "subprocess.Popen", "pickle.find_class", "socket.connect", "socket.getaddrinfo",
    "socket.bind", "ctypes.dlopen", "code.__new__", "os.kill", "os.putenv", "webbrowser.open",
}  # fmt: skip
_ALLOWED = ("git", "fc-list", b"MATPLOTLIBRC")
"""A run asks git for its commit; matplotlib asks for the fonts that there are, and is told to read
no settings."""
_watch = _Watch()


@contextlib.contextmanager
def watched(sandbox: Path) -> Iterator[None]:
    """Within the block nothing may be changed outside `sandbox`, and no code may be run.

    What lies beside the sandbox is compared before and after, for what native code writes. What the
    block calls is called once before, since imports load libraries and write __pycache__.
    """
    surroundings = sandbox.parent
    before = _listing(surroundings, sandbox)
    _watch.violations.clear()
    _watch.allowed = (f"{os.path.realpath(sandbox)}{os.sep}", os.path.realpath(sandbox))
    try:
        yield
    finally:
        _watch.allowed = None
    violations = _watch.violations.copy()
    assert not violations, violations
    assert _listing(surroundings, sandbox) == before


def _listing(folder: Path, but: Path) -> list[tuple[str, int, int]]:
    found = []
    for path in sorted(folder.rglob("*")):
        if path != but and but not in path.parents:
            facts = path.lstat()
            found.append((str(path), facts.st_size, facts.st_mtime_ns if path.is_file() else 0))
    return found
