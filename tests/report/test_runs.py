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
    assert "2.5000 (2.0000 to 3.0000)" in page.words
    assert "penalty_weight0.00.1" in page.words
    assert "a, b" in page.words
    labels = [a["aria-label"] or "" for tag, a in page.tags if tag == "svg"]
    assert labels[0] == (
        "Cross-entropy, validation. no penalty ends at 2.5000. non_max_sum 0.1 ends at 4.0000."
    )


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = made(tmp_path, "a", 0.0, 1, 2.0), made(tmp_path, "b", 0.1, 1, 2.0)
    page = tmp_path / "page.html"
    assert main(["report", str(a), str(b), "--output", str(page)]) == 0
    assert page.is_file()
    for words, code, message in (
        ([str(a), str(tmp_path / "none")], 1, "no such run folder"),
        ([str(a), str(tmp_path)], 1, "holds no run (neither metrics.jsonl nor environment.json)"),
        ([""], 2, "run_folders: given ['']"),
        ([str(a), "--output", str(page)], 2, "the report of one run is report.html"),
    ):
        assert main(["report", *words]) == code
        assert message in capsys.readouterr().err


def test_penalties_of_different_types_do_not_share_an_axis(tmp_path: Path) -> None:
    """1 - max p lies below 1 and an entropy at 2: on one axis the smaller ones were flat."""
    runs = []
    for name, penalty, value in (
        ("a", "neg_entropy", 2.0), ("b", "non_max_sum", 0.6), ("c", "neg_entropy", 2.2),
    ):  # fmt: skip
        run = made(tmp_path, name, 0.1, 1, 2.0)
        TrainingConfig(penalty_type=penalty, penalty_weight=value / 10).to_yaml(run / "config.yaml")
        lines = [{"step": step, "train/penalty": value} for step in (10, 20)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        runs.append(run)
    page = Page(write_runs_report(runs, tmp_path / "runs.html").read_text("utf-8"))
    labels = [a["aria-label"] or "" for tag, a in page.tags if tag == "svg"]
    assert labels == [
        "Penalty, training: neg_entropy. neg_entropy 0.2 ends at 2.0000. "
        "neg_entropy 0.22 ends at 2.2000.",
        "Penalty, training: non_max_sum. non_max_sum 0.06 ends at 0.6000.",
    ]


def test_each_picture_links_to_the_metrics_behind_it(tmp_path: Path) -> None:
    run = made(tmp_path, "a", 0.0, 1, 2.0).rename(tmp_path / "a: %b")
    page = Page(write_runs_report([run], tmp_path / "pages" / "runs.html").read_text("utf-8"))
    links = {a["href"] for tag, a in page.tags if tag == "a"}
    assert links == {"../a%3A%20%25b/metrics.jsonl"}
