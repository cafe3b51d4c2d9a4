"""Penalised models against an unpenalised one that is sharpened afterwards: the differences of
pairs of runs, and the verdict over seeds.

    baseline = Baseline(passes, evaluate_model(passes).figures)
    pairs = baseline.against([PenalisedRun(evaluation.figures, PenaltyMap("neg_entropy", 0.1))])
    arm = judge(pairs)

All temperatures that a baseline needs are fitted together, in few passes; the maps one by one.
docs/verdict.md has the rule.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sharpgpt.evaluation.controls import PenaltyMap
from sharpgpt.evaluation.differences import (
    Difference,
    difference_at_best_temperatures,
    difference_at_equal_entropy,
    plain_difference,
)
from sharpgpt.evaluation.groups import GroupFigures
from sharpgpt.evaluation.rows import UNCHANGED
from sharpgpt.evaluation.temperature import Evaluate, Fit, fit_map_weight, fit_temperatures
from sharpgpt.evaluation.verdict import (
    ERROR_RATE,
    MARGIN,
    TEMPERATURE,
    Comparison,
    Verdict,
    compare,
    give_verdict,
)

ENTROPY_MAP = "entropy map"
OWN_MAPS = {
    "non_max_sum": "maximum map",
    "neg_max_prob": "maximum map",
    "top_k_mass": "top-k map",
}
"""Controls beside those that every comparison has, by penalty."""

NO_TEMPERATURE_CHANGES = ("accuracy", "accuracy_top_5", "accuracy_top_k", "reciprocal_rank")


@dataclass(frozen=True)
class PenalisedRun:
    """Figures of a penalised model as trained and at its best temperature, and its penalty."""

    figures: GroupFigures
    best: Fit
    trained_with: PenaltyMap | None
    """The map of its penalty at the weight of its training; None where there is no such map."""
    has_full_weight: bool = True
    """Whether the penalty had that weight when the training ended."""


@dataclass(frozen=True)
class Pair:
    """One penalised run against its baseline."""

    controls: dict[str, Difference]
    parameters: dict[str, float]
    """Temperature, or weight of the map, of each control."""
    best_temperatures: Difference
    unchanged: dict[str, Difference]
    """Of what no temperature changes: penalised minus baseline."""
    point: dict[str, float]
    """CE and entropy of the penalised run on the report half."""
    own_map: dict[str, float] | None
    """CE and entropy of the baseline under `trained_with`, on the report half; None where the
    training did not end with that weight."""


class Baseline:
    """One unpenalised model over one text.

    Args:
        evaluate: makes a pass of it.
        figures: of a pass with GRID.
        best: its best temperature.
        on_control: is told the name of each control that is fitted.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        figures: GroupFigures,
        best: Fit,
        on_control: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.figures = figures
        self.best = best
        self._evaluate = evaluate
        self._on_control = on_control

    def against(self, runs: Sequence[PenalisedRun]) -> list[Pair]:
        """Compare each run with this model.

        Raises ValueError for figures of other text.
        """
        targets = [run.figures.mean("entropy", half="tuning") for run in runs]
        self._on_control(TEMPERATURE)
        fits, self.figures = fit_temperatures(self._evaluate, self.figures, targets)
        return [
            self._pair(run, fit, target)
            for run, fit, target in zip(runs, fits, targets, strict=True)
        ]

    def _pair(self, run: PenalisedRun, temperature: Fit, target: float) -> Pair:
        trained = run.trained_with
        kinds = {ENTROPY_MAP: _entropy_map(trained)}
        if trained is not None and trained.penalty in OWN_MAPS:
            kinds[OWN_MAPS[trained.penalty]] = trained
        controls = {
            TEMPERATURE: difference_at_equal_entropy(run.figures, self.figures, temperature)
        }
        parameters = {TEMPERATURE: 1 / getattr(temperature.sharpening, "beta", math.nan)}
        for name, kind in kinds.items():
            self._on_control(name)
            # The entropy's map is a temperature of 1 - w to first order.
            start = 1 - parameters[TEMPERATURE] if name == ENTROPY_MAP else None
            fit, figures = fit_map_weight(self._evaluate, self.figures, kind, target, start=start)
            controls[name] = difference_at_equal_entropy(run.figures, figures, fit)
            parameters[name] = getattr(fit.sharpening, "weight", 0.0)
        own_map = None
        if trained is not None and run.has_full_weight:
            self._on_control("the penalty's own map")
            mapped = self._evaluate([trained])
            own_map = {name: mapped.mean(name, trained, "report") for name in ("ce", "entropy")}
        return Pair(
            controls=controls,
            parameters=parameters,
            best_temperatures=difference_at_best_temperatures(
                run.figures, run.best, self.figures, self.best
            ),
            unchanged={
                name: plain_difference(run.figures, self.figures, name)
                for name in NO_TEMPERATURE_CHANGES
            },
            point={name: run.figures.mean(name, UNCHANGED, "report") for name in ("ce", "entropy")},
            own_map=own_map,
        )


def _entropy_map(trained: PenaltyMap | None) -> PenaltyMap:
    """The map of the entropy, on the positions that the penalty was on."""
    if trained is None:
        return PenaltyMap("neg_entropy", 0.0)
    return replace(trained, penalty="neg_entropy")


@dataclass(frozen=True)
class Judgement:
    """What the pairs of one arm, one for each seed, say together."""

    verdict: Verdict
    pairs: tuple[Pair, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values; the comparisons beside the verdict have no call."""
        found = self.verdict.to_dict()
        for name, control in found["controls"].items():
            control["parameter"] = [pair.parameters[name] for pair in self.pairs]
        found["best_temperatures"] = _without_call(
            [pair.best_temperatures for pair in self.pairs], self.verdict
        )
        found["unchanged_by_temperature"] = {
            name: _without_call([pair.unchanged[name] for pair in self.pairs], self.verdict)
            for name in NO_TEMPERATURE_CHANGES
        }
        found["point"] = _mean([pair.point for pair in self.pairs])
        maps = [pair.own_map for pair in self.pairs if pair.own_map is not None]
        found["own_map"] = _mean(maps) if len(maps) == len(self.pairs) else None
        return found


def judge(
    pairs: Sequence[Pair], *, margin: float = MARGIN, error_rate: float = ERROR_RATE
) -> Judgement:
    """The verdict on an arm. Raises ValueError without a pair, or for pairs of other controls."""
    if len({tuple(pair.controls) for pair in pairs}) != 1:
        raise ValueError("pairs: expected at least one, all with the same controls")
    controls = {name: [pair.controls[name] for pair in pairs] for name in pairs[0].controls}
    return Judgement(give_verdict(controls, margin=margin, error_rate=error_rate), tuple(pairs))


def _without_call(differences: Sequence[Difference], verdict: Verdict) -> dict[str, Any]:
    one: Comparison = compare(differences, margin=verdict.margin, error_rate=verdict.error_rate)
    return {**one.to_dict(), "call": None}


def _mean(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: math.fsum(one[name] for one in values) / len(values) for name in values[0]}
