"""Statistics of rows of logits, unchanged and sharpened in several ways: one pass, no gradient.

For a row of logits z, shifted so that its maximum is 0, and an inverse temperature beta = 1 / T,
with e = exp(beta z), s = sum e and p = e / s:

    ce = ln s - beta z_y              d ce / d beta = E_p z - z_y
    entropy = ln s - beta E_p z       d2 ce / d beta2 = Var_p z

so entropy = ce - beta * d ce / d beta, and d entropy / d beta = -beta Var_p z: the slopes that
temperature.py needs. Rank and accuracy are the same at every temperature.

`linear_sharpness_loss` computes five of these at T = 1. It is not used here, because it keeps no
logits, and each further temperature would cost the matrix product again, the expensive part.

Shapes: N rows, V vocabulary, Q sharpenings, S statistics.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpgpt.evaluation.controls import PenaltyMap
from sharpgpt.evaluation.monotone_map import MonotoneMap
from sharpgpt.evaluation.truncation import SortedRows, Truncation

MEANS = ("ce", "entropy", "max_prob", "top_k_mass", "brier")
"""`brier` is sum_i (p_i - [i = y])^2."""

SLOPES = ("ce_slope", "logit_variance")
"""d ce / d beta and Var_p z; both are NaN for all but a `Temperature`."""

RANK_MEANS = ("accuracy", "accuracy_top_5", "accuracy_top_k", "reciprocal_rank", "logit_std")
"""Statistics of the unchanged predictions, under every sharpening. `logit_std` is the standard
deviation of a row's logits over the vocabulary: where only that differs, a model was rescaled."""

STATISTICS = (*MEANS, *SLOPES, *RANK_MEANS)

TILE_BYTES = 2**20
"""Logits that go through the cache of a CPU at one time."""


@dataclass(frozen=True)
class Temperature:
    """Division of the logits by T = 1 / beta."""

    beta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.beta < float("inf"):
            raise ValueError(f"beta: given {self.beta}, allowed is a positive number")


Sharpening = Temperature | PenaltyMap | Truncation | MonotoneMap
"""A way to change the predictions of a trained model."""

UNCHANGED = Temperature(1.0)


