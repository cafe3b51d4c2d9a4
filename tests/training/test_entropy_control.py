"""The controller of entropy_target, on plants whose answer is known, and in a training."""

import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.training import entropy_control
from sharpgpt.training.entropy_control import EntropyController
from sharpgpt.training.schedule import StepValues, step_values


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.from_dict({"entropy_target": 1.5, "penalty_weight": 0.01} | changes)


class Plant:
    """A model whose entropy follows H0 (1 - w)^gain with a lag of some steps, and has noise."""

    def __init__(
        self, settings: TrainingConfig, *, lag: float, gain: float = 1, natural: float = 2
    ):
        self.settings, self.lag, self.gain, self.natural = settings, lag, gain, natural
        self.control, self.step, self.entropy = EntropyController(settings), 0, 4.0
        self.random = torch.Generator().manual_seed(0)

    def run(self, num_steps: int) -> list[float]:
        entropies = []
        for _ in range(num_steps):
            values = self.control.values(step_values(self.step, 10_000, self.settings))
            settled = self.natural * (1 - values.penalty_weight) ** self.gain
            self.entropy += (settled - self.entropy) / self.lag
            noise = 1 + 0.02 * torch.randn((), generator=self.random).item()
            self.control.entropy = self.entropy * noise
            self.step += 1
            self.control.take(values, self.step)
            entropies.append(self.entropy)
        return entropies


@pytest.mark.parametrize("lag", [5, 20, 200])
@pytest.mark.parametrize(("gain", "target"), [(1, 1.5), (1, 2.6), (0.3, 1.5), (2, 0.9)])
def test_the_entropy_follows_its_target(lag: int, gain: float, target: float) -> None:
    """Above and below the natural entropy, for models that follow within few steps or many."""
    plant = Plant(config(entropy_target=target, penalty_warmup_steps=50), lag=lag, gain=gain)
    plant.run(1500)
    late = plant.run(500)
    # Without its proportional term it would swing by 0.4% to 1.2% where the model is slow.
    assert sum(abs(one / target - 1) for one in late) / len(late) < (0.003 if lag == 200 else 0.02)


def test_the_warm_up_has_its_scheduled_weights() -> None:
    plant = Plant(config(penalty_weight=0.2, penalty_warmup_steps=4), lag=5)
    weights = []
    for _ in range(6):
        plant.run(1)
        weights.append(plant.control.weight)
    assert weights[:5] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert weights[5] > 0.2
    values = StepValues(1.0, 0.07, False, 1.0, 0.9, 1)
    assert plant.control.values(values) is values


def test_what_is_out_of_reach_is_said_once_and_left_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The integral stays within the bounds, so it does not have to come back from far."""
    plant = Plant(config(entropy_target=0.3, penalty_weight_bounds=[-0.5, 0.5]), lag=10)
    with caplog.at_level(logging.WARNING):
        plant.run(900)
    assert plant.control.weight == 0.5
    [note] = [record.message for record in caplog.records]
    assert "entropy_target 0.3 is out of reach" in note
    assert "at its bound of 0.5 for 200 steps" in note
    plant.natural = 0.4
    plant.run(100)
    assert plant.control.weight < 0.45
    for entropy in (math.nan, math.inf, 0.0):
        plant.control.entropy = entropy
        plant.control.take(step_values(1, 10, plant.settings), 1)
        assert -0.5 <= plant.control.state().next <= 0.5


def test_a_checkpoint_holds_all_that_it_remembers() -> None:
    settings = config(penalty_warmup_steps=3)
    one, other = Plant(settings, lag=10), Plant(settings, lag=10)
    one.run(30)
    other.control.restore(one.control.state())
    other.entropy, other.step = one.entropy, one.step
    other.random.set_state(one.random.get_state())
    assert other.control.weight == one.control.weight
    assert one.run(30) == other.run(30)
    other.control.restore(None)  # of a run without a controller: it goes on


def test_the_same_past_needs_the_same_steps_under_control() -> None:
    """With a first weight of 0 in all steps, the end of the warm-up still is another past."""
    early, late = (config(penalty_warmup_steps=steps) for steps in (3, 5))
    assert step_values(4, 9, early).is_controlled
    assert not step_values(4, 9, late).is_controlled
    assert not step_values(4, 9, config(entropy_target=None)).is_controlled


@pytest.mark.usefixtures("quick_runs")
def test_a_training_has_the_entropy_of_its_rows_and_the_weight_of_the_controller(
    tiny_config: Callable[..., TrainingConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measured entropy is train/entropy, over micro-batches too; the logged weight is used."""
    from sharpgpt.training.train import train
    from tests.run_reading import records

    seen = []
    take = EntropyController.take

    def watched(self: EntropyController, values: StepValues, step: int) -> None:
        seen.append((self.entropy, values.penalty_weight))
        take(self, values, step)

    monkeypatch.setattr(EntropyController, "take", watched)
    monkeypatch.setattr(entropy_control, "INTEGRAL_GAIN", 0.2)
    result = train(
        tiny_config(
            max_steps=30, log_interval=1, gradient_accumulation_steps=2, batch_size=4,
            penalty_type="neg_entropy", penalty_weight=-0.1, entropy_target=3.0, eval_interval=0,
        )
    )  # fmt: skip
    lines = [line for line in records(result.run_folder) if "train/entropy" in line]
    assert [line["train/entropy"] for line in lines] == pytest.approx(
        [h for h, _ in seen], rel=1e-5
    )
    assert [line["train/penalty_weight"] for line in lines] == [weight for _, weight in seen]
    for line in lines:
        penalised = line["train/ce_loss"] + line["train/penalty_weight"] * line["train/penalty"]
        assert line["train/loss"] == pytest.approx(penalised, rel=1e-5)
    assert lines[0]["train/penalty_weight"] == -0.1
    assert max(weight for _, weight in seen) > 0
    assert lines[-1]["train/entropy"] < lines[0]["train/entropy"] - 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"penalty_weight": 0.0}, "penalty_weight: given 0 with entropy_target, allowed is"),
        ({"penalty_weight": 0.95}, "a weight from -1 to 0.9"),
        ({"penalty_schedule": "linear"}, "given with penalty_schedule linear, allowed is constant"),
        (
            {"penalty_weight_bounds": [0.5, 0.1]},
            "given 0.5 and 0.1, allowed is a smaller one first",
        ),
        ({"entropy_target": 0.0}, "entropy_target: given 0.0"),
        ({"entropy_target": 11.0}, "less than the largest entropy over 50257 tokens, 10.82 nats"),
    ],
)
def test_settings_that_contradict_it_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(**changes)
    assert message in str(error.value)
