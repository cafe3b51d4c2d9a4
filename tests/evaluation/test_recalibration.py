"""Maps that were applied are found, and what is a map of the other has the same order."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sharpgpt.evaluation.differences import plain_difference
from sharpgpt.evaluation.groups import GroupStatistics
from sharpgpt.evaluation.model_evaluation import EvaluationText, ModelPasses
from sharpgpt.evaluation.monotone_map import MonotoneMap
from sharpgpt.evaluation.order_and_shape import OrderAndShape, order_and_shape, orders_to_dict
from sharpgpt.evaluation.recalibration import Recalibration, fit_recalibration
from sharpgpt.evaluation.row_statistics import UNCHANGED
from sharpgpt.runtime.device import Device
from tests.evaluation.tables import bigram_text
from tests.evaluation.test_model_evaluation import TableModel

CPU = Device(torch.device("cpu"), torch.float32)
VOCABULARY = 60


def table(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn(VOCABULARY, VOCABULARY, generator=generator)


@pytest.fixture(scope="module")
def text() -> Tensor:
    return bigram_text(table(0), 1000, 17, torch.Generator().manual_seed(2))


def recalibrated(logits_VV: Tensor, blocks_BT: Tensor) -> tuple[GroupStatistics, Recalibration]:
    given = EvaluationText("text", blocks_BT, None, np.zeros(VOCABULARY), vocabulary="v")
    passes = ModelPasses(TableModel(logits_VV), CPU, given, top_k=2, batch_size=500)
    statistics = passes([UNCHANGED])
    found = fit_recalibration(passes)
    if found.map is not None:
        statistics = statistics.joined(passes([found.map]))
    passes.close()
    return statistics, found


def divided(
    penalised: tuple[GroupStatistics, Recalibration],
    baseline: tuple[GroupStatistics, Recalibration],
) -> OrderAndShape:
    none = plain_difference(baseline[0], baseline[0], "ce", half="report")
    found = order_and_shape(penalised, baseline, none)
    assert isinstance(found, OrderAndShape)
    return found


def test_a_monotone_map_of_a_model_has_its_order_and_another_shape(text: Tensor) -> None:
    """Whatever the first model is: here one with an error, which no map can take away."""
    model_VV = table(0) + 0.6 * table(1)
    baseline = recalibrated(model_VV, text)
    fitted = baseline[1].map
    assert fitted is not None
    slopes = tuple(np.linspace(0.4, 2.5, len(fitted.knots)).tolist())
    mapped_VV = MonotoneMap(fitted.knots, slopes).log_probs(model_VV).float()
    found = divided(recalibrated(mapped_VV, text), baseline)
    assert abs(found.order.estimate) < 1e-5, "as much as the smallest margin"
    assert found.order.standard_error < 1e-5
    assert found.as_trained.estimate > 0.02
    assert found.shape.estimate == pytest.approx(found.as_trained.estimate, abs=1e-5)
    truth = divided(recalibrated(table(0), text), baseline)
    assert truth.order.estimate + 4 * truth.order.standard_error < -0.05, "another order"


def test_the_map_that_spoilt_the_truth_is_undone(text: Tensor) -> None:
    """Its recalibrated predictions are as good as the truth, though the map has other knots."""
    spoilt_VV = MonotoneMap((0.0, 1.0, 3.0), (2.2, 0.5, 1.4)).log_probs(table(0)).float()
    statistics, found = recalibrated(spoilt_VV, text)
    truth, _ = recalibrated(table(0), text)
    assert found.map is not None
    assert statistics.mean("ce", half="report") > truth.mean("ce", half="report") + 0.02
    assert statistics.mean("ce", found.map, "report") == pytest.approx(
        truth.mean("ce", half="report"), abs=2e-3
    )


def test_a_model_that_is_always_right_gets_a_note() -> None:
    right = torch.zeros(200, 17, dtype=torch.int64)
    logits_VV = torch.zeros(VOCABULARY, VOCABULARY)
    logits_VV[:, 0] = 5.0
    _, found = recalibrated(logits_VV, right)
    assert found.map is None
    assert "too few predictions are wrong" in found.note
    assert orders_to_dict([found.note], lambda _: {}) == {"note": found.note}
