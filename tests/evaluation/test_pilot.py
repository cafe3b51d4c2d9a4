"""What a comparison tells about the size of a study."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.evaluation.pilot import Pilot, Question, Variances
from sharpgpt.evaluation.power import power
from sharpgpt.evaluation.verdict import compare
from tests.conftest import REPOSITORY
from tests.evaluation.test_power import differences


def control(seed: float, text: float, rest: float | None = 0.0, seeds: int = 4) -> dict[str, Any]:
    return {
        "seed_error": seed, "text_error": text, "rest_error": rest, "note": "",
        "differences": [0.0] * seeds,
    }  # fmt: skip


NO_SEEDS = {"seed_error": None}


def pilot_content() -> dict[str, Any]:
    """Two arms of four seeds, the first with a control of more variance; and one of one seed."""
    wide = {"temperature": control(0.001, 0.0002), "a map": control(0.002, 0.0005, 0.0003)}
    return {
        "models": [
            {"name": "wide", "controls": wide},
            {"name": "narrow", "controls": {"temperature": control(0.0005, 0.0005, 0.0003)}},
            {"name": "alone", "controls": {"temperature": control(0, 0, None, 1) | NO_SEEDS}},
        ],
        "data": {"num_blocks": 1000, "block_length_tokens": 64}, "margin": 0.001,
        "error_rate": 0.05,
    }  # fmt: skip


def question(**changed: Any) -> Question:
    values = {"detect": 0.003, "margin": 0.001, "error_rate": 0.05, "num_arms": 2, "target": 0.8}
    return Question(**values | changed)


def test_the_variances_are_those_that_the_differences_were_made_with() -> None:
    """4 between seeds, 0.25 of the text, 1 of the rest; the mean of 200 pilots."""
    random, found = np.random.default_rng(0), []
    for _ in range(200):
        compared = compare(differences(random, 0.0, 6))
        found.append(Variances.of_control(vars(compared)))
    for name, true in (("seed", 4), ("text", 0.25), ("rest", 1)):
        values = [getattr(one, name) for one in found]
        error = np.std(values) / math.sqrt(len(values))
        assert np.mean(values) == pytest.approx(true, abs=4 * error)
    assert {one.num_seeds for one in found} == {6}


def test_a_pilot_takes_the_widest_control_of_each_arm_and_the_mean_over_arms() -> None:
    pilot = Pilot.of(pilot_content(), "pilot")
    assert [*pilot.arms] == ["wide", "narrow"]
    wide, narrow = pilot.arms.values()
    assert wide.seed == pytest.approx(4 * (0.002**2 - 0.0003**2))
    assert wide.text == pytest.approx(0.0005**2 - 0.0003**2)
    assert wide.rest == pytest.approx(4 * 0.0003**2)
    assert pilot.variances.seed == pytest.approx((wide.seed + narrow.seed) / 2)
    assert pilot.num_tokens == 64_000
    low, high = (pilot.at_end(wide, upper=upper).seed for upper in (False, True))
    assert low < wide.seed < high
    assert high / wide.seed > 10, "three degrees of freedom tell little"


def test_what_is_needed_has_the_power_and_less_has_not() -> None:
    pilot = Pilot.of(pilot_content(), "pilot")
    found = pilot.variances
    seeds = pilot.seeds_needed(question(), found, num_blocks=1000)
    assert seeds is not None
    stated = power(
        seed_variance=found.seed,
        text_variance=found.text,
        rest_variance=found.rest,
        num_seeds=seeds,
        detect=0.003,
        num_arms=2,
    )
    assert stated == pilot.power(question(), found, num_seeds=seeds, num_blocks=1000) >= 0.8
    assert pilot.power(question(), found, num_seeds=seeds - 1, num_blocks=1000) < 0.8
    tokens = pilot.tokens_needed(question(), found, num_seeds=seeds + 1)
    assert tokens is not None
    assert tokens % 64 == 0
    blocks = tokens // 64
    assert pilot.power(question(), found, num_seeds=seeds + 1, num_blocks=blocks) >= 0.8
    assert pilot.power(question(), found, num_seeds=seeds + 1, num_blocks=blocks - 1) < 0.8
    assert pilot.tokens_needed(question(), found, num_seeds=2) is None, "seeds remain"
    assert pilot.seeds_needed(question(detect=1e-5), found, num_blocks=1000) is None


def test_a_comparison_of_an_earlier_version_understates_the_power() -> None:
    folder = REPOSITORY / "experiments" / "shakespeare_char" / "more_seeds"
    pilot = Pilot.read(folder / "comparison.json")
    assert {one.has_rest for one in pilot.arms.values()} == {False}
    assert pilot.variances.num_seeds == 8
    new, old = (Variances.of_control(control(0.002, 0.001, rest)) for rest in (0.0005, None))
    for seeds in (2, 5, 20):
        apart, together = (
            pilot.power(question(), one, num_seeds=seeds, num_blocks=4 * pilot.num_blocks)
            for one in (new, old)
        )
        assert together <= apart


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": []}, "no arm was compared with at least 2 seeds"),
        ({"models": [{"name": "a", "controls": {"temperature": 1}}]}, "sharpgpt compare writes"),
        ({"margin": None}, "sharpgpt compare writes"),
        ({"error_rate": 7}, "error_rate: given 7"),
        ({"data": {"num_blocks": 2, "block_length_tokens": 4}}, "2 blocks of text"),
        ({"models": [{"name": "a", "controls": {"t": control(1e200, 0)}}]}, "out of range"),
    ],
)
def test_what_is_no_comparison_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    (tmp_path / "comparison.json").write_text(json.dumps(pilot_content() | change))
    with pytest.raises(UserError, match=message):
        Pilot.read(tmp_path / "comparison.json")
