"""The difference of two models on the same text, with the uncertainty of what was tuned.

d = CE(penalised) - CE(baseline at a tuned sharpening), both on the report half. The sharpening was
tuned on the tuning half and is itself an estimate. Let g be what the tuning makes zero on average,
the baseline's entropy minus the penalised model's, and theta its parameter. An error of the mean of
g on the tuning half moves theta by -g / g', and so moves d. To first order

    d = mean over the report half of (ce_P - ce_U)  +  slope * mean over the tuning half of g,
    slope = (d CE_U / d theta on the report half) / (d g / d theta on the tuning half)

(the delta method). The second mean is the rest that the fit has left, nearly 0, but it varies with
the text like the first. So d is a mean over pairs of groups, one of each half, of

    contribution = (ce_P - ce_U of the report group) + slope * (g of the tuning group),

and its standard error is that of the mean of the contributions. No refitting is needed, and that a
pair's two groups stand side by side in the text, and are not independent, is allowed for.

Shapes: G groups, P = G / 2 pairs.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sharpgpt.evaluation.bootstrap import Interval, t_quantile
from sharpgpt.evaluation.groups import GroupFigures, Half, require_same_text
from sharpgpt.evaluation.rows import UNCHANGED, Sharpening
from sharpgpt.evaluation.temperature import Fit

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Penalised minus baseline: the estimate, and the contributions [P] whose mean it is.

    `note` is empty, or says why the difference is not what it is meant to be.
    """

    estimate: float
    contributions: Floats
    note: str = ""

    @property
    def standard_error(self) -> float:
        """Of the estimate, over texts like this one, for these two models."""
        return float(self.contributions.std(ddof=1)) / math.sqrt(len(self.contributions))

    def interval(self, level: float = 0.95) -> Interval:
        """The estimate within t standard errors, with one degree less than pairs."""
        half_width = t_quantile(level, len(self.contributions) - 1) * self.standard_error
        return Interval(self.estimate, self.estimate - half_width, self.estimate + half_width)


def plain_difference(
    penalised: GroupFigures,
    baseline: GroupFigures,
    name: str,
    *,
    penalised_at: Sharpening = UNCHANGED,
    baseline_at: Sharpening = UNCHANGED,
    half: Half = "all",
) -> Difference:
    """The difference of a figure where nothing was tuned, such as accuracy or reciprocal rank.

    Raises ValueError for figures of different text, KeyError for an unknown figure.
    """
    require_same_text(penalised, baseline)
    sums_G = penalised.sums(name, penalised_at) - baseline.sums(name, baseline_at)
    sums_2P, rows_2P = _by_half(sums_G), _by_half(penalised.num_rows)
    if half == "all":
        return _difference(sums_2P.sum(0), rows_2P.sum(0))
    chosen = 0 if half == "tuning" else 1
    return _difference(sums_2P[chosen], rows_2P[chosen])


def difference_at_equal_entropy(
    penalised: GroupFigures, baseline: GroupFigures, fit: Fit
) -> Difference:
    """CE of the penalised model minus that of the baseline sharpened to its entropy.

    Args:
        penalised: figures as trained.
        baseline: figures at `fit.sharpening` and its neighbours.
        fit: of the baseline, to the penalised model's mean entropy on the tuning half.

    Raises:
        ValueError: the figures are of different text, or the fit was for another entropy.
    """
    require_same_text(penalised, baseline)
    target = penalised.mean("entropy", half="tuning")
    if fit.target_entropy is None or abs(fit.target_entropy - target) > 1e-9:
        raise ValueError(
            f"the fit is for entropy {fit.target_entropy}, the penalised model's is {target}"
        )
    at = fit.sharpening
    slope = _ratio(*_slopes(baseline, fit))
    tuning_rows_P, report_rows_P = _by_half(penalised.num_rows)
    ce_G = penalised.sums("ce") - baseline.sums("ce", at)
    # A rest of g = H_U - H_P moves theta by -g / H', so d by CE' g / H'.
    rest_G = baseline.sums("entropy", at) - penalised.sums("entropy")
    ce, rest = (
        _difference(_by_half(ce_G)[1], report_rows_P),
        _difference(_by_half(rest_G)[0], tuning_rows_P),
    )
    return Difference(
        ce.estimate + slope * rest.estimate,
        ce.contributions + slope * rest.contributions,
        fit.note,
    )


def difference_at_best_temperatures(
    penalised: GroupFigures, penalised_fit: Fit, baseline: GroupFigures, baseline_fit: Fit
) -> Difference:
    """CE of both models, each at its own best temperature: what is left is not sharpness.

    At a best temperature the slope of CE is 0, so to first order an error of the temperature
    changes nothing, and the difference is that of the report half as it stands.

    Raises ValueError for figures of different text, or a fit to an entropy.
    """
    for fit in (penalised_fit, baseline_fit):
        if fit.target_entropy is not None:
            raise ValueError("given a fit to an entropy, expected one of the best temperature")
    found = plain_difference(
        penalised,
        baseline,
        "ce",
        penalised_at=penalised_fit.sharpening,
        baseline_at=baseline_fit.sharpening,
        half="report",
    )
    notes = dict.fromkeys(fit.note for fit in (penalised_fit, baseline_fit) if fit.note)
    return replace(found, note="; ".join(notes))


def _slopes(figures: GroupFigures, fit: Fit) -> tuple[float, float]:
    """d CE on the report half and d entropy on the tuning half, by the fitted parameter."""
    if fit.neighbours is None:
        beta = getattr(fit.sharpening, "beta", math.nan)
        variance = figures.mean("logit_variance", fit.sharpening, "tuning")
        return figures.mean("ce_slope", fit.sharpening, "report"), -beta * variance
    low, high = fit.neighbours
    return (
        figures.mean("ce", high, "report") - figures.mean("ce", low, "report"),
        figures.mean("entropy", high, "tuning") - figures.mean("entropy", low, "tuning"),
    )


def _ratio(slope: float, of: float) -> float:
    """The quotient; 0 where the parameter changes nothing, so that nothing could be tuned."""
    return slope / of if of != 0 else 0.0


def _by_half(values_G: Floats) -> Floats:
    """[2, P]: the tuning half, then the report half."""
    return values_G.reshape(-1, 2).T


def _difference(sums_P: Floats, rows_P: Floats) -> Difference:
    """A mean over rows and its contributions: groups differ by a block in size, so it is a ratio.

    The contribution of a group is the mean plus (its sum - mean * its rows) / (rows of an average
    group); they average to the mean.
    """
    mean = sums_P.sum() / rows_P.sum()
    return Difference(float(mean), mean + (sums_P - mean * rows_P) / rows_P.mean())
