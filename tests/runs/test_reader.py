import json
import math
from pathlib import Path

import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.runs.reader import Column, read_metrics, read_run


def _write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_whole_run_is_read_without_notes(made_up_run) -> None:
    run = read_run(made_up_run)
    assert run.notes == []
    assert run.name == "made-up"
    assert run.config is not None
    assert run.config.top_k == 7
    assert run.environment["model"]["num_parameters"] == 124439808
    assert run.metrics.column("val/ce_loss") == Column([50, 100], [2 + 2 / 50, 2 + 2 / 100])
    assert run.metrics.column("train/loss").steps == list(range(10, 101, 10))
    assert run.metrics.histograms[-1] == (100, [100, *[1] * 18, 2])
    assert run.metrics.last_step == 100
    assert [sample["text"] for sample in run.samples] == ["To be at 50", "To be at 100"]


def test_torn_and_foreign_lines_are_skipped_and_counted(tmp_path) -> None:
    notes: list[str] = []
    path = _write(
        tmp_path / "metrics.jsonl",
        '{"step": 1, "train/loss": 4.0}',
        "[1, 2]",
        '{"step": true, "train/loss": 9.0}',
        '{"step": 2, "train/loss": 3.0, "train/note": "text", "other": 5}',
        '{"step": 3, "train/lo',
    )
    metrics = read_metrics(path, notes)
    assert metrics.columns == {"train/loss": Column([1, 2], [4.0, 3.0])}
    assert notes == ["metrics.jsonl: 2 of 5 lines cannot be read."]


def test_null_and_nan_are_nan_and_drop_out_of_the_finite_column(tmp_path) -> None:
    path = _write(
        tmp_path / "metrics.jsonl",
        '{"step": 1, "val/loss": null}',
        '{"step": 2, "val/loss": NaN}',
        '{"step": 3, "val/loss": Infinity}',
        '{"step": 4, "val/loss": 2}',
    )
    column = read_metrics(path).column("val/loss")
    assert column.steps == [1, 2, 3, 4]
    assert [math.isfinite(value) for value in column.values] == [False, False, False, True]
    assert column.finite() == Column([4], [2.0])


def test_a_resumed_run_replaces_what_it_logs_again(tmp_path) -> None:
    """Resumed at step 20 with another interval: what was logged after 20 is gone, not mixed in."""
    steps = [10, 20, 30, 40, 25, 50]
    lines = [
        json.dumps(
            {"step": step, "train/loss": i, "train/max_prob_histogram": [i, 1], "val/loss": i}
        )
        for i, step in enumerate(steps)
    ]
    metrics = read_metrics(_write(tmp_path / "metrics.jsonl", *lines))
    assert metrics.column("train/loss") == Column([10, 20, 25, 50], [0, 1, 4, 5])
    assert metrics.column("val/loss") == metrics.column("train/loss")
    assert [step for step, _ in metrics.histograms] == [10, 20, 25, 50]


@pytest.mark.parametrize(
    "histogram", ['"text"', "[]", "[1, null]", "[1, -1]", "[NaN]", "[1e400]", "[[1]]"]
)
def test_a_malformed_histogram_is_left_out(tmp_path, histogram) -> None:
    path = _write(
        tmp_path / "metrics.jsonl",
        f'{{"step": 1, "train/loss": 1, "train/max_prob_histogram": {histogram}}}',
    )
    metrics = read_metrics(path)
    assert metrics.histograms == []
    assert metrics.column("train/loss").last == 1


def test_every_missing_file_is_named_but_the_summary(tmp_path) -> None:
    run = read_run(tmp_path)
    assert run.config is None
    names = ["config.yaml", "environment.json", "metrics.jsonl", "samples.jsonl"]
    assert run.notes == [f"{name} is missing." for name in names]


def test_unusable_files_are_said(made_up_run) -> None:
    (made_up_run / "config.yaml").write_text("learning_rate: fast\n")
    (made_up_run / "environment.json").write_text("[1]")
    (made_up_run / "metrics.jsonl").write_bytes(b"\xff\xfe\n")
    (made_up_run / "samples.jsonl").write_text("")
    (made_up_run / "summary.json").write_text("{")
    notes = read_run(made_up_run).notes
    assert "learning_rate: given 'fast'" in notes[0]
    assert notes[1:] == [
        "environment.json holds no JSON object.",
        "metrics.jsonl is empty.",
        "samples.jsonl is empty.",
        "summary.json holds no JSON object.",
    ]


def test_no_folder_is_an_error_that_the_user_can_read(tmp_path) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        read_run(tmp_path / "absent")
