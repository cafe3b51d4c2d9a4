"""The statistics of rows against their definitions, dense and in float64."""

import pytest
import torch
from torch import Tensor

from sharpgpt.evaluation.controls import PenaltyMap
from sharpgpt.evaluation.row_statistics import (
    MEANS,
    SLOPES,
    STATISTICS,
    UNCHANGED,
    Sharpening,
    Temperature,
    row_statistics,
)
from sharpgpt.sharpness import linear_sharpness_loss

SHARPENINGS: list[Sharpening] = [
    Temperature(0.3),
    UNCHANGED,
    PenaltyMap("neg_entropy", 0.2),
    Temperature(3.0),
    PenaltyMap("top_k_mass", -0.1, top_k=2),
]


def dense(logits_NV: Tensor, target_N: Tensor, sharpening: Sharpening, k: int) -> dict[str, Tensor]:
    """The definitions."""
    z_NV = logits_NV.double()
    if isinstance(sharpening, Temperature):
        log_p_NV = (z_NV * sharpening.beta).log_softmax(-1)
    else:
        log_p_NV = sharpening.log_probs(z_NV.log_softmax(-1))
    p_NV = log_p_NV.exp()
    one_hot_NV = torch.nn.functional.one_hot(target_N, z_NV.shape[1]).double()
    mean_z_N = (p_NV * z_NV).sum(-1)
    is_map = isinstance(sharpening, PenaltyMap)
    nan_N = torch.full_like(mean_z_N, torch.nan)
    return {
        "ce": -(one_hot_NV * log_p_NV).sum(-1),
        "entropy": -(p_NV * log_p_NV).sum(-1),
        "max_prob": p_NV.amax(-1),
        "top_k_mass": p_NV.sort(dim=-1, descending=True).values[:, :k].sum(-1),
        "brier": (p_NV - one_hot_NV).square().sum(-1),
        "ce_slope": nan_N if is_map else mean_z_N - (one_hot_NV * z_NV).sum(-1),
        "logit_variance": nan_N if is_map else (p_NV * (z_NV - mean_z_N[:, None]).square()).sum(-1),
    }


def dense_ranks(logits_NV: Tensor, target_N: Tensor, k: int) -> dict[str, Tensor]:
    order_NV = logits_NV.sort(dim=-1, descending=True, stable=True).indices
    rank_N = (order_NV == target_N[:, None]).double().argmax(-1) + 1
    return {
        "accuracy": (rank_N == 1).double(),
        "accuracy_top_5": (rank_N <= 5).double(),
        "accuracy_top_k": (rank_N <= k).double(),
        "reciprocal_rank": 1 / rank_N.double(),
        "logit_std": logits_NV.double().std(-1, correction=0),
    }


