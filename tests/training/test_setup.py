"""Which checkpoints a run may continue: other schedules are allowed where they change no past."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.runtime.device import Device
from sharpgpt.training import setup
from sharpgpt.training.setup import Setup
from sharpgpt.training.train import train
from tests.run_reading import checkpoint_state, checkpoint_tensors, records

MakeConfig = Callable[..., TrainingConfig]
pytestmark = pytest.mark.usefixtures("quick_runs")
SETTINGS: dict[str, Any] = {
    "lr_schedule": "wsd", "min_lr_ratio": 0.0, "lr_decay_fraction": 0.25, "warmup_steps": 2,
    "max_steps": 16, "save_interval": 4, "keep_checkpoints": 9, "dropout": 0.1, "batch_size": 2,
    "max_seq_length": 16, "n_embd": 16, "log_interval": 3, "num_generate_samples": 0,
    "penalty_type": "neg_entropy", "penalty_weight": 0.1, "eval_interval": 0, "eval_max_blocks": 4,
}  # fmt: skip


def test_a_branch_of_a_wsd_run_is_the_run_that_was_planned_so(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trunk = train(tiny_config(**SETTINGS, run_name="trunk")).run_folder

    def branch(step: int, name: str, **changes: Any) -> Any:
        source = trunk / "checkpoints" / f"step_{step:08d}"
        again = TrainingConfig.from_yaml(trunk / "config.yaml").to_dict()
        return train(
            TrainingConfig.from_dict(again | changes | {"run_name": name, "resume": str(source)})
        )

    planned = train(tiny_config(**SETTINGS | {"max_steps": 10, "run_name": "planned"}))
    ours = branch(8, "branch", max_steps=10)
    assert "max_steps 16 -> 10" in capsys.readouterr().out
    assert_same_end(ours.checkpoint, planned.checkpoint)
    later = [event for event in records(planned.run_folder) if event["step"] > 8]
    assert records(ours.run_folder) == later
    rates = [event["train/learning_rate"] for event in later if "train/learning_rate" in event]
    assert rates == [3e-3 / 2, 0.0], "the decay is seen"

    with pytest.raises(
        UserError, match=r"max_steps 16 -> 14 \(the decay would begin after step 10"
    ):
        branch(12, "early", max_steps=14)
    with pytest.raises(UserError, match=r"\(the decay began after step 12: continue a checkpoint"):
        branch(16, "late", max_steps=40)
    with pytest.raises(
        UserError, match=r"lr_schedule 'wsd' -> 'linear'; min_lr_ratio 0\.0 -> 0\.1\. U"
    ):
        branch(8, "linear", lr_schedule="linear", min_lr_ratio=0.1)
    with pytest.raises(UserError, match=r"learning_rate 0\.003 -> 0\.001\. Use the settings"):
        branch(8, "slower", learning_rate=1e-3)
    monkeypatch.setattr(setup, "MAX_COMPARED_STEPS", 7)
    with pytest.raises(UserError, match=r"max_steps 16 -> 10\. Use the settings"):
        branch(8, "unknown", max_steps=10)


def assert_same_end(one: Path, other: Path) -> None:
    a, b = checkpoint_tensors(one), checkpoint_tensors(other)
    assert a.keys() == b.keys()
    assert all(a[name].equal(b[name]) for name in a)
    assert checkpoint_state(one) == checkpoint_state(other)


def setup_of(config: TrainingConfig) -> Setup:
    tokenizer = SimpleNamespace(fingerprint="vocabulary")
    data = SimpleNamespace(source={"sha256": "text"}, tokenizer=tokenizer, train_tokens=range(9999))
    device = Device(torch.device("cpu"), torch.float32)
    return Setup(config, device, None, data=data, causal_lm=None)  # type: ignore[arg-type]


def state_of(step: int, settings: dict[str, Any]) -> Any:
    return SimpleNamespace(
        text="text", vocabulary="vocabulary", arithmetic="float32", blocks_per_step=32,
        step=step, config=settings,
    )  # fmt: skip


def test_a_setting_that_did_not_exist_had_its_default() -> None:
    """An old checkpoint was continued with a new schedule as if nothing had changed."""
    config = TrainingConfig(lr_schedule="linear", max_steps=1000)
    ours, old = setup_of(config), config.to_dict()
    del old["lr_schedule"]
    in_warmup = ours.accepted_changes(state_of(5, old))
    assert in_warmup == ["lr_schedule 'cosine' -> 'linear'"], "no step taken had another rate"
    with pytest.raises(UserError, match=r"lr_schedule 'cosine' -> 'linear'\. Use the settings"):
        ours.accepted_changes(state_of(502, old))
    assert ours.accepted_changes(state_of(502, config.to_dict())) == []


def test_a_batch_warmup_may_be_divided_otherwise_and_not_be_another() -> None:
    """What fits into the memory may change; the blocks of a step may not."""
    warmup: dict[str, Any] = {"batch_warmup_steps": 9, "max_steps": 1000}
    old = TrainingConfig(**warmup, batch_size=8, gradient_accumulation_steps=4).to_dict()
    half: dict[str, Any] = {**warmup, "batch_size": 4, "gradient_accumulation_steps": 8}
    same = setup_of(TrainingConfig(**half, batch_warmup_start=2))
    for step in (0, 5, 500):
        changed = same.accepted_changes(state_of(step, old))
        assert "batch_warmup_start 1 -> 2" in changed
    with pytest.raises(UserError, match="mathematics: blocks_in_first_step 8 -> 4"):
        setup_of(TrainingConfig(**half)).accepted_changes(state_of(5, old))
    longer = setup_of(TrainingConfig(**warmup | {"batch_warmup_steps": 12}))
    assert longer.accepted_changes(state_of(3, old)) == ["batch_warmup_steps 9 -> 12"]
    with pytest.raises(UserError, match="mathematics: batch_warmup_steps 9 -> 12"):
        longer.accepted_changes(state_of(4, old))
