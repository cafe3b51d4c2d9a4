"""The entropy penalty's closed form: the q that minimises -sum p ln q + w H(q), row by row.

A stationary q fulfils p_i = q_i (c - w ln q_i), with c = 1 - w H(q) because both sides sum to 1. In
y_i = p_i / q_i this is

    y - w ln y = s_i,   s_i = c - w ln p_i,                                   (1)

a function of one variable. For w < 0 the objective is convex and (1) has one solution y > 0. For
w > 0 it has two, y > w and y < w. The second derivative of the objective is (y_i - w) / q_i, which
a minimum lets be negative for one entry at most; that can only be the largest, since a minimum is
ordered like p. With x = q_max, c(x) = p_max / x + w ln x, and T(c) the sum of the other entries,
each with y > w, one equation in x remains:

    R(x) = x + T(c(x)) - 1 = 0.                                               (2)

- x <= p_max / w: c falls with x, so R rises and has at most one root, which Newton's method finds.
  If w <= p_max there is nothing to the right, and the minimum is unique.
- x > p_max / w: c rises with x and T falls with c, so x -> 1 - T(c(x)) is a rising function. Its
  iteration from the left end climbs to the smallest root, from x = 1 it falls to the largest.

The smallest and the largest root are minima, with a saddle between them; the lower of the two is
taken. For large w it is the one where a flat row has collapsed onto one token (docs/verdict.md).

A vocabulary of 50,000 would make this slow, so (2) is solved for entries that are gathered in bins
of ln p, and one Newton step on all entries removes the error of the bins.

Shapes: N rows, V vocabulary, E entries of the solver: the largest, then the others or their bins.
"""

import math

import torch
from torch import Tensor

TOLERANCE = 1e-12
MAX_STEPS = 200
MAX_TEMPERATURE_WEIGHT = 0.8
"""Largest weight for which the search begins at the temperature 1 - w."""
NUM_BINS = 1000
BIN_WIDTH = 0.04
"""In ln p, from the largest entry downwards; what is smaller than all bins goes into the last."""


def entropy_map(log_probs_NV: Tensor, weight: float) -> Tensor:
    """ln q of the q that minimises -sum p ln q + weight * H(q): float64 [N, V].

    Every weight has a minimum with q > 0 wherever p > 0. It is unique for weight <= 0 and in rows
    with p_max >= weight; elsewhere the lowest is taken.
    """
    log_p_NV = log_probs_NV.double()
    if weight == 0:
        return log_p_NV
    log_max_N, index_N = log_p_NV.max(-1)
    index_N1 = index_N[:, None]
    entry_NE, mass_NE = _entries(log_p_NV, index_N1)
    log_x_N = _solution(entry_NE, mass_NE, weight, log_p_NV.shape[1])
    c_N = _c_of(entry_NE, weight, log_x_N)
    y_NV = first_solution(c_N[:, None] - weight * log_p_NV, weight)
    y_NV.scatter_(1, index_N1, (log_max_N - log_x_N).exp()[:, None])
    if entry_NE.shape[1] <= log_p_NV.shape[1]:
        # One Newton step on c with all entries: dq/dc = -q / (y - w), dy/dc = y / (y - w).
        q_NV = log_p_NV.exp() / y_NV
        rate_NV = 1 / (y_NV - weight)
        step_N = (q_NV.sum(-1) - 1) / (q_NV * rate_NV).sum(-1)
        change_NV = (step_N[:, None] * rate_NV).nan_to_num(0.0).clamp(-0.01, 0.01)
        y_NV *= 1 + change_NV
    log_q_NV = log_p_NV - y_NV.log_()
    return log_q_NV - log_q_NV.logsumexp(-1, keepdim=True)


