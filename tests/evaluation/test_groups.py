"""Groups of blocks, their halves, and the sums that are kept of them."""

import numpy as np
import pytest
import torch

from sharpgpt.core.errors import UserError
from sharpgpt.evaluation.groups import make_groups
from sharpgpt.evaluation.row_statistics import UNCHANGED, Temperature
from tests.evaluation.tables import table_statistics


def test_groups_are_runs_of_blocks_that_alternate_between_the_halves() -> None:
    groups = make_groups(11, max_groups=5)
    assert groups.num_groups == 4
    assert groups.of_blocks(np.arange(11)).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert groups.mask("tuning").tolist() == [True, False, True, False]
    assert groups.mask("report").tolist() == [False, True, False, True]
    with pytest.raises(UserError, match="given 3 blocks of text, allowed is at least 4"):
        make_groups(3)


def test_statistics_of_different_text_are_not_joined() -> None:
    table_VV = torch.randn(131, 131, generator=torch.Generator().manual_seed(1))
    blocks_BT = torch.randint(131, (8, 9), generator=torch.Generator().manual_seed(0))
    first = table_statistics(table_VV, blocks_BT)
    more = table_statistics(table_VV, blocks_BT, [UNCHANGED, Temperature(2.0)])
    joined = first.joined(more)
    assert joined.sharpenings == (UNCHANGED, Temperature(2.0))
    assert joined.mean("ce", Temperature(2.0)) == more.mean("ce", Temperature(2.0))
    with pytest.raises(KeyError, match="no statistic 'ce' at"):
        first.mean("ce", Temperature(2.0))
    with pytest.raises(ValueError, match="different text"):
        first.joined(table_statistics(table_VV, blocks_BT.flip(0)))
