"""The row mathematics of the fused loss: logits in, statistics out, the gradient in their place.

For a row of logits z, shifted so that its maximum is 0: e = exp(z), s = sum e, p = e / s. Then

    ce = ln s - z_y      max p = 1 / s      H = ln s - sum(e z) / s      S = sum over the top k of p

and with r the row's factor in the loss and w the weight of its penalty, every gradient is

    dz = p * (a + c z) - r e_y

    penalty        a                        c        a at other entries
    none           r                        0
    max            r (1 + w m)              0        r (1 - w (1 - m)) at the largest
    top k          r (1 + w S)              0        r (1 - w (1 - S)) at the k largest
    entropy        r (1 + w sum(p z))       -r w

since ln p = z - ln s, and ln s - H = sum(p z). So a penalty costs one more factor per row and k
entries, and only the entropy one more pass over the tile. These factors are the fast path of a
penalty (`penalties.FastPenalty`). A penalty without one, known by its value and g = d value / d p
alone, takes the softmax Jacobian as it is: dz = r (p - e_y) + r w p (g - sum(p g)).

The z-loss is L^2, with L = M + ln s the logarithm of the sum of e^z before the shift by the maximum
M. Its gradient is 2 L p. So with the weight v it adds 2 r v L to a, whatever the penalty is.

Label smoothing adds z_y - mean z, with the weight e, and so r e (e_y - 1 / V) to the gradient: one
more pass over the tile, of a constant per row.

A soft cap c turns the logits u into z = c tanh(u / c) before all this, and multiplies the gradient
by 1 - (z / c)^2 after it. tanh alone is 4% of the whole loss on a CPU, so a cap of at most
SIGMOID_CAP is computed from s = sigmoid(2 u / c), which is six times as fast: z = c (2 s - 1), and
4 s (1 - s) for the gradient. Where s is near 1/2 it loses the digits of a small tanh: z errs by up
to c 2^-23, which is 4e-6 for c = 30, about what the products err for logits of that size. So e is
taken as a power of 2 there, which errs by less.

The largest entry of dz is written last, from the sum of the other probabilities: p - 1 and its like
have no digits left where p rounds to 1.

A tile is small enough to stay in the processor's cache during these passes. Finding the k largest
entries takes no extra pass: the maximum of each block of BLOCK columns is needed for the maximum
of the row anyway, and the k largest entries are in the k blocks with the largest maxima (of equal
ones the first), so only those k blocks are searched.

Shapes: T rows of a tile, V vocabulary, W columns of the buffer: V rounded up to whole blocks, the
columns from V on filled with PADDING; B buffers, B blocks of columns.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharpgpt.sharpness.penalties import FastPenalty, Penalty, RowFacts, find_penalty

BLOCK = 64
PADDING = -1e30
"""A logit of probability 0; finite, since 0 * -inf would spoil the entropy."""
SIGMOID_CAP = 32.0
"""The largest soft cap that a sigmoid computes; 64 times it where the logits were rounded."""

STATISTICS = (
    "ce",
    "penalty",
    "z_loss",
    "smoothing",
    "max_prob",
    "entropy",
    "top_k_mass",
    "accuracy",
)
"""In the order of `SharpnessRows`; the first ones are the terms of the loss, as in `RowFactors`."""


class RowFactors(NamedTuple):
    """Weights of the rows, [T] each. `loss` is r; the others are r times the weight of the term."""

    loss: Tensor
    penalty: Tensor
    z_loss: Tensor | None = None
    """None: there is no z-loss."""
    smoothing: Tensor | None = None
    """None: the labels are not smoothed."""


def padded_width(vocab_size: int) -> int:
    """W, the columns of the buffer for V logits."""
    return -(-vocab_size // BLOCK) * BLOCK


def tile_statistics(
    logits_TW: Tensor,
    scratch_BTW: Tensor | None,
    target_T: Tensor,
    *,
    penalty: str,
    top_k: int,
    vocab_size: int,
    factors: RowFactors | None,
    is_rounded: bool = False,
    logit_softcap: float | None = None,
) -> Tensor:
    """Statistics of a tile, [S, T] in the order of STATISTICS; the gradient replaces the logits.

    Args:
        logits_TW: float32 or float64, contiguous; overwritten, with d loss / d logits if `factors`.
        scratch_BTW: buffer for two tiles, with a soft cap for three, of the same dtype;
            overwritten. None allocates it, which is right for a compiler: fused operations need no
            buffer.
        target_T: int64 in 0..V-1; ignored rows have factor 0 and any target.
        penalty: as `find_penalty` takes it.
        top_k: k, in 1..V.
        vocab_size: V.
        factors: weights of the rows, or None for no gradient.
        is_rounded: the logits were rounded to half precision, so faster operations of a CPU may
            take the place of the most exact ones; they err by 1e-5, the rounding by 4e-3.
        logit_softcap: c, or None for logits as they are.
    """
    buffers: Any = (None, None, None) if scratch_BTW is None else scratch_BTW
    use_sigmoid = logit_softcap is not None and _is_by_sigmoid(logit_softcap, is_rounded)
    capped_TW, gain = logits_TW, 1.0  # z = gain * capped_TW, less c with a sigmoid
    if logit_softcap is not None:
        gain = 2 * logit_softcap if use_sigmoid else logit_softcap
        scale = 2 / logit_softcap if use_sigmoid else 1 / logit_softcap
        capped_TW = torch.mul(logits_TW, scale, out=buffers[2])
        capped_TW = capped_TW.sigmoid_() if use_sigmoid else capped_TW.tanh_()
    block_max_TB = in_blocks(capped_TW).amax(-1)
    top_index_Tk = top_k_indices(capped_TW, block_max_TB, top_k)
    max_T1 = block_max_TB.amax(-1, keepdim=True)
    if logit_softcap is None:
        z_TW = logits_TW.sub_(max_T1)
    else:
        z_TW = torch.sub(capped_TW, max_T1, out=logits_TW).mul_(gain)
        z_TW[:, vocab_size:] = PADDING
        max_T1 = max_T1 * gain - (logit_softcap if use_sigmoid else 0.0)
    e_TW = _exp(z_TW, buffers[0], as_power_of_2=is_rounded or use_sigmoid)
    top_e_Tk = e_TW.gather(1, top_index_Tk)
    # The largest entry is among the k largest; of equal ones the first is, and it is listed first.
    max_place_T1 = top_e_Tk.argmax(-1, keepdim=True)
    max_index_T1 = top_index_Tk.gather(1, max_place_T1)
    # The other entries are summed separately, so 1 - max p and 1 - S are exact near p = 1.
    outside_top_T = e_TW.scatter_(1, top_index_Tk, 0).sum(-1)
    e_TW.scatter_(1, top_index_Tk, top_e_Tk)
    outside_max_T = outside_top_T + top_e_Tk.scatter(1, max_place_T1, 0).sum(-1)
    sum_T = 1 + outside_max_T
    log_sum_T = outside_max_T.log1p()
    log_sum_exp_T = max_T1.flatten() + log_sum_T  # of the logits as they were
    ez_TW = torch.mul(e_TW, z_TW, out=buffers[1])
    mean_z_T = ez_TW.sum(-1) / sum_T
    entropy_T = log_sum_T - mean_z_T
    max_prob_T = 1 / sum_T
    target_T1 = target_T[:, None]
    target_z_T = z_TW.gather(1, target_T1).flatten()
    ce_T = log_sum_T - target_z_T
    smoothing_T = target_z_T - z_TW[:, :vocab_size].sum(-1) / vocab_size
    hit_T1 = max_index_T1 == target_T1
    rest_T = outside_max_T / sum_T  # 1 - max p
    rest_top_T = outside_top_T / sum_T  # 1 - S
    p_factors = factors
    if factors is not None and factors.z_loss is not None:
        z_factor_T = 2 * factors.z_loss * log_sum_exp_T
        p_factors = factors._replace(loss=factors.loss + z_factor_T)
    functions = find_penalty(penalty)
    if functions.fast is None:
        value_T, penalty_at_max_T = _value_and_gradient(
            z_TW,
            e_TW,
            functions,
            p_factors,
            top_k=top_k,
            vocab_size=vocab_size,
            sum_T=sum_T,
            log_sum_T=log_sum_T,
            max_index_T1=max_index_T1,
        )
    else:
        facts = RowFacts(
            max_prob_T, rest_T, rest_top_T, entropy_T, mean_z_T, max_index_T1, top_index_Tk
        )
        fast = functions.fast(facts)
        value_T = fast.value
        if p_factors is not None:
            _write_gradient(z_TW, e_TW, p_factors, sum_T=sum_T, fast=fast, is_rounded=is_rounded)
            at_max_T = fast.shift if fast.inside is None else fast.inside
            penalty_at_max_T = p_factors.penalty * max_prob_T * at_max_T
    if factors is not None:
        at_target_T = -factors.loss
        if factors.smoothing is not None:
            at_target_T = at_target_T + factors.smoothing
            z_TW.sub_(factors.smoothing[:, None] / vocab_size)
        z_TW.scatter_add_(1, target_T1, at_target_T[:, None])
        # p - 1 would lose digits where the target is the largest entry and p is near 1.
        ce_at_max_T = torch.where(hit_T1.flatten(), -rest_T, max_prob_T)
        exact_T = factors.loss * ce_at_max_T + penalty_at_max_T
        if factors.z_loss is not None:
            exact_T += z_factor_T * max_prob_T
        if factors.smoothing is not None:
            exact_T += factors.smoothing * (hit_T1.flatten().to(ce_T.dtype) - 1 / vocab_size)
        z_TW.scatter_(1, max_index_T1, exact_T[:, None])
        if logit_softcap is not None:
            _through_softcap(z_TW, capped_TW, use_sigmoid)
    return torch.stack(
        [
            ce_T,
            value_T,
            log_sum_exp_T.square(),
            smoothing_T,
            max_prob_T,
            entropy_T,
            1 - rest_top_T,
            hit_T1.flatten().to(ce_T.dtype),
        ]
    )


def _is_by_sigmoid(logit_softcap: float, is_rounded: bool) -> bool:
    """Whether a sigmoid has the digits that this soft cap needs."""
    return logit_softcap <= (64 * SIGMOID_CAP if is_rounded else SIGMOID_CAP)


def _through_softcap(gradient_TW: Tensor, capped_TW: Tensor, use_sigmoid: bool) -> None:
    """Make the gradient of the capped logits that of the logits before the cap."""
    backward = torch.ops.aten.sigmoid_backward if use_sigmoid else torch.ops.aten.tanh_backward
    backward.grad_input(gradient_TW, capped_TW, grad_input=gradient_TW)
    if use_sigmoid:
        gradient_TW.mul_(4)


def _exp(z_TW: Tensor, out_TW: Tensor | None, *, as_power_of_2: bool) -> Tensor:
    """exp(z). As 2^(z log2 e) it takes a third of the time on a CPU."""
    if not as_power_of_2:
        return torch.exp(z_TW, out=out_TW)
    return torch.mul(z_TW, math.log2(math.e), out=out_TW).exp2_()


def _write_gradient(
    z_TW: Tensor,
    e_TW: Tensor,
    factors: RowFactors,
    *,
    sum_T: Tensor,
    fast: FastPenalty,
    is_rounded: bool,
) -> None:
    """Write p * (r + r w (shift + slope z)) over z, and p * (r + r w inside) at the columns.

    With a z-loss `factors.loss` is r (1 + 2 v L), here and below.
    """
    a_T = (factors.loss + factors.penalty * fast.shift) / sum_T
    if fast.slope:
        c_T = factors.penalty * fast.slope / sum_T
        if is_rounded:
            z_TW.mul_(c_T[:, None]).add_(a_T[:, None]).mul_(e_TW)
        else:
            torch.addcmul(a_T[:, None], z_TW, c_T[:, None], out=z_TW).mul_(e_TW)
    else:
        torch.mul(e_TW, a_T[:, None], out=z_TW)
    if fast.columns is not None and fast.inside is not None:
        inside_T = (factors.loss + factors.penalty * fast.inside) / sum_T
        z_TW.scatter_(1, fast.columns, e_TW.gather(1, fast.columns) * inside_T[:, None])


def _value_and_gradient(
    z_TW: Tensor,
    e_TW: Tensor,
    penalty: Penalty,
    factors: RowFactors | None,
    *,
    top_k: int,
    vocab_size: int,
    sum_T: Tensor,
    log_sum_T: Tensor,
    max_index_T1: Tensor,
) -> tuple[Tensor, Tensor]:
    """(value, the penalty's part of the gradient at the maximum), [T] each.

    For a penalty known by its functions alone. The gradient, with that of ln p, is written over z.
    A constant in g changes nothing; less its value at the maximum, no digits cancel near p = 1.
    """
    p_TV = (e_TW / sum_T[:, None])[:, :vocab_size]
    log_p_TV = (z_TW - log_sum_T[:, None])[:, :vocab_size]
    value_T = penalty.value(p_TV, log_p_TV, top_k)
    if factors is None:
        return value_T, value_T
    gradient_TV = penalty.gradient(p_TV, log_p_TV, top_k)
    weighted_TV = p_TV * (gradient_TV - gradient_TV.gather(1, max_index_T1))
    dot_T1 = weighted_TV.sum(-1, keepdim=True)
    weighted_TV = (weighted_TV - p_TV * dot_T1) * factors.penalty[:, None]
    z_TW.zero_()[:, :vocab_size] = weighted_TV + p_TV * factors.loss[:, None]
    return value_T, weighted_TV.gather(1, max_index_T1).flatten()


def in_blocks(logits_TW: Tensor) -> Tensor:
    """The same data as [T, blocks, BLOCK]."""
    return logits_TW.view(len(logits_TW), -1, BLOCK)


def top_k_indices(logits_TW: Tensor, block_max_TB: Tensor, top_k: int) -> Tensor:
    """Columns of the k largest logits of each row, ascending; of equal ones the first. [T, k]."""
    if top_k * BLOCK >= logits_TW.shape[1]:
        return first_largest(logits_TW, top_k)
    block_Tk = first_largest(block_max_TB, top_k)
    candidates_Tkc = in_blocks(logits_TW).gather(1, block_Tk[:, :, None].expand(-1, -1, BLOCK))
    # Blocks are in ascending order, so equal candidates keep the order of their columns.
    place_Tk = first_largest(candidates_Tkc.flatten(1), top_k)
    block_start_Tk = block_Tk.gather(1, place_Tk // BLOCK) * BLOCK
    return block_start_Tk + place_Tk % BLOCK


def first_largest(values_TC: Tensor, k: int) -> Tensor:
    """Columns of the k largest values of each row, ascending; of equal ones the first. [T, k].

    torch.topk promises no order among equals, so it only finds the k-th largest value. Places are
    given out by a running count, which needs no look at the data from outside (no host sync).
    """
    smallest_T1 = values_TC.topk(k, dim=-1).values[:, -1:]
    above_TC = values_TC > smallest_T1
    equal_TC = values_TC == smallest_T1
    num_places_T1 = k - above_TC.sum(-1, keepdim=True)
    chosen_TC = above_TC | (equal_TC & (equal_TC.cumsum(-1) <= num_places_T1))
    place_TC = chosen_TC.cumsum(-1) - 1
    # Columns that were not chosen all go to a place of their own, k, which is cut off.
    place_TC = place_TC.masked_fill(~chosen_TC, k)
    columns_C = torch.arange(values_TC.shape[1], device=values_TC.device)
    index_Tk = place_TC.new_zeros(values_TC.shape[0], k + 1)
    return index_Tk.scatter_(1, place_TC, columns_C.expand_as(place_TC))[:, :k]
