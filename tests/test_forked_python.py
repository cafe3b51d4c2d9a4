"""A fork is to its program what a new Python is."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.forked_python import ForkedPython, run_forked

SEEN = """
import json, os, signal, sys, threading, warnings

print(json.dumps({
    "argv": [sys.argv, sys.orig_argv, sys.executable, sys.path, sys.warnoptions],
    "main": [__name__, sys.modules["__main__"].__dict__ is globals(), globals().get("__file__")],
    "places": [os.getcwd(), {k: v for k, v in os.environ.items() if k != "LC_CTYPE"}],
    "files": sorted(int(n) for n in os.listdir("/proc/self/fd"))[:-1],
    "streams": [
        [s.encoding, s.errors, s.line_buffering, s.write_through, s.isatty()]
        for s in (sys.stdin, sys.stdout, sys.stderr)
    ],
    "signals": [str(signal.getsignal(n)).split(" at ")[0] for n in signal.valid_signals()],
    "mask": [*signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    "threads": threading.active_count(),
    "is_leader": os.getsid(0) == os.getpid(),
    "project": [name for name in sys.modules if name.split(".")[0] == "sharpgpt"],
}))
"""
LAUNCHED = """
import os
print(os.environ["RANK"], "torch" in __import__("sys").modules)
"""


def facts(python: Any, arguments: list[str], **how: Any) -> dict[str, Any]:
    done = python(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run_fresh(arguments: list[str], **how: Any) -> subprocess.CompletedProcess[Any]:
    return subprocess.run([sys.executable, *arguments], check=False, **how)


@pytest.fixture
def environment(command_environment: dict[str, str]) -> dict[str, str]:
    return command_environment | {"SHARPGPT_X": "é", "PYTHONPATH": "relative:/absolute"}


@pytest.mark.parametrize("form", ["script", "code", "module"])
def test_what_a_program_sees(tmp_path: Path, environment: dict[str, str], form: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "seen.py").write_text(SEEN, encoding="utf-8")
    (tmp_path / "seen.py").write_text(SEEN, encoding="utf-8")
    what = {"script": ["-u", "folder/seen.py"], "code": ["-c", SEEN], "module": ["-m", "seen"]}
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which a child inherits
    try:
        ours, expected = (
            facts(python, [*what[form], "a", "-b"], cwd=tmp_path, env=environment, **how)
            for python in (run_forked, run_fresh)
            for how in ({"start_new_session": form == "code", "stdin": subprocess.DEVNULL},)
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ours == expected


def test_it_is_a_fork_where_no_import_has_seen_another_environment(
    command_environment: dict[str, str],
) -> None:
    code = "import json, sys; print(json.dumps({'is_fork': 'torch' in sys.modules}))"
    for more, is_fork in (({}, True), ({"SHARPGPT_X": "1"}, True), ({"HF_HOME": "/x"}, False)):
        found = facts(run_forked, ["-c", code], env=command_environment | more)
        assert found == {"is_fork": is_fork}


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(3)",
        "import sys; sys.exit('in words')",
        "raise ValueError('é')",
        "import atexit; atexit.register(print, 'at exit'); print('before', end=' ')",
        "import os; print('lost', end=''); os._exit(4)",
        "import threading; threading.Timer(0.05, print, ['thread']).start(); print('main')",
        "import signal; signal.raise_signal(signal.SIGTERM)",
        "import sys; print(sys.stdin.read())",
    ],
)
def test_how_a_program_ends(command_environment: dict[str, str], code: str) -> None:
    how = {"env": command_environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    ours, expected = (
        python(["-c", code], stdin=subprocess.DEVNULL, **how) for python in (run_forked, run_fresh)
    )
    assert (ours.returncode, ours.stdout) == (expected.returncode, expected.stdout)
    assert ours.stderr.splitlines()[-1:] == expected.stderr.splitlines()[-1:]


def test_it_is_watched_and_signalled(command_environment: dict[str, str]) -> None:
    code = "import time; print(input(), flush=True); time.sleep(60)"
    with ForkedPython(
        ["-c", code],
        env=command_environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        print("heard", file=process.stdin, flush=True)
        assert process.stdout.readline() == "heard\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
        process.kill()
        assert process.wait(timeout=60) == process.poll() == -signal.SIGKILL


def test_a_launcher_has_forks_too(tmp_path: Path, command_environment: dict[str, str]) -> None:
    (tmp_path / "ranks.py").write_text(LAUNCHED, encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = run_forked(
        ["-W", "ignore", *launcher, str(tmp_path / "ranks.py")],
        env=command_environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert sorted(done.stdout.splitlines()) == ["0 True", "1 True"]
