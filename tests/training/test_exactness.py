"""A run that is stopped and resumed is the run that was never stopped, bit for bit on the CPU."""

import json
import shutil
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.training import after_step, loop
from sharpgpt.training.train import run_training, train
from tests.run_reading import assert_same_run, checkpoint_state, checkpoint_tensors, records

MakeConfig = Callable[..., TrainingConfig]
pytestmark = pytest.mark.usefixtures("quick_runs")
SETTINGS: dict[str, Any] = {
    "max_steps": 9,
    "gradient_accumulation_steps": 2,
    "batch_size": 2,
    "max_seq_length": 16,
    "n_embd": 16,
    "dropout": 0.1,
    "penalty_weight": 0.2,
    "penalty_warmup_steps": 3,
    "penalty_schedule": "cosine",
    "log_interval": 4,
    "eval_interval": 3,
    "eval_max_blocks": 6,
    "generate_interval": 3,
    "keep_checkpoints": 20,
}


@pytest.fixture
def stop_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Send SIGTERM inside the n-th call of a function, counted over all runs of the test."""

    def make(module: Any, name: str, calls: Callable[[int], bool]) -> None:
        original, count = getattr(module, name), 0

        def stopping(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if calls(count):
                signal.raise_signal(signal.SIGTERM)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, stopping)

    return make


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_stopped_after_every_single_step(
    tiny_config: MakeConfig,
    stop_in: Callable[..., None],
    optimizer: str,
) -> None:
    settings = SETTINGS | {"optimizer": optimizer}
    whole = train(tiny_config(run_name="whole", **settings))
    stop_in(loop, "clip_gradients", lambda call: call <= 9)
    for step in range(1, 10):
        result = run_training(tiny_config(run_name="parts", resume="auto", **settings))
        assert result.step == step
        assert result.interrupted_by == signal.SIGTERM
    # The validation and the samples of the last step are still due.
    result = train(tiny_config(run_name="parts", resume="auto", **settings))
    assert result.interrupted_by is None
    assert_same_run(whole, result)


def test_all_of_the_recipe_stopped_and_continued(
    tiny_config: MakeConfig, stop_in: Callable[..., None]
) -> None:
    """Muon with second moments, its momentum and the batch still rising, a decay under way."""
    settings = SETTINGS | {
        "optimizer": "muon", "muon_normalization": "neuron", "muon_split_qkv": True,
        "muon_momentum_warmup_steps": 5, "muon_learning_rate": 0.02, "muon_weight_decay": 0.01,
        "lr_schedule": "wsd", "lr_decay_steps": 3, "min_lr_ratio": 0.0,
        "gradient_accumulation_steps": 4, "batch_warmup_steps": 5,
    }  # fmt: skip
    whole = train(tiny_config(run_name="whole", **settings))
    stop_in(loop, "clip_gradients", lambda call: call in (2, 4, 8))
    for step in (2, 4, 8):
        parts = run_training(tiny_config(run_name="parts", resume="auto", **settings))
        assert parts.step == step
    result = train(tiny_config(run_name="parts", resume="auto", **settings))
    assert_same_run(whole, result)
    assert whole.checkpoint is not None
    names = checkpoint_tensors(whole.checkpoint)
    assert "optimizer/transformer.h.0.attn.c_attn.weight/second_moment" in names
    # 2 blocks a micro-batch; 1, 1, 2, 2, 3 of them in the warm-up, then 4.
    assert checkpoint_state(whole.checkpoint)["next_block"] == 2 * (9 + 4 * 4)


def test_the_controller_of_the_entropy_is_continued(
    tiny_config: MakeConfig, stop_in: Callable[..., None]
) -> None:
    """Stopped in the warm-up of the penalty, as it ends, and after: the same weights follow."""
    settings = SETTINGS | {"penalty_schedule": "constant", "entropy_target": 2.0, "log_interval": 1}
    whole = train(tiny_config(run_name="whole", **settings))
    stop_in(loop, "clip_gradients", lambda call: call in (2, 3, 6))
    for step in (2, 3, 6):
        parts = run_training(tiny_config(run_name="parts", resume="auto", **settings))
        assert parts.step == step
    assert_same_run(whole, train(tiny_config(run_name="parts", resume="auto", **settings)))
    lines = [line for line in records(whole.run_folder) if "train/penalty_weight" in line]
    weights = [line["train/penalty_weight"] for line in lines]
    assert weights[:4] == pytest.approx([0, 0.2 / 3, 0.4 / 3, 0.2])
    assert weights[3:] == sorted(set(weights[3:])), "the entropy is above its target"


@pytest.mark.parametrize(
    "optimizer", [torch.optim.NAdam, torch.optim.Adafactor, torch.optim.Adagrad]
)
def test_any_optimizer_of_pytorch_is_saved_and_continued(
    tiny_config: MakeConfig,
    stop_in: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    optimizer: type[torch.optim.Optimizer],
) -> None:
    """No table names what an optimizer keeps: a name that was forgotten there broke resuming."""

    def create(groups: Any, *, lr: float, **_: Any) -> torch.optim.Optimizer:
        return optimizer(groups, lr=lr)  # type: ignore[call-arg]

    monkeypatch.setattr(torch.optim, "AdamW", create)
    whole = train(tiny_config(run_name="whole", **SETTINGS))
    stop_in(loop, "clip_gradients", lambda call: call in (1, 6))
    for step in (1, 6):
        parts = run_training(tiny_config(run_name="parts", resume="auto", **SETTINGS))
        assert parts.step == step
    assert_same_run(whole, train(tiny_config(run_name="parts", resume="auto", **SETTINGS)))


@pytest.mark.parametrize("what", ["evaluate", "generate_texts"])
def test_interrupted_in_each_validation_or_sample(
    tiny_config: MakeConfig, stop_in: Callable[..., None], what: str
) -> None:
    whole = train(tiny_config(run_name="whole", **SETTINGS))
    stop_in(after_step, what, lambda call: call % 2 == 1)
    steps = []
    for _ in range(4):
        result = run_training(tiny_config(run_name="parts", resume="auto", **SETTINGS))
        steps.append((result.step, result.interrupted_by))
    assert steps == [(3, 15), (6, 15), (9, 15), (9, None)]
    assert_same_run(whole, result)
    best = json.loads((result.run_folder / "summary.json").read_text("utf-8"))["best"]
    assert best == json.loads((whole.run_folder / "summary.json").read_text("utf-8"))["best"]


@pytest.mark.parametrize("background", [True, False])
def test_killed_between_checkpoints(tiny_config: MakeConfig, background: bool) -> None:
    """What a kill leaves: later records, half a line, and a checkpoint half written."""
    settings = SETTINGS | {"save_interval": 5, "background_saving": background, "max_steps": 13}
    whole = train(tiny_config(run_name="whole", **settings))
    train(tiny_config(run_name="parts", **settings))
    folder = whole.run_folder.with_name("parts")
    checkpoints = folder / "checkpoints"
    shutil.rmtree(checkpoints / "step_00000010")
    half = (checkpoints / "step_00000013").rename(checkpoints / ".unfinished_step_00000013")
    (half / "checkpoint.json").unlink()
    for name in ("metrics.jsonl", "samples.jsonl"):
        with open(folder / name, "a", encoding="utf-8") as file:
            file.write('{"step": 14, "te')
    (folder / ".config.yaml.abcdefgh.tmp").write_text("", encoding="utf-8")
    result = train(tiny_config(run_name="parts", resume="auto", **settings))
    assert_same_run(whole, result)
    assert not half.exists()
    assert not (folder / ".config.yaml.abcdefgh.tmp").exists()


def test_killed_after_late_validation_is_not_validated_twice(
    tiny_config: MakeConfig, stop_in: Callable[..., None]
) -> None:
    whole = train(tiny_config(run_name="whole", **SETTINGS))
    stop_in(after_step, "evaluate", lambda call: call == 1)
    stop_in(loop, "accumulate_gradients", lambda call: call == 4)
    for steps in (3, 4):
        parts = run_training(tiny_config(run_name="parts", resume="auto", **SETTINGS))
        assert parts.step == steps
    folder = whole.run_folder.with_name("parts")
    shutil.rmtree(folder / "checkpoints" / "step_00000004")  # as if killed instead
    result = train(tiny_config(run_name="parts", resume="auto", **SETTINGS))
    assert_same_run(whole, result)
