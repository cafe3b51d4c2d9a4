"""One page over several runs: seeds together, metrics from the files."""

import json
from pathlib import Path

import pytest

from sharpgpt.commands.main import main
from sharpgpt.config import TrainingConfig
from sharpgpt.report.runs import write_runs_report
from tests.report.test_comparison import Page


def made(folder: Path, name: str, weight: float, seed: int, last: float) -> Path:
    run = folder / name
    run.mkdir()
    TrainingConfig(penalty_weight=weight, seed=seed, run_name=name).to_yaml(run / "config.yaml")
    lines = [
        {"step": step, "val/ce_loss": last + 1 - step / 100, "train/tokens_per_s": 12_000 + step}
        for step in range(10, 110, 10)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_runs_of_one_configuration_are_a_band(tmp_path: Path) -> None:
    runs = [
        made(tmp_path, "a", 0.0, 1, 2.0), made(tmp_path, "b", 0.0, 2, 3.0),
        made(tmp_path, "c", 0.1, 1, 4.0),
    ]  # fmt: skip
    page = Page(write_runs_report(runs, tmp_path / "runs.html").read_text("utf-8"))
    assert "3 runs in 2 configurations" in page.words
    assert "2.500 (2.000 to 3.000)" in page.words
    assert "penalty_weight0.00.1" in page.words
    assert "a, b" in page.words
    labels = [a["aria-label"] or "" for tag, a in page.tags if tag == "svg"]
    assert labels[0] == (
        "Cross-entropy, validation. no penalty ends at 2.500. non_max_sum 0.1 ends at 4.000."
    )


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = made(tmp_path, "a", 0.0, 1, 2.0), made(tmp_path, "b", 0.1, 1, 2.0)
    page = tmp_path / "page.html"
    assert main(["report", str(a), str(b), "--output", str(page)]) == 0
    assert page.is_file()
    for words, message in (
        ([str(a), str(tmp_path / "none")], "no such run folder"),
        ([str(a), str(tmp_path)], "holds no run (neither metrics.jsonl nor environment.json)"),
        ([""], "holds no run"),
        ([str(a), "--output", str(page)], "the report of one run is report.html"),
    ):
        assert main(["report", *words]) == 1
        assert message in capsys.readouterr().err
