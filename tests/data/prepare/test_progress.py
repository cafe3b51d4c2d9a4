import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from sharpgpt.data.prepare import progress
from sharpgpt.data.prepare.progress import Pace, Progress, ProgressDisplay
from sharpgpt.runtime.console import clock, console_logging

REPOSITORY = Path(__file__).resolve().parents[3]
HALFWAY = Progress(
    what="tokens",
    num_tokens=1_234_567,
    bytes_read=2_500,
    total_bytes=5_000,
    tokens_per_s=2_345_678.0,
    text_bytes_per_s=10_500_000.0,
    seconds_left=3725.4,
)


def test_a_line_has_all_figures() -> None:
    assert HALFWAY.line() == "1,234,567 tokens (50%)  2.35M tokens/s  10.5 MB/s  1:02:05 left"


def test_what_is_not_known_is_left_out() -> None:
    pace = Pace(0, None)
    pace.add(10, 20)
    assert "left" not in pace.progress("tokens", 10, 20).line()
    assert "%" not in pace.progress("tokens", 10, 20).line()


def test_the_pace_is_that_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, *[110.0] * 10])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    pace = Pace(bytes_read=1000, total_bytes=5000)
    pace.add(200, 900)
    state = pace.progress("tokens", num_tokens=1200, bytes_read=2000)
    assert (state.tokens_per_s, state.text_bytes_per_s, state.seconds_left) == (20.0, 90.0, 30.0)


def test_a_file_gets_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with console_logging() as console:
        show = ProgressDisplay(console)
        for now[0] in (1.0, 9.9, 10.0, 11.0, 21.0):
            show(HALFWAY)
        logging.getLogger("sharpgpt").info("[bold]a path[/bold]")
    assert capsys.readouterr().out.splitlines() == [HALFWAY.line()] * 2 + ["[bold]a path[/bold]"]


def test_a_terminal_gets_a_bar() -> None:
    program = (
        "import logging\n"
        "from sharpgpt.data.prepare.progress import Progress, ProgressDisplay\n"
        "from sharpgpt.runtime.console import console_logging\n"
        "with console_logging() as console:\n"
        f"    ProgressDisplay(console)({HALFWAY!r})\n"
        "    logging.getLogger('sharpgpt').info('a [line]')\n"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, stdout=theirs, env=environment, check=True
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 1 << 16)
        except OSError:  # nothing is left
            break
    os.close(ours)
    assert "1,234,567 tokens" in shown.decode()
    assert "2.35M tokens/s  10.5 MB/s" in shown.decode()
    assert "1:02:05 left" in shown.decode()
    assert "a [line]" in shown.decode()


def test_clock() -> None:
    assert [clock(0.4), clock(61), clock(360_000)] == ["0:00:00", "0:01:01", "100:00:00"]