@torch.no_grad()
def row_statistics(
    logits_NV: Tensor,
    target_N: Tensor,
    sharpenings: Sequence[Sharpening],
    *,
    top_k: int,
    position_N: Tensor | None = None,
    block_length: int = 0,
) -> Tensor:
    """The statistics of each row under each sharpening, [Q, S, N] in the order of STATISTICS.

    Args:
        logits_NV: float32 or float64; only temperatures compute in float32.
        target_N: int64 in 0..V-1.
        sharpenings: Q of them.
        top_k: k of `accuracy_top_k` and `top_k_mass`, in 1..V.
        position_N: position of each row in its block of `block_length` tokens, for maps of
            penalties on some positions only; None is every row.

    Raises:
        ValueError: top_k outside 1..V.
    """
    if not 1 <= top_k <= logits_NV.shape[1]:
        raise ValueError(
            f"top_k: given {top_k}, allowed is 1 to the vocabulary size, {logits_NV.shape[1]}"
        )
    if logits_NV.device.type == "mps" and not all(
        isinstance(one, Temperature) for one in sharpenings
    ):
        # MPS has no float64, in which the others compute.
        logits_NV, target_N = logits_NV.cpu(), target_N.cpu()
        position_N = None if position_N is None else position_N.cpu()
    num_rows, row_bytes = len(logits_NV), logits_NV.element_size() * logits_NV.shape[1]
    on_cpu = logits_NV.device.type == "cpu"
    tile = max(1, TILE_BYTES // row_bytes) if on_cpu else max(1, num_rows)
    found_QSN = logits_NV.new_empty(len(sharpenings), len(STATISTICS), num_rows)
    num_ranks = len(RANK_MEANS)
    truncations = {
        number: one for number, one in enumerate(sharpenings) if isinstance(one, Truncation)
    }
    for start in range(0, num_rows, tile):
        rows = slice(start, start + tile)
        z_TV, target_T1 = logits_NV[rows], target_N[rows, None]
        z_TV = z_TV - z_TV.amax(-1, keepdim=True)
        top_z_Tk = z_TV.topk(top_k).values
        rank_T = target_ranks(z_TV, target_T1)
        found_QSN[:, -num_ranks:, rows] = _rank_statistics(z_TV, rank_T, top_k)
        log_p_TV: Tensor | None = None
        if truncations:
            found_QST = SortedRows(z_TV, target_T1, rank_T).statistics(
                [*truncations.values()], top_k
            )
            found_QSN[[*truncations], :-num_ranks, rows] = found_QST.to(found_QSN.dtype)
        for number, sharpening in enumerate(sharpenings):
            if isinstance(sharpening, Temperature):
                found_QSN[number, :-num_ranks, rows] = _at_temperature(
                    z_TV, top_z_Tk, target_T1, sharpening.beta
                )
                continue
            if isinstance(sharpening, Truncation):
                continue
            if log_p_TV is None:
                log_p_TV = z_TV.double().log_softmax(-1)
            position_T = None if position_N is None else position_N[rows]
            if isinstance(sharpening, MonotoneMap):
                log_q_TV = sharpening.log_probs(log_p_TV)
            else:
                log_q_TV = sharpening.log_probs(log_p_TV, position_T, block_length)
            found_QSN[number, :-num_ranks, rows] = _of_log_probs(log_q_TV, target_T1, top_k).to(
                found_QSN.dtype
            )
    return found_QSN


def target_ranks(z_TV: Tensor, target_T1: Tensor) -> Tensor:
    """The rank of each target, int64 [T], from 1; of equal logits the lowest index is first."""
    z_y_T1 = z_TV.gather(1, target_T1)
    columns_V = torch.arange(z_TV.shape[1], device=z_TV.device)
    before_TV = (z_TV > z_y_T1) | ((z_TV == z_y_T1) & (columns_V < target_T1))
    return before_TV.sum(-1) + 1


def _rank_statistics(z_TV: Tensor, rank_T: Tensor, top_k: int) -> Tensor:
    """RANK_MEANS, [len(RANK_MEANS), T]."""
    hits = [(rank_T <= limit).to(z_TV.dtype) for limit in (1, 5, top_k)]
    # torch.std takes seven times as long on a CPU.
    away_TV = z_TV - z_TV.mean(-1, keepdim=True)
    std_T = (torch.linalg.vecdot(away_TV, away_TV) / z_TV.shape[1]).sqrt()
    return torch.stack([*hits, 1 / rank_T.to(z_TV.dtype), std_T])


def _at_temperature(z_TV: Tensor, top_z_Tk: Tensor, target_T1: Tensor, beta: float) -> Tensor:
    """MEANS and SLOPES of softmax(beta z)."""
    e_TV = (z_TV * beta).exp_()
    sum_T = e_TV.sum(-1)
    log_sum_T = sum_T.log()
    mean_z_T = torch.linalg.vecdot(e_TV, z_TV) / sum_T
    z_y_T = z_TV.gather(1, target_T1).flatten()
    p_y_T = (beta * z_y_T).exp() / sum_T
    square_T = torch.linalg.vecdot(e_TV, e_TV) / sum_T.square()
    # About its mean, for E z^2 - (E z)^2 would lose digits.
    away_TV = z_TV - mean_z_T[:, None]
    variance_T = torch.linalg.vecdot(e_TV, away_TV.square_()) / sum_T
    return torch.stack(
        [
            log_sum_T - beta * z_y_T,
            log_sum_T - beta * mean_z_T,
            1 / sum_T,
            (top_z_Tk * beta).exp_().sum(-1) / sum_T,
            square_T - 2 * p_y_T + 1,
            mean_z_T - z_y_T,
            variance_T,
        ]
    )


def _of_log_probs(log_q_TV: Tensor, target_T1: Tensor, top_k: int) -> Tensor:
    """MEANS and SLOPES of a distribution that is no temperature."""
    q_TV = log_q_TV.exp()
    log_q_y_T = log_q_TV.gather(1, target_T1).flatten()
    top_Tk = q_TV.topk(top_k).values
    unknown_T = torch.full_like(log_q_y_T, torch.nan)
    return torch.stack(
        [
            -log_q_y_T,
            -torch.linalg.vecdot(q_TV, log_q_TV),
            top_Tk[:, 0],
            top_Tk.sum(-1),
            torch.linalg.vecdot(q_TV, q_TV) - 2 * log_q_y_T.exp() + 1,
            unknown_T,
            unknown_T,
        ]
    )
