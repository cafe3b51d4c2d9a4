"""Sums of statistics over groups of blocks: all that is kept of a pass, however long the split is.

Consecutive blocks of text resemble each other, so their statistics are not independent, and a
standard error that assumes so is too small. A *group* is a run of consecutive blocks, long enough
for distant rows to be nearly independent; groups are the units of every interval. The number of
groups is fixed, so that memory does not grow with the split.

The even groups, counted from 0, are the *tuning half*: temperatures are fitted on them. The odd
groups are the *report half*: statistics at those temperatures are reported on them. A group of one
half and the next, of the other half, are a *pair*.

Shapes: G groups, Q sharpenings, S statistics.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sharpgpt.core.errors import UserError
from sharpgpt.core.numbers import counted
from sharpgpt.evaluation.calibration import ConfidenceHistogram
from sharpgpt.evaluation.row_statistics import STATISTICS, UNCHANGED, Sharpening

Half = Literal["all", "tuning", "report"]
Floats = npt.NDArray[np.float64]

MAX_GROUPS = 100
"""50 pairs: the 97.5% quantile of t is 2.01 there and 1.96 with any number, so more would gain
little and shorten the groups."""

MIN_BLOCKS = 4


class Blocks(Protocol):
    """What a pass needs of blocks of T tokens: `ValidationBlocks`, or a tensor [num_blocks, T]."""

    @property
    def shape(self) -> Sequence[int]:
        """(num_blocks, T)."""
        ...

    def __getitem__(self, index: slice, /) -> Tensor: ...


@dataclass(frozen=True)
class Groups:
    """How the blocks of a split are divided: in text order, into groups of nearly equal size."""

    num_blocks: int
    num_groups: int

    def of_blocks(self, blocks: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The group of each block: `block * num_groups // num_blocks`."""
        return blocks * self.num_groups // self.num_blocks

    def mask(self, half: Half) -> npt.NDArray[np.bool_]:
        """Which groups belong to a half, [G]."""
        is_tuning = np.arange(self.num_groups) % 2 == 0
        masks = {"all": np.ones_like(is_tuning), "tuning": is_tuning, "report": ~is_tuning}
        return np.asarray(masks[half])


def make_groups(num_blocks: int, max_groups: int = MAX_GROUPS) -> Groups:
    """An even number of groups, as many as possible up to `max_groups`.

    Raises:
        UserError: fewer than 4 blocks.
    """
    if num_blocks < MIN_BLOCKS:
        raise UserError(
            f"given {counted(num_blocks, 'block')} of text, allowed is at least "
            f"{MIN_BLOCKS}, two for each half; give more text or a shorter max_seq_length"
        )
    return Groups(num_blocks, min(max_groups, num_blocks) // 2 * 2)


@dataclass(frozen=True)
class GroupStatistics:
    """Sums over the rows of each group, from one pass over a split.

    `totals` is [Q, S, G] in the order of `sharpenings` and STATISTICS, `num_rows` [G].
    `histograms` has the confidences of the report half for some of the sharpenings. `checksum` is
    that of the tokens: statistics of different text are never compared.
    """

    groups: Groups
    sharpenings: tuple[Sharpening, ...]
    num_rows: Floats
    totals: Floats
    histograms: dict[Sharpening, ConfidenceHistogram]
    checksum: int

    def sums(self, name: str, sharpening: Sharpening = UNCHANGED) -> Floats:
        """Sums of a statistic over the rows of each group, [G].

        Raises:
            KeyError: there is no such statistic, or no pass was made with this sharpening.
        """
        return np.asarray(self.totals[statistic_index(name, sharpening, self.sharpenings)])

    def mean(self, name: str, sharpening: Sharpening = UNCHANGED, half: Half = "all") -> float:
        """Mean of a statistic over the rows of a half."""
        mask = self.groups.mask(half)
        return float(self.sums(name, sharpening)[mask].sum() / self.num_rows[mask].sum())

    def joined(self, other: "GroupStatistics") -> "GroupStatistics":
        """With the sharpenings of another pass of the same model over the same blocks."""
        require_same_text(self, other)
        new = [i for i, one in enumerate(other.sharpenings) if one not in self.sharpenings]
        return replace(
            self,
            sharpenings=(*self.sharpenings, *(other.sharpenings[i] for i in new)),
            totals=np.concatenate([self.totals, other.totals[new]]),
            histograms=self.histograms | other.histograms,
        )


def statistic_index(
    name: str, sharpening: Sharpening, sharpenings: tuple[Sharpening, ...]
) -> tuple[int, int]:
    """Where a statistic is in an array [Q, S, ...]. Raises KeyError where it is not."""
    if name not in STATISTICS or sharpening not in sharpenings:
        raise KeyError(f"no statistic {name!r} at {sharpening}")
    return sharpenings.index(sharpening), STATISTICS.index(name)


def require_same_text(first: GroupStatistics, second: GroupStatistics) -> None:
    """Raise ValueError unless both are of the same blocks in the same groups."""
    if first.groups != second.groups or first.checksum != second.checksum:
        raise ValueError(
            f"the statistics are of different text: {first.groups}, checksum "
            f"{first.checksum:08x}; {second.groups}, checksum {second.checksum:08x}"
        )
