"""The definition of the sharpness loss: dense logits, autograd, any dtype; slow and simple.

Every faster implementation is tested against this file. In plain torch, for valid rows:

    logits = logit_softcap * (logits / logit_softcap).tanh()    # unless it is None
    log_p = logits.log_softmax(-1)
    ce    = -log_p[target]
    loss  = (ce + penalty_weight * mask * penalty(log_p.exp())
             + z_loss_weight * logits.logsumexp(-1) ** 2
             + label_smoothing * (logits[target] - logits.mean(-1))).mean()

Shapes: N rows, D width, V vocabulary.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sharpgpt.sharpness import penalties
from sharpgpt.sharpness.output import Reduction, SharpnessOutput, SharpnessRows
from sharpgpt.sharpness.targets import IGNORED, checked_target

IGNORE_INDEX = -100


def sharpness_loss(
    logits_NV: Tensor,
    target_N: Tensor,
    *,
    penalty: str = "non_max_sum",
    penalty_weight: float | Tensor = 0.0,
    z_loss_weight: float | Tensor = 0.0,
    label_smoothing: float | Tensor = 0.0,
    logit_softcap: float | None = None,
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
        target_N: token of each row, any integer dtype; rows with `ignore_index` count nowhere,
            whatever their logits are.
        penalty: a name in `PENALTIES`, or the import path of a `Penalty`.
        penalty_weight: number, or 0-d tensor when it changes from step to step. The number 0.0
            leaves the penalty out of the graph: PyTorch's cross-entropy, bit for bit.
        z_loss_weight: number, or 0-d tensor, of the z-loss (ln sum e^z)^2, which keeps the logits
            near 0; 1e-4 in PaLM. Unlike the penalty it applies to every valid row. The number 0.0
            leaves it out of the graph.
        label_smoothing: number in [0, 1), or 0-d tensor: e of label smoothing (Szegedy et al. 2016,
            section 7), the cross-entropy against (1 - e) one-hot + e / V. It applies to every valid
            row, as the term e (z_y - mean z). The number 0.0 leaves it out of the graph.
        logit_softcap: c above 0, or None. The logits are c tanh(z / c) before all else (Gemma Team
            2024, section 2; 30 there): losses, penalty and statistics are of the capped logits.
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
        ValueError: unknown penalty or reduction, shapes that do not match, top_k outside 1..V,
            label_smoothing outside [0, 1), logit_softcap not above 0.
        IndexError: a target that is neither in 0..V-1 nor `ignore_index`; on a CUDA device an
            assert of the device.
    """
    settings: Any = {
        "penalty": penalty,
        "label_smoothing": label_smoothing,
        "logit_softcap": logit_softcap,
        "top_k": top_k,
        "reduction": reduction,
    }
    check_arguments(logits_NV.shape, target_N, penalty_mask=penalty_mask, **settings)
    target_N = checked_target(target_N, logits_NV.shape[1], ignore_index)
    return _loss_of_logits(
        logits_NV.masked_fill((target_N == IGNORED)[:, None], 0),
        target_N,
        penalty_weight=penalty_weight,
        z_loss_weight=z_loss_weight,
        penalty_mask=penalty_mask,
        normalizer=normalizer,
        per_row=per_row,
        **settings,
    )


def linear_sharpness_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    *,
    bias: Tensor | None = None,
    penalty: str = "non_max_sum",
    penalty_weight: float | Tensor = 0.0,
    z_loss_weight: float | Tensor = 0.0,
    label_smoothing: float | Tensor = 0.0,
    logit_softcap: float | None = None,
    top_k: int = 5,
    penalty_mask: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    reduction: Reduction = "mean",
    normalizer: float | Tensor | None = None,
    per_row: bool = False,
) -> SharpnessOutput:
    """`sharpness_loss` of `F.linear(hidden_ND, weight_VD, bias)`, the output layer of a model.

    Settings, result and errors are those of `sharpness_loss`; `bias` is [V].
    """
    shape = (*hidden_ND.shape[:-1], weight_VD.shape[0])
    settings: Any = {
        "penalty": penalty,
        "label_smoothing": label_smoothing,
        "logit_softcap": logit_softcap,
        "top_k": top_k,
        "reduction": reduction,
    }
    check_arguments(shape, target_N, penalty_mask=penalty_mask, **settings)
    target_N = checked_target(target_N, weight_VD.shape[0], ignore_index)
    # Zeros in ignored rows here, so that a NaN there reaches neither a sum nor a product.
    hidden_ND = hidden_ND.masked_fill((target_N == IGNORED)[:, None], 0)
    return _loss_of_logits(
        F.linear(hidden_ND, weight_VD, bias),
        target_N,
        penalty_weight=penalty_weight,
        z_loss_weight=z_loss_weight,
        penalty_mask=penalty_mask,
        normalizer=normalizer,
        per_row=per_row,
        **settings,
    )


