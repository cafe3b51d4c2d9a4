"""The rule: is a penalised model better than the unpenalised one, sharpened afterwards?

docs/verdict.md states and justifies it. In short: at equal entropy, the cross-entropy difference
with its interval is set against a margin within which nothing is called different.

    better                all of the interval lies below -margin, for every control
    worse                 all of it lies above +margin, for the temperature
    not distinguishable   else

The interval. With one seed it covers the text: t over pairs of groups (differences.py). With K
seeds, A = variance of the K differences / K is that of the mean over seeds, B = variance of the
contributions, averaged over seeds, / pairs is that over texts, which the seeds share. The interval
is the wider of t_{K-1} sqrt(A) and t_nu sqrt(A + B), with Satterthwaite's degrees of freedom
nu = (A + B)^2 / (A^2 / (K - 1) + B^2 / (P - 1)).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sharpgpt.evaluation.bootstrap import Interval, t_quantile
from sharpgpt.evaluation.differences import Difference

Call = Literal["better", "worse", "not distinguishable"]

TEMPERATURE = "temperature"
"""The name of the control that every comparison has."""

MARGIN = 0.001
ERROR_RATE = 0.05
SMALLEST_MARGIN = 1e-5
"""In nats. Logits are in float32, and two that differ by a factor alone differ by less than this
in their cross-entropies once that is undone."""


@dataclass(frozen=True)
class Comparison:
    """The penalised runs against one control: the mean difference in nats and what it rests on.

    `seed_error` is the standard error over seeds (None for one seed), `text_error` that over texts.
    """

    call: Call
    interval: Interval
    differences: tuple[float, ...]
    seed_error: float | None
    text_error: float
    num_pairs: int
    note: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "call": self.call,
            **self.interval.to_dict(),
            "differences": list(self.differences),
            "seed_error": self.seed_error,
            "text_error": self.text_error,
            "num_pairs": self.num_pairs,
            "note": self.note,
        }


@dataclass(frozen=True)
class Verdict:
    """The verdict on one configuration, with a comparison for each control by name."""

    verdict: Call
    controls: Mapping[str, Comparison]
    margin: float
    error_rate: float
    num_seeds: int
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "margin": self.margin,
            "error_rate": self.error_rate,
            "num_seeds": self.num_seeds,
            "controls": {name: one.to_dict() for name, one in self.controls.items()},
        }


def pair_seeds(baseline: Sequence[int], penalised: Sequence[int]) -> list[tuple[int, int]]:
    """Which runs to compare: (index of a baseline run, index of a penalised run).

    Runs of the same seed, if there are any; each run is used once. Without a common seed runs are
    paired in the order of their seeds: independent of each other, any pairing is as good.
    """
    places: dict[int, list[int]] = {}
    for index, seed in enumerate(baseline):
        places.setdefault(seed, []).append(index)
    pairs = [
        (places[seed].pop(0), index)
        for index, seed in sorted(enumerate(penalised), key=lambda item: item[1])
        if places.get(seed)
    ]
    if pairs:
        return pairs
    by_seed = [sorted(range(len(seeds)), key=seeds.__getitem__) for seeds in (baseline, penalised)]
    return list(zip(*by_seed, strict=False))


def compare(
    differences: Sequence[Difference], *, margin: float = MARGIN, error_rate: float = ERROR_RATE
) -> Comparison:
    """The differences of one control, one for each seed, set against the margin.

    Args:
        differences: penalised minus control, in nats, all of the same text.
        margin: nats within which nothing is called different, at least 1e-5.
        error_rate: probability of an interval that does not cover, in both directions together.

    Raises:
        ValueError: no differences, of different lengths, or a margin or rate that is not allowed.
    """
    if not margin >= SMALLEST_MARGIN:
        raise ValueError(f"margin: given {margin}, allowed is at least {SMALLEST_MARGIN} nats")
    if not 0 < error_rate < 1:
        raise ValueError(f"error_rate: given {error_rate}, allowed is between 0 and 1")
    if len({len(one.contributions) for one in differences}) != 1:
        raise ValueError("differences: expected at least one, all of the same number of pairs")
    estimates = np.array([one.estimate for one in differences])
    mean_P = np.mean([one.contributions for one in differences], axis=0)
    num_seeds, num_pairs = len(estimates), len(mean_P)
    level = 1 - error_rate
    text = float(mean_P.var(ddof=1)) / num_pairs
    half_width = t_quantile(level, num_pairs - 1) * math.sqrt(text)
    seeds = None
    if num_seeds > 1:
        seeds = float(estimates.var(ddof=1)) / num_seeds
        both = seeds + text
        if both > 0:
            degrees = both**2 / (seeds**2 / (num_seeds - 1) + text**2 / (num_pairs - 1))
            half_width = max(
                t_quantile(level, num_seeds - 1) * math.sqrt(seeds),
                t_quantile(level, degrees) * math.sqrt(both),
            )
    mean = float(estimates.mean())
    interval = Interval(mean, mean - half_width, mean + half_width)
    note = "; ".join(dict.fromkeys(one.note for one in differences if one.note))
    call: Call = "not distinguishable"
    if not note and interval.high < -margin:
        call = "better"
    elif not note and interval.low > margin:
        call = "worse"
    return Comparison(
        call,
        interval,
        tuple(map(float, estimates)),
        None if seeds is None else math.sqrt(seeds),
        math.sqrt(text),
        num_pairs,
        note,
    )


def give_verdict(
    controls: Mapping[str, Sequence[Difference]],
    *,
    margin: float = MARGIN,
    error_rate: float = ERROR_RATE,
) -> Verdict:
    """The verdict from the differences at equal entropy to each control, `temperature` among them.

    Raises ValueError as `compare` does, or without the control `temperature`.
    """
    if TEMPERATURE not in controls:
        raise ValueError(f"controls: given {[*controls]}, expected {TEMPERATURE!r} among them")
    comparisons = {
        name: compare(differences, margin=margin, error_rate=error_rate)
        for name, differences in controls.items()
    }
    main = comparisons[TEMPERATURE]
    call = main.call
    if call == "better" and any(one.call != "better" for one in comparisons.values()):
        call = "not distinguishable"
    return Verdict(
        call,
        comparisons,
        margin,
        error_rate,
        len(main.differences),
        _sentence(call, comparisons, error_rate),
    )


def _sentence(call: Call, comparisons: Mapping[str, Comparison], error_rate: float) -> str:
    """The verdict in words, with its numbers and its scope."""
    main = comparisons[TEMPERATURE]
    if main.note:
        return f"Not compared with sharpening afterwards: {main.note}."
    words = {
        "better": "Better than",
        "worse": "Worse than",
        "not distinguishable": "Not distinguishable from",
    }[call]
    level = f"{100 * (1 - error_rate):g}%"
    parts = [
        f"{words} sharpening afterwards: cross-entropy at equal entropy differs by "
        f"{main.interval.estimate:+.4f} nats from the baseline at a temperature "
        f"({level} interval {main.interval.low:+.4f} to {main.interval.high:+.4f})"
    ]
    for name, one in comparisons.items():
        if name == TEMPERATURE or one.call == main.call or main.call == "not distinguishable":
            continue
        under = f"the baseline under the {name}, which needs no training either"
        if one.note:
            parts.append(f"but it could not be compared with {under}: {one.note}")
            continue
        than = "from" if one.call == "not distinguishable" else "than"
        parts.append(f"but it is {one.call} {than} {under} ({one.interval.estimate:+.4f} nats)")
    num_seeds = len(main.differences)
    parts.append(
        "one seed, so this is about these two models and not about the penalty"
        if num_seeds == 1
        else f"{num_seeds} seeds"
    )
    return "; ".join(parts) + "."
