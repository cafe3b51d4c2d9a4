"""Signals to real processes: at the start, in a step, in a validation, and twice."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.runs import saver as saving
from sharpgpt.runs.folder import LOCK_FILE
from sharpgpt.runs.saver import CheckpointSaver
from sharpgpt.runtime.signals import (
    SIGNALS,
    Interrupted,
    StopSignal,
    exit_on_signals,
    explained_by,
)
from sharpgpt.training.train import train
from tests.forked_python import ForkedPython, fresh_python

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = (
    "--tokenizer char --n_layer 1 --n_head 2 --n_embd 16 --max_seq_length 16 --batch_size 2 "
    "--gradient_accumulation_steps 1 --max_steps 1000000 --eval_interval 0 --no_wandb "
    "--generate_interval 0 --save_interval 0 --log_interval 1 --device cpu --run_name run"
)
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(command_environment: dict[str, str], tmp_path: Path) -> Start:
    """`train.py` of a tiny endless run in `tmp_path`/o/run, or Python code that imports it."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be: that is it.\n" * 4000, encoding="utf-8")

    def make(
        *flags: str, code: str = "", python: Callable[..., Any] = ForkedPython
    ) -> "subprocess.Popen[str]":
        script = ["-c", code] if code else ["train.py"]
        process: subprocess.Popen[str] = python(
            [
                *script, *TINY.split(), "--dataset", str(text), "--output_dir",
                str(tmp_path / "o"), *flags,
            ],
            cwd=REPOSITORY, env=command_environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        return process

    return make


def wait_for_line(process: "subprocess.Popen[str]", text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"no line with {text!r}; {process.communicate()[1]}")


def stop_reading(process: "subprocess.Popen[str]") -> None:
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()


@pytest.mark.parametrize(
    ("number", "delay_s"), [*((number, 0.3) for number in SIGNALS), (signal.SIGINT, 1.5)]
)
def test_a_signal_while_it_starts_ends_it_at_once(
    start: Start, number: signal.Signals, delay_s: float
) -> None:
    """After 0.3 s it imports the settings, then torch and transformers, or already trains."""
    process = start(python=fresh_python)
    time.sleep(delay_s)
    sent = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert time.monotonic() - sent < 10
    assert err.strip() in (
        f"{number.name}: ended at once; what was saved before is whole",
        f"{number.name}: saving after this step (again to end at once)",
    )


def test_a_second_signal_ends_it_at_once(start: Start, tmp_path: Path) -> None:
    code = (
        "import time, sys; from sharpgpt.training import loop; from train import train_command\n"
        "loop.clip_gradients = lambda *_: (print('in the step', flush=True), time.sleep(60))\n"
        "sys.exit(train_command(sys.argv[1:]))"
    )
    process = start(code=code)
    wait_for_line(process, "in the step")
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert err.strip().splitlines() == [
        "SIGUSR1: saving after this step (again to end at once)",
        "",
        "SIGTERM: ended at once; what was saved before is whole",
    ]
    assert "Traceback" not in out
    # The lock of a dead process is no lock.
    process = start("--resume", "auto")
    wait_for_line(process, "step 1/")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    process.communicate()


def test_a_closed_terminal_saves_first_and_ends_with_129(start: Start, tmp_path: Path) -> None:
    """It was no signal of ours: what came after the last checkpoint was lost. The shell and the
    kernel both send SIGHUP, so the second is no wish to end at once. Nobody reads what it prints,
    as after Ctrl-C in `train.py 2>&1 | tee log`, which ends tee first."""
    process = start()
    wait_for_line(process, "step 1/")
    stop_reading(process)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 129
    assert len(list((tmp_path / "o" / "run" / "checkpoints").glob("step_*"))) == 1


def test_an_ignored_hangup_stays_ignored() -> None:
    """As under nohup, which means that the run shall survive the end of the session."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with exit_on_signals(), StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.number is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_hangup_is_no_second_signal(capfd: pytest.CaptureFixture[str]) -> None:
    with ending_by(KeyboardInterrupt), StopSignal() as stop:
        for _ in range(3):
            signal.raise_signal(signal.SIGHUP)
        assert stop.number == signal.SIGHUP
        said = capfd.readouterr().err
        assert said == "\nSIGHUP: saving after this step (SIGTERM to end at once)\n"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("what", ["evaluate", "generate_texts"])
def test_a_signal_does_not_wait_for_a_validation_or_samples(
    start: Start, tmp_path: Path, what: str
) -> None:
    code = (
        "import time, sys; from sharpgpt.training import after_step\n"
        "from train import train_command\n"
        f"after_step.{what} = lambda *_, **__: (print('at work', flush=True), time.sleep(60))\n"
        "sys.exit(train_command(sys.argv[1:]))"
    )
    process = start("--eval_interval", "3", "--generate_interval", "3", code=code)
    wait_for_line(process, "at work")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "Interrupted after step 3 of" in out
    assert (tmp_path / "o" / "run" / "checkpoints" / "step_00000003").is_dir()


def test_a_second_signal_exits_at_once_with_a_broken_pipe(start: Start) -> None:
    code = (
        "import time, sys; from sharpgpt.training import loop; from train import train_command\n"
        "loop.clip_gradients = lambda *_: (print('in the step', flush=True), time.sleep(60))\n"
        "sys.exit(train_command(sys.argv[1:]))"
    )
    process = start(code=code)
    wait_for_line(process, "in the step")
    stop_reading(process)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    assert process.wait(timeout=20) == 143


def test_a_duplicate_signal_counts_once() -> None:
    with ending_by(KeyboardInterrupt), StopSignal(duplicate_s=0.2) as stop:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1):
            signal.raise_signal(number)
        assert stop.number == signal.SIGTERM
        time.sleep(0.3)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_the_signal_after_a_loss_says_what_was_lost(capfd: pytest.CaptureFixture[str]) -> None:
    """torchrun ends the other ranks by SIGTERM: it was said to end them at once, or to save."""
    for number, said in ((signal.SIGTERM, "rank 1 is gone"), (signal.SIGUSR1, "saving after")):
        with explained_by(lambda: None), explained_by(lambda: "rank 1 is gone"), StopSignal():
            signal.raise_signal(number)
        assert f"{number.name}: {said}" in capfd.readouterr().err


@contextlib.contextmanager
def ending_by(error: type[BaseException]) -> Iterator[None]:
    def end(*_: object) -> None:
        raise error

    before = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_notebook_keeps_its_folder_until_the_checkpoint_is_written(
    tiny_config: Callable[..., TrainingConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second Ctrl-C there is a KeyboardInterrupt, while the thread writes."""
    write, written = saving.write_checkpoint, list[bool]()

    def slow(path: Path, *given: Any, **more: Any) -> None:
        time.sleep(0.5)
        written.append((path.parent.parent / LOCK_FILE).exists())
        write(path, *given, **more)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, "write_checkpoint", slow)
    monkeypatch.setattr(CheckpointSaver, "save_last", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(n_layer=1, max_steps=3, save_interval=2))
    assert written == [True]


def test_within_the_block_a_signal_is_a_request() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with StopSignal() as stop:
        assert stop.number is None
        signal.raise_signal(signal.SIGUSR1)
        assert stop.number == signal.SIGUSR1
        after = {number: signal.getsignal(number) for number in SIGNALS}
        assert after.pop(signal.SIGHUP) == stop._handle  # more of these change nothing
        assert after == {number: before[number] for number in after}
    with StopSignal() as stop, pytest.raises(Interrupted), stop.interruptible():
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted), stop.interruptible():
        raise AssertionError("the signal came before")
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    with exit_on_signals():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


def test_a_forked_worker_ends_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    with exit_on_signals():
        pid = os.fork()
        if pid == 0:
            signal.raise_signal(signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 143
    assert capfd.readouterr().err == ""