def _loss_of_logits(
    logits_NV: Tensor,
    target_N: Tensor,
    *,
    penalty: str,
    penalty_weight: float | Tensor,
    z_loss_weight: float | Tensor,
    label_smoothing: float | Tensor,
    logit_softcap: float | None,
    top_k: int,
    penalty_mask: Tensor | None,
    reduction: str,
    normalizer: float | Tensor | None,
    per_row: bool,
) -> SharpnessOutput:
    """The loss of finite logits and checked targets."""
    if logits_NV.dtype in (torch.float16, torch.bfloat16):
        logits_NV = logits_NV.float()
    logits_NV = soft_capped(logits_NV, logit_softcap)
    valid_N = target_N != IGNORED
    num_rows = valid_N.sum()
    penalised_N = valid_N if penalty_mask is None else valid_N & penalty_mask
    has_penalty = isinstance(penalty_weight, Tensor) or penalty_weight != 0
    plain_log_probs_NV = logits_NV.log_softmax(-1)
    with torch.set_grad_enabled(torch.is_grad_enabled() and has_penalty):
        log_probs_NV = exact_near_one(plain_log_probs_NV)
        value_N = penalties.find_penalty(penalty).value(log_probs_NV.exp(), log_probs_NV, top_k)
        # Not a product with the mask: 0 * inf is NaN, in the value and in the gradient.
        penalty_N = torch.where(penalised_N, value_N, 0)
    ce_N = F.nll_loss(
        log_probs_NV if has_penalty else plain_log_probs_NV,
        target_N,
        ignore_index=IGNORED,
        reduction="none",
    )
    loss_N = ce_N + penalty_weight * penalty_N if has_penalty else ce_N
    has_z_loss = isinstance(z_loss_weight, Tensor) or z_loss_weight != 0
    if has_z_loss:
        loss_N = loss_N + z_loss_weight * torch.where(valid_N, log_sum_exp(logits_NV).square(), 0)
    has_smoothing = isinstance(label_smoothing, Tensor) or label_smoothing != 0
    with torch.set_grad_enabled(torch.is_grad_enabled() and has_smoothing):
        smoothing_N = torch.where(valid_N, above_mean(logits_NV, target_N), 0)
    if has_smoothing:
        loss_N = loss_N + label_smoothing * smoothing_N

    with torch.no_grad():
        probs_NV = log_probs_NV.exp()
        index_N1 = logits_NV.argmax(-1, keepdim=True)
        log_sum_exp_N1 = logits_NV.gather(-1, index_N1) - log_probs_NV.gather(-1, index_N1)
        rows = SharpnessRows(
            ce=ce_N.detach(),
            penalty=penalty_N.detach(),
            z_loss=log_sum_exp_N1.squeeze(-1).square() * valid_N,
            smoothing=smoothing_N.detach(),
            max_prob=penalties.max_prob(probs_NV) * valid_N,
            entropy=penalties.entropy(probs_NV, log_probs_NV) * valid_N,
            top_k_mass=penalties.top_k_mass(probs_NV, top_k) * valid_N,
            accuracy=(probs_NV.argmax(-1) == target_N).to(ce_N.dtype),
        )
        means = SharpnessRows(*(row.sum() / num_rows.clamp(min=1) for row in rows))

    loss = loss_N if reduction == "none" else loss_N.sum()
    if reduction == "mean" and normalizer is None:
        loss = loss / num_rows.clamp(min=1)
    elif reduction == "mean":
        # Nothing divided by a normalizer of 0 is 0.
        divisor = torch.as_tensor(normalizer, dtype=loss.dtype, device=loss.device)
        loss = loss / torch.where(num_rows > 0, divisor, 1)
    return SharpnessOutput(
        loss=loss, **means._asdict(), num_rows=num_rows, rows=rows if per_row else None
    )


def soft_capped(logits: Tensor, logit_softcap: float | None) -> Tensor:
    """c tanh(z / c), of any shape; the logits themselves for None."""
    return logits if logit_softcap is None else logit_softcap * (logits / logit_softcap).tanh()


def exact_near_one(log_probs_NV: Tensor) -> Tensor:
    """The result of log_softmax, with the digits of the largest ln p that it loses near p = 1.

    ln p is -1e-9 where the others sum to 1e-9, but log_softmax takes the logarithm of 1 + 1e-9,
    which rounds to 0 in float32. Above p = 1/2 it is log1p of the sum of the others, and so is its
    gradient.
    """
    index_N1 = log_probs_NV.argmax(-1, keepdim=True)
    rest_N1 = log_probs_NV.exp().scatter(-1, index_N1, 0).sum(-1, keepdim=True)
    largest_N1 = torch.where(
        rest_N1 < 0.5, (-rest_N1.clamp(max=0.5)).log1p(), log_probs_NV.gather(-1, index_N1)
    )
    return log_probs_NV.scatter(-1, index_N1, largest_N1)


def log_sum_exp(logits_NV: Tensor) -> Tensor:
    """ln sum e^z, [N], with the digits that it loses in logsumexp near 0; its gradient is p.

    Both are computed from logits that are shifted to a maximum of 0. The entry at the maximum is
    e^z - 1: 0 with a gradient of 1, so that log1p has the sum of the others alone.
    """
    max_N1, index_N1 = logits_NV.detach().max(-1, keepdim=True)
    z_NV = logits_NV - max_N1
    rest_N = z_NV.exp().scatter(-1, index_N1, z_NV.gather(-1, index_N1).expm1()).sum(-1)
    return max_N1.squeeze(-1) + rest_N.log1p()


def above_mean(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """z_y - mean z, [N], whatever is added to a row; its gradient is e_y - 1 / V.

    A row that is IGNORED has the value of token 0.
    """
    z_NV = logits_NV - logits_NV.detach().amax(-1, keepdim=True)
    index_N1 = target_N.clamp(min=0)[..., None]
    return z_NV.gather(-1, index_N1).squeeze(-1) - z_NV.mean(-1)


def check_arguments(
    shape: tuple[int, ...],
    target_N: Tensor,
    *,
    penalty: str,
    penalty_mask: Tensor | None,
    reduction: str,
    top_k: int,
    label_smoothing: float | Tensor = 0.0,
    logit_softcap: float | None = None,
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
    if not isinstance(label_smoothing, Tensor) and not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing: given {label_smoothing}, allowed is 0 or more, below 1")
    if logit_softcap is not None and not 0 < logit_softcap < math.inf:
        raise ValueError(
            f"logit_softcap: given {logit_softcap}, allowed is None or a number above 0"
        )
