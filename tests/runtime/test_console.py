"""What is printed may be lost; the run is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from sharpgpt.runtime.console import Terminal


def test_every_line_is_in_the_log_from_the_first_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    terminal.say("before there is a folder")
    terminal.open_log(tmp_path / "log.txt")
    terminal.say("two\nlines")
    terminal.note_once("no samples", "RuntimeError: a\n b")
    terminal.note_once("no samples", "again")
    terminal.close()
    said = ["before there is a folder", "two", "lines", "NOTE: no samples: RuntimeError: a b"]
    assert capsys.readouterr().out.splitlines() == said
    log = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line[9:] for line in log] == said


def test_a_log_that_cannot_be_written_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    terminal.open_log(tmp_path / "no folder" / "log.txt")
    terminal.say("one")
    terminal.say("two")
    assert capsys.readouterr().out.splitlines() == [
        f"NOTE: {tmp_path / 'no folder' / 'log.txt'} cannot be written (No such file or directory)",
        "one",
        "two",
    ]


CODE = """
import sys
from pathlib import Path
from sharpgpt.runtime.console import Terminal
terminal = Terminal()
terminal.open_log(Path(sys.argv[1]))
for number in range(20_000):
    terminal.say(f"line {number} of many")
terminal.close()
print("stdout again")
"""


@pytest.mark.parametrize("reader", ["head -n 1", "true"])
def test_a_pipe_that_nobody_reads_ends_nothing(tmp_path: Path, reader: str) -> None:
    command = (
        f'"{sys.executable}" -c "$CODE" "{tmp_path}/log.txt" | {reader}; exit ${{PIPESTATUS[0]}}'
    )
    done = subprocess.run(
        ["bash", "-c", command], env={"CODE": CODE}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    log = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line[9:] for line in log if "line" in line] == [
        f"line {number} of many" for number in range(20_000)
    ]
    assert sum("nothing more is printed, since stdout is gone" in line for line in log) == 1
