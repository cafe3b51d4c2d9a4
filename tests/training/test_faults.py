"""Faults around and inside a run: what it does about them, and what they leave unchanged."""

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.data.blocks import TrainingBlocks, ValidationBlocks
from sharpgpt.runs import saver as saving
from sharpgpt.runs.tracker import RunLog
from sharpgpt.runs.trackers import jsonl
from sharpgpt.runs.trackers.jsonl import JsonLines, JsonLinesFile
from sharpgpt.runtime.memory import Available
from sharpgpt.runtime.signals import StopSignal
from sharpgpt.training import after_step, loop, memory, recovery
from sharpgpt.training.anomalies import MAX_ROLLBACKS
from sharpgpt.training.dry_run import describe
from sharpgpt.training.state import Training
from sharpgpt.training.train import run_training, train
from tests.run_reading import assert_same_run, checkpoint_state, records

pytestmark = pytest.mark.usefixtures("quick_runs")
MakeConfig = Callable[..., TrainingConfig]
Poison = Callable[[Callable[[Training, torch.Tensor], torch.Tensor]], None]
SETTINGS: dict[str, Any] = {"n_layer": 1, "n_embd": 16, "dropout": 0.1, "log_interval": 1}


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    """Change the loss (or the gradients) of chosen steps, after they were computed."""
    original = loop.accumulate_gradients

    def make(change: Callable[[Training, torch.Tensor], torch.Tensor]) -> None:
        monkeypatch.setattr(
            loop, "accumulate_gradients", lambda run, *rest: change(run, original(run, *rest))
        )

    return make


def at_steps(*steps: int) -> Callable[[Training, torch.Tensor], torch.Tensor]:
    """Not a number in a gradient of these steps."""

    def change(run: Training, loss: torch.Tensor) -> torch.Tensor:
        if run.progress.step + 1 in steps:
            next(run.setup.causal_lm.parameters()).grad[3, 3] = torch.nan
        return loss

    return change


def test_a_run_stopped_by_nan_resumes_bit_identically(
    tiny_config: MakeConfig, poison: Poison
) -> None:
    whole = train(tiny_config(run_name="whole", **SETTINGS))
    poison(at_steps(7))
    with pytest.raises(UserError, match=r"step 7: .* weights after step 6 are in .*step_00000006"):
        train(tiny_config(run_name="parts", **SETTINGS))
    poison(at_steps())
    assert_same_run(whole, train(tiny_config(run_name="parts", resume="auto", **SETTINGS)))


