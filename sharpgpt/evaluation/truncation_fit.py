"""The threshold of a truncation that gives a model a certain entropy, in three passes for any
number of entropies.

Entropy rises with p and falls with m (truncation.py), in steps: over the rows of a text they are so
many that it is nearly a curve, for a model with few different predictions they are large. The first
pass takes a grid in t = ln(threshold / (1 - threshold)), each later one divides the interval that
holds the target, and takes the place on the straight line too. The result is the threshold, of all
that were tried, whose entropy is nearest to the target.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from sharpgpt.evaluation.row_statistics import UNCHANGED
from sharpgpt.evaluation.temperature import Evaluate
from sharpgpt.evaluation.truncation import Truncation, TruncationKind

KINDS: tuple[TruncationKind, ...] = get_args(TruncationKind)

LOW, HIGH, STEPS = -6.0, 12.0, 36
"""The grid in t: for p thresholds from 0.0025 to 1 - 6e-6, for m from 1 - 0.0025 to 6e-6."""

PASSES = 3
PARTS = 24
"""Of an interval in a later pass."""


@dataclass(frozen=True)
class TruncationFit:
    """A truncation whose mean entropy on the tuning half is nearest to the target; None where the
    target is out of reach, and `note` gives the reason."""

    truncation: Truncation | None
    target_entropy: float
    note: str = ""


def fit_truncations(
    evaluate: Evaluate, target_entropies: Sequence[float]
) -> list[dict[TruncationKind, TruncationFit]]:
    """Both truncations of one model for each target, a mean entropy of the tuning half in nats."""
    known: dict[TruncationKind, dict[float, float]] = {kind: {} for kind in KINDS}
    grid = [LOW + (HIGH - LOW) * step / STEPS for step in range(STEPS + 1)]
    new = dict.fromkeys(KINDS, grid)
    unchanged = math.inf
    for _ in range(PASSES):
        ways = {(kind, t): _truncation(kind, t) for kind in KINDS for t in new[kind]}
        statistics = evaluate(list(dict.fromkeys([UNCHANGED, *ways.values()])))
        unchanged = statistics.mean("entropy", half="tuning")
        for (kind, t), way in ways.items():
            known[kind][t] = statistics.mean("entropy", way, "tuning")
        new = {
            kind: [t for target in target_entropies for t in _between(known[kind], target)]
            for kind in KINDS
        }
    return [
        {kind: _nearest(kind, known[kind], target, unchanged) for kind in KINDS}
        for target in target_entropies
    ]


def _truncation(kind: TruncationKind, t: float) -> Truncation:
    """At t, which raises the entropy: 1 / (1 + e^-t) is p, and 1 - m."""
    return Truncation(kind, 1 / (1 + math.exp(-t if kind == "top_p" else t)))


def _between(known: dict[float, float], target: float) -> list[float]:
    """New t between the two whose entropies enclose the target; none outside of all."""
    places = sorted(known)
    entropies = [known[t] for t in places]
    above = int(np.searchsorted(entropies, target))
    if not 0 < above < len(places):
        return []
    low, high = places[above - 1], places[above]
    straight = float(np.interp(target, entropies[above - 1 : above + 1], [low, high]))
    inner = [low + (high - low) * part / PARTS for part in range(1, PARTS)]
    return [t for t in (*inner, straight) if low < t < high]


def _nearest(
    kind: TruncationKind, known: dict[float, float], target: float, unchanged: float
) -> TruncationFit:
    if target >= unchanged:
        note = f"truncation only lowers the entropy, which is {unchanged:.4g} nats as it is"
        return TruncationFit(None, target, note)
    if target < min(known.values()):
        return TruncationFit(None, target, f"no {kind} has an entropy of {target:.4g} nats")
    best = min(known, key=lambda t: abs(known[t] - target))
    return TruncationFit(_truncation(kind, best), target)
