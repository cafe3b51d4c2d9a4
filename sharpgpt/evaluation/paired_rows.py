"""A penalised model beside its baseline row by row, at equal entropy: what truncation loses.

The baseline is gone through once more, with all that was fitted to the penalised model, beside the
cross-entropy of each row that the penalised model had. Nothing here has a verdict.

Shapes: B blocks of a batch, T tokens of a block, R rows of the text, G groups.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sharpgpt.evaluation.class_differences import ClassSums
from sharpgpt.evaluation.differences import Difference, difference_of_means
from sharpgpt.evaluation.groups import Floats, Groups, Half
from sharpgpt.evaluation.intervals import t_quantile
from sharpgpt.evaluation.passes import ModelPasses, RowBatch
from sharpgpt.evaluation.row_statistics import UNCHANGED, Temperature
from sharpgpt.evaluation.token_classes import TokenClasses
from sharpgpt.evaluation.truncation import Truncation, TruncationKind
from sharpgpt.evaluation.truncation_fit import TruncationFit

RowValues = npt.NDArray[np.float32]
"""A number for each row of a text in its order, [R]: 4 bytes a row."""


USUAL = (
    *(Truncation("top_p", threshold) for threshold in (0.99, 0.95, 0.9, 0.8)),
    *(Truncation("min_p", threshold) for threshold in (0.01, 0.05, 0.1, 0.3)),
)
"""Thresholds in common use, under which every evaluated model is shown."""


@dataclass(frozen=True)
class TruncatedPair:
    """A penalised model and its baseline under a truncation with the same entropy."""

    threshold: float
    entropy: float
    """Mean of the tuning half, in nats; that of the penalised model up to a token's step."""
    support_loss: Difference
    """Share of the report rows whose target has probability 0."""
    inside: Difference
    """CE of the penalised model minus that of the truncated baseline, over the other report rows;
    the threshold is taken as given."""
    baseline_ce: float
    """Over the same rows."""
    penalised_ce: float


@dataclass(frozen=True)
class PairedRows:
    """What a pair of models gives row by row."""

    truncations: dict[TruncationKind, TruncatedPair | str]
    """A string is the reason why there is none."""
    classes: ClassSums


def pair_rows(
    baseline: ModelPasses,
    penalised_ce_R: RowValues,
    temperature: Temperature,
    truncations: Mapping[TruncationKind, TruncationFit],
) -> PairedRows:
    """Go through the rows of a baseline beside those of a penalised model.

    Args:
        baseline: its passes.
        penalised_ce_R: the cross-entropy of each row under the penalised model as trained.
        temperature: of the baseline, fitted to the penalised model's entropy.
        truncations: of the baseline, fitted to the penalised model's entropy.
    """
    groups = baseline.groups
    sums = {
        kind: _TruncatedSums(fit.truncation, groups)
        for kind, fit in truncations.items()
        if fit.truncation is not None
    }
    classes = ClassSums(TokenClasses(baseline.text), temperature, groups.num_groups)
    start = 0
    for batch in baseline.batches([temperature, *(one.truncation for one in sums.values())]):
        shape = batch.statistics.shape[2:]
        end = start + shape.numel()
        penalised_BT = torch.from_numpy(penalised_ce_R[start:end]).view(shape)
        start = end
        blocks = np.arange(batch.first_block, batch.first_block + len(batch.input_ids))
        group_B = groups.of_blocks(blocks)
        classes.add(batch, penalised_BT, group_B)
        for one in sums.values():
            one.add(batch, penalised_BT, group_B)
    return PairedRows(
        {
            kind: sums[kind].pair() if kind in sums else fit.note
            for kind, fit in truncations.items()
        },
        classes,
    )


