"""A preparation that is killed again and again makes the bytes of one that was never stopped.

Real processes and real SIGKILLs at random moments, from the start of Python to the last rename.
tests/data/prepare/test_pipeline.py stops at every single operation on files, inside one process.
"""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from sharpgpt.data.prepare.options import PrepareOptions
from sharpgpt.data.prepare.pipeline import prepare
from sharpgpt.data.sources.tinyshakespeare_standin import standin_text

REPOSITORY = Path(__file__).resolve().parents[2]
OPTIONS = {"shard_tokens": 400_000, "val_fraction": 0.05, "commit_seconds": 0.02}


@pytest.fixture(scope="module")
def num_kills(pytestconfig: pytest.Config) -> int:
    is_long = pytestconfig.getoption("--faults", default="quick") == "long"
    return 20 if is_long else 2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, num_kills: int) -> Path:
    """Documents of shuffled paragraphs, enough to be stopped so often."""
    rng = random.Random(2)
    paragraphs = standin_text().split("\n\n")
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    num_bytes = 0
    with open(path, "w", encoding="utf-8") as file:
        while num_bytes < 6_000_000 + 2_500_000 * num_kills:
            text = "\n\n".join(rng.choices(paragraphs, k=rng.randrange(1, 60)))
            num_bytes += file.write(json.dumps({"text": text}) + "\n")
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Command:
    """`sharpgpt prepare` in a process of its own."""

    def __init__(self, corpus: Path, output: Path, environment: Mapping[str, str]) -> None:
        flags = [f"--{name}={value}" for name, value in OPTIONS.items()]
        self.journal = output / "journal.json"
        self._commit = self._last_commit()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "sharpgpt", "prepare", "--dataset", str(corpus)),
                *("--output", str(output), "--num_workers", "2", *flags),
            ],
            cwd=REPOSITORY,
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _last_commit(self) -> int:
        """How many documents are committed."""
        try:
            position = json.loads(self.journal.read_text())["position"]
        except FileNotFoundError:
            return 0
        return position["document"] if position else 0

    def wait_for_commits(self) -> None:
        """Until it has come further than the one before, or has ended."""
        while self.process.poll() is None and self._last_commit() in (self._commit, 0):
            time.sleep(0.002)


def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    corpus: Path, num_kills: int, tmp_path: Path, command_environment: dict[str, str]
) -> None:
    whole = PrepareOptions(
        dataset=str(corpus), output=str(tmp_path / "whole"), num_workers=0, **OPTIONS
    )
    expected = files_of(prepare(whole))
    output = tmp_path / "killed"
    rng = random.Random(num_kills)
    moments = []
    for number in range(num_kills):
        command = Command(corpus, output, command_environment)
        if number % 5 == 4:
            time.sleep(rng.uniform(0, 1.5))
        else:
            command.wait_for_commits()
            time.sleep(rng.uniform(0, 0.02))
        assert command.process.poll() is None, "it was too quick to be killed; enlarge the corpus"
        command.process.kill()
        command.process.communicate()
        if command.journal.exists():
            moments.append(json.loads(command.journal.read_text())["position"] or {})
    places = [moment.get("document", 0) for moment in moments]
    print(f"killed after documents {places}")
    assert places == sorted(places)
    assert len(set(places) - {0}) >= num_kills // 2
    command = Command(corpus, output, command_environment)
    said, errors = command.process.communicate()
    assert (command.process.returncode, errors) == (0, "")
    assert "continuing after" in said
    assert files_of(output) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_with_one_line(
    corpus: Path, tmp_path: Path, command_environment: dict[str, str], number: signal.Signals
) -> None:
    command = Command(corpus, tmp_path / "out", command_environment)
    command.wait_for_commits()
    command.process.send_signal(number)
    _, errors = command.process.communicate()
    assert command.process.returncode == 128 + number
    lines = errors.strip().splitlines()
    assert lines[0] == f"{number.name}: committing (again to end at once)"
    assert lines[1].endswith("tokens; the same command continues there")
    assert len(lines) == 2
    assert not (tmp_path / "out" / ".prepare.lock").exists()
