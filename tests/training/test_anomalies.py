"""Spikes, skipped steps, and what a checkpoint keeps of them."""

import json
import math
import random

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.runs.state import WatchState
from sharpgpt.training.anomalies import MAX_ROLLBACKS, MIN_LOSSES, AnomalyDetector, Verdict


def detector(**settings: object) -> AnomalyDetector:
    return AnomalyDetector(TrainingConfig(**settings))  # type: ignore[arg-type]


def feed(one: AnomalyDetector, losses: list[float]) -> list[Verdict]:
    return [one.judge(loss, 1.0) for loss in losses]


def noisy(num: int, level: float = 3.0, width: float = 0.1, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(level, width) for _ in range(num)]


@pytest.mark.parametrize("width", [0.0, 1e-4, 0.05, 0.5])
def test_noise_and_falling_losses_are_no_spikes(width: float) -> None:
    one = detector()
    fall = [8 * math.exp(-step / 200) for step in range(3000)]
    feed(one, [loss + drop for loss, drop in zip(noisy(3000, width=width), fall, strict=True)])
    assert one.num_loss_spikes == 0


def test_the_limit_is_the_median_and_ten_spreads() -> None:
    one = detector()
    feed(one, [2.0, 3.0, 4.0] * 20)
    assert one.spike_limit() == pytest.approx(3 + 10 * 1)
    steady = detector(spike_threshold=5)
    feed(steady, [3.0] * 50)
    assert steady.spike_limit() == pytest.approx(3 + 5 * 0.02)
    assert steady.is_spike(3.11)
    assert not steady.is_spike(3.09)


def test_one_spike_counts_once_however_long_it_lasts() -> None:
    one = detector()
    feed(one, noisy(60))
    assert feed(one, [9.0, 9.5, 8.0, 3.0, 9.0, 3.0]) == [Verdict.TAKE] * 6
    assert one.num_loss_spikes == 2


def test_nothing_is_a_spike_before_there_is_something_to_compare_with() -> None:
    one = detector()
    feed(one, [3.0] * (MIN_LOSSES - 1) + [1e9])
    assert one.num_loss_spikes == 0


def test_a_spike_rolls_back_a_few_times_and_then_goes_through() -> None:
    one = detector(on_spike="rollback")
    feed(one, noisy(60))
    state = one.state()
    for number in range(MAX_ROLLBACKS):
        assert one.judge(9.0, 1.0) is Verdict.ROLL_BACK
        assert one.may_roll_back_to(60)
        one.restore(state, after_rollback=True)
        assert (one.num_rollbacks, one.num_loss_spikes) == (number + 1, number + 1)
    assert one.judge(9.0, 1.0) is Verdict.ROLL_BACK
    assert not one.may_roll_back_to(60)
    one.take(9.0)
    assert one.judge(3.0, 1.0) is Verdict.TAKE
    assert one.judge(9.0, 1.0) is Verdict.ROLL_BACK
    assert not one.may_roll_back_to(60)  # whatever was saved in between, or could not be
    assert one.may_roll_back_to(65)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stops_or_is_skipped(number: float) -> None:
    one = detector()
    before = one.state()
    assert one.judge(number, 1.0) is one.judge(1.0, number) is Verdict.STOP
    assert one.state() == before
    one = detector(on_nonfinite="skip", max_skipped_steps=3)
    for _ in range(4):
        assert [one.judge(number, 1.0), one.judge(1.0, number)] == [Verdict.SKIP] * 2
        assert one.judge(1.0, 1.0) is Verdict.TAKE
    assert one.counts()["train/num_skipped_steps"] == 8
    assert [one.judge(number, 1.0) for _ in range(3)] == [Verdict.SKIP] * 2 + [Verdict.STOP]


def test_a_restored_detector_judges_the_same() -> None:
    one = detector(on_nonfinite="skip", spike_threshold=3)
    losses = [*noisy(150, width=0.5), math.nan, 9.0, 9.0]
    feed(one, losses)
    other = detector(on_nonfinite="skip", spike_threshold=3)
    other.restore(WatchState.model_validate_json(json.dumps(one.state().model_dump())))
    assert feed(one, noisy(300, width=0.6, seed=1)) == feed(other, noisy(300, width=0.6, seed=1))
    assert one.state() == other.state()
