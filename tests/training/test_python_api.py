"""`train()` in Python: stopped in a notebook, called in a loop, in a thread, many times over."""

import gc
import json
import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.data.prepare.stopping import Limits
from sharpgpt.evaluation.evaluate import evaluate
from sharpgpt.runtime.signals import SIGNALS
from sharpgpt.training import loop
from sharpgpt.training.train import RunResult, train

MakeConfig = Callable[..., TrainingConfig]
SMALL = {"n_layer": 1, "max_steps": 6, "eval_interval": 0}


@pytest.fixture(autouse=True)
def _without_reports(quick_runs: None) -> None:
    pass


def signal_in_step(monkeypatch: pytest.MonkeyPatch, step: int, *numbers: signal.Signals) -> None:
    """Raise signals within a step, the `step`th one from here on."""
    original, count = loop.clip_gradients, iter(range(1, 1000))

    def clip_gradients(*args: Any) -> torch.Tensor:
        if next(count) == step:
            for number in numbers:
                signal.raise_signal(number)
        return original(*args)

    monkeypatch.setattr(loop, "clip_gradients", clip_gradients)


def saved_steps(run_folder: Path) -> list[str]:
    return sorted(path.name for path in (run_folder / "checkpoints").glob("step_*"))


@pytest.mark.parametrize("step", [3, 6])
def test_ctrl_c_saves_and_ends_a_loop_over_runs(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """It once only ended the run in progress, and the loop went on; so it did in the last step."""
    signal_in_step(monkeypatch, step, signal.SIGINT)

    def train_both() -> None:
        for name in ("one", "two"):
            train(tiny_config(run_name=name, **SMALL))

    with pytest.raises(KeyboardInterrupt):
        train_both()
    assert saved_steps(tmp_path / "outputs/one") == [f"step_{step:08d}"]
    assert json.loads((tmp_path / "outputs/one/summary.json").read_text())["step"] == step
    assert not (tmp_path / "outputs/two").exists()
    resumed = train(tiny_config(run_name="one", resume="auto", **SMALL))
    assert resumed.step == 6


def test_another_signal_reaches_the_handler_of_the_program(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as that of a scheduler's library, or the default, which ends the process."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        signal_in_step(monkeypatch, 2, signal.SIGTERM)
        result = train(tiny_config(**SMALL))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]
    assert (result.interrupted_by, result.step) == (signal.SIGTERM, 2)
    assert saved_steps(result.run_folder) == ["step_00000002"]


def test_a_cell_stopped_twice_leaves_nothing_behind(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second Ctrl-C ends the step itself; the folder can be used at once, and so can W&B."""
    finished: list[int] = []
    monkeypatch.setattr(
        "sharpgpt.runs.tracker.RunLog.finish", lambda _, exit_code: finished.append(exit_code)
    )
    handlers = [signal.getsignal(number) for number in SIGNALS]
    signal_in_step(monkeypatch, 3, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(save_interval=2, **SMALL))
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    assert not logging.getLogger("sharpgpt").handlers
    assert finished == [1]
    assert train(tiny_config(resume="auto", **SMALL)).step == 6


def test_ctrl_c_in_a_preparation_is_a_keyboard_interrupt(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a UserError, which a loop that skips what it cannot train on would have caught."""
    documents = tmp_path / "documents.jsonl"
    rows = [json.dumps({"text": f"To be, or not to be, says row {i}."}) for i in range(3000)]
    documents.write_text("\n".join(rows), encoding="utf-8")
    original = Limits.take

    def take(limits: Limits, *given: Any) -> int:
        signal.raise_signal(signal.SIGINT)
        return original(limits, *given)

    config = tiny_config(dataset=str(documents), cache_dir=str(tmp_path / "c"), **SMALL)
    with monkeypatch.context() as patched:
        patched.setattr(Limits, "take", take)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert train(config).step == 6


def test_in_a_thread_no_signal_handler_is_set(tiny_config: MakeConfig) -> None:
    handlers = [signal.getsignal(number) for number in SIGNALS]
    found: list[RunResult] = []
    thread = threading.Thread(target=lambda: found.append(train(tiny_config(**SMALL))))
    thread.start()
    while thread.is_alive():
        assert [signal.getsignal(number) for number in SIGNALS] == handlers
        thread.join(0.05)
    assert found[0].step == 6


def test_an_error_in_the_users_penalty_leaves_the_process_usable(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("in the penalty")

    with monkeypatch.context() as patched:
        patched.setattr(loop, "accumulate_gradients", broken)
        with pytest.raises(ZeroDivisionError):
            train(tiny_config(**SMALL))
    assert not logging.getLogger("sharpgpt").handlers
    assert train(tiny_config(resume="auto", **SMALL)).step == 6


def test_random_states_and_precision_are_the_callers(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    """A call once left PyTorch seeded with the run's seed, and another matmul precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        state = torch.get_rng_state()
        result = train(tiny_config(**SMALL))
        evaluate(result.run_folder, num_texts=2, num_tokens=8, max_blocks=4, device="cpu")
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_time_before_the_call_is_not_the_runs(
    tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run once reported "python and torch 15.5 s": the first run."""
    train(tiny_config(**SMALL))
    [line] = [line for line in capsys.readouterr().out.splitlines() if "first step done" in line]
    assert "(text and tokens" in line
    assert "python and torch" not in line


def test_many_runs_in_one_process_keep_nothing(tiny_config: MakeConfig, tmp_path: Path) -> None:
    """Objects, tensors, threads, open files and handlers after the sixth run and the second."""

    def held() -> dict[str, int]:
        gc.collect()
        objects = gc.get_objects()
        return {
            "objects": len(objects),
            "tensors": sum(issubclass(type(found), torch.Tensor) for found in objects),
            "threads": threading.active_count(),
            "files": len(list(Path("/proc/self/fd").iterdir())),
            "handlers": len(logging.getLogger("sharpgpt").handlers),
        }

    def run(number: int) -> None:
        train(tiny_config(run_name=f"run{number}", save_interval=2, **SMALL))

    for number in range(2):
        run(number)
    before = held()
    for number in range(2, 6):
        run(number)
    after = held()
    assert after.pop("objects") - before.pop("objects") < 400  # a model has some thousands
    assert after == before