@pytest.mark.parametrize("vocab_size", [7, 65, 127, 50257])
@pytest.mark.parametrize("kind", ["usual", "peaked", "flat", "ties"])
def test_every_statistic_is_its_definition(vocab_size: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    num_rows, k = 23, 3
    logits_NV = torch.randn(num_rows, vocab_size, generator=generator)
    target_N = torch.randint(vocab_size, (num_rows,), generator=generator)
    if kind == "peaked":
        logits_NV = 12 * logits_NV + 100
    elif kind == "flat":
        logits_NV = 1e-4 * logits_NV
    elif kind == "ties":
        logits_NV = logits_NV.round()
    sharpenings = SHARPENINGS if vocab_size < 1000 else SHARPENINGS[:2]
    rows = row_statistics(logits_NV, target_N, sharpenings, top_k=k)
    for number, sharpening in enumerate(sharpenings):
        for name, truth_N in dense(logits_NV, target_N, sharpening, k).items():
            found_N = rows[number, STATISTICS.index(name)].double()
            # A slope is a sum of products with logits, whose size is that of its rounding error.
            scale = logits_NV.abs().amax() ** {"ce_slope": 1, "logit_variance": 2}.get(name, 0)
            atol = 2e-6 * max(1.0, float(scale))
            torch.testing.assert_close(found_N, truth_N, rtol=3e-6, atol=atol, equal_nan=True)
    for name, truth_N in dense_ranks(logits_NV, target_N, k).items():
        found_N = rows[-1, STATISTICS.index(name)].double()
        torch.testing.assert_close(found_N, truth_N, rtol=1e-6, atol=1e-7)


def test_in_float64_the_statistics_are_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_NV = 3 * torch.randn(40, 33, generator=generator, dtype=torch.float64)
    target_N = torch.randint(33, (40,), generator=generator)
    rows = row_statistics(logits_NV, target_N, SHARPENINGS, top_k=4)
    for number, sharpening in enumerate(SHARPENINGS):
        truth = torch.stack(list(dense(logits_NV, target_N, sharpening, 4).values()))
        assert len(truth) == len([*MEANS, *SLOPES])
        torch.testing.assert_close(
            rows[number, : len(truth)], truth, rtol=1e-10, atol=1e-11, equal_nan=True
        )


def test_slopes_are_derivatives_and_entropy_follows_from_them() -> None:
    generator = torch.Generator().manual_seed(1)
    logits_NV = 2 * torch.randn(9, 20, generator=generator, dtype=torch.float64)
    target_N = torch.randint(20, (9,), generator=generator)
    beta, step = 1.3, 1e-5
    around = [Temperature(beta + sign * step) for sign in (-1, 0, 1)]
    low, at, high = row_statistics(logits_NV, target_N, around, top_k=1)
    place = {name: STATISTICS.index(name) for name in STATISTICS}
    ce, entropy = place["ce"], place["entropy"]
    slope, variance = at[place["ce_slope"]], at[place["logit_variance"]]
    torch.testing.assert_close((high[ce] - low[ce]) / (2 * step), slope, rtol=1e-6, atol=1e-8)
    entropy_slope = (high[entropy] - low[entropy]) / (2 * step)
    torch.testing.assert_close(entropy_slope, -beta * variance, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(at[ce] - beta * slope, at[entropy], rtol=1e-10, atol=1e-12)


def test_the_fused_loss_has_the_same_statistics() -> None:
    generator = torch.Generator().manual_seed(2)
    hidden_ND = torch.randn(30, 8, generator=generator)
    weight_VD = torch.randn(257, 8, generator=generator)
    target_N = torch.randint(257, (30,), generator=generator)
    fused = linear_sharpness_loss(hidden_ND, weight_VD, target_N, top_k=5, per_row=True).rows
    assert fused is not None
    rows = row_statistics(hidden_ND @ weight_VD.T, target_N, [UNCHANGED], top_k=5)
    for name in ("ce", "entropy", "max_prob", "top_k_mass"):
        torch.testing.assert_close(
            rows[0, STATISTICS.index(name)], getattr(fused, name), rtol=1e-5, atol=2e-6
        )
    torch.testing.assert_close(rows[0, STATISTICS.index("accuracy")], fused.accuracy)


def test_a_map_changes_penalised_positions_only() -> None:
    logits_NV = torch.randn(8, 11, generator=torch.Generator().manual_seed(3))
    target_N = torch.arange(8)
    position_N = torch.arange(4).repeat(2)  # blocks of five tokens
    late = PenaltyMap("neg_entropy", 0.3, positions="2:N-2")
    everywhere = PenaltyMap("neg_entropy", 0.3)
    ce_QN = row_statistics(
        logits_NV,
        target_N,
        [UNCHANGED, late, everywhere],
        top_k=2,
        position_N=position_N,
        block_length=5,
    )[:, STATISTICS.index("ce")]
    penalised_N = position_N >= 2
    torch.testing.assert_close(ce_QN[1][penalised_N], ce_QN[2][penalised_N])
    torch.testing.assert_close(ce_QN[1][~penalised_N], ce_QN[0][~penalised_N])
    assert not torch.isclose(ce_QN[2], ce_QN[0]).any()


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="top_k: given 12, allowed is 1 to the vocabulary size"):
        row_statistics(torch.zeros(1, 11), torch.zeros(1).long(), [UNCHANGED], top_k=12)
    with pytest.raises(ValueError, match="beta: given 0"):
        Temperature(0)
    with pytest.raises(ValueError, match="penalty: given 'own'"):
        PenaltyMap("own", 0.1)
