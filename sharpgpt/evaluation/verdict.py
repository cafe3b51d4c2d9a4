"""The rule: is a penalised model better than the unpenalised one, sharpened afterwards?

docs/verdict.md states and justifies it. In short: at equal entropy, the cross-entropy difference
with its interval is compared with a margin within which nothing is called different.

    better                all of the interval is below -margin, for every control
    worse                 all of it is above +margin, for the temperature
    not distinguishable   else

The interval. With one seed it covers the text: t over pairs of groups (differences.py). With K
seeds, A = variance of the K differences / K is that of the mean over seeds, B = variance of the
contributions, averaged over seeds, / pairs is that over texts, which the seeds share. The interval
is the wider of t_{K-1} sqrt(A) and t_nu sqrt(A + B), with Satterthwaite's degrees of freedom
nu = (A + B)^2 / (A^2 / (K - 1) + B^2 / (P - 1)).

Several arms. The p-value of a comparison is the smallest error rate at which its interval leaves
the margin, so that it tests |d| <= margin: for the excess e = |d| - margin it is the larger of
P(|t_{K-1}| >= e / sqrt(A)) and P(|t_nu| >= e / sqrt(A + B)), and 1 for e <= 0. That of an arm
follows the rule: for "better" the largest over all controls (an intersection-union test), for
"worse" that of the temperature. Holm's procedure over the arms of a comparison (`correct`) then
bounds the probability of any false verdict among them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sharpgpt.evaluation.differences import Difference
from sharpgpt.evaluation.intervals import t_quantile, t_tails

Call = Literal["better", "worse", "not distinguishable"]

TEMPERATURE = "temperature"
"""The name of the control that every comparison has."""

MARGIN = 0.001
ERROR_RATE = 0.05
MIN_MARGIN = 1e-5
"""In nats. Logits are in float32, and two that differ by a factor alone differ by less than this
in their cross-entropies once that is undone."""


@dataclass(frozen=True)
class Comparison:
    """The penalised runs against one control: the mean difference in nats and what it rests on.

    `seed_error` is the standard error over seeds (None for one seed), `text_error` that over texts,
    and `rest_error` the part of both that seeds do not share on the same text (None for one seed).
    `p_value` is that of the null |d| <= margin, 1 where a note says that nothing was compared.
    """

    call: Call
    estimate: float
    low: float
    high: float
    differences: tuple[float, ...]
    seed_error: float | None
    text_error: float
    rest_error: float | None
    num_pairs: int
    p_value: float
    note: str


@dataclass(frozen=True)
class Correction:
    """The verdict on an arm at the error rate of all arms of its comparison together, by Holm's
    procedure, with the adjusted p-value that it rests on."""

    verdict: Call
    p_value: float
    num_arms: int
    method: str = "Holm"


@dataclass(frozen=True)
class Verdict:
    """The verdict on one configuration, with a comparison for each control by name."""

    verdict: Call
    p_value: float
    sentence: str
    margin: float
    error_rate: float
    num_seeds: int
    controls: Mapping[str, Comparison]
    corrected: Correction | None = None


def compare(
    differences: Sequence[Difference], *, margin: float = MARGIN, error_rate: float = ERROR_RATE
) -> Comparison:
    """The differences of one control, one for each seed, compared with the margin.

    Args:
        differences: penalised minus control, in nats, all of the same text.
        margin: nats within which nothing is called different, at least 1e-5.
        error_rate: probability of an interval that does not cover, in both directions together.

    Raises:
        ValueError: no differences, of different lengths, or a margin or rate that is not allowed.
    """
    if not margin >= MIN_MARGIN:
        raise ValueError(f"margin: given {margin}, allowed is at least {MIN_MARGIN} nats")
    if not 0 < error_rate < 1:
        raise ValueError(f"error_rate: given {error_rate}, allowed is between 0 and 1")
    if len({len(one.contributions) for one in differences}) != 1:
        raise ValueError("differences: expected at least one, all of the same number of pairs")
    estimates = np.array([one.estimate for one in differences])
    contributions_KP = np.array([one.contributions for one in differences])
    mean_P = contributions_KP.mean(0)
    num_seeds, num_pairs = contributions_KP.shape
    text = float(mean_P.var(ddof=1)) / num_pairs
    seeds = rest = None
    errors = [(math.sqrt(text), num_pairs - 1.0)]
    if num_seeds > 1:
        seeds = float(estimates.var(ddof=1)) / num_seeds
        rest_KP = (
            contributions_KP - mean_P - contributions_KP.mean(1, keepdims=True) + mean_P.mean()
        )
        rest = float((rest_KP**2).sum()) / ((num_seeds - 1) * (num_pairs - 1)) / rest_KP.size
        both = seeds + text
        if both > 0:
            degrees = both**2 / (seeds**2 / (num_seeds - 1) + text**2 / (num_pairs - 1))
            # 1 is the least that it can be, and rounding may end below.
            errors = [(math.sqrt(seeds), num_seeds - 1.0), (math.sqrt(both), max(degrees, 1.0))]
    half_width = max(t_quantile(1 - error_rate, degrees) * error for error, degrees in errors)
    mean = float(estimates.mean())
    low, high = mean - half_width, mean + half_width
    note = "; ".join(dict.fromkeys(one.note for one in differences if one.note))
    call: Call = "not distinguishable"
    if not note and high < -margin:
        call = "better"
    elif not note and low > margin:
        call = "worse"
    return Comparison(
        call=call,
        estimate=mean,
        low=low,
        high=high,
        differences=tuple(map(float, estimates)),
        seed_error=None if seeds is None else math.sqrt(seeds),
        text_error=math.sqrt(text),
        rest_error=None if rest is None else math.sqrt(rest),
        num_pairs=num_pairs,
        p_value=1.0 if note else _p_value(abs(mean) - margin, errors),
        note=note,
    )


def _p_value(excess: float, errors: Sequence[tuple[float, float]]) -> float:
    """The error rate at which the wider of the intervals, from (standard error, degrees of freedom)
    of each, is as wide as the excess of a difference over the margin."""
    if excess <= 0:
        return 1.0
    return max(t_tails(excess / error, degrees) if error else 0.0 for error, degrees in errors)


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
    # The direction of an arm is that of the temperature, which both verdicts need.
    needed = [*comparisons.values()] if main.estimate < 0 else [main]
    is_one_way = all((one.estimate < 0) == (main.estimate < 0) for one in needed)
    return Verdict(
        verdict=call,
        p_value=max(one.p_value for one in needed) if is_one_way else 1.0,
        sentence=_sentence(call, comparisons, error_rate),
        margin=margin,
        error_rate=error_rate,
        num_seeds=len(main.differences),
        controls=comparisons,
    )


def correct(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts on the arms of one comparison, each with its correction for all of them.

    Where that changes the verdict, the sentence says so.
    """
    adjusted = holm([one.p_value for one in verdicts])
    return [
        _corrected(one, p_value, len(verdicts))
        for one, p_value in zip(verdicts, adjusted, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of Holm's step-down procedure (1979), in the order given.

    The i-th smallest of M is multiplied by M - i + 1, is at least as large as those before it, and
    at most 1. What is below an error rate is rejected at that rate for the whole family, however
    the tests depend on each other.
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _corrected(verdict: Verdict, p_value: float, num_arms: int) -> Verdict:
    call = verdict.verdict if p_value < verdict.error_rate else "not distinguishable"
    sentence = verdict.sentence
    if call != verdict.verdict:
        sentence = (
            f"{sentence.removesuffix('.')}; {call} once it is corrected for the {num_arms} arms of "
            f"this comparison (Holm's procedure, p = {p_value:.2g})."
        )
    return replace(verdict, sentence=sentence, corrected=Correction(call, p_value, num_arms))


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
    parts = [
        f"{words} sharpening afterwards: cross-entropy at equal entropy differs by "
        f"{main.estimate:+.4f} nats from the baseline at a temperature "
        f"({100 * (1 - error_rate):g}% interval {main.low:+.4f} to {main.high:+.4f})"
    ]
    for name, one in comparisons.items():
        if name == TEMPERATURE or one.call == main.call or main.call == "not distinguishable":
            continue
        under = f"the baseline under the {name}, which needs no training either"
        if one.note:
            parts.append(f"but it could not be compared with {under}: {one.note}")
            continue
        than = "from" if one.call == "not distinguishable" else "than"
        parts.append(f"but it is {one.call} {than} {under} ({one.estimate:+.4f} nats)")
    num_seeds = len(main.differences)
    parts.append(
        "one seed, so this is about these two models and not about the penalty"
        if num_seeds == 1
        else f"{num_seeds} seeds"
    )
    return "; ".join(parts) + "."
