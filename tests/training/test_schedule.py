"""Learning rate and penalty weight as functions of the step."""

import math

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.training.schedule import learning_rate_at, penalty_weight_at


def test_learning_rate_warms_up_and_decays_to_its_minimum() -> None:
    config = TrainingConfig(learning_rate=1.0, warmup_steps=10, min_lr_ratio=0.1)
    rates = [learning_rate_at(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == max(rates) == 1.0
    assert rates[99] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[10 + 44] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 44 / 89)))


def test_learning_rate_of_runs_that_are_all_warm_up_or_one_step() -> None:
    config = TrainingConfig(learning_rate=1.0, warmup_steps=500)
    assert learning_rate_at(91, 92, config) == pytest.approx(92 / 500)
    assert learning_rate_at(0, 1, TrainingConfig(learning_rate=1.0, warmup_steps=0)) == 1.0


@pytest.mark.parametrize(
    ("schedule", "middle", "last"),
    [("constant", 2.0, 2.0), ("linear", 1.25, 0.5), ("cosine", 1.25, 0.5)],
)
def test_penalty_schedules(schedule: str, middle: float, last: float) -> None:
    config = TrainingConfig.from_dict(
        {
            "penalty_weight": 2.0,
            "penalty_warmup_steps": 10,
            "penalty_schedule": schedule,
            "penalty_final_ratio": 0.25,
        }
    )
    weights = [penalty_weight_at(step, 111, config) for step in range(111)]
    assert weights[0] == 0
    assert weights[5] == pytest.approx(1.0)
    assert weights[10] == 2.0
    assert weights[60] == pytest.approx(middle)
    assert weights[110] == pytest.approx(last)


def test_a_final_ratio_above_one_grows() -> None:
    config = TrainingConfig(penalty_weight=-0.1, penalty_schedule="linear", penalty_final_ratio=3.0)
    assert penalty_weight_at(99, 100, config) == pytest.approx(-0.3)
