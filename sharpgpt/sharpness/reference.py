"""The definition of the sharpness loss: dense logits, autograd, any dtype; slow and simple.

Every faster implementation is tested against this file. In plain torch, for valid rows:

    log_p = logits.log_softmax(-1)
    loss  = (-log_p[target] + penalty_weight * mask * penalty(log_p.exp())).mean()

Shapes: N rows, D width, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sharpgpt.sharpness import penalties
from sharpgpt.sharpness.output import Reduction, SharpnessOutput, SharpnessRows

IGNORE_INDEX = -100


def sharpness_loss(
    logits_NV: Tensor,
    target_N: Tensor,
    *,
    penalty: str = "non_max_sum",
    penalty_weight: float | Tensor = 0.0,
    top_k: int = 5,
    penalty_mask: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    reduction: Reduction = "mean",
    normalizer: float | Tensor | None = None,
    per_row: bool = False,
) -> SharpnessOutput:
    """Cross-entropy plus a weighted sharpness penalty, from logits.

    Args:
        logits_NV: scores before the softmax, any floating dtype; half precisions are computed in
            float32.
        target_N: int64 token of each row; rows with `ignore_index` are ignored.
        penalty: a name in `PENALTIES`, or the import path of a `Penalty`.
        penalty_weight: number, or 0-d tensor when it changes from step to step. The number 0.0
            leaves the penalty out of the graph: plain cross-entropy, bit for bit.
        top_k: k of the top-k mass, penalty and statistic, in 1..V.
        penalty_mask: boolean [N]; the penalty applies where it is true. None is everywhere.
        ignore_index: the target that marks a row as ignored.
        reduction: mean and sum over the valid rows, none for a loss of shape [N]. The mean of no
            valid rows is 0, with zero gradients.
        normalizer: divisor of the mean instead of the number of valid rows, such as the rows of
            all micro-batches of a step.
        per_row: also return the statistics row by row.

    Returns:
        `SharpnessOutput`; its statistics are means over the valid rows for every reduction.

    Raises:
        ValueError: unknown penalty or reduction, shapes that do not match, top_k outside 1..V.
    """
    check_arguments(
        logits_NV.shape,
        target_N,
        penalty=penalty,
        penalty_mask=penalty_mask,
        reduction=reduction,
        top_k=top_k,
    )
    if logits_NV.dtype in (torch.float16, torch.bfloat16):
        logits_NV = logits_NV.float()
    valid_N = target_N != ignore_index
    num_rows = valid_N.sum()
    log_probs_NV = logits_NV.log_softmax(-1)
    ce_N = F.nll_loss(log_probs_NV, target_N, ignore_index=ignore_index, reduction="none")
    penalised_N = valid_N if penalty_mask is None else valid_N & penalty_mask

    if isinstance(penalty_weight, Tensor) or penalty_weight != 0:
        penalty_N = _penalty(penalty, log_probs_NV, top_k) * penalised_N
        loss_N = ce_N + penalty_weight * penalty_N
    else:
        with torch.no_grad():
            penalty_N = _penalty(penalty, log_probs_NV, top_k) * penalised_N
        loss_N = ce_N

    with torch.no_grad():
        probs_NV = log_probs_NV.exp()
        rows = SharpnessRows(
            ce=ce_N.detach(),
            penalty=penalty_N.detach(),
            max_prob=penalties.max_prob(probs_NV) * valid_N,
            entropy=penalties.entropy(probs_NV, log_probs_NV) * valid_N,
            top_k_mass=penalties.top_k_mass(probs_NV, top_k) * valid_N,
            accuracy=((probs_NV.argmax(-1) == target_N) & valid_N).to(ce_N.dtype),
        )
        means = SharpnessRows(*(row.sum() / num_rows.clamp(min=1) for row in rows))

    divisor = num_rows.clamp(min=1) if normalizer is None else normalizer
    loss = loss_N
    if reduction != "none":
        loss = loss_N.sum() if reduction == "sum" else loss_N.sum() / divisor
    return SharpnessOutput(
        loss=loss, **means._asdict(), num_rows=num_rows, rows=rows if per_row else None
    )


def linear_sharpness_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    *,
    bias: Tensor | None = None,
    **settings: Any,
) -> SharpnessOutput:
    """`sharpness_loss` of `F.linear(hidden_ND, weight_VD, bias)`, the output layer of a model.

    Settings, result and errors are those of `sharpness_loss`; `bias` is [V].
    """
    return sharpness_loss(F.linear(hidden_ND, weight_VD, bias), target_N, **settings)


def _penalty(name: str, log_probs_NV: Tensor, top_k: int) -> Tensor:
    return penalties.find_penalty(name).value(log_probs_NV.exp(), log_probs_NV, top_k)


def check_arguments(
    shape: tuple[int, ...],
    target_N: Tensor,
    *,
    penalty: str,
    penalty_mask: Tensor | None,
    reduction: str,
    top_k: int,
) -> None:
    """Raise ValueError for a caller's mistake; `shape` is that of the logits, [N, V]."""
    penalties.find_penalty(penalty)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: given {reduction!r}, allowed is 'mean', 'sum' or 'none'")
    if len(shape) != 2 or target_N.shape != shape[:1]:
        raise ValueError(
            f"logits [N, V] and target [N] do not fit: given {tuple(shape)} and "
            f"{tuple(target_N.shape)}"
        )
    mask_N = penalty_mask
    if mask_N is not None and (mask_N.shape != target_N.shape or mask_N.dtype != torch.bool):
        raise ValueError(
            f"penalty_mask: given {mask_N.dtype} {tuple(mask_N.shape)}, allowed is torch.bool "
            f"{tuple(target_N.shape)}"
        )
    if not 1 <= top_k <= shape[1]:
        raise ValueError(f"top_k: given {top_k}, allowed is 1 to the vocabulary size, {shape[1]}")
