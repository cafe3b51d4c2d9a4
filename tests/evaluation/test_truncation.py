"""Truncation of distributions that can be counted by hand, and dense in float64."""

import pytest
import torch
from torch import Tensor

from sharpgpt.evaluation.row_statistics import STATISTICS, UNCHANGED, row_statistics
from sharpgpt.evaluation.truncation import SortedRows, Truncation


def kept(probs: list[float], truncation: Truncation) -> int:
    z_TV = torch.tensor([probs]).log()
    z_TV = z_TV - z_TV.amax()
    rows = SortedRows(z_TV, torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, dtype=torch.int64))
    return int(rows.num_kept([truncation]))


@pytest.mark.parametrize(
    ("kind", "threshold", "count"),
    [
        ("top_p", 0.9, 3),  # 0.5 + 0.25 + 0.15, not a token more
        ("top_p", 0.901, 4),
        ("top_p", 0.5, 1),
        ("top_p", 0.01, 1),
        ("top_p", 1 - 1e-9, 5),
        ("min_p", 0.3, 3),  # 0.15 is 0.3 of 0.5
        ("min_p", 0.31, 2),
        ("min_p", 1e-3, 5),
    ],
)
def test_it_keeps_exactly_so_many_tokens(kind: str, threshold: float, count: int) -> None:
    assert kept([0.25, 0.06, 0.5, 0.04, 0.15], Truncation(kind, threshold)) == count


def test_of_ties_a_nucleus_keeps_the_lower_indices_and_min_p_all() -> None:
    logits_NV = torch.zeros(5, 5)
    targets_N = torch.arange(5)
    ways = [Truncation("top_p", 0.6), Truncation("min_p", 0.999)]
    nucleus, all_of_them = row_statistics(logits_NV, targets_N, ways, top_k=1)
    assert nucleus[STATISTICS.index("ce")].isfinite().tolist() == [True] * 3 + [False] * 2
    assert nucleus[STATISTICS.index("entropy")].exp().tolist() == pytest.approx([3.0] * 5)
    assert all_of_them[STATISTICS.index("ce")].exp().tolist() == pytest.approx([5.0] * 5)


def dense(logits_NV: Tensor, target_N: Tensor, way: Truncation, k: int) -> dict[str, Tensor]:
    """As HuggingFace's logits processors have it: what is not kept is -inf, then a softmax."""
    p_NV = logits_NV.double().softmax(-1)
    order_NV = p_NV.sort(dim=-1, descending=True, stable=True)
    before_NV = order_NV.values.cumsum(-1) - order_NV.values
    is_kept_NV = torch.zeros_like(p_NV, dtype=torch.bool)
    is_kept_NV.scatter_(1, order_NV.indices, before_NV < way.threshold)
    if way.kind == "min_p":
        is_kept_NV = p_NV >= way.threshold * p_NV.amax(-1, keepdim=True)
    q_NV = p_NV * is_kept_NV
    q_NV = q_NV / q_NV.sum(-1, keepdim=True)
    one_hot_NV = torch.nn.functional.one_hot(target_N, p_NV.shape[1]).double()
    return {
        "ce": -q_NV.gather(1, target_N[:, None]).flatten().log(),
        "entropy": -torch.special.xlogy(q_NV, q_NV).sum(-1),
        "max_prob": q_NV.amax(-1),
        "top_k_mass": q_NV.topk(k).values.sum(-1),
        "brier": (q_NV - one_hot_NV).square().sum(-1),
    }


@pytest.mark.parametrize("vocab_size", [7, 65, 50257])
def test_every_statistic_is_its_definition(vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    logits_NV = 3 * torch.randn(23, vocab_size, generator=generator)
    target_N = torch.randint(min(vocab_size, 9), (23,), generator=generator)
    ways = [Truncation("top_p", 0.37), Truncation("min_p", 0.02), Truncation("top_p", 0.991)]
    rows = row_statistics(logits_NV, target_N, [ways[0], UNCHANGED, *ways[1:]], top_k=3)
    for number, way in zip((0, 2, 3), ways, strict=True):
        for name, truth_N in dense(logits_NV, target_N, way, 3).items():
            found_N = rows[number, STATISTICS.index(name)].double()
            torch.testing.assert_close(found_N, truth_N, rtol=3e-6, atol=3e-6)
    assert rows[:, STATISTICS.index("ce")].isinf().any(), "some targets should be outside"


def test_a_threshold_outside_of_0_to_1_is_refused() -> None:
    for threshold in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="threshold of min_p: given"):
            Truncation("min_p", threshold)
