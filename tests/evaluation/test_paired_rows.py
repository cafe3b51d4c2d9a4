"""A model beside another row by row, against counts of the text itself."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from sharpgpt.evaluation.model_evaluation import EvaluationText, ModelPasses
from sharpgpt.evaluation.paired_rows import (
    TruncatedPair,
    pair_rows,
    truncation_table,
    truncations_to_dict,
)
from sharpgpt.evaluation.row_statistics import UNCHANGED
from sharpgpt.evaluation.truncation import Truncation
from sharpgpt.evaluation.truncation_fit import TruncationFit
from sharpgpt.runtime.device import Device
from tests.evaluation.tables import unigram_text
from tests.evaluation.test_model_evaluation import TableModel

CPU = Device(torch.device("cpu"), torch.float32)
PROBS = torch.tensor([0.25, 0.06, 0.5, 0.04, 0.15])
NUCLEUS = [0, 2, 4]
"""Of top-p 0.9."""


@pytest.fixture
def passes() -> Iterator[ModelPasses]:
    """A model that predicts PROBS in every row, over text with exactly these frequencies."""
    blocks_BT = unigram_text(PROBS, num_blocks=200, block_length=11)
    text = EvaluationText("text", blocks_BT, None, np.zeros(5), vocabulary="v")
    made = ModelPasses(TableModel(PROBS.log().expand(5, 5)), CPU, text, top_k=2, batch_size=7)
    yield made
    made.close()


def test_the_losses_of_a_truncation_are_those_of_the_counted_rows(passes: ModelPasses) -> None:
    targets = passes.text.blocks[0:200][:, 1:]
    is_report = passes.groups.mask("report")[passes.groups.of_blocks(np.arange(200))]
    counts = np.bincount(targets[torch.from_numpy(is_report)].flatten().numpy(), minlength=5)
    penalised_V = np.array([1.0, 4.0, 0.5, 5.0, 2.5], dtype=np.float32)
    fit = TruncationFit(Truncation("top_p", 0.9), 0.9)
    rows = pair_rows(
        passes,
        penalised_V[targets.flatten().numpy()],
        UNCHANGED,
        {"top_p": fit, "min_p": TruncationFit(None, 9.0, "none has so much")},
    )
    pair = rows.truncations["top_p"]
    assert isinstance(pair, TruncatedPair)
    probs = PROBS[NUCLEUS].double().numpy() / 0.9
    inside = counts[NUCLEUS]
    assert pair.entropy == pytest.approx(-(probs * np.log(probs)).sum(), rel=1e-6)
    assert pair.support_loss.estimate == pytest.approx(counts[[1, 3]].sum() / counts.sum())
    assert 0.08 < pair.support_loss.estimate < 0.12
    assert pair.baseline_ce == pytest.approx(-(inside * np.log(probs)).sum() / inside.sum())
    penalised_ce = (inside * penalised_V[NUCLEUS]).sum() / inside.sum()
    assert pair.penalised_ce == pytest.approx(penalised_ce)
    assert pair.inside.estimate == pytest.approx(penalised_ce - pair.baseline_ce)
    content = truncations_to_dict([rows], lambda differences: {"estimate": differences[0].estimate})
    assert content["top_p"]["ce"] == "infinite"
    assert content["min_p"] == {"note": "none has so much"}


def test_one_model_under_the_usual_thresholds(passes: ModelPasses) -> None:
    found = {(row["kind"], row["parameter"]): row for row in truncation_table(passes)}
    nucleus, everything = found["top_p", 0.9], found["min_p", 0.05]
    assert nucleus["ce"] == "infinite"
    assert 0.08 < nucleus["support_loss"]["estimate"] < 0.12
    assert nucleus["support_loss"]["low"] < 0.1 < nucleus["support_loss"]["high"]
    # The three tokens have 1 / 0.9 of their probability.
    gain = nucleus["inside"]["as_it_is_ce"] - nucleus["inside"]["ce"]
    assert gain == pytest.approx(-math.log(0.9), rel=1e-5)
    assert everything["support_loss"]["estimate"] == 0
    assert everything["ce"] == pytest.approx(everything["inside"]["as_it_is_ce"], rel=1e-6)
