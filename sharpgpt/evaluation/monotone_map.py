"""Monotone recalibration: every prediction through one increasing function of its own.

With u_i = ln(max p / p_i) >= 0, how far a token is below the most probable one of its row,

    q_i ~ exp(-f(u_i)),   f(0) = 0,   f increasing, the same in every row.

The order of the tokens of a row is kept, and of all u in the text. f(u) = u / T is a temperature T.
These are the diagonal order-preserving functions of Rahimi et al. 2020 (arXiv 2003.06820), taken of
u, which does not change when a row of logits is shifted. Here f is linear between knots: of the
slopes s_k > 0, which begin at the knots a_k, it is a sum,

    f(u) = sum_k s_k min(max(u - a_k, 0), a_{k+1} - a_k),

the last without an end, so -ln q is convex in the slopes.

Shapes: N rows, V vocabulary, K knots.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MonotoneMap:
    """f from its knots, rising from 0, and the slope from each knot on, positive."""

    knots: tuple[float, ...]
    slopes: tuple[float, ...]

    def __post_init__(self) -> None:
        rises = all(low < high for low, high in zip(self.knots, self.knots[1:], strict=False))
        if len(self.slopes) != len(self.knots) or self.knots[:1] != (0.0,) or not rises:
            raise ValueError(f"knots: given {self.knots}, allowed are as many as slopes, from 0 up")
        if not all(0 < slope < float("inf") for slope in self.slopes):
            raise ValueError(f"slopes: given {self.slopes}, allowed are positive numbers")

    def log_probs(self, log_probs_NV: Tensor) -> Tensor:
        """ln q, float64 [N, V], for ln p or logits."""
        log_p_NV = log_probs_NV.double()
        u_NV = log_p_NV.amax(-1, keepdim=True) - log_p_NV
        knots_K = u_NV.new_tensor(self.knots)
        slopes_K = u_NV.new_tensor(self.slopes)
        before_K = torch.cat([knots_K[:1], (slopes_K[:-1] * knots_K.diff()).cumsum(0)])
        number_NV = torch.bucketize(u_NV, knots_K[1:], right=True)
        mapped_NV = before_K[number_NV] + slopes_K[number_NV] * (u_NV - knots_K[number_NV])
        return (-mapped_NV).log_softmax(-1)


def hinges(u: Tensor, knots_K: Tensor) -> Tensor:
    """What each slope is multiplied by in f(u), [..., K] for u of any shape."""
    ends_K = torch.cat([knots_K[1:], knots_K.new_tensor([torch.inf])])
    return (u[..., None] - knots_K).clamp(min=0).minimum(ends_K - knots_K)
