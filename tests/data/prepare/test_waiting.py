"""Two processes that need the same preparation; the first is a real one, which can be killed."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.data.prepare import waiting
from sharpgpt.data.prepare.automatic import ready_dataset
from sharpgpt.data.prepare.options import PrepareOptions
from sharpgpt.data.prepare.pipeline import prepare

FIRST = """
import sys, time
from sharpgpt.data.prepare.options import PrepareOptions
from sharpgpt.data.prepare.pipeline import prepare
from sharpgpt.data.sources import file_sources
file_sources.BATCH_CHARACTERS = 4000
num_shown = 0
def show(progress):
    global num_shown
    num_shown += 1
    if num_shown == 5:
        print("five batches", flush=True)
        sys.stdin.readline()
prepare(PrepareOptions(dataset=sys.argv[1], output=sys.argv[2], num_workers=0, val_fraction=0.1,
        commit_seconds=0), show_progress=show)
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    texts = (f"Document {i}: {'to be or not to be, ' * (i % 29)}" for i in range(200))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def first(corpus: Path, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Prepares into tmp_path / "out", and stands still after five batches."""
    process = subprocess.Popen(
        [sys.executable, "-c", FIRST, str(corpus), str(tmp_path / "out")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert any(line == "five batches\n" for line in lines)
    yield process
    process.kill()
    process.communicate()


def asked(corpus: Path, output: Path, **changes: Any) -> PrepareOptions:
    settings = {"num_workers": 0, "val_fraction": 0.1} | changes
    return PrepareOptions(dataset=str(corpus), output=str(output), **settings)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_second_waits_and_takes_over_when_the_first_is_killed(
    first: "subprocess.Popen[str]",
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It ended with exit code 1, and named an option that train.py does not have."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(waiting, "LIMIT_S", -1.0)
        with pytest.raises(UserError, match=f"process {first.pid} on .* has written|Nothing was"):
            prepare(asked(corpus, out))
    with pytest.raises(UserError, match=r"shard_tokens is 100000000 there and 77 here"):
        prepare(asked(corpus, out, shard_tokens=77))

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(waiting, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(asked(corpus, out))
    capsys.readouterr()

    sleep, num_slept = waiting.sleep, 0

    def kill_at_third(seconds: float) -> None:
        nonlocal num_slept
        num_slept += 1
        if num_slept == 3:
            first.kill()
            first.wait()
        sleep(seconds / 10)

    monkeypatch.setattr(waiting, "sleep", kill_at_third)
    prepare(asked(corpus, out))
    said = capsys.readouterr().out
    assert said.count(f"{out}: being prepared by process {first.pid} on ") == 1
    assert " tokens so far; waiting for it (Ctrl-C ends the wait)" in said
    assert "continuing after" in said
    assert files_of(out) == files_of(prepare(asked(corpus, tmp_path / "alone")))


def test_the_second_goes_on_with_what_the_first_made(
    first: "subprocess.Popen[str]",
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_config: Callable[..., TrainingConfig],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whether it prepares the same, or trains on the folder."""
    out = tmp_path / "out"
    sleep, num_slept = waiting.sleep, 0

    def go_on_at_third(seconds: float) -> None:
        nonlocal num_slept
        num_slept += 1
        if num_slept == 3:
            assert first.stdin is not None
            first.stdin.write("\n")
            first.stdin.flush()
        sleep(seconds / 10)

    monkeypatch.setattr(waiting, "sleep", go_on_at_third)
    caplog.set_level("INFO")
    assert ready_dataset(tiny_config(dataset=str(out), tokenizer="gpt2")) == str(out)
    assert f"being prepared by process {first.pid}" in caplog.text
    assert num_slept >= 3
    assert first.wait(60) == 0  # and has removed its lock
    before = files_of(out)
    assert prepare(asked(corpus, out)) == out
    assert files_of(out) == before
