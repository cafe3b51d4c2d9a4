"""Truncation of predictions: only the most probable tokens keep a probability, renormalised.

    top_p   the fewest tokens, most probable first, whose mass is at least p
            (nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751)
    min_p   the tokens with at least m times the largest probability
            (Nguyen et al. 2024, arXiv 2407.01082)

A target outside these tokens, the *support*, has probability 0: its cross-entropy is infinite, and
so is the mean over rows with one such target. Of equally probable tokens top_p keeps the lower
indices; min_p keeps all of them or none.

For the probabilities p in falling order, sums S = sum p, A = sum p ln p, B = sum p^2 over the first
k, the rest follows: ln S - A / S is the entropy, ln S - ln p_y the cross-entropy. So one sort and
three running sums serve all thresholds. Each further token raises the entropy (it has at most the
mean probability of those before), so entropy rises with p and falls with m.

Shapes: T rows of a tile, V vocabulary, Q truncations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

TruncationKind = Literal["top_p", "min_p"]

ROUNDING = 1e-5
"""Relative, of what a nucleus leaves out: sums of rounded probabilities do not decide."""


@dataclass(frozen=True)
class Truncation:
    """One of the two with its threshold, p or m, between 0 and 1."""

    kind: TruncationKind
    threshold: float

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(
                f"threshold of {self.kind}: given {self.threshold}, allowed is between 0 and 1"
            )


class SortedRows:
    """Rows by falling probability, with running sums in float64.

    Args:
        z_TV: logits whose maximum is 0.
        target_T1: int64 in 0..V-1.
        rank_T: of the target, from 1; of equal logits the lowest index is first.
    """

    def __init__(self, z_TV: Tensor, target_T1: Tensor, rank_T: Tensor) -> None:
        if z_TV.device.type == "cpu":  # a third of the time of torch.sort
            sorted_TV = torch.from_numpy(-np.sort(-z_TV.numpy(), axis=-1))
        else:
            sorted_TV = z_TV.sort(-1, descending=True).values
        self._negative_z_TV = -sorted_TV
        log_p_TV = sorted_TV.double()
        log_sum_T1 = log_p_TV.logsumexp(-1, keepdim=True)
        log_p_TV -= log_sum_T1
        p_TV = log_p_TV.exp()
        self._mass_TV = p_TV.cumsum(-1)
        self._p_log_p_TV = (p_TV * log_p_TV).cumsum(-1)
        self._square_TV = (p_TV * p_TV).cumsum(-1)
        self._max_T1 = p_TV[:, :1]
        self._log_p_y_T1 = z_TV.gather(1, target_T1).double() - log_sum_T1
        self._rank_T1 = rank_T[:, None]

    def num_kept(self, truncations: Sequence[Truncation]) -> Tensor:
        """How many tokens each row keeps, int64 [T, Q]."""
        thresholds_Q = self._mass_TV.new_tensor([one.threshold for one in truncations])
        is_nucleus_Q = torch.tensor([one.kind == "top_p" for one in truncations])
        is_nucleus_Q = is_nucleus_Q.to(thresholds_Q.device)
        shape = (len(self._mass_TV), len(truncations))
        wanted_TQ = (1 - (1 - thresholds_Q) * (1 + ROUNDING)).expand(shape).contiguous()
        least_TQ = -thresholds_Q.log().to(self._negative_z_TV.dtype).expand(shape).contiguous()
        kept_TQ = torch.where(
            is_nucleus_Q,
            torch.searchsorted(self._mass_TV, wanted_TQ) + 1,
            torch.searchsorted(self._negative_z_TV, least_TQ, right=True),
        )
        return kept_TQ.clamp(min=1, max=self._mass_TV.shape[1])

    def statistics(self, truncations: Sequence[Truncation], top_k: int) -> Tensor:
        """MEANS and SLOPES of row_statistics.py, float64 [Q, 7, T]; `ce` is infinite outside the
        support, slopes are NaN."""
        kept_TQ = self.num_kept(truncations)
        mass_TQ, p_log_p_TQ, square_TQ = (
            sums_TV.gather(1, kept_TQ - 1)
            for sums_TV in (self._mass_TV, self._p_log_p_TV, self._square_TV)
        )
        top_TQ = self._mass_TV.gather(1, kept_TQ.clamp(max=top_k) - 1)
        ce_TQ = mass_TQ.log() - self._log_p_y_T1
        ce_TQ = torch.where(self._rank_T1 <= kept_TQ, ce_TQ, torch.inf)
        unknown_TQ = torch.full_like(ce_TQ, torch.nan)
        return torch.stack(
            [
                ce_TQ,
                mass_TQ.log() - p_log_p_TQ / mass_TQ,
                self._max_T1 / mass_TQ,
                top_TQ / mass_TQ,
                square_TQ / mass_TQ.square() - 2 * (-ce_TQ).exp() + 1,
                unknown_TQ,
                unknown_TQ,
            ]
        ).permute(2, 0, 1)