def test_skipped_steps_are_left_out_and_counted(
    tiny_config: MakeConfig, poison: Poison, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SETTINGS | {"on_nonfinite": "skip", "log_interval": 3, "max_steps": 12}
    poison(at_steps(5, 7, 8, 9))
    result = train(tiny_config(**settings))
    key = "train/num_skipped_steps"
    logged = {event["step"]: event for event in records(result.run_folder) if key in event}
    counts = {step: event[key] for step, event in logged.items()}
    assert counts == {1: 0, 3: 0, 6: 1, 9: 4, 12: 4}
    assert "train/loss" in logged[6]
    assert sum(logged[6]["train/max_prob_histogram"]) == 2 * 8 * 31
    assert "train/loss" not in logged[9]
    assert logged[9]["train/grad_norm"] is None
    printed = capsys.readouterr().out
    assert printed.count("is skipped: the loss is") == 2
    assert "step 9: skipped 3 steps, all since the last log line" in printed
    assert checkpoint_state(result.checkpoint)["step"] == 12
    poison(at_steps(5, 6))
    with pytest.raises(UserError, match=r"step 6: .* after 1 skipped ones in a row"):
        train(tiny_config(run_name="few", max_skipped_steps=2, **settings))


def test_a_run_with_skipped_steps_resumes_exactly(tiny_config: MakeConfig, poison: Poison) -> None:
    settings = SETTINGS | {"on_nonfinite": "skip", "max_steps": 9}
    poison(at_steps(3, 4, 7))
    whole = train(tiny_config(run_name="whole", **settings))
    first = train(tiny_config(run_name="parts", save_interval=4, keep_checkpoints=9, **settings))
    for path in (first.run_folder / "checkpoints" / "step_00000008", first.checkpoint):
        path.rename(path.with_name("away_" + path.name))
    assert_same_run(whole, train(tiny_config(run_name="parts", resume="auto", **settings)))


SPIKES: dict[str, Any] = SETTINGS | {
    "on_spike": "rollback", "max_steps": 40, "save_interval": 10, "keep_checkpoints": 9,
    "eval_interval": 0, "learning_rate": 1e-2, "spike_threshold": 3,
}  # fmt: skip


def spiking_blocks(monkeypatch: pytest.MonkeyPatch, *bad: int) -> list[int]:
    """Samples `bad` hold nonsense; the list that comes back collects all samples in order."""
    original, asked = TrainingBlocks.batch, list[int]()

    def batch(self: TrainingBlocks, first_sample: int, count: int) -> torch.Tensor:
        asked.append(first_sample)
        blocks = original(self, first_sample, count)
        return blocks * 0 + 3 if first_sample in bad else blocks

    monkeypatch.setattr(TrainingBlocks, "batch", batch)
    return asked


def test_a_spike_rolls_back_and_passes_over_the_batches_since(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = spiking_blocks(monkeypatch, 26 * 8)
    result = train(tiny_config(**SPIKES))
    printed = capsys.readouterr().out
    assert "NOTE: loss spike at step 27: " in printed
    assert "NOTE: back at step 20; training continues with other batches" in printed
    assert asked == [step * 8 for step in range(27 + 20)]
    steps = [event["step"] for event in records(result.run_folder) if "train/loss" in event]
    assert steps == list(range(1, 41))
    assert result.metrics["train/num_rollbacks"] == result.metrics["train/num_loss_spikes"] == 1
    assert checkpoint_state(result.checkpoint)["next_block"] == (27 + 20) * 8


def test_rollbacks_end_where_no_checkpoint_can_be_written(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Step 35 always spikes; the disk is full at step 30, so that step 20 stays the newest."""
    accumulate, write = loop.accumulate_gradients, saving.write_checkpoint

    def spiking(run: Training, *rest: Any) -> torch.Tensor:
        loss = accumulate(run, *rest)
        return loss + 9 if run.progress.step + 1 == 35 else loss

    def full(path: Path, *given: Any, **more: Any) -> None:
        if path.name == "step_00000030":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, *given, **more)

    monkeypatch.setattr(loop, "accumulate_gradients", spiking)
    monkeypatch.setattr(saving, "write_checkpoint", full)
    result = train(tiny_config(**SPIKES))
    printed = capsys.readouterr().out
    assert printed.count("NOTE: back at step 20") == MAX_ROLLBACKS
    assert "NOTE: no rollback, since there were 3 to step_00000020 already" in printed
    assert result.step == 40


@pytest.mark.parametrize("last_checkpoint", [20, 30])
def test_a_rollback_survives_a_resume(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, last_checkpoint: int
) -> None:
    """Killed before the next checkpoint, the run comes to the same spike; after it, it does not."""
    spiking_blocks(monkeypatch, 26 * 8)
    whole = train(tiny_config(run_name="whole", **SPIKES))
    assert whole.metrics["train/num_rollbacks"] == 1
    parts = train(tiny_config(run_name="parts", **SPIKES))
    for path in (parts.run_folder / "checkpoints").iterdir():
        if int(path.name.removeprefix("step_")) > last_checkpoint:
            path.rename(path.with_name("away_" + path.name))
    again = tiny_config(run_name="parts", resume="auto", **SPIKES)
    assert_same_run(whole, train(again))


def test_stopped_at_the_step_of_a_checkpoint_that_a_rollback_set_aside(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counted as saved still, and the run ended without a checkpoint of its last step."""
    spiking_blocks(monkeypatch, 26 * 8)
    original, due = recovery.roll_back, loop.do_due_work

    def damaged(run: Training) -> bool:
        run.outputs.saver.wait()
        os.truncate(run.outputs.saver.folder.path / "step_00000020" / "model.safetensors", 100)
        return original(run)

    def interrupted(run: Training, stop: StopSignal) -> None:
        due(run, stop)
        if run.progress.step == 20 and run.progress.anomalies.num_rollbacks:
            stop.number = signal.SIGTERM

    monkeypatch.setattr(recovery, "roll_back", damaged)
    monkeypatch.setattr(loop, "do_due_work", interrupted)
    result = run_training(tiny_config(**SPIKES))
    assert (result.step, result.interrupted_by) == (20, signal.SIGTERM)
    names = sorted(path.name for path in (result.run_folder / "checkpoints").iterdir())
    assert names == ["damaged_step_00000020", "step_00000010", "step_00000020"]
    assert checkpoint_state(result.checkpoint)["next_block"] == (27 + 10) * 8


def test_spikes_are_logged_and_let_through(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = spiking_blocks(monkeypatch, 26 * 8)
    settings = SPIKES | {"on_spike": "log"}
    result = train(tiny_config(run_name="log", **settings))
    assert asked == [step * 8 for step in range(40)]
    assert result.metrics["train/num_loss_spikes"] == 1
    settings |= {"on_spike": "rollback", "save_interval": 0}
    train(tiny_config(run_name="none", **settings))
    assert "NOTE: no rollback, since there is no checkpoint yet" in capsys.readouterr().out


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), UserError("corrupt")])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_text_that_cannot_be_read_ends_the_run_with_all_saved(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, error: Exception, num_workers: int
) -> None:
    settings = SETTINGS | {"gradient_accumulation_steps": 2, "batch_size": 4}
    whole = train(tiny_config(run_name="whole", **settings))
    original = TrainingBlocks.batch

    def failing(self: TrainingBlocks, first_sample: int, count: int) -> torch.Tensor:
        if first_sample == 9 * 8 + 4:  # in the middle of step 10
            raise error
        return original(self, first_sample, count)

    monkeypatch.setattr(TrainingBlocks, "batch", failing)
    with pytest.raises(UserError, match=r"step 10: the training text .* after step 9 are in"):
        train(tiny_config(run_name="parts", num_workers=num_workers, **settings))
    monkeypatch.setattr(TrainingBlocks, "batch", original)
    assert_same_run(whole, train(tiny_config(run_name="parts", resume="auto", **settings)))


def test_a_validation_text_that_cannot_be_read_is_validated_later(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny_config(run_name="whole", **SETTINGS))
    original = ValidationBlocks.__getitem__

    def failing(self: ValidationBlocks, index: slice) -> None:
        if index.start > 0:
            raise OSError(errno.EIO, "Input/output error")
        return original(self, index)

    monkeypatch.setattr(ValidationBlocks, "__getitem__", failing)
    with pytest.raises(UserError, match=r"step 10: the validation text cannot be read"):
        train(tiny_config(run_name="parts", **SETTINGS))
    monkeypatch.setattr(ValidationBlocks, "__getitem__", original)
    assert_same_run(whole, train(tiny_config(run_name="parts", resume="auto", **SETTINGS)))


def test_failing_samples_warn_once_and_change_nothing(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(tiny_config(run_name="whole", generate_interval=5, **SETTINGS))

    def failing(causal_lm: Any, *_: Any, **__: Any) -> None:
        causal_lm.eval()
        torch.rand(3)
        raise RuntimeError("no muse")

    monkeypatch.setattr(after_step, "generate_texts", failing)
    other = train(tiny_config(run_name="other", generate_interval=5, **SETTINGS))
    assert capsys.readouterr().out.count("NOTE: no samples: RuntimeError: no muse") == 1
    assert records(whole.run_folder) == records(other.run_folder)


def test_a_full_disk_costs_no_line_of_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines = JsonLinesFile(tmp_path / "metrics.jsonl")
    lines.append({"step": 1})
    original, full = os.write, True

    def write(descriptor: int, data: bytes) -> int:
        if full and len(data) > 3:
            return original(descriptor, data[:3])  # what still fits
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(descriptor, data)

    monkeypatch.setattr(jsonl.os, "write", write)
    lines.append({"step": 2})
    lines.append({"step": 3})
    assert (tmp_path / "metrics.jsonl").read_text("utf-8") == '{"step": 1}\n'
    (warning,) = caplog.messages
    assert "No space left on device" in warning
    full = False
    lines.append({"step": 4})
    written = (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["step"] for line in written] == [1, 2, 3, 4]


def test_lines_kept_in_memory_are_written_before_a_checkpoint_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = RunLog(tmp_path)
    metrics = log.records.metrics.path

    def fail(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(jsonl.os, "write", fail)
        log.log(1, {"train/loss": 3.0})
        log.records.flush()
    assert metrics.read_bytes() == b""
    log.records.flush()
    assert [event["step"] for event in records(tmp_path)] == [1]
    with monkeypatch.context() as full:
        full.setattr(jsonl.os, "write", fail)
        log.log(2, {"train/loss": 3.0})
        log.finish(0)
    assert [line.split(": No space")[0].split(" could")[0] for line in caplog.messages] == [
        f"cannot be written: {metrics}",
        f"cannot be written: {metrics}",
        f"1 line of {metrics}",
    ]
    log.finish(0)
    assert [event["step"] for event in records(tmp_path)] == [1, 2]


def test_a_run_flushes_its_lines_where_its_checkpoints_are(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    original = JsonLines.flush

    def flush(self: JsonLines) -> None:
        original(self)
        flushed.append(len(self.metrics.path.read_text("utf-8").splitlines()))

    monkeypatch.setattr(JsonLines, "flush", flush)
    train(tiny_config(**SETTINGS, max_steps=9, save_interval=3, eval_interval=0))
    assert flushed == [3, 6, 10]  # with the validation at the end


def test_a_rollback_on_a_full_disk_keeps_the_lines_that_stay(tmp_path: Path) -> None:
    lines = JsonLinesFile(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        lines.append({"step": step})
    lines._unwritten = ['{"step": 4}\n', '{"step": 5}\n']
    assert [e["step"] for e in lines.keep_while(lambda e: e["step"] <= 4)] == [1, 2, 3, 4]
    assert [e["step"] for e in lines.keep_while(lambda e: e["step"] <= 2)] == [1, 2]
    lines.append({"step": 3})
    assert (tmp_path / "metrics.jsonl").read_text("utf-8").count("\n") == 3


def test_out_of_memory_names_the_settings_and_the_estimate(
    tiny_config: MakeConfig, poison: Poison
) -> None:
    def no_memory(run: Training, loss: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    poison(no_memory)
    with pytest.raises(UserError) as caught:
        train(tiny_config(**SETTINGS))
    for part in (
        "batch_size 8 and max_seq_length 32", "A step is estimated to need 0.00 GiB (weights 0.00",
        "GiB are available", "Lower batch_size and raise gradient_accumulation_steps",
        "Tried to allocate",
    ):  # fmt: skip
        assert part in str(caught.value)


def test_a_batch_that_cannot_fit_is_refused_before_the_run_folder(
    tiny_config: MakeConfig,
) -> None:
    config = tiny_config(run_name="huge", **SETTINGS, batch_size=10**11)
    with pytest.raises(UserError, match=r"Out of memory with batch_size 100000000000 .*available"):
        train(config)
    assert not (Path(config.output_dir) / "huge").exists()


def test_too_many_micro_batches_are_refused(tiny_config: MakeConfig) -> None:
    """The loop reads those of a step before it begins."""
    with pytest.raises(UserError, match=r"Out of memory with batch_size 8 .*GiB are available"):
        train(tiny_config(**SETTINGS, gradient_accumulation_steps=10**11))


def test_an_estimate_above_the_memory_is_refused_before_anything_is_allocated(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of 100,000 took 18 GB before it was refused: only weights and tokens counted."""
    config = tiny_config(**SETTINGS | {"batch_size": 20_000})
    available = Available(2**28, "within memory.max of the group")
    monkeypatch.setattr(memory, "available_memory", lambda _: available)

    def allocate(*_: object) -> None:
        raise AssertionError("weights were made")

    monkeypatch.setattr(torch.nn.Module, "to", allocate)
    for command in (train, describe):
        with pytest.raises(UserError) as caught:
            command(config)
        for part in (
            "Out of memory with batch_size 20000 and max_seq_length 32",
            "0.25 GiB are available within memory.max of the group",
            f"bytes of {2**28:,}, and nothing was allocated",
            "Lower batch_size and raise gradient_accumulation_steps",
        ):
            assert part in str(caught.value)
    assert not Path(config.output_dir).exists()