def first_solution(s: Tensor, weight: float) -> Tensor:
    """The solution y of (1); for weight > 0 the one with y >= weight, which needs a large s."""
    size = abs(weight)
    if weight > 0:
        # v = y / w: v - ln v = 1 + u. The start is an upper bound (Chatzigeorgiou 2013), and on a
        # convex rising function Newton's method falls from there to the root.
        u = (s / size + (math.log(size) - 1)).clamp_(min=0)
        v = (2 * u).sqrt_().add_(u).add_(1)
        for _ in range(4):
            v = v - (v - v.log() - 1 - u) / (1 - 1 / v).clamp_(min=1e-9)
        return v.clamp_(min=1).mul_(size)
    # v + ln v = b, in the variable ln v: convex and rising again, and the start is above the root.
    b = s / size - math.log(size)
    log_v = torch.where(b > 1, b.clamp(min=1).log(), b)
    for _ in range(5):
        v = log_v.exp()
        log_v = log_v - (v + log_v - b) / (v + 1)
    return log_v.exp_().mul_(size)


def _entries(log_p_NV: Tensor, index_N1: Tensor) -> tuple[Tensor, Tensor]:
    """ln p and mass of the entries: the largest, then the others, in bins if they are many."""
    p_NV = log_p_NV.exp()
    log_max_N1, max_N1 = log_p_NV.gather(1, index_N1), p_NV.gather(1, index_N1)
    p_NV.scatter_(1, index_N1, 0)
    log_p_NV = log_p_NV.clamp(min=-700.0)
    if log_p_NV.shape[1] <= NUM_BINS:
        return torch.cat([log_max_N1, log_p_NV], dim=1), torch.cat([max_N1, p_NV], dim=1)
    bin_NV = ((log_max_N1 - log_p_NV) / BIN_WIDTH).long().clamp_(max=NUM_BINS - 1)
    mass_NB = p_NV.new_zeros(len(p_NV), NUM_BINS).scatter_add_(1, bin_NV, p_NV)
    sum_NB = torch.zeros_like(mass_NB).scatter_add_(1, bin_NV, p_NV * log_p_NV)
    mean_NB = torch.where(mass_NB > 0, sum_NB / mass_NB, log_max_N1)
    return torch.cat([log_max_N1, mean_NB], dim=1), torch.cat([max_N1, mass_NB], dim=1)


def _solution(entry_NE: Tensor, mass_NE: Tensor, weight: float, vocab_size: int) -> Tensor:
    """ln q_max of the lowest minimum of each row."""
    log_max_N = entry_NE[:, 0]
    if weight < 0:
        # No q_max is below 1 / V; a little lower, so that a flat row's root is not on the bound.
        flat_N = torch.full_like(log_max_N, -math.log(vocab_size) - 0.1)
        return _newton(entry_NE, mass_NE, weight, low_N=flat_N, high_N=log_max_N)
    log_x0_N = (log_max_N - math.log(weight)).clamp(max=0)
    log_x_N = _newton(entry_NE, mass_NE, weight, low_N=log_max_N, high_N=log_x0_N)
    rows = torch.nonzero(log_x0_N < 0).flatten()
    if len(rows) > 0:
        log_x_N[rows] = _lowest(entry_NE[rows], mass_NE[rows], weight, log_x_N[rows])
    return log_x_N


def _newton(
    entry_NE: Tensor, mass_NE: Tensor, weight: float, *, low_N: Tensor, high_N: Tensor
) -> Tensor:
    """ln x of the root of (2) between two bounds, where R rises; the upper bound if R < 0 there."""
    low_N, high_N = low_N.clone(), high_N.clone()
    log_x_N = high_N.clone()
    if -1 <= weight <= MAX_TEMPERATURE_WEIGHT:
        # To first order the map is a temperature of 1 - w.
        power = weight / (1 - weight)
        sum_N = (mass_NE * (power * entry_NE).exp()).sum(-1)
        guess_N = entry_NE[:, 0] * (1 + power) - sum_N.log()
        log_x_N = torch.where((guess_N > low_N) & (guess_N < high_N), guess_N, log_x_N)
    rows = torch.arange(len(log_x_N), device=log_x_N.device)
    for _ in range(MAX_STEPS):
        if len(rows) == 0:
            break
        log_x_R, log_max_R = log_x_N[rows], entry_NE[rows, 0]
        y_RE, q_RE = _others(entry_NE[rows], mass_NE[rows], weight, log_x_R)
        x_R = log_x_R.exp()
        value_R = x_R + q_RE.sum(-1) - 1
        # dR / d ln x = x - (w - p_max / x) sum q / (y - w), the sum over the others
        rate_R = (q_RE / (y_RE - weight).clamp(min=1e-12)).sum(-1)
        slope_R = x_R - (weight - (log_max_R - log_x_R).exp()).clamp(max=0) * rate_R
        low_N[rows] = torch.where(value_R < 0, log_x_R, low_N[rows])
        high_N[rows] = torch.where(value_R < 0, high_N[rows], log_x_R)
        new_R = log_x_R - value_R / slope_R
        outside_R = (new_R <= low_N[rows]) | (new_R >= high_N[rows])
        new_R = torch.where(outside_R, (low_N[rows] + high_N[rows]) / 2, new_R)
        open_R = (value_R.abs() > TOLERANCE) & (low_N[rows] < high_N[rows])
        log_x_N[rows] = torch.where(open_R, new_R, log_x_R)
        rows = rows[open_R]
    return log_x_N


