"""Penalised models against an unpenalised one that is sharpened afterwards: the differences of
pairs of runs, and the verdict over seeds.

    own = evaluate_model(passes)
    baseline = Baseline(passes, own.statistics, own.best)
    pairs = baseline.against([PenalisedRun(evaluation.statistics, evaluation.best,
                                           PenaltyMap("neg_entropy", 0.1))])
    judgement = judge(pairs)

All temperatures that a baseline needs are fitted together, in few passes; the maps one by one.
docs/verdict.md has the rule.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sharpgpt.evaluation.class_differences import (
    ClassDifference,
    ClassName,
    classes_to_dict,
)
from sharpgpt.evaluation.controls import PenaltyMap
from sharpgpt.evaluation.differences import (
    Difference,
    difference_at_best_temperatures,
    difference_at_equal_entropy,
    plain_difference,
)
from sharpgpt.evaluation.groups import GroupStatistics
from sharpgpt.evaluation.map_weight import fit_map_weight
from sharpgpt.evaluation.order_and_shape import OrderAndShape, order_and_shape, orders_to_dict
from sharpgpt.evaluation.paired_rows import PairedRows, RowValues, pair_rows, truncations_to_dict
from sharpgpt.evaluation.passes import ModelPasses
from sharpgpt.evaluation.recalibration import Recalibration
from sharpgpt.evaluation.row_statistics import UNCHANGED, Sharpening, Temperature
from sharpgpt.evaluation.temperature import Fit, fit_temperatures
from sharpgpt.evaluation.truncation import TruncationKind
from sharpgpt.evaluation.truncation_fit import TruncationFit, fit_truncations
from sharpgpt.evaluation.verdict import (
    ERROR_RATE,
    MARGIN,
    TEMPERATURE,
    Verdict,
    compare,
    correct,
    give_verdict,
)

ENTROPY_MAP = "entropy map"
OWN_MAPS = {
    "non_max_sum": "maximum map",
    "neg_max_prob": "maximum map",
    "top_k_mass": "top-k map",
}
"""Controls beside those that every comparison has, by penalty."""

UNCHANGED_BY_TEMPERATURE = ("accuracy", "accuracy_top_5", "accuracy_top_k", "reciprocal_rank")


@dataclass(frozen=True)
class PenalisedRun:
    """Statistics of a penalised model as trained and at its best temperature, and its penalty."""

    statistics: GroupStatistics
    best: Fit
    trained_with: PenaltyMap | None
    """The map of its penalty at the weight of its training; None where there is no such map."""
    has_full_weight: bool = True
    """Whether the penalty had that weight when the training ended."""
    row_ce: RowValues | None = None
    """The cross-entropy of each row; None leaves out what needs it."""
    recalibration: Recalibration | None = None
    """Its best monotone map; None leaves out what needs it."""


@dataclass(frozen=True)
class Pair:
    """One penalised run against its baseline."""

    controls: dict[str, Difference]
    parameters: dict[str, float]
    """Temperature, or weight of the map, of each control."""
    best_temperatures: Difference
    unchanged: dict[str, Difference]
    """Of UNCHANGED_BY_TEMPERATURE: penalised minus baseline."""
    point: dict[str, float]
    """CE and entropy of the penalised run on the report half."""
    own_map: dict[str, float] | None
    """CE and entropy of the baseline under `trained_with`, on the report half; None where the
    training did not end with that weight."""
    rows: PairedRows | None
    """None where the rows of the run are not known."""
    classes: dict[ClassName, ClassDifference] | None
    """The same; None also where no temperature was found."""
    order: OrderAndShape | str
    """A string is the reason why there is none; empty where it was not asked for."""


class Baseline:
    """One unpenalised model over one text.

    Args:
        evaluate: its passes.
        statistics: of a pass with GRID.
        best: its best temperature.
        on_control: called with the name of each control before it is fitted.
        recalibration: its best monotone map, with which it was evaluated too.
    """

    def __init__(
        self,
        evaluate: ModelPasses,
        statistics: GroupStatistics,
        best: Fit,
        on_control: Callable[[str], None] = lambda _: None,
        *,
        recalibration: Recalibration | None = None,
    ) -> None:
        self.statistics = statistics
        self.best = best
        self._evaluate = evaluate
        self._on_control = on_control
        self._recalibration = recalibration

    def against(self, runs: Sequence[PenalisedRun]) -> list[Pair]:
        """Compare each run with this model.

        Raises ValueError for statistics of other text.
        """
        targets = [run.statistics.mean("entropy", half="tuning") for run in runs]
        self._on_control(TEMPERATURE)
        fits, self.statistics = fit_temperatures(self._evaluate, self.statistics, targets)
        truncations: Sequence[Mapping[TruncationKind, TruncationFit]] = [{} for _ in runs]
        if any(run.row_ce is not None for run in runs):
            self._on_control("truncation")
            truncations = fit_truncations(self._evaluate, targets)
        return [
            self._pair(run, fit, target, truncation)
            for run, fit, target, truncation in zip(runs, fits, targets, truncations, strict=True)
        ]

    def _pair(
        self,
        run: PenalisedRun,
        temperature: Fit,
        target: float,
        truncations: Mapping[TruncationKind, TruncationFit],
    ) -> Pair:
        trained = run.trained_with
        kinds = {
            # On the positions that the penalty was on.
            ENTROPY_MAP: replace(trained or PenaltyMap("neg_entropy", 0.0), penalty="neg_entropy")
        }
        if trained is not None and trained.penalty in OWN_MAPS:
            kinds[OWN_MAPS[trained.penalty]] = trained
        controls = {
            TEMPERATURE: difference_at_equal_entropy(run.statistics, self.statistics, temperature)
        }
        parameters = {TEMPERATURE: 1 / getattr(temperature.sharpening, "beta", math.nan)}
        for name, kind in kinds.items():
            self._on_control(name)
            # The entropy's map is a temperature of 1 - w to first order.
            start = 1 - parameters[TEMPERATURE] if name == ENTROPY_MAP else None
            fit, mapped = fit_map_weight(self._evaluate, self.statistics, kind, target, start=start)
            controls[name] = difference_at_equal_entropy(run.statistics, mapped, fit)
            parameters[name] = getattr(fit.sharpening, "weight", 0.0)
        own_map = None
        if trained is not None and run.has_full_weight:
            self._on_control("the penalty's own map")
            own_map = _point(self._evaluate([trained]), trained)
        rows = classes = None
        if run.row_ce is not None:
            self._on_control("row by row")
            at = temperature.sharpening
            assert isinstance(at, Temperature)
            rows = pair_rows(self._evaluate, run.row_ce, at, truncations)
            if temperature.converged:
                classes = rows.classes.differences(run.statistics, self.statistics, temperature)
        order: OrderAndShape | str = ""
        if run.recalibration is not None and self._recalibration is not None:
            order = order_and_shape(
                (run.statistics, run.recalibration),
                (self.statistics, self._recalibration),
                controls[TEMPERATURE],
            )
        return Pair(
            controls=controls,
            parameters=parameters,
            best_temperatures=difference_at_best_temperatures(
                run.statistics, run.best, self.statistics, self.best
            ),
            unchanged={
                name: plain_difference(run.statistics, self.statistics, name)
                for name in UNCHANGED_BY_TEMPERATURE
            },
            point=_point(run.statistics, UNCHANGED),
            own_map=own_map,
            rows=rows,
            classes=classes,
            order=order,
        )


def _point(statistics: GroupStatistics, at: Sharpening) -> dict[str, float]:
    """CE and entropy on the report half."""
    return {name: statistics.mean(name, at, "report") for name in ("ce", "entropy")}


@dataclass(frozen=True)
class Judgement:
    """What the pairs of one arm, one for each seed, tell together."""

    verdict: Verdict
    pairs: tuple[Pair, ...]

    def to_dict(self) -> dict[str, Any]:
        """As in comparison.json; the comparisons beside the verdict have no call."""
        found = asdict(self.verdict)
        for name, control in found["controls"].items():
            control["parameter"] = [pair.parameters[name] for pair in self.pairs]
        found["best_temperatures"] = self._compared([one.best_temperatures for one in self.pairs])
        found["unchanged_by_temperature"] = {
            name: self._compared([pair.unchanged[name] for pair in self.pairs])
            for name in UNCHANGED_BY_TEMPERATURE
        }
        found["point"] = _mean([pair.point for pair in self.pairs])
        maps = [pair.own_map for pair in self.pairs if pair.own_map is not None]
        found["own_map"] = _mean(maps) if len(maps) == len(self.pairs) else None
        rows = [pair.rows for pair in self.pairs if pair.rows is not None]
        if len(rows) == len(self.pairs):
            found["truncation"] = truncations_to_dict(rows, self._compared)
        classes = [pair.classes for pair in self.pairs if pair.classes is not None]
        if len(classes) == len(self.pairs):
            found["token_classes"] = classes_to_dict(classes, self._compared)
        if any(pair.order for pair in self.pairs):
            found["order_and_shape"] = orders_to_dict(
                [pair.order for pair in self.pairs], self._compared
            )
        return found

    def _compared(self, differences: Sequence[Difference]) -> dict[str, Any]:
        rule = self.verdict
        compared = compare(differences, margin=rule.margin, error_rate=rule.error_rate)
        return asdict(compared) | {"call": None, "p_value": None}


def judge(
    pairs: Sequence[Pair], *, margin: float = MARGIN, error_rate: float = ERROR_RATE
) -> Judgement:
    """The verdict on an arm. Raises ValueError without a pair, or for pairs of other controls."""
    if len({tuple(pair.controls) for pair in pairs}) != 1:
        raise ValueError("pairs: expected at least one, all with the same controls")
    controls = {name: [pair.controls[name] for pair in pairs] for name in pairs[0].controls}
    return Judgement(give_verdict(controls, margin=margin, error_rate=error_rate), tuple(pairs))


def correct_arms(judgements: Sequence[Judgement]) -> list[Judgement]:
    """The arms of one comparison, each verdict with its correction for all of them."""
    verdicts = correct([one.verdict for one in judgements])
    return [
        replace(one, verdict=verdict) for one, verdict in zip(judgements, verdicts, strict=True)
    ]


def _mean(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: math.fsum(one[name] for one in values) / len(values) for name in values[0]}
