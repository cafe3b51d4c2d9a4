"""Differences that were put into one class of tokens alone are found there."""

import numpy as np
import pytest
import torch

from sharpgpt.evaluation.class_differences import ClassDifference, classes_to_dict
from sharpgpt.evaluation.differences import difference_at_equal_entropy
from sharpgpt.evaluation.model_evaluation import EvaluationText, ModelPasses
from sharpgpt.evaluation.paired_rows import pair_rows
from sharpgpt.evaluation.row_statistics import UNCHANGED, Temperature
from sharpgpt.evaluation.temperature import Fit
from sharpgpt.evaluation.token_classes import FREQUENCY, SEEN, seen_before
from sharpgpt.runtime.device import Device
from tests.evaluation.tables import bigram_text
from tests.evaluation.test_model_evaluation import TableModel

CPU = Device(torch.device("cpu"), torch.float32)


def test_a_harm_to_copies_is_in_their_class_and_the_classes_add_up() -> None:
    """The penalised model is the baseline at a temperature, but loses 0.3 nats on each copy."""
    generator = torch.Generator().manual_seed(0)
    table_VV = torch.randn(30, 30, generator=generator)
    blocks_BT = bigram_text(table_VV, 200, 17, generator)
    text = EvaluationText("text", blocks_BT, None, np.zeros(30))
    at = Temperature(1.4)
    with_temperature = ModelPasses(TableModel(1.4 * table_VV), CPU, text, top_k=2, batch_size=50)
    penalised = with_temperature([UNCHANGED])
    ce_BT = torch.cat([batch.rows("ce") for batch in with_temperature.batches()])
    is_copy_BT = seen_before(blocks_BT)[:, 1:]
    row_ce_R = (ce_BT + 0.3 * is_copy_BT).flatten().numpy()
    passes = ModelPasses(TableModel(table_VV), CPU, text, top_k=2, batch_size=70)
    baseline = passes([UNCHANGED, at])
    # Fitted a little off, so that the residual of the tuning counts.
    fit = Fit(Temperature(1.41), penalised.mean("entropy", half="tuning"), converged=True)
    baseline = baseline.joined(passes([fit.sharpening]))
    rows = pair_rows(passes, row_ce_R, Temperature(1.41), {})
    with_temperature.close()
    passes.close()
    found = rows.classes.differences(penalised, baseline, fit)
    for name, harm in (("yes", 0.3), ("no", 0.0)):
        one = found[SEEN, name]
        assert one.difference is not None
        assert one.difference.estimate == pytest.approx(harm, abs=2e-4)
    everything = found[FREQUENCY, "0 to 20%"]
    assert everything.share == 1
    whole = difference_at_equal_entropy(penalised, baseline, fit)
    assert everything.difference is not None
    added = sum(
        one.share * one.difference.estimate
        for (kind, _), one in found.items()
        if kind == SEEN and one.difference is not None
    )
    assert added == pytest.approx(everything.difference.estimate, abs=1e-9)
    copies = is_copy_BT.numpy()[np.arange(200) * 100 // 200 % 2 == 1].mean()
    assert added == pytest.approx(whole.estimate + 0.3 * copies, abs=1e-6)
    assert found[SEEN, "yes"].share == pytest.approx(copies)


def test_a_class_of_few_groups_has_no_difference() -> None:
    rare = {(SEEN, "yes"): ClassDifference(None, 0.001, 2.0)}
    [row] = classes_to_dict([rare, rare], lambda _: {})
    assert row["difference"] is None
    assert row["share"] == 0.001
    assert classes_to_dict([{(SEEN, "yes"): ClassDifference(None, 0.0, 0.0)}], lambda _: {}) == []
