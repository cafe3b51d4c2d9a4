"""A monotone map against its definition."""

import pytest
import torch

from sharpgpt.evaluation.monotone_map import MonotoneMap, hinges
from sharpgpt.evaluation.row_statistics import STATISTICS, Temperature, row_statistics

KNOTS, SLOPES = (0.0, 0.7, 2.5), (0.3, 2.0, 0.9)


def test_it_is_its_formula() -> None:
    logits_NV = 3 * torch.randn(20, 40, generator=torch.Generator().manual_seed(0)).double()
    u_NV = logits_NV.amax(-1, keepdim=True) - logits_NV
    f_NV = 0.3 * u_NV.clamp(max=0.7) + 2.0 * (u_NV - 0.7).clamp(0, 1.8)
    f_NV += 0.9 * (u_NV - 2.5).clamp(min=0)
    found_NV = MonotoneMap(KNOTS, SLOPES).log_probs(logits_NV)
    torch.testing.assert_close(found_NV, (-f_NV).log_softmax(-1))
    assert torch.equal(found_NV.argsort(-1), logits_NV.argsort(-1)), "the order is kept"
    by_slope_NVK = hinges(u_NV, torch.tensor(KNOTS).double())
    torch.testing.assert_close(by_slope_NVK @ torch.tensor(SLOPES).double(), f_NV)


def test_one_slope_is_a_temperature_with_all_its_statistics() -> None:
    logits_NV = 2 * torch.randn(9, 30, generator=torch.Generator().manual_seed(1)).double()
    ways = [Temperature(1.7), MonotoneMap((0.0, 1.0), (1.7, 1.7))]
    rows = row_statistics(logits_NV, torch.arange(9), ways, top_k=3)
    for name in ("ce", "entropy", "max_prob", "top_k_mass", "brier", "accuracy"):
        torch.testing.assert_close(*rows[:, STATISTICS.index(name)])


def test_what_does_not_rise_is_refused() -> None:
    for knots, slopes in (
        ((0.0, 1.0), (1.0,)),
        ((0.5,), (1.0,)),
        ((0.0, 2.0, 2.0), (1.0, 1.0, 1.0)),
        ((0.0,), (0.0,)),
        ((), ()),
    ):
        with pytest.raises(ValueError, match=r"allowed are"):
            MonotoneMap(knots, slopes)
