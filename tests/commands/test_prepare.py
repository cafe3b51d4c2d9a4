"""`sharpgpt prepare` and `sharpgpt inspect` as a person types them, in this process."""

import json
from pathlib import Path

import pytest

from sharpgpt.commands.main import main

DOCUMENTS = [f"Document number {i}, of no importance.\n" for i in range(300)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in DOCUMENTS))
    return path


def test_prepare_then_inspect(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    command = f"prepare --dataset {corpus} --output {output} --text_column body --val_fraction 0.1"
    assert main(command.split()) == 0
    said = capsys.readouterr()
    assert "training and" in said.out
    assert "validation tokens" in said.out
    assert said.err == ""
    assert main(command.split()) == 0
    assert capsys.readouterr().out == f"{output}: already prepared\n"
    assert main(["inspect", str(output), "--num_documents", "1"]) == 0
    said = capsys.readouterr()
    assert "Document number 0, of no importance." in said.out
    assert "SHA-256 of every shard as written (2)" in said.out
    (output / "train_00000.bin").write_bytes(b"x" + (output / "train_00000.bin").read_bytes()[1:])
    assert main(["inspect", str(output)]) == 1
    assert "has changed since it was written" in capsys.readouterr().err
    assert main(["inspect", str(output), "--no_hashes"]) == 0


def test_exit_codes(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ["--output", str(tmp_path / "out")]
    assert main(["prepare", "--dataset", str(corpus), *output]) == 2  # without its column
    assert "text_column" in capsys.readouterr().err
    assert main(["prepare", "--dataset", "corpus.jsonll", *output]) == 1
    assert "neither a known name nor an existing file" in capsys.readouterr().err
    assert main(["prepare", "--datasett", str(corpus), "--form", "x"]) == 2
    assert "4 problems" in capsys.readouterr().err
    assert main(["inspect", str(corpus)]) == 1
    assert not (tmp_path / "out").exists()
