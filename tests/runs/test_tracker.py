"""The records of whole runs: what W&B stored offline, and what a resumed log keeps."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.core.metrics import METRICS
from sharpgpt.runs.trackers import wandb
from sharpgpt.training import loop
from sharpgpt.training.train import train
from tests.wandb_reading import read_wandb

MakeConfig = Callable[..., TrainingConfig]
pytestmark = pytest.mark.usefixtures("quick_runs")


def test_an_offline_wandb_run_holds_every_metric_of_the_run(tiny_config: MakeConfig) -> None:
    config = tiny_config(use_wandb=True, wandb_project="a-project", generate_interval=10)
    result = train(config)
    record = read_wandb(result.run_folder)
    assert (record.project, record.name, record.exit_code) == ("a-project", "tiny", 0)

    lines = (result.run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged: dict[int, dict[str, Any]] = {}
    for event in map(json.loads, lines):
        logged.setdefault(event["step"], {}).update(event)
    assert record.history.keys() == logged.keys() == {1, 5, 10, 15, 20}
    for step, row in record.history.items():
        splits = ("train", "val") if step in (10, 20) else ("train",)
        for name in (f"{split}/{m.name}" for m in METRICS for split in m.splits if split in splits):
            assert row[name] == pytest.approx(logged[step][name]), name
        assert row["train/max_prob_histogram.values"] == logged[step]["train/max_prob_histogram"]
    samples = record.table(result.run_folder, "samples", 20)
    assert {row["step"] for row in samples} == {10, 20}
    assert (
        samples[0]["text"] == json.loads(result.samples.read_text("utf-8").splitlines()[-1])["text"]
    )
    assert record.summary["val/ce_loss"] == pytest.approx(result.metrics["val/ce_loss"])


def test_a_failed_run_is_marked_so_in_wandb(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.accumulate_gradients

    def poisoned(run: loop.Training, *args: Any) -> Any:
        return original(run, *args) * (float("nan") if run.progress.step == 7 else 1)

    monkeypatch.setattr(loop, "accumulate_gradients", poisoned)
    config = tiny_config(use_wandb=True)
    with pytest.raises(UserError, match="step 8"):
        train(config)
    record = read_wandb(Path(config.output_dir) / "tiny")
    assert record.exit_code == 1
    assert max(record.history) == 5


def test_a_resumed_run_goes_on_in_wandb_under_its_id(tiny_config: MakeConfig) -> None:
    """Offline that is a second segment of the same id, which `wandb sync` uploads to one run."""
    settings = {"use_wandb": True, "max_steps": 6, "save_interval": 3, "keep_checkpoints": 9}
    first = train(tiny_config(**settings))
    shutil.rmtree(first.checkpoint)
    time.sleep(1.1)  # the names of segments count seconds
    train(tiny_config(resume="auto", **settings))
    environment = json.loads((first.run_folder / "environment.json").read_text("utf-8"))
    segments = sorted((first.run_folder / "wandb").glob("offline-run-*"))
    assert [path.name.split("-")[-1] for path in segments] == [environment["wandb_run_id"]] * 2
    again = read_wandb(first.run_folder, segments[1])
    assert (again.run_id, min(again.history)) == (environment["wandb_run_id"], 5)


def test_a_part_that_is_not_tracked_leaves_the_id_to_the_next_one(tiny_config: MakeConfig) -> None:
    """It was forgotten, and what came after went to a new W&B run."""
    settings = {"save_interval": 1, "eval_interval": 0, "resume": "auto", "max_steps": 2}
    first = train(tiny_config(use_wandb=True, **settings))
    settings |= {"max_steps": 4, "allow_config_change": True}
    train(tiny_config(use_wandb=False, **settings))
    time.sleep(1.1)  # the names of segments count seconds
    train(tiny_config(use_wandb=True, **settings | {"max_steps": 6}))
    segments = sorted((first.run_folder / "wandb").glob("offline-run-*"))
    assert len(segments) == 2
    assert len({path.name.split("-")[-1] for path in segments}) == 1


class _FullTracker:
    """Fails at every call."""

    run_id = None

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no space")


def test_a_tracker_that_fails_never_ends_the_run(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wandb, "start", lambda *_, **__: _FullTracker())
    result = train(tiny_config(use_wandb=True, max_steps=2))
    assert result.step == 2
    assert (result.run_folder / "metrics.jsonl").exists()
    line = "NOTE: _FullTracker failed (RuntimeError: no space); training continues"
    assert capsys.readouterr().out.count(line) == 1


def test_a_tracker_that_cannot_start_is_left_out(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wandb, "start", lambda: None)
    assert train(tiny_config(use_wandb=True, max_steps=2)).step == 2
    assert "NOTE: wandb: not tracked (TypeError" in capsys.readouterr().out
