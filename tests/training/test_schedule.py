"""Learning rate and penalty weight as functions of the step."""

import math
from fractions import Fraction
from typing import Any

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.training.schedule import (
    blocks_between,
    learning_rate_at,
    muon_momentum_at,
    num_micro_batches_at,
    penalty_weight_at,
    total_steps,
)


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


def plain_schedule(kind: str, *, warmup: int, total: int, ratio: float, decay: int) -> list[float]:
    """The learning rates of a peak of 1 as docs/recipe.md writes them, in fractions."""
    rates = []
    for s in range(total):
        if s < warmup:
            rates.append(Fraction(s + 1, warmup))
            continue
        if kind == "linear":
            left = 1 - Fraction(s - warmup, total - 1 - warmup)
        else:
            stable = max(warmup, total - decay)
            left = Fraction(1) if s < stable else Fraction(total - 1 - s, total - stable)
        r = Fraction(ratio)
        rates.append(r + (1 - r) * left)
    return [float(rate) for rate in rates]


@pytest.mark.parametrize("ratio", [0.0, 0.25])
@pytest.mark.parametrize(
    ("kind", "settings", "decay"),
    [
        ("linear", {}, 0),
        ("wsd", {}, 20),
        ("wsd", {"lr_decay_fraction": 0.5}, 50),
        ("wsd", {"lr_decay_fraction": 0.0}, 0),
        ("wsd", {"lr_decay_steps": 7, "lr_decay_fraction": 0.5}, 7),
        ("wsd", {"lr_decay_steps": 1}, 1),
        ("wsd", {"lr_decay_steps": 0}, 0),
        ("wsd", {"lr_decay_fraction": 1.0}, 100),
    ],
)
def test_linear_and_wsd_learning_rates(
    kind: str, settings: dict[str, Any], decay: int, ratio: float
) -> None:
    config = TrainingConfig.from_dict(
        {"learning_rate": 1.0, "warmup_steps": 10, "lr_schedule": kind, "min_lr_ratio": ratio}
        | settings
    )
    rates = [learning_rate_at(step, 100, config) for step in range(100)]
    expected = plain_schedule(kind, warmup=10, total=100, ratio=ratio, decay=decay)
    assert rates == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert rates[99] == (1.0 if kind == "wsd" and decay == 0 else ratio)


def test_the_stable_phase_is_the_peak_to_the_bit_whatever_comes_after_it() -> None:
    """A rate a bit below it would make a branch another run than one that was planned so."""
    for ratio in (0.0, 0.1, 0.3, 0.7):
        config = TrainingConfig(
            learning_rate=6e-4, warmup_steps=10, lr_schedule="wsd", min_lr_ratio=ratio
        )
        assert {learning_rate_at(step, 100, config) for step in range(10, 80)} == {6e-4}
    short = TrainingConfig(learning_rate=1.0, warmup_steps=500, lr_schedule="wsd")
    assert learning_rate_at(91, 92, short) == pytest.approx(92 / 500)


def test_the_momentum_of_muon_warms_up() -> None:
    config = TrainingConfig(muon_momentum=0.95, muon_momentum_warmup_steps=100)
    assert muon_momentum_at(0, config) == 0.85
    assert muon_momentum_at(25, config) == pytest.approx(0.875)
    assert muon_momentum_at(100, config) == muon_momentum_at(10**6, config) == 0.95
    assert muon_momentum_at(0, TrainingConfig()) == 0.95
    low = TrainingConfig(muon_momentum=0.5, muon_momentum_warmup_steps=100)
    assert muon_momentum_at(0, low) == muon_momentum_at(99, low) == 0.5


def test_the_batch_warms_up_in_multiples_of_its_start() -> None:
    config = TrainingConfig(
        batch_size=3, gradient_accumulation_steps=8, batch_warmup_steps=9, batch_warmup_start=2
    )
    counts = [num_micro_batches_at(step, config) for step in range(12)]
    assert counts == [2, 2, 2, 4, 4, 4, 6, 6, 6, 8, 8, 8]
    for first in range(12):
        for end in range(first, 12):
            assert blocks_between(first, end, config) == 3 * sum(counts[first:end])
    assert num_micro_batches_at(0, TrainingConfig(gradient_accumulation_steps=8)) == 8
    already_whole = TrainingConfig(
        gradient_accumulation_steps=4, batch_warmup_steps=9, batch_warmup_start=4
    )
    assert num_micro_batches_at(0, already_whole) == 4


@pytest.mark.parametrize("warmup", [0, 1, 7, 40])
def test_epochs_are_of_the_tokens_that_are_read(warmup: int) -> None:
    """The first total of steps that reads them all, as counted one by one."""
    config = TrainingConfig(batch_size=3, gradient_accumulation_steps=8, batch_warmup_steps=warmup)
    for num_blocks in range(1, 400):
        config.num_epochs = 1.5
        read = step = 0
        while read < 1.5 * num_blocks:
            read += 3 * num_micro_batches_at(step, config)
            step += 1
        assert total_steps(config, num_blocks) == step, num_blocks
