"""What each penalty would do to a model without limits, in closed form, row by row.

An unlimited model predicts every row freely. Where the truth is p it ends at the q that minimises

    F(q) = -sum p ln q + w * penalty(q)

so q is a function of p and w alone, and p can be the prediction of an unpenalised model: a way to
sharpen it after training. docs/verdict.md has the derivation; entropy_map.py solves the entropy.

Maximum and top k. Inside the set A of the k largest, q_i = p_i / (mu - w), outside p_i / mu, with
mu = ((1 + w) + sqrt((1 - w)^2 + 4 w s)) / 2 and s the mass of A under p. For w > 0 always; for
w < 0 while A remains the k largest. Beyond, entries tie at a level t, and with r = mu + |w| and
f = |w| / r, the entries above the tie have p_i / r, those below it p_i / (r (1 - f)), and

    r q_i = min(max(u, p_i), p_i / (1 - f)),   u = r t,                       (3)

without the upper bound for f >= 1. An entry of the tie counts for (p_i / u - (1 - f)) / f of an
entry, and u makes the entries at or above the tie count for k.

Shapes: N rows, V vocabulary. In float64: the maps divide by small differences.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sharpgpt.config import penalised_positions
from sharpgpt.evaluation.entropy_map import entropy_map
from sharpgpt.sharpness.penalties import max_mask, top_k_mask

MAPS = ("neg_entropy", "non_max_sum", "neg_max_prob", "top_k_mass")
"""The penalties whose map is known."""

BISECTIONS = 50


@dataclass(frozen=True)
class PenaltyMap:
    """The closed-form map of a penalty as a way to sharpen.

    `weight` is w, of any sign; `top_k` is for top_k_mass; rows outside `positions` (as the setting
    penalty_positions) do not change. Raises ValueError for a penalty without a map.
    """

    penalty: str
    weight: float
    top_k: int = 5
    positions: str = "0:N-2"

    def __post_init__(self) -> None:
        if self.penalty not in MAPS:
            raise ValueError(f"penalty: given {self.penalty!r}, allowed is one of {[*MAPS]}")

    def log_probs(
        self, log_probs_NV: Tensor, position_N: Tensor | None = None, block_length: int = 0
    ) -> Tensor:
        """ln q, float64 [N, V], for ln p, any floating dtype; without positions, on every row."""
        if self.penalty == "neg_entropy":
            mapped_NV = entropy_map(log_probs_NV, self.weight)
        else:
            top_k = self.top_k if self.penalty == "top_k_mass" else 1
            mapped_NV = mass_map(log_probs_NV, self.weight, top_k)
        if position_N is None:
            return mapped_NV
        first, last = penalised_positions(self.positions, block_length)
        penalised_N = (position_N >= first) & (position_N <= last)
        return torch.where(penalised_N[:, None], mapped_NV, log_probs_NV.double())


def mass_map(log_probs_NV: Tensor, weight: float, top_k: int) -> Tensor:
    """ln q of the q that minimises -sum p ln q - weight * (mass of the top_k largest of q).

    That is the penalty 1 - S, and 1 - max q with top_k = 1. float64 [N, V]. For weight > 0 the set
    is that of p, of equal entries the first; for weight < 0 the minimum is unique.
    """
    log_p_NV = log_probs_NV.double()
    p_NV = log_p_NV.exp()
    if weight == 0 or top_k >= p_NV.shape[-1]:
        return log_p_NV
    inside_NV = max_mask(p_NV) if top_k == 1 else top_k_mask(p_NV, top_k)
    mass_N = (p_NV * inside_NV).sum(-1)
    root_N = ((1 - weight) ** 2 + 4 * weight * mass_N).sqrt()
    mu_N = (1 + weight + root_N) / 2
    # mu - w, which loses its digits for w > 1 and a small mass if taken as a difference.
    if weight > 1:
        less_N = 2 * weight * mass_N / (root_N + weight - 1)
    else:
        less_N = (1 - weight + root_N) / 2
    divisor_NV = torch.where(inside_NV, less_N[:, None], mu_N[:, None])
    mapped_NV = log_p_NV - divisor_NV.log()
    if weight < 0:
        lowest_inside_N = mapped_NV.masked_fill(~inside_NV, torch.inf).amin(-1)
        highest_outside_N = mapped_NV.masked_fill(inside_NV, -torch.inf).amax(-1)
        tied_N = lowest_inside_N < highest_outside_N
        if tied_N.any():
            mapped_NV[tied_N] = _tied_map(log_p_NV[tied_N], -weight, top_k)
    return _normalised(mapped_NV)


def _tied_map(log_p_NV: Tensor, size: float, top_k: int) -> Tensor:
    """ln r q of (3) for the weight -size: nested bisections on sums of the sorted p."""
    p_NV = log_p_NV.exp()
    vocab_size = p_NV.shape[1]
    sorted_NV = p_NV.sort(dim=-1, descending=True).values
    ascending_NV = -sorted_NV
    sums_NV = torch.cat([torch.zeros_like(p_NV[:, :1]), sorted_NV.cumsum(-1)], dim=-1)
    max_N1, kth_N1 = sorted_NV[:, :1], sorted_NV[:, top_k - 1 : top_k]

    def counted(f_N1: Tensor, u_N1: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """How many entries are above the tie and at or above it, and their sums under p."""
        lowest_N1 = u_N1 * (1 - f_N1).clamp(min=0)
        above_N1 = torch.searchsorted(ascending_NV, -u_N1, right=True)
        to_tie_N1 = torch.searchsorted(ascending_NV, -lowest_N1)
        return above_N1, to_tie_N1, sums_NV.gather(1, above_N1), sums_NV.gather(1, to_tie_N1)

    def tie_level(f_N1: Tensor) -> Tensor:
        """u at which the entries at or above the tie count for k."""
        # Where all entries tie, u = 1 / (k f + V (1 - f)).
        all_tie_N1 = 1 / (top_k * f_N1 + vocab_size * (1 - f_N1)).clamp(min=1e-12)
        high_N1 = torch.where(f_N1 < 1, max_N1 / (1 - f_N1).clamp(min=1e-12), all_tie_N1)
        low_N1, high_N1 = kth_N1, torch.maximum(high_N1, max_N1)
        for _ in range(BISECTIONS):
            u_N1 = (low_N1 * high_N1).sqrt()
            above_N1, to_tie_N1, above_sum_N1, to_tie_sum_N1 = counted(f_N1, u_N1)
            tie_N1 = (to_tie_sum_N1 - above_sum_N1) / u_N1 - (to_tie_N1 - above_N1) * (1 - f_N1)
            too_many_N1 = above_N1 + tie_N1 / f_N1 > top_k
            low_N1 = torch.where(too_many_N1, u_N1, low_N1)
            high_N1 = torch.where(too_many_N1, high_N1, u_N1)
        return high_N1

    def mapped(f_N1: Tensor, u_N1: Tensor) -> Tensor:
        upper_NV = torch.where(f_N1 < 1, p_NV / (1 - f_N1).clamp(min=1e-12), torch.inf)
        return torch.minimum(torch.maximum(u_N1, p_NV), upper_NV)

    # r is between 1 and 1 + size, so f is between the two; size = f r, which rises with f.
    low_N1 = torch.full_like(max_N1, size / (1 + size))
    high_N1 = torch.full_like(max_N1, min(size, vocab_size / (vocab_size - top_k)))
    for _ in range(BISECTIONS):
        f_N1 = (low_N1 + high_N1) / 2
        u_N1 = tie_level(f_N1)
        above_N1, to_tie_N1, above_sum_N1, to_tie_sum_N1 = counted(f_N1, u_N1)
        below_N1 = (sums_NV[:, -1:] - to_tie_sum_N1) / (1 - f_N1).clamp(min=1e-12)
        r_N1 = above_sum_N1 + (to_tie_N1 - above_N1) * u_N1 + below_N1
        too_large_N1 = f_N1 * r_N1 > size
        low_N1 = torch.where(too_large_N1, low_N1, f_N1)
        high_N1 = torch.where(too_large_N1, f_N1, high_N1)
    return mapped(low_N1, tie_level(low_N1)).log()


def _normalised(log_q_NV: Tensor) -> Tensor:
    """The rows made to sum to 1, which they do up to rounding."""
    return log_q_NV - log_q_NV.logsumexp(-1, keepdim=True)
