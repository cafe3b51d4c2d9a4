"""Weights of penalties are found again, by few passes, from their optimum."""

import pytest
import torch

from sharpgpt.evaluation.controls import PenaltyMap
from sharpgpt.evaluation.map_weight import fit_map_weight
from sharpgpt.evaluation.row_statistics import UNCHANGED
from tests.evaluation.tables import bigram_text, table_statistics
from tests.evaluation.test_temperature import Passes, table


@pytest.mark.parametrize(
    ("penalty", "weight"),
    [("neg_entropy", 0.25), ("neg_entropy", -0.4), ("non_max_sum", 0.3), ("top_k_mass", 0.15)],
)
def test_the_weight_of_a_penalty_is_recovered(penalty: str, weight: float) -> None:
    """A model that is the penalty's optimum is found as the baseline under the map: within 0.5%."""
    baseline_VV = table(8)
    blocks_BT = bigram_text(baseline_VV, 100, 9, torch.Generator().manual_seed(7))
    optimum_VV = PenaltyMap(penalty, weight, top_k=3).log_probs(baseline_VV.log_softmax(-1))
    optimum = table_statistics(optimum_VV, blocks_BT)
    passes = Passes(baseline_VV, blocks_BT)
    fit, statistics = fit_map_weight(
        passes,
        passes([UNCHANGED]),
        PenaltyMap(penalty, 0.0, top_k=3),
        optimum.mean("entropy", half="tuning"),
    )
    assert fit.converged
    assert isinstance(fit.sharpening, PenaltyMap)
    assert fit.sharpening.weight == pytest.approx(weight, rel=0.005)
    assert statistics.mean("ce", fit.sharpening) == pytest.approx(optimum.mean("ce"), rel=0.002)
    assert passes.number <= 6


def test_the_weight_of_a_model_that_is_not_sharper_is_none() -> None:
    passes = Passes(table(), bigram_text(table(), 20, 9, torch.Generator().manual_seed(8)))
    statistics = passes([UNCHANGED])
    target = statistics.mean("entropy", half="tuning")
    fit, _ = fit_map_weight(passes, statistics, PenaltyMap("neg_entropy", 0.0), target)
    assert fit.sharpening == UNCHANGED
    assert fit.converged
