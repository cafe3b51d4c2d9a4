"""Known temperatures are found, by few passes, and an unreachable target gets a note."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sharpgpt.evaluation.groups import GroupStatistics
from sharpgpt.evaluation.row_statistics import Sharpening, Temperature
from sharpgpt.evaluation.temperature import (
    GRID,
    Fit,
    fit_temperatures,
    temperature_curve,
)
from tests.evaluation.tables import bigram_text, table_statistics, unigram_text

VOCABULARY = 16


def table(seed: int = 0, scale: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(VOCABULARY, VOCABULARY, generator=generator, dtype=torch.float64)


class Passes:
    """A model that is a table, and how often it went over the text."""

    def __init__(self, logits_VV: Tensor, blocks_BT: Tensor) -> None:
        self.logits_VV, self.blocks_BT, self.number = logits_VV, blocks_BT, 0

    def __call__(self, sharpenings: Sequence[Sharpening]) -> GroupStatistics:
        self.number += 1
        return table_statistics(self.logits_VV, self.blocks_BT, sharpenings)


def fitted(
    logits_VV: Tensor, blocks_BT: Tensor, targets: Sequence[float | None]
) -> tuple[list[Fit], GroupStatistics, Passes]:
    passes = Passes(logits_VV, blocks_BT)
    fits, statistics = fit_temperatures(passes, passes(GRID), targets)
    return fits, statistics, passes


@pytest.mark.parametrize("temperature", [0.4, 1.3, 12.0])
def test_the_temperature_of_a_unigram_table_is_recovered(temperature: float) -> None:
    """The model's logits are the truth's times T, so T is the best temperature: within 0.5%."""
    truth_V = table()[0]
    blocks_BT = unigram_text(truth_V.softmax(-1), num_blocks=2500, block_length=65)
    model_VV = (truth_V * temperature).expand(VOCABULARY, -1)
    [fit], statistics, passes = fitted(model_VV, blocks_BT, [None])
    assert fit.converged
    assert isinstance(fit.sharpening, Temperature)
    assert 1 / fit.sharpening.beta == pytest.approx(temperature, rel=0.005)
    best = statistics.mean("ce", fit.sharpening, "tuning")
    assert best <= min(point.ce for point in temperature_curve(statistics, "tuning"))
    assert passes.number <= 5


def test_the_temperature_of_a_bigram_table_is_recovered() -> None:
    truth_VV = table(1)
    generator = torch.Generator().manual_seed(1)
    blocks_BT = bigram_text(truth_VV, 8000, 33, generator)
    [fit], _, passes = fitted(truth_VV * 0.7, blocks_BT, [None])
    assert isinstance(fit.sharpening, Temperature)
    assert 1 / fit.sharpening.beta == pytest.approx(0.7, rel=0.005)
    assert passes.number <= 3


def test_the_best_temperature_is_that_of_a_dense_search() -> None:
    """Bisection on the derivative by autograd, on the rows of the tuning half."""
    truth_VV, model_VV = table(2), table(2) * 0.6 + 0.3 * table(3)
    blocks_BT = bigram_text(truth_VV, 200, 9, torch.Generator().manual_seed(2))
    [fit], *_ = fitted(model_VV, blocks_BT, [None])
    tuning_BT = blocks_BT.view(100, 2, 9)[::2].flatten(0, 1)
    low, high = 0.1, 10.0
    for _ in range(60):
        beta = torch.tensor((low + high) / 2, dtype=torch.float64, requires_grad=True)
        logits_NV = beta * model_VV[tuning_BT[:, :-1].flatten()]
        torch.nn.functional.cross_entropy(logits_NV, tuning_BT[:, 1:].flatten()).backward()
        assert beta.grad is not None
        low, high = (beta.item(), high) if beta.grad < 0 else (low, beta.item())
    assert isinstance(fit.sharpening, Temperature)
    assert fit.sharpening.beta == pytest.approx(low, rel=2e-5)


def test_entropies_are_matched_and_many_fits_share_passes() -> None:
    blocks_BT = bigram_text(table(), 200, 9, torch.Generator().manual_seed(3))
    targets = [0.3, 0.9, 1.2, 1.7, 2.6, None]
    fits, statistics, passes = fitted(table(4), blocks_BT, targets)
    for fit, target in zip(fits[:-1], targets[:-1], strict=True):
        assert fit.converged
        assert statistics.mean("entropy", fit.sharpening, "tuning") == pytest.approx(
            target, abs=1e-4
        )
    assert passes.number <= 4


def test_a_rescaled_model_is_matched_by_its_factor() -> None:
    model_VV, factor = table(5), 1.37
    blocks_BT = bigram_text(table(), 100, 9, torch.Generator().manual_seed(4))
    rescaled = table_statistics(model_VV * factor, blocks_BT)
    [fit], statistics, _ = fitted(model_VV, blocks_BT, [rescaled.mean("entropy", half="tuning")])
    assert isinstance(fit.sharpening, Temperature)
    assert fit.sharpening.beta == pytest.approx(factor, rel=2e-5)
    for half in ("tuning", "report"):
        assert statistics.mean("ce", fit.sharpening, half) == pytest.approx(
            rescaled.mean("ce", half=half), abs=1e-4
        )


@pytest.mark.parametrize("target", [2.9, -0.1])
def test_an_unreachable_entropy_gets_a_note(target: float) -> None:
    """ln 16 = 2.77 is the largest entropy, 0 the smallest."""
    blocks_BT = bigram_text(table(), 20, 9, torch.Generator().manual_seed(5))
    [fit], statistics, _ = fitted(table(), blocks_BT, [target])
    assert not fit.converged
    assert "there is no temperature with entropy" in fit.note
    assert statistics.mean("ce", fit.sharpening) > 0, "the nearest was evaluated"


def test_a_model_that_is_always_right_has_no_best_temperature() -> None:
    model_VV = 4.0 * torch.eye(VOCABULARY, dtype=torch.float64).roll(1, dims=1)
    blocks_BT = (torch.arange(40)[:, None] + torch.arange(9)) % VOCABULARY
    [fit], *_ = fitted(model_VV, blocks_BT, [None])
    assert not fit.converged
    assert "no best temperature" in fit.note


def test_where_every_temperature_is_as_good_none_is_changed() -> None:
    generator = torch.Generator().manual_seed(0)
    blocks_BT = torch.randint(VOCABULARY, (20, 17), generator=generator)
    [fit], _, _ = fitted(torch.zeros(VOCABULARY, VOCABULARY), blocks_BT, [None])
    assert (fit.sharpening, fit.converged) == (Temperature(1.0), True)


def test_the_curve_is_convex_in_beta_and_its_entropy_falls() -> None:
    blocks_BT = bigram_text(table(), 60, 9, torch.Generator().manual_seed(6))
    points = temperature_curve(table_statistics(table(7), blocks_BT, GRID))
    for before, after in itertools.pairwise(points):
        assert after.beta > before.beta
        assert after.ce_slope > before.ce_slope
        assert after.entropy < before.entropy
    assert points[8].beta == 1