def _lowest(entry_NE: Tensor, mass_NE: Tensor, weight: float, log_x_N: Tensor) -> Tensor:
    """ln x of the lowest minimum of rows with p_max < w; `log_x` is the root up to x0, or x0."""
    log_x0_N = entry_NE[:, 0] - math.log(weight)
    at_x0_N = log_x_N >= log_x0_N
    first_N = log_x_N.clone()
    bound_R = log_x0_N[at_x0_N]
    first_N[at_x0_N] = _iterated(
        entry_NE[at_x0_N], mass_NE[at_x0_N], weight, start_N=bound_R, log_x0_N=bound_R
    )
    start_N = torch.zeros_like(log_x0_N)
    last_N = _iterated(entry_NE, mass_NE, weight, start_N=start_N, log_x0_N=log_x0_N)
    # An iteration that fell to x0 has found no root, and its end is no distribution.
    lower_N = (last_N > log_x0_N) & (
        _objective(entry_NE, mass_NE, weight, last_N)
        < _objective(entry_NE, mass_NE, weight, first_N)
    )
    return torch.where(lower_N, last_N, first_N)


def _c_of(entry_NE: Tensor, weight: float, log_x_N: Tensor) -> Tensor:
    """c(x) = p_max / x + w ln x."""
    return (entry_NE[:, 0] - log_x_N).exp() + weight * log_x_N


def _others(
    entry_NE: Tensor, mass_NE: Tensor, weight: float, log_x_N: Tensor
) -> tuple[Tensor, Tensor]:
    """y and q of all entries but the largest, for the c that belongs to x."""
    c_N = _c_of(entry_NE, weight, log_x_N)
    y_NE = first_solution(c_N[:, None] - weight * entry_NE[:, 1:], weight)
    return y_NE, mass_NE[:, 1:] / y_NE


def _iterated(
    entry_NE: Tensor, mass_NE: Tensor, weight: float, *, start_N: Tensor, log_x0_N: Tensor
) -> Tensor:
    """ln x after x -> 1 - T(c(x)) from exp(start) to a root, or down to x0."""
    log_x_N = start_N.clone()
    rows = torch.arange(len(log_x_N), device=log_x_N.device)
    for _ in range(MAX_STEPS):
        if len(rows) == 0:
            break
        _, q_RE = _others(entry_NE[rows], mass_NE[rows], weight, log_x_N[rows])
        new_R = torch.maximum((1 - q_RE.sum(-1)).clamp(min=1e-300).log(), log_x0_N[rows])
        moved_R = (new_R - log_x_N[rows]).abs() > TOLERANCE
        log_x_N[rows] = new_R
        rows = rows[moved_R & (new_R > log_x0_N[rows])]
    return log_x_N


def _objective(entry_NE: Tensor, mass_NE: Tensor, weight: float, log_x_N: Tensor) -> Tensor:
    """-sum p ln q + w H(q) at a root x."""
    c_N = _c_of(entry_NE, weight, log_x_N)
    log_y_NE = first_solution(c_N[:, None] - weight * entry_NE, weight).log()
    log_y_NE[:, 0] = entry_NE[:, 0] - log_x_N
    log_q_NE = entry_NE - log_y_NE
    return -(mass_NE * (1 + weight * (-log_y_NE).exp()) * log_q_NE).sum(-1)
