"""Is the power that `sharpgpt power` states true, and are the corrected verdicts as seldom false as
they say? Simulated studies with known variances go through the rule.

    python benchmarks/bench_power.py

A minute on one core; everything is fixed by seeds. The arms of a study share its baseline and its
text, so half the variance of each difference is common to all arms. Whole batches of studies are
judged at once by the formulas of docs/verdict.md; of each case the first studies also go through
`give_verdict` and `correct`, and must have the same p-values.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from record import write_result

from sharpgpt.evaluation.differences import Difference
from sharpgpt.evaluation.intervals import t_tails
from sharpgpt.evaluation.power import power
from sharpgpt.evaluation.verdict import ERROR_RATE, MARGIN, correct, give_verdict

Floats = npt.NDArray[np.float64]

NUM_STUDIES = 5000
BATCH, NUM_CHECKED = 500, 5


@dataclass(frozen=True)
class Setting:
    """Standard deviations of a difference in nats, and the true differences of the arms."""

    between_seeds: float
    text: float
    rest: float
    num_seeds: int
    arms: tuple[float, ...]
    num_pairs: int = 50
    margin: float = MARGIN


def contributions(setting: Setting, random: np.random.Generator, number: int) -> Floats:
    """Of so many studies, [study, arm, seed, pair]."""
    # With one seed the true difference is that of these two models.
    between_seeds = setting.between_seeds if setting.num_seeds > 1 else 0.0
    per_pair = math.sqrt(setting.num_pairs)

    def sides(num_arms: int) -> Floats:
        """What a model and its text add: half the variance of a difference."""
        shape = (number, num_arms, setting.num_seeds, setting.num_pairs)
        values = per_pair * setting.rest * random.standard_normal(shape)
        values += per_pair * setting.text * random.standard_normal((*shape[:2], 1, shape[3]))
        values += between_seeds * random.standard_normal((*shape[:3], 1))
        return values / math.sqrt(2)

    true = np.array(setting.arms)[:, None, None]
    return true + sides(len(setting.arms)) - sides(1)


def judged(setting: Setting, values: Floats) -> tuple[Floats, Floats]:
    """Mean difference and p-value of each arm, [study, arm]."""
    num_seeds, num_pairs = values.shape[2:]
    mean = values.mean((2, 3))
    excess = np.maximum(np.abs(mean) - setting.margin, 0)
    text = values.mean(2).var(2, ddof=1) / num_pairs
    if num_seeds == 1:
        return mean, tails(excess / np.sqrt(text), np.full_like(mean, num_pairs - 1))
    seeds = values.mean(3).var(2, ddof=1) / num_seeds
    degrees = (seeds + text) ** 2 / (seeds**2 / (num_seeds - 1) + text**2 / (num_pairs - 1))
    alone = tails(excess / np.sqrt(seeds), np.full_like(mean, num_seeds - 1))
    return mean, np.maximum(alone, tails(excess / np.sqrt(seeds + text), degrees))


NODES = 1 / np.linspace(1 / 100, 1, 100)
RATIOS = np.concatenate([np.linspace(0, 12, 241), np.geomspace(12.5, 1e5, 160)])
TABLE = np.log([[max(t_tails(float(x), float(nu)), 1e-300) for x in RATIOS] for nu in NODES])


def tails(ratios: Floats, degrees: Floats) -> Floats:
    """`t_tails` of arrays, from a table of its logarithm."""
    place = (1 / degrees - 1 / NODES[0]) / (1 / NODES[1] - 1 / NODES[0])
    low = np.clip(np.floor(place).astype(int), 0, len(NODES) - 2)
    share = np.clip(place - low, 0, 1)
    column = np.clip(np.searchsorted(RATIOS, ratios) - 1, 0, len(RATIOS) - 2)
    along = (ratios - RATIOS[column]) / (RATIOS[column + 1] - RATIOS[column])

    def at(row: npt.NDArray[np.int64]) -> Floats:
        return TABLE[row, column] * (1 - along) + TABLE[row, column + 1] * along

    return np.asarray(np.exp(at(low) * (1 - share) + at(low + 1) * share))


def holm(p_values: Floats) -> Floats:
    """Adjusted p-values of each study, [study, arm]."""
    order, num_arms = p_values.argsort(1), p_values.shape[1]
    steps = np.take_along_axis(p_values, order, 1) * np.arange(num_arms, 0, -1)
    adjusted = np.empty_like(p_values)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(steps, 1), 1), 1)
    return adjusted


def studies(setting: Setting, seed: int) -> tuple[Floats, Floats, Floats]:
    """Mean differences, p-values and adjusted p-values of all studies, [study, arm]."""
    random, found = np.random.default_rng(seed), []
    for number in range(0, NUM_STUDIES, BATCH):
        values = contributions(setting, random, BATCH)
        mean, p_values = judged(setting, values)
        adjusted = holm(p_values)
        found.append((mean, p_values, adjusted))
        if number == 0:
            check_against_the_rule(setting, values[:NUM_CHECKED], p_values, adjusted)
    mean, p_values, adjusted = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return mean, p_values, adjusted


def check_against_the_rule(
    setting: Setting, values: Floats, p_values: Floats, adjusted: Floats
) -> None:
    """The first studies have the p-values of `give_verdict` and `correct`."""
    for study, expected, corrected in zip(values, p_values, adjusted, strict=False):
        verdicts = [
            give_verdict(
                {"temperature": [Difference(float(seed.mean()), seed) for seed in arm]},
                margin=setting.margin,
            )
            for arm in study
        ]
        np.testing.assert_allclose(
            [one.p_value for one in verdicts], expected, rtol=0.02, atol=1e-5
        )
        found = [one.corrected.p_value for one in correct(verdicts) if one.corrected]
        np.testing.assert_allclose(found, corrected, rtol=0.02, atol=1e-4)


def interval(count: int, number: int) -> tuple[float, float]:
    """Of a share, 95% (Wilson)."""
    z, share = 1.96, count / number
    middle = (share + z**2 / (2 * number)) / (1 + z**2 / number)
    half = (
        z * math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2)) / (1 + z**2 / number)
    )
    return round(max(0.0, middle - half), 4), round(middle + half, 4)


def of_power() -> dict[str, dict[str, object]]:
    """The stated power of the first arm, and how often it got its verdict.

    Holm's procedure finds more than the stated power where other arms have effects too.
    """
    cases = {
        "1 arm, 1 seed": Setting(0.0, 0.001, 0.0005, 1, (0.0042,)),
        "1 arm, 2 seeds": Setting(0.001, 0.0003, 0.0005, 2, (0.012,)),
        "1 arm, 3 seeds": Setting(0.002, 0.0005, 0.001, 3, (-0.0075,)),
        "1 arm, 3 seeds, most of it text": Setting(0.0003, 0.001, 0.001, 3, (0.0048,)),
        "1 arm, 5 seeds": Setting(0.002, 0.0005, 0.001, 5, (0.005,)),
        "1 arm, 10 seeds": Setting(0.004, 0.001, 0.001, 10, (-0.0055,)),
        "1 arm, 5 seeds, 5 pairs": Setting(0.001, 0.001, 0.001, 5, (0.0055,), 5),
        "3 arms, 5 seeds, one effect": Setting(0.002, 0.0005, 0.001, 5, (-0.0065, 0.0, 0.0)),
        "6 arms, 5 seeds, one effect": Setting(0.002, 0.0005, 0.001, 5, (0.0076, *5 * (0.0,))),
        "12 arms, 8 seeds, one effect": Setting(0.003, 0.001, 0.001, 8, (-0.007, *11 * (0.0,))),
        "4 arms, 8 seeds, all have it": Setting(0.002, 0.0005, 0.001, 8, 4 * (0.004,)),
    }
    table = {}
    for number, (name, case) in enumerate(cases.items()):
        true = case.arms[0]
        stated = power(
            seed_variance=case.between_seeds**2,
            text_variance=case.text**2,
            rest_variance=case.rest**2,
            num_seeds=case.num_seeds,
            num_pairs=case.num_pairs,
            detect=abs(true) - case.margin,
            margin=case.margin,
            num_arms=len(case.arms),
        )
        mean, _, adjusted = studies(case, number)
        found = int(((adjusted < ERROR_RATE) & (mean * true > 0))[:, 0].sum())
        table[name] = {
            "stated": round(stated, 4),
            "found": round(found / NUM_STUDIES, 4),
            "found, 95% interval": interval(found, NUM_STUDIES),
            "points apart": round(100 * (found / NUM_STUDIES - stated), 2),
        }
    return table


def of_false_verdicts() -> dict[str, dict[str, object]]:
    """Share of studies with any false verdict, corrected and not.

    False is better where d >= -margin, and worse where d <= margin. A margin of 1e-5 nats and no
    difference, or differences that equal the margin, have all of the error rate in play.
    """
    none, edge = 6 * (0.0,), (0.001, -0.001, 0.001, -0.001, 0.001, -0.001)
    much = (0.05, -0.05, 0.05, 0.0, 0.0, 0.0)
    cases = {
        "6 arms, 1 seed, no difference": Setting(0.0, 0.001, 0.001, 1, none, margin=1e-5),
        "6 arms, 2 seeds, no difference": Setting(0.002, 0.0005, 0.001, 2, none, margin=1e-5),
        "6 arms, 3 seeds, no difference": Setting(0.002, 0.0005, 0.001, 3, none, margin=1e-5),
        "6 arms, 5 seeds, no difference": Setting(0.002, 0.0005, 0.001, 5, none, margin=1e-5),
        "6 arms, 5 seeds, most of it text": Setting(0.0002, 0.001, 0.001, 5, none, margin=1e-5),
        "6 arms, 5 seeds, at the margin": Setting(0.0003, 0.0002, 0.0002, 5, edge),
        "6 arms, 5 seeds, three differ much": Setting(0.002, 0.0005, 0.001, 5, much, margin=1e-5),
        "12 arms, 3 seeds, no difference": Setting(0.002, 0.0005, 0.001, 3, 2 * none, margin=1e-5),
    }
    table = {}
    for number, (name, case) in enumerate(cases.items()):
        mean, p_values, adjusted = studies(case, 100 + number)
        true = np.array(case.arms)
        is_false = np.where(mean < 0, true >= -case.margin, true <= case.margin)
        false, corrected = (
            int(((values < ERROR_RATE) & is_false).any(1).sum()) for values in (p_values, adjusted)
        )
        table[name] = {
            "any false verdict": round(false / NUM_STUDIES, 4),
            "any false corrected verdict": round(corrected / NUM_STUDIES, 4),
            "corrected, 95% interval": interval(corrected, NUM_STUDIES),
        }
    return table


def main() -> None:
    result: dict[str, object] = {"studies of each case": NUM_STUDIES}
    result |= {part.__name__: part() for part in (of_power, of_false_verdicts)}
    write_result("power", "python benchmarks/bench_power.py", result)


if __name__ == "__main__":
    main()
