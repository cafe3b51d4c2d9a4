"""The threshold with a given entropy, from models that were truncated with a known one."""

from collections.abc import Sequence

import pytest
import torch

from sharpgpt.evaluation.groups import GroupStatistics
from sharpgpt.evaluation.row_statistics import UNCHANGED, Sharpening
from sharpgpt.evaluation.truncation import Truncation
from sharpgpt.evaluation.truncation_fit import PASSES, fit_truncations
from tests.evaluation.tables import bigram_text, table_statistics

VOCABULARY = 400


class Passes:
    """A table and how often it went over the text."""

    def __init__(self, scale: float) -> None:
        generator = torch.Generator().manual_seed(0)
        self.logits_VV = scale * torch.randn(VOCABULARY, VOCABULARY, generator=generator)
        self.blocks_BT = bigram_text(self.logits_VV, 120, 9, generator)
        self.number = 0

    def __call__(self, sharpenings: Sequence[Sharpening]) -> GroupStatistics:
        self.number += 1
        return table_statistics(self.logits_VV, self.blocks_BT, sharpenings)


@pytest.mark.parametrize("kind", ["top_p", "min_p"])
@pytest.mark.parametrize("threshold", [0.25, 0.6, 0.95])
def test_a_known_threshold_is_recovered(kind: str, threshold: float) -> None:
    """Up to where the next of the rows' tokens comes in."""
    passes = Passes(2.0)
    way = Truncation(kind, threshold)
    target = passes([way]).mean("entropy", way, "tuning")
    passes.number = 0
    [found] = fit_truncations(passes, [target])
    assert passes.number == PASSES
    fit = found[kind]
    assert fit.truncation is not None
    assert fit.truncation.threshold == pytest.approx(threshold, rel=0.01)
    reached = passes([fit.truncation]).mean("entropy", fit.truncation, "tuning")
    assert reached == pytest.approx(target, abs=2e-4)


def test_a_higher_entropy_is_out_of_reach() -> None:
    passes = Passes(1.0)
    entropy = passes([UNCHANGED]).mean("entropy", half="tuning")
    higher, lower = fit_truncations(passes, [entropy + 0.01, 0.9 * entropy])
    for kind in ("top_p", "min_p"):
        assert higher[kind].truncation is None
        assert "truncation only lowers the entropy" in higher[kind].note
        assert lower[kind].truncation is not None
