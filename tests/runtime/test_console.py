"""Printed lines may be lost; the run is not."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from sharpgpt.runtime.console import PACKAGE_LOGGER, console_logging

logger = logging.getLogger("sharpgpt.some.module")


def test_the_log_file_has_every_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with console_logging() as console:
        logger.info("before there is a %s", "folder")
        console.open_log_file(tmp_path / "log.txt")
        logger.info("two\nlines")
        logger.warning("no samples: %s", "RuntimeError: a b", extra={"once": "no samples"})
        logger.warning("no samples: again", extra={"once": "no samples"})
        logger.debug("not shown")
    lines = ["before there is a folder", "two", "  lines", "NOTE: no samples: RuntimeError: a b"]
    assert capsys.readouterr().out.splitlines() == lines
    log = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line[9:] for line in log] == lines


def test_controls_in_a_message_are_visible_on_the_terminal_and_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name of a data set cleared the screen, and its second line was a message of its own."""
    with console_logging() as console:
        console.open_log_file(tmp_path / "log.txt")
        logger.info("%s", "\x1b[2J\x9b31m\u202edata\nNOTE: all is well [bold]")
    shown = capsys.readouterr().out
    assert shown == "\\x1b[2J\\x9b31m\\u202edata\n  NOTE: all is well [bold]\n"
    log = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line[9:] for line in log] == shown.splitlines()


def test_a_bar_shows_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """rich took [bold] in the name of a model for markup, and hid it."""
    from rich.progress import TextColumn

    with console_logging() as console:
        console._isatty = True
        console.start_bar(TextColumn("{task.fields[model]}"), total=1, model="[bold]a\x1b[2J")
        console.update_bar(model="[red]b[/]\u202e")
        logger.info("[italic]c :smile: https://example.org")
    shown = capsys.readouterr().out
    assert "[italic]c :smile: https://example.org\n" in shown
    assert "[red]b[/]\\u202e" in shown


def test_a_block_inside_another_uses_its_console_and_nothing_is_left_behind() -> None:
    before = (PACKAGE_LOGGER.level, PACKAGE_LOGGER.propagate, list(PACKAGE_LOGGER.handlers))
    with console_logging() as outer:
        with console_logging() as inner:
            assert inner is outer
        assert outer in PACKAGE_LOGGER.handlers
    assert before == (PACKAGE_LOGGER.level, PACKAGE_LOGGER.propagate, PACKAGE_LOGGER.handlers)


def test_a_silent_block_inside_another_shows_nothing_and_ends_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with console_logging():
        with console_logging(is_shown=False) as inner:
            inner.open_log_file(tmp_path / "log.txt")
            logger.info("in the file only")
        logger.info("shown again")
    assert capsys.readouterr().out == "shown again\n"
    assert (tmp_path / "log.txt").read_text(encoding="utf-8")[9:] == "in the file only\n"


def test_a_log_that_cannot_be_written_is_reported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with console_logging() as console:
        console.open_log_file(tmp_path / "no folder" / "log.txt")
        logger.info("one")
        logger.info("two")
    assert capsys.readouterr().out.splitlines() == [
        f"NOTE: the log cannot be written: {tmp_path}/no folder/log.txt: No such file or directory",
        "one",
        "two",
    ]


CODE = """
import logging, sys
from pathlib import Path
from sharpgpt.runtime.console import console_logging
with console_logging() as console:
    console.open_log_file(Path(sys.argv[1]))
    for number in range(20_000):
        logging.getLogger("sharpgpt").info("line %d of many", number)
print("stdout again")
"""


@pytest.mark.parametrize("reader", ["head -n 1", "true"])
def test_a_broken_pipe_loses_lines_only(tmp_path: Path, reader: str) -> None:
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
