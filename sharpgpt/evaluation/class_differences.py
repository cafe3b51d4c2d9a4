"""The difference at equal entropy for each class of tokens (token_classes.py).

The baseline has the temperature that gives it the penalised model's entropy over *all* rows, so the
differences of the classes of a division, each times its share of the rows, add up to the difference
of the verdict. The uncertainty of the temperature is in each as it is there, with the slope of the
class:

    contribution = (ce_P - ce_U of the report group's rows in the class) + slope * (g of all rows)
    slope = (d CE_U / d beta over the class) / (d H_U / d beta over all rows)

Shapes: B blocks of a batch, T tokens of a block, G groups.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sharpgpt.evaluation.differences import Difference, difference_of_means, slopes
from sharpgpt.evaluation.groups import Floats, GroupStatistics
from sharpgpt.evaluation.passes import RowBatch
from sharpgpt.evaluation.row_statistics import Temperature
from sharpgpt.evaluation.temperature import Fit
from sharpgpt.evaluation.token_classes import TokenClasses

ClassName = tuple[str, str]
"""Division and class."""


@dataclass(frozen=True)
class ClassDifference:
    """One class on the report half."""

    difference: Difference | None
    """None where the class is in less than half of the groups."""
    share: float
    """Of the rows."""
    baseline_ce: float
    """At the temperature, in nats."""


class ClassSums:
    """Sums over the rows of each class and group."""

    def __init__(self, classes: TokenClasses, temperature: Temperature, num_groups: int) -> None:
        self._classes = classes
        self.temperature = temperature
        self._num_groups = num_groups
        self._sums: dict[ClassName, dict[str, Floats]] = {}

    def add(self, batch: RowBatch, penalised_BT: Tensor, group_B: npt.NDArray[np.int64]) -> None:
        """Add a batch, the cross-entropies of the penalised model, and the groups of its blocks."""
        baseline_BT = batch.rows("ce", self.temperature).double()
        rows = {
            "rows": baseline_BT.new_ones(baseline_BT.shape),
            "difference": penalised_BT.double() - baseline_BT,
            "baseline_ce": baseline_BT,
            "ce_slope": batch.rows("ce_slope", self.temperature).double(),
        }
        for name, mask_BT in self._classes.masks(batch.input_ids).items():
            sums = self._sums.setdefault(name, {one: np.zeros(self._num_groups) for one in rows})
            for one, values_BT in rows.items():
                np.add.at(sums[one], group_B, values_BT.where(mask_BT, 0).sum(-1).numpy())

    def differences(
        self, penalised: GroupStatistics, baseline: GroupStatistics, fit: Fit
    ) -> dict[ClassName, ClassDifference]:
        """What the sums tell; the statistics are of all rows, the fit is of the temperature."""
        at = fit.sharpening
        _, entropy_slope = slopes(baseline, fit)
        residual_G = baseline.sums("entropy", at) - penalised.sums("entropy")
        residual = difference_of_means(residual_G, penalised.num_rows, "tuning")
        report_G = penalised.groups.mask("report")
        num_rows = penalised.num_rows[report_G].sum()
        found = {}
        for name, sums in self._sums.items():
            count_G = sums["rows"][report_G]
            total = max(1.0, float(count_G.sum()))
            difference = None
            if 2 * np.count_nonzero(count_G) >= len(count_G):
                plain = difference_of_means(sums["difference"], sums["rows"], "report")
                ce_slope = float(sums["ce_slope"][report_G].sum()) / total
                slope = ce_slope / entropy_slope if entropy_slope != 0 else 0.0
                difference = Difference(
                    plain.estimate + slope * residual.estimate,
                    plain.contributions + slope * residual.contributions,
                    fit.note,
                )
            found[name] = ClassDifference(
                difference,
                float(count_G.sum() / num_rows),
                float(sums["baseline_ce"][report_G].sum()) / total,
            )
        return found


def classes_to_dict(
    pairs: Sequence[dict[ClassName, ClassDifference]],
    compared: Callable[[Sequence[Difference]], dict[str, Any]],
) -> list[dict[str, Any]]:
    """`token_classes` of comparison.json, for the pairs of an arm; `compared` makes intervals."""
    found = []
    for division, name in pairs[0]:
        ones = [pair[division, name] for pair in pairs]
        if not any(one.share for one in ones):
            continue
        differences = [one.difference for one in ones if one.difference is not None]
        found.append(
            {
                "division": division,
                "class": name,
                "share": float(np.mean([one.share for one in ones])),
                "baseline_ce": float(np.mean([one.baseline_ce for one in ones])),
                "difference": compared(differences) if len(differences) == len(ones) else None,
            }
        )
    return found
