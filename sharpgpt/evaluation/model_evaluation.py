"""Everything that is measured of one trained model on one text, in a handful of passes over it.

    passes = ModelPasses(causal_lm, device, text, top_k=5, batch_size=16)
    evaluation = evaluate_model(passes)
    evaluation.to_dict()

One pass gives all statistics of the unchanged model, the whole curve of temperatures, the
confidences for calibration and the buckets; one or two more find the best temperature, a last one
has the confidences there. docs/verdict.md explains every statistic.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from sharpgpt.core.errors import UserError
from sharpgpt.evaluation.bits_per_byte import bits_per_byte, bytes_of_groups
from sharpgpt.evaluation.buckets import Buckets, Means
from sharpgpt.evaluation.calibration import (
    expected_calibration_error,
    reliability_bins,
    smooth_calibration_error,
)
from sharpgpt.evaluation.groups import GroupStatistics
from sharpgpt.evaluation.intervals import Interval, mean_intervals
from sharpgpt.evaluation.passes import ModelPasses, RowBatch, collect
from sharpgpt.evaluation.recalibration import Recalibration, fit_recalibration
from sharpgpt.evaluation.row_statistics import UNCHANGED, Sharpening, Temperature
from sharpgpt.evaluation.temperature import (
    GRID,
    Fit,
    fine_curve,
    fit_temperatures,
    temperature_curve,
)
from sharpgpt.evaluation.validation_text import EvaluationText
from sharpgpt.model.row_means import perplexity

__all__ = ["EvaluationText", "ModelEvaluation", "ModelPasses", "evaluate_model"]


@dataclass(frozen=True)
class ModelEvaluation:
    """What was measured of one model."""

    statistics: GroupStatistics
    """At GRID and at the best temperature."""
    best: Fit
    """The best temperature, tuned on the tuning half."""
    buckets: dict[str, Means]
    num_bytes: npt.NDArray[np.float64] | None
    """Bytes of the text that was predicted, by group [G]; None where they are not known."""
    final_layer: dict[str, float | None]
    recalibration: Recalibration
    """The best monotone map, fitted on the tuning half."""
    row_ce: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    """The cross-entropy of each row; None for a model that is compared with no baseline."""

    @property
    def figures(self) -> GroupStatistics:
        """The former name of `statistics`."""
        return self.statistics

    def to_dict(self) -> dict[str, Any]:
        """The entry of this model in evaluation.json; numbers may be NaN or infinite."""
        return {
            "figures": self._intervals(),
            "temperature": self._temperature(),
            "recalibration": self._recalibration(),
            "calibration": {
                "unchanged": self._calibration(UNCHANGED),
                "best_temperature": (
                    self._calibration(self.best.sharpening) if self.best.converged else None
                ),
            },
            "buckets": self.buckets,
            "final_layer": self.final_layer,
        }

    def _intervals(self) -> dict[str, dict[str, float]]:
        found = mean_intervals(self.statistics)
        found["perplexity"] = Interval(*map(perplexity, found["ce"]))
        if self.num_bytes is not None and self.num_bytes.sum() > 0:
            found["bits_per_byte"] = bits_per_byte(self.statistics.sums("ce"), self.num_bytes)
        return {name: interval._asdict() for name, interval in found.items()}

    def _temperature(self) -> dict[str, Any]:
        at = self.best.sharpening
        # From the grid alone, so that curves of several runs have the same temperatures.
        points = [
            one for one in temperature_curve(self.statistics) if Temperature(one.beta) in GRID
        ]
        # Without a best temperature `at` is an end of the search, which says nothing of the model.
        found = self.best.converged
        return {
            "best": 1 / getattr(at, "beta", math.nan) if found else None,
            "note": self.best.note,
            "ce": self.statistics.mean("ce", at, "report") if found else None,
            "ce_unchanged": self.statistics.mean("ce", UNCHANGED, "report"),
            "entropy": self.statistics.mean("entropy", at, "report") if found else None,
            "entropy_unchanged": self.statistics.mean("entropy", UNCHANGED, "report"),
            "curve": fine_curve(points),
        }

    def _recalibration(self) -> dict[str, Any]:
        found, at = self.recalibration.to_dict(), self.recalibration.map
        for name in ("ce", "entropy"):
            found[name] = None if at is None else self.statistics.mean(name, at, "report")
        return found

    def _calibration(self, at: Sharpening) -> dict[str, Any]:
        histogram = self.statistics.histograms[at]
        return {
            "ece": expected_calibration_error(histogram),
            "smooth_ece": smooth_calibration_error(histogram),
            "brier": self.statistics.mean("brier", at, "report"),
            "bins": [asdict(one) for one in reliability_bins(histogram)],
        }


def evaluate_model(passes: ModelPasses, baseline: ModelPasses | None = None) -> ModelEvaluation:
    """Measure a model; with a baseline the buckets have the baseline's statistics too, and there
    are buckets by the entropy of its predictions.

    Raises:
        ValueError: the baseline's passes are over other blocks.
        UserError: the logits are not finite, or there are fewer than 4 blocks.
    """
    text = passes.text
    buckets = Buckets(text, with_baseline=baseline is not None)
    row_ce: list[npt.NDArray[np.float32]] = []

    def checked_batches() -> Iterator[RowBatch]:
        of_baseline = iter(baseline.batches() if baseline is not None else ())
        for batch in passes.batches(GRID):
            if not bool(batch.rows("ce").isfinite().all()):
                raise UserError(
                    "the model's logits are NaN or infinite (its training diverged, or the file is "
                    "damaged); give an earlier checkpoint"
                )
            buckets.add(batch, next(of_baseline, None))
            if baseline is not None:
                row_ce.append(batch.rows("ce").flatten().float().numpy().copy())
            yield batch

    statistics = collect(checked_batches(), passes.groups, [UNCHANGED])
    [best], statistics = fit_temperatures(passes, statistics, [None])
    recalibration = fit_recalibration(passes)
    fitted = [one for one in (best.sharpening, recalibration.map) if one not in (UNCHANGED, None)]
    if fitted:
        histograms = [one for one in fitted if one == best.sharpening]
        statistics = statistics.joined(passes(fitted, histograms))
    return ModelEvaluation(
        statistics=statistics,
        best=best,
        buckets=buckets.means(),
        num_bytes=(
            None
            if text.token_bytes is None
            else bytes_of_groups(text.blocks, text.token_bytes, passes.groups)
        ),
        final_layer=final_layer(passes.causal_lm),
        recalibration=recalibration,
        row_ce=np.concatenate(row_ce) if row_ce else None,
    )


def final_layer(causal_lm: nn.Module) -> dict[str, float | None]:
    """Where a rescaling of the logits would hide: root mean squares of the last normalisation's
    weight and of the rows of the output layer. None where the model has no such layer."""
    model = cast(Any, causal_lm)
    norms = [
        module.weight
        for name, module in model.base_model.named_modules()
        if "." not in name and isinstance(getattr(module, "weight", None), torch.Tensor)
        if module.weight.ndim == 1
    ]
    head = model.get_output_embeddings().weight.detach().float()
    return {
        "layer_norm_weight_rms": (
            float(norms[-1].detach().float().square().mean().sqrt()) if norms else None
        ),
        "head_row_norm": float(head.norm(dim=1).square().mean().sqrt()),
    }