class _TruncatedSums:
    """Sums over the rows of each group, [G], under one truncation."""

    def __init__(self, truncation: Truncation, groups: Groups) -> None:
        self.truncation = truncation
        self._groups = groups
        self._sums = {
            name: np.zeros(groups.num_groups)
            for name in ("rows", "entropy", "outside", "inside", "baseline_ce", "penalised_ce")
        }

    def add(self, batch: RowBatch, penalised_BT: Tensor, group_B: npt.NDArray[np.int64]) -> None:
        """Add a batch, the cross-entropies of the penalised model, and the groups of its blocks."""
        ce_BT = batch.rows("ce", self.truncation).double()
        is_inside_BT = ce_BT.isfinite()
        for name, values_BT in {
            "rows": torch.ones_like(ce_BT),
            "entropy": batch.rows("entropy", self.truncation),
            "outside": ~is_inside_BT,
            "inside": is_inside_BT,
            "baseline_ce": ce_BT.where(is_inside_BT, 0),
            "penalised_ce": penalised_BT.double().where(is_inside_BT, 0),
        }.items():
            np.add.at(self._sums[name], group_B, values_BT.double().sum(-1).numpy())

    def pair(self) -> TruncatedPair:
        """What the sums tell."""

        def mean(name: str, by: str, half: Half) -> float:
            mask_G = self._groups.mask(half)
            return float(self._sums[name][mask_G].sum() / self._sums[by][mask_G].sum())

        inside_G: Floats = self._sums["inside"]
        apart_G = self._sums["penalised_ce"] - self._sums["baseline_ce"]
        return TruncatedPair(
            threshold=self.truncation.threshold,
            entropy=mean("entropy", "rows", "tuning"),
            support_loss=difference_of_means(self._sums["outside"], self._sums["rows"], "report"),
            inside=difference_of_means(apart_G, inside_G, "report"),
            baseline_ce=mean("baseline_ce", "inside", "report"),
            penalised_ce=mean("penalised_ce", "inside", "report"),
        )


def truncation_table(passes: ModelPasses) -> list[dict[str, Any]]:
    """`truncation` of evaluation.json: one model under USUAL, on the report half, in one pass.

    Cross-entropies are over the rows whose target has a probability, `as_it_is_ce` that of the
    model without a truncation; over all rows it is infinite as soon as one target has none.
    """
    sums = [_TruncatedSums(way, passes.groups) for way in USUAL]
    for batch in passes.batches([UNCHANGED, *USUAL]):
        blocks = np.arange(batch.first_block, batch.first_block + len(batch.input_ids))
        for one in sums:
            one.add(batch, batch.rows("ce"), passes.groups.of_blocks(blocks))
    found = []
    for way, pair in zip(USUAL, (one.pair() for one in sums), strict=True):
        loss = pair.support_loss
        half_width = t_quantile(0.95, len(loss.contributions) - 1) * loss.standard_error
        found.append(
            {
                "kind": way.kind,
                "parameter": way.threshold,
                "entropy": pair.entropy,
                "support_loss": {
                    "estimate": loss.estimate,
                    "low": loss.estimate - half_width,
                    "high": loss.estimate + half_width,
                },
                "ce": "infinite" if loss.estimate > 0 else pair.baseline_ce,
                "inside": {"ce": pair.baseline_ce, "as_it_is_ce": pair.penalised_ce},
            }
        )
    return found


def truncations_to_dict(
    pairs: Sequence[PairedRows], compared: Callable[[Sequence[Difference]], dict[str, Any]]
) -> dict[str, Any]:
    """`truncation` of comparison.json, for the pairs of one arm; `compared` makes an interval.

    `ce` over all rows is "infinite" where some target is outside the support.
    """
    found: dict[str, Any] = {}
    for kind in pairs[0].truncations:
        ones = [pair.truncations[kind] for pair in pairs]
        known = [one for one in ones if isinstance(one, TruncatedPair)]
        if len(known) < len(ones):
            notes = dict.fromkeys(one for one in ones if isinstance(one, str))
            found[kind] = {"note": "; ".join(notes)}
            continue
        support_loss = [one.support_loss for one in known]
        inside = compared([one.inside for one in known])
        baseline_ce = float(np.mean([one.baseline_ce for one in known]))
        is_infinite = any(one.estimate > 0 for one in support_loss)
        found[kind] = {
            "parameter": [one.threshold for one in known],
            "entropy": [one.entropy for one in known],
            "support_loss": compared(support_loss),
            "ce": "infinite" if is_infinite else baseline_ce,
            "inside": {
                "baseline_ce": baseline_ce,
                "penalised_ce": float(np.mean([one.penalised_ce for one in known])),
                "difference": inside,
            },
            "note": "",
        }
    return found
