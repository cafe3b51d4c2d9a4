"""The difference of two models on the same text, with the uncertainty of what was tuned.

d = CE(penalised) - CE(baseline at a tuned sharpening), both on the report half. The sharpening was
tuned on the tuning half, where it makes the mean of g = H_U - H_P zero but for a residual; that
mean varies with the text like CE, and moves d by the slope

    slope = (d CE_U / d theta on the report half) / (d H_U / d theta on the tuning half)

(the delta method, docs/verdict.md). So d is a mean over pairs of groups, one of each half, of

    contribution = (ce_P - ce_U of the report group) + slope * (g of the tuning group),

and its standard error is that of the mean of the contributions, without refitting. A pair's two
groups are neighbours in the text, and not independent; the sum allows for it.

Shapes: G groups, P = G / 2 pairs.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sharpgpt.evaluation.groups import GroupStatistics, Half, require_same_text
from sharpgpt.evaluation.row_statistics import UNCHANGED, Sharpening
from sharpgpt.evaluation.temperature import Fit

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Penalised minus baseline: the estimate, and the contributions [P] whose mean it is.

    `note` is empty, or gives the reason why the difference is not the one wanted.
    """

    estimate: float
    contributions: Floats
    note: str = ""

    @property
    def standard_error(self) -> float:
        """Of the estimate, over texts like this one, for these two models."""
        return float(self.contributions.std(ddof=1)) / math.sqrt(len(self.contributions))


def plain_difference(
    penalised: GroupStatistics,
    baseline: GroupStatistics,
    name: str,
    *,
    penalised_at: Sharpening = UNCHANGED,
    baseline_at: Sharpening = UNCHANGED,
    half: Half = "all",
) -> Difference:
    """The difference of a statistic where nothing was tuned, such as accuracy.

    Raises ValueError for statistics of different text, KeyError for an unknown one.
    """
    require_same_text(penalised, baseline)
    sums_G = penalised.sums(name, penalised_at) - baseline.sums(name, baseline_at)
    return difference_of_means(sums_G, penalised.num_rows, half)


def difference_at_equal_entropy(
    penalised: GroupStatistics, baseline: GroupStatistics, fit: Fit
) -> Difference:
    """CE of the penalised model minus that of the baseline sharpened to its entropy.

    Args:
        penalised: statistics as trained.
        baseline: statistics at `fit.sharpening` and its neighbours.
        fit: of the baseline, to the penalised model's mean entropy on the tuning half.

    Raises:
        ValueError: the statistics are of different text, or the fit was for another entropy.
    """
    require_same_text(penalised, baseline)
    target = penalised.mean("entropy", half="tuning")
    if fit.target_entropy is None or abs(fit.target_entropy - target) > 1e-9:
        raise ValueError(
            f"the fit is for entropy {fit.target_entropy}, the penalised model's is {target}"
        )
    at = fit.sharpening
    ce_slope, entropy_slope = slopes(baseline, fit)
    # 0 where the parameter changes nothing, so that nothing could be tuned.
    slope = ce_slope / entropy_slope if entropy_slope != 0 else 0.0
    ce_G = penalised.sums("ce") - baseline.sums("ce", at)
    # A residual of g = H_U - H_P moves theta by -g / H', so d by CE' g / H'.
    residual_G = baseline.sums("entropy", at) - penalised.sums("entropy")
    ce = difference_of_means(ce_G, penalised.num_rows, "report")
    residual = difference_of_means(residual_G, penalised.num_rows, "tuning")
    return Difference(
        ce.estimate + slope * residual.estimate,
        ce.contributions + slope * residual.contributions,
        fit.note,
    )


def difference_at_best_temperatures(
    penalised: GroupStatistics, penalised_fit: Fit, baseline: GroupStatistics, baseline_fit: Fit
) -> Difference:
    """CE of both models, each at its own best temperature: what is left is not sharpness.

    At a best temperature the slope of CE is 0, so to first order an error of the temperature
    changes nothing, and the difference is that of the report half.

    Raises ValueError for statistics of different text, or a fit to an entropy.
    """
    fits = penalised_fit, baseline_fit
    if any(fit.target_entropy is not None for fit in fits):
        raise ValueError("given a fit to an entropy, expected one of the best temperature")
    found = plain_difference(
        penalised,
        baseline,
        "ce",
        penalised_at=penalised_fit.sharpening,
        baseline_at=baseline_fit.sharpening,
        half="report",
    )
    return replace(found, note="; ".join(dict.fromkeys(fit.note for fit in fits if fit.note)))


def slopes(statistics: GroupStatistics, fit: Fit) -> tuple[float, float]:
    """d CE on the report half and d entropy on the tuning half, by the fitted parameter."""
    if fit.neighbours is None:
        beta = getattr(fit.sharpening, "beta", math.nan)
        variance = statistics.mean("logit_variance", fit.sharpening, "tuning")
        return statistics.mean("ce_slope", fit.sharpening, "report"), -beta * variance
    low, high = fit.neighbours
    return (
        statistics.mean("ce", high, "report") - statistics.mean("ce", low, "report"),
        statistics.mean("entropy", high, "tuning") - statistics.mean("entropy", low, "tuning"),
    )


def difference_of_means(sums_G: Floats, rows_G: Floats, half: Half) -> Difference:
    """A mean over the rows of a half, or of all pairs, and its contributions.

    Groups differ by a block in size, so it is a ratio: the contribution of a group is the mean plus
    (its sum - mean * its rows) / (rows of an average group); they average to the mean.
    """
    parts = {"all": slice(0, 2), "tuning": slice(0, 1), "report": slice(1, 2)}[half]
    sums_P, rows_P = (values_G.reshape(-1, 2)[:, parts].sum(1) for values_G in (sums_G, rows_G))
    mean = sums_P.sum() / rows_P.sum()
    return Difference(float(mean), mean + (sums_P - mean * rows_P) / rows_P.mean())
