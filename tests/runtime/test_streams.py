"""Commands whose standard streams are closed, or whose reader is gone."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from sharpgpt.commands.main import COMMANDS, main, train_command
from sharpgpt.config import TrainingConfig
from sharpgpt.runtime.streams import discard_if_lost, is_terminal, standard_streams


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data")
    (folder / "text.txt").write_text("To be, or not to be: that is it.\n" * 40, encoding="utf-8")
    given = ["--dataset", str(folder / "text.txt"), "--output", str(folder / "tokens")]
    assert main(["prepare", *given, "--tokenizer", "char"]) == 0
    return str(folder / "tokens")


@pytest.fixture
def without_reader() -> Iterator[TextIO]:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        yield stream
        discard_if_lost(stream)


def test_a_closed_output_is_one_message(
    data: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sharpgpt inspect DATA >&-` was AttributeError: 'NoneType' has no attribute 'isatty'."""
    with monkeypatch.context() as closed:
        closed.setattr(sys, "stdout", None)
        assert main(["inspect", data]) == 1
    assert capsys.readouterr().err == "error: standard output is closed\n"


def test_messages_do_not_go_to_the_output_because_the_errors_are_closed(
    data: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["inspect", data + "absent"]) == 1
    assert capsys.readouterr().out == ""
    assert main(["inspect", data]) == 0
    assert "SHA-256 of every shard as written" in capsys.readouterr().out


def test_a_reader_that_has_enough_is_no_error(
    data: str,
    without_reader: TextIO,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`sharpgpt inspect DATA | true` said `error: Broken pipe`."""
    with monkeypatch.context() as broken:
        broken.setattr(sys, "stdout", without_reader)
        assert main(["inspect", data]) == 141
        without_reader.flush()  # Python does this at its end
    assert capsys.readouterr().err == ""


def test_errors_that_nobody_reads_keep_the_exit_code(
    data: str, without_reader: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message itself failed, and the exit code was another one."""
    monkeypatch.setattr(sys, "stderr", without_reader)
    assert main(["inspect", data + "absent"]) == 1
    assert main(["inspect", data, "--bad"]) == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_keeps_its_exit_codes_with_all_streams_closed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, stream, None)
    assert main([name, "--no_such_flag"]) == 2
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert (sys.stdin, sys.stdout, sys.stderr) == (None, None, None)


def test_training_without_streams_keeps_its_messages_in_the_log(
    tiny_config: Callable[..., TrainingConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all three closed it was an unexplained exit code of 1."""
    config = tiny_config(n_layer=1, learning_rate=1e30, warmup_steps=0, max_grad_norm=0)
    config.to_yaml(tmp_path / "config.yaml")
    for stream in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, stream, None)
    assert train_command(["--config", str(tmp_path / "config.yaml")]) == 1
    log = (tmp_path / "outputs" / "tiny" / "log.txt").read_text(encoding="utf-8")
    assert "step 1/20 " in log
    assert "nothing more is printed, since stdout is gone (standard output is closed)" in log
    assert "error: step 2: " in log.splitlines()[-1]


def test_the_numbers_of_closed_streams_are_not_given_to_files(tmp_path: Path) -> None:
    """Late messages of libraries, which print to 1 and 2, would go into a checkpoint."""
    code = (
        "import os, sys; from sharpgpt.runtime.streams import standard_streams\n"
        "with standard_streams():\n"
        "    file = open(sys.argv[1], 'w'); file.write(str(file.fileno())); file.close()\n"
    )
    command = f'"{sys.executable}" -c "$CODE" "{tmp_path}/number" <&- >&- 2>&-'
    assert subprocess.run(["bash", "-c", command], env={"CODE": code}, check=True).returncode == 0
    assert int((tmp_path / "number").read_text()) > 2


def test_streams_are_as_before_and_a_closed_one_is_no_terminal() -> None:
    before = sys.stdin, sys.stdout, sys.stderr
    with standard_streams():
        print("to an open stream", file=sys.stderr)
    assert (sys.stdin, sys.stdout, sys.stderr) == before
    with open(os.devnull, encoding="utf-8") as closed:
        pass
    assert not is_terminal(closed)
    assert not is_terminal(None)
