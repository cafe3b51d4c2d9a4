"""`--profile N`: what it writes, when it ends early, and that it changes nothing."""

import gzip
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import profile

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.runtime.device import Device
from sharpgpt.training import loop
from sharpgpt.training.operations import PHASES
from sharpgpt.training.profiler import Profiler
from sharpgpt.training.train import run_training, train
from tests.training.test_train import events, same_tensors

MakeConfig = Callable[..., TrainingConfig]
pytestmark = pytest.mark.usefixtures("quick_runs")


def marks(run_folder: Path) -> list[str]:
    """The names of the marks in the trace, in the order of time."""
    with gzip.open(run_folder / "profile" / "trace.json.gz") as file:
        trace = json.load(file)["traceEvents"]
    found = [event for event in trace if event.get("cat") == "user_annotation"]
    return [str(event["name"]) for event in sorted(found, key=lambda event: event["ts"])]


def steps(run_folder: Path) -> list[int]:
    return [int(name[5:]) for name in marks(run_folder) if name.startswith("step ")]


def test_a_profiled_run_is_the_same_run_and_tells_where_its_time_went(
    tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "max_steps": 9, "gradient_accumulation_steps": 2, "dropout": 0.1, "log_interval": 2,
        "eval_interval": 4, "save_interval": 6, "generate_interval": 5, "dtype": "float32",
    }  # fmt: skip
    plain = train(tiny_config(run_name="plain", **settings))
    assert not (plain.run_folder / "profile").exists()
    capsys.readouterr()
    profiled = train(tiny_config(run_name="profiled", profile=3, **settings))
    assert same_tensors(plain.checkpoint, profiled.checkpoint)
    assert events(plain.run_folder, without_times=True) == events(
        profiled.run_folder, without_times=True
    )
    assert plain.samples.read_text("utf-8") == profiled.samples.read_text("utf-8")

    found = marks(profiled.run_folder)
    assert steps(profiled.run_folder) == [4, 5, 6]
    assert set(PHASES) <= set(found)
    assert [found.count(name) for name in ("forward", "loss", "backward")][::2] == [6, 6]
    assert found.count("clip") == found.count("optimizer") == found.count("check") == 3
    text = (profiled.run_folder / "profile" / "operations.txt").read_text("utf-8")
    assert text.startswith("Profile of profiled on cpu (float32), from step 4 to 6.\n")
    for name in (*PHASES, "matrix products", "attention", "optimizer and clipping", "aten::addmm"):
        assert f"\n{name} " in text, name
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "profiled 3 steps" in line]
    assert f"operations: {profiled.run_folder}/profile/operations.txt" in line
    assert f"{profiled.run_folder}/profile/trace.json.gz" in line
    assert "backward " in line
    assert {path.name for path in (profiled.run_folder / "profile").iterdir()} == {
        "operations.txt", "trace.json.gz",
    }  # fmt: skip


@pytest.mark.parametrize(("max_steps", "profiled"), [(5, [4, 5]), (2, [2]), (1, [1])])
def test_a_run_that_is_shorter(
    tiny_config: MakeConfig, max_steps: int, profiled: list[int]
) -> None:
    settings = {"eval_interval": 0, "eval_max_blocks": 1, "num_generate_samples": 0}
    result = train(tiny_config(max_steps=max_steps, profile=50, **settings))
    assert steps(result.run_folder) == profiled


def test_a_signal_writes_what_was_recorded_and_a_resumed_run_records_its_own(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.clip_gradients
    calls = []

    def interrupting(*args: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(loop, "clip_gradients", interrupting)
    stopped = run_training(tiny_config(profile=10))
    assert (stopped.interrupted_by, stopped.step) == (signal.SIGTERM, 5)
    text = (stopped.run_folder / "profile" / "operations.txt").read_text("utf-8")
    assert "from step 4 to 5." in text
    assert "of 2 steps of" in text
    resumed = train(tiny_config(profile=2, resume="auto"))
    assert steps(resumed.run_folder) == [9, 10]
    assert resumed.step == 20


def test_an_error_in_the_run_stays_the_error_and_what_was_recorded_is_written(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.accumulate_gradients

    def poisoned(run: loop.Training, *args: Any) -> torch.Tensor:
        return original(run, *args) * (torch.nan if run.progress.step == 6 else 1)

    monkeypatch.setattr(loop, "accumulate_gradients", poisoned)
    config = tiny_config(profile=10)
    with pytest.raises(UserError, match="step 7: the loss is nan"):
        train(config)
    folder = Path(config.output_dir) / "tiny"
    assert "of 3 steps of" in (folder / "profile" / "operations.txt").read_text("utf-8")


def test_no_failure_of_the_profile_ends_the_run(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PyTorch raises nothing when the disk is full: its file ends in the middle of an event."""
    settings = {
        "max_steps": 6, "eval_max_blocks": 1, "num_generate_samples": 0, "dtype": "float32",
    }  # fmt: skip
    plain = train(tiny_config(run_name="plain", **settings))
    whole = profile.export_chrome_trace

    def cut(self: Any, path: str, *rest: Any) -> None:
        whole(self, path, *rest)
        os.truncate(path, 5000)

    def broken(self: Any) -> None:
        raise RuntimeError("Can't disable\nKineto")

    for name, method, function, message in (
        ("full", "export_chrome_trace", cut, "could not be written: .*No space left on device"),
        ("broken", "start_trace", broken, "no profile: RuntimeError: Can't disable Kineto"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(profile, method, function)
            result = train(tiny_config(run_name=name, profile=2, **settings))
        assert same_tensors(plain.checkpoint, result.checkpoint)
        notes = [line for line in capsys.readouterr().out.splitlines() if " profile" in line]
        assert len(notes) == 1, notes
        assert notes[0].startswith("NOTE: ")
        assert re.search(message, notes[0]), notes
        assert not list(result.run_folder.glob("profile/*"))


def test_nothing_is_written_through_a_link(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(tiny_config(max_steps=1, eval_max_blocks=1, num_generate_samples=0))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (first.run_folder / "profile").symlink_to(elsewhere)
    more = {"max_steps": 3, "eval_max_blocks": 1, "num_generate_samples": 0, "profile": 1}
    train(tiny_config(resume="auto", allow_config_change=True, **more))
    assert "profile is a link, and nothing is written through one" in capsys.readouterr().out
    assert list(elsewhere.iterdir()) == []


def test_a_step_that_is_begun_again_is_one_step(tmp_path: Path) -> None:
    """After a rollback the loop begins a step without having ended the one before."""
    profiler = Profiler(
        2, folder=tmp_path, steps_left=10, loss_lm=torch.nn.Module(),
        device=Device(torch.device("cpu"), torch.float32),
    )  # fmt: skip
    profiler._warm_up = 0
    profiler._loss_lm._orig_mod = None
    with profiler:
        for number, is_taken in ((7, True), (8, False), (6, True), (7, True)):
            profiler.begin_step(number)
            torch.ones(4).sum()
            if is_taken:
                profiler.end_step()
    assert steps(tmp_path) == [7, 8, 6]
    assert "of 2 steps of" in (tmp_path / "profile" / "operations.txt").read_text("utf-8")
