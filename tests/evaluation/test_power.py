"""The stated power is that of the rule itself, in simulated studies whose variances are known."""

import json
import math

import numpy as np
import pytest

import sharpgpt
from sharpgpt.evaluation.differences import Difference
from sharpgpt.evaluation.intervals import t_quantile
from sharpgpt.evaluation.power import power, variance_range
from sharpgpt.evaluation.verdict import compare, correct, give_verdict
from tests.conftest import REPOSITORY


def differences(
    random: np.random.Generator, true: float, num_seeds: int, *, num_pairs: int = 50
) -> list[Difference]:
    """Variances of 4, 0.25 and 1 between seeds, of the text and of the rest."""
    values = true + 2 * random.standard_normal((num_seeds, 1))
    values = values + math.sqrt(num_pairs) * (
        0.5 * random.standard_normal((1, num_pairs))
        + random.standard_normal((num_seeds, num_pairs))
    )
    return [Difference(float(one.mean()), one) for one in values]


KNOWN = {"seed_variance": 4.0, "text_variance": 0.25, "rest_variance": 1.0}


@pytest.mark.parametrize(
    ("num_seeds", "num_pairs", "detect", "error_rate"),
    [
        (2, 50, 15, 0.05),
        (3, 50, 6, 0.05),
        (5, 3, 4, 0.02),
        (8, 50, 2.5, 0.05 / 6),
        (30, 50, 1, 0.1),
    ],
)
def test_the_power_is_that_of_the_rule(
    num_seeds: int, num_pairs: int, detect: float, error_rate: float
) -> None:
    """Mean, A and B of 40,000 studies, drawn as power.py says; and 100 studies whose contributions
    are drawn, whose intervals are those of the formula."""
    random, num_studies = np.random.default_rng(num_seeds), 40_000
    mean = random.standard_normal(num_studies) * math.sqrt(4 / num_seeds + 0.25 + 1 / num_seeds)
    a = 5 / num_seeds * random.chisquare(num_seeds - 1, num_studies) / (num_seeds - 1)
    b = (0.25 + 1 / num_seeds) * random.chisquare(num_pairs - 1, num_studies) / (num_pairs - 1)
    level = 1 - error_rate
    degrees = np.linspace(1, num_seeds + num_pairs, 400)
    quantiles = [t_quantile(level, float(one)) for one in degrees]

    def half_width(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        nu = (a + b) ** 2 / (a**2 / (num_seeds - 1) + b**2 / (num_pairs - 1))
        both = np.interp(nu, degrees, quantiles) * np.sqrt(a + b)
        return np.maximum(t_quantile(level, num_seeds - 1) * np.sqrt(a), both)

    found = (mean + detect - half_width(a, b) > 0).mean()
    stated = power(
        **KNOWN, num_seeds=num_seeds, num_pairs=num_pairs, detect=detect, error_rate=error_rate
    )
    assert 0.3 < stated < 0.97
    assert stated == pytest.approx(found, abs=3.5 * math.sqrt(0.25 / num_studies))
    for _ in range(20):
        one = compare(differences(random, 0, num_seeds, num_pairs=num_pairs), error_rate=error_rate)
        assert one.seed_error is not None
        expected = half_width(np.array(one.seed_error**2), np.array(one.text_error**2))
        assert (one.high - one.low) / 2 == pytest.approx(float(expected), rel=2e-3)


def test_studies_that_go_through_the_rule_have_the_power_and_few_false_verdicts() -> None:
    """The short form of benchmarks/bench_power.py: three arms, the first has an effect."""
    random, num_studies, num_seeds, detect = np.random.default_rng(0), 300, 5, 5.5
    stated = power(**KNOWN, num_seeds=num_seeds, detect=detect, num_arms=3)
    assert 0.7 < stated < 0.9
    found = false = 0
    for _ in range(num_studies):
        arms = [
            give_verdict({"temperature": differences(random, true, num_seeds)})
            for true in (-0.001 - detect, 0.0, 0.0)
        ]
        first, *others = (one.corrected for one in correct(arms))
        assert first is not None
        found += first.verdict == "better"
        false += any(one is None or one.verdict != "not distinguishable" for one in others)
    assert abs(found / num_studies - stated) < 3 * math.sqrt(stated * (1 - stated) / num_studies)
    assert false / num_studies <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / num_studies)


def test_the_power_grows_with_what_it_should_grow_with() -> None:
    def at(**changed: float) -> float:
        values = {**KNOWN, "num_seeds": 5, "detect": 4.0} | changed
        return sharpgpt.power(**values)  # type: ignore[arg-type]

    assert at(num_seeds=6) > at() > at(num_seeds=4)
    assert at(detect=5) > at() > at(num_arms=4) > at(num_arms=40)
    assert at(error_rate=0.1) > at() > at(text_variance=1) > at(text_variance=2)
    assert at() == at(margin=0.5), "only the excess over the margin counts"
    assert at(error_rate=0.05 / 4) == pytest.approx(at(num_arms=4), rel=1e-12)
    assert at(detect=0) < 0.025 + 1e-3, "at the margin it is the rate of false verdicts"
    assert at(seed_variance=0, text_variance=0, rest_variance=0) == 1
    assert at(detect=0, seed_variance=0, text_variance=0, rest_variance=0) == 0
    assert at(num_seeds=1, seed_variance=0) == at(num_seeds=1), "about these two models"
    assert at(num_seeds=400, num_pairs=2) <= 1


def test_the_range_of_a_variance_is_that_of_chi_square() -> None:
    """Against the tables of its quantiles at 0.975 and 0.025."""
    for degrees, high, low in ((1, 5.0239, 0.00098207), (2, 7.3778, 0.050636), (9, 19.023, 2.7004)):
        expected = (degrees / high, degrees / low)
        assert variance_range(degrees) == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed_variance": -1.0}, "seed_variance: given -1"),
        ({"text_variance": math.nan}, "text_variance: given nan"),
        ({"detect": math.inf}, "detect: given inf"),
        ({"margin": 0.0}, "margin: given 0.0, allowed is at least 1e-05"),
        ({"error_rate": 1.0}, "error_rate: given 1.0"),
        ({"num_seeds": 0}, "num_seeds: given 0, allowed is at least 1"),
        ({"num_pairs": 1}, "num_pairs: given 1, allowed is at least 2"),
        ({"num_arms": 0}, "num_arms: given 0, allowed is 1 to 10000"),
    ],
)
def test_impossible_values_are_refused(changed: dict[str, float], message: str) -> None:
    values = {**KNOWN, "num_seeds": 3, "detect": 1.0} | changed
    with pytest.raises(ValueError, match=message):
        power(**values)  # type: ignore[arg-type]


def test_the_committed_benchmark_is_as_the_docs_say() -> None:
    """docs/verdict.md repeats its numbers."""
    file = REPOSITORY / "benchmarks" / "results" / "power.json"
    figures = json.loads(file.read_text("utf-8"))["figures"]
    assert figures["studies of each case"] == 5000
    apart = {name: one["points apart"] for name, one in figures["of_power"].items()}
    assert len(apart) == 11
    assert round(apart.pop("4 arms, 8 seeds, all have it")) == 12
    assert max(map(abs, apart.values())) < 1
    false = figures["of_false_verdicts"].values()
    assert len(false) == 8
    before = [100 * one["any false verdict"] for one in false]
    assert (round(min(before)), round(max(before))) == (9, 31)
    assert max(one["any false corrected verdict"] for one in false) < 0.04
    assert max(one["corrected, 95% interval"][1] for one in false) < 0.05
