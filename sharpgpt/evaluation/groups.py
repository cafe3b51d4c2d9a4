"""Figures of groups of blocks: all that is kept of a pass over a split, however long the split is.

Consecutive blocks of text resemble each other, so their figures are not independent, and a standard
error that takes them for it is too small. A *group* is a run of consecutive blocks, long enough for
what is far apart to be nearly independent; groups are the units of every interval. The number of
groups is fixed, so that memory does not grow with the split.

The even groups, counted from 0, are the *tuning half*: temperatures are fitted on them. The odd
groups are the *report half*: figures at those temperatures are reported on them. A group of the one
half and the next, of the other, are a *pair*.

Shapes: G groups, Q ways to sharpen, F figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from sharpgpt.core.errors import UserError
from sharpgpt.evaluation.calibration import ConfidenceHistogram
from sharpgpt.evaluation.rows import FIGURES, RANK_FIGURES, UNCHANGED, Sharpening

Half = Literal["all", "tuning", "report"]
Floats = npt.NDArray[np.float64]

MOST_GROUPS = 100
"""50 pairs: the 97.5% quantile of t is 2.01 there and 1.96 with any number, so more would gain
little and shorten the groups."""

FEWEST_BLOCKS = 4


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
        if half == "all":
            return np.ones_like(is_tuning)
        return np.asarray(is_tuning if half == "tuning" else ~is_tuning)


def make_groups(num_blocks: int, most_groups: int = MOST_GROUPS) -> Groups:
    """An even number of groups, as many as there can be up to `most_groups`.

    Raises:
        UserError: fewer than 4 blocks.
    """
    if num_blocks < FEWEST_BLOCKS:
        raise UserError(
            f"given {num_blocks} blocks of text, allowed is at least {FEWEST_BLOCKS}, two for each "
            "half; give more text or a shorter max_seq_length"
        )
    return Groups(num_blocks, min(most_groups, num_blocks) // 2 * 2)


@dataclass(frozen=True)
class GroupFigures:
    """Sums over the rows of each group, from one pass over a split.

    `figures` is [Q, F, G] in the order of `sharpenings` and FIGURES, `ranks` [F, G] in that of
    RANK_FIGURES, `num_rows` [G]. `histograms` has one for each sharpening and half, or is empty.
    `checksum` is that of the tokens: figures of different text are never compared.
    """

    groups: Groups
    top_k: int
    sharpenings: tuple[Sharpening, ...]
    num_rows: Floats
    ranks: Floats
    figures: Floats
    histograms: dict[tuple[Sharpening, Half], ConfidenceHistogram]
    checksum: int

    def sums(self, name: str, sharpening: Sharpening = UNCHANGED) -> Floats:
        """Sums of a figure over the rows of each group, [G].

        Raises:
            KeyError: there is no such figure, or no pass was made with this sharpening.
        """
        if name in RANK_FIGURES:
            return np.asarray(self.ranks[RANK_FIGURES.index(name)])
        if name not in FIGURES or sharpening not in self.sharpenings:
            raise KeyError(f"no figure {name!r} at {sharpening}")
        place = self.sharpenings.index(sharpening), FIGURES.index(name)
        return np.asarray(self.figures[place])

    def mean(self, name: str, sharpening: Sharpening = UNCHANGED, half: Half = "all") -> float:
        """Mean of a figure over the rows of a half."""
        mask = self.groups.mask(half)
        return float(self.sums(name, sharpening)[mask].sum() / self.num_rows[mask].sum())

    def means(self, sharpening: Sharpening = UNCHANGED, half: Half = "all") -> dict[str, float]:
        """Every figure but the slopes, by name."""
        names = [*FIGURES[:-2], *RANK_FIGURES]
        return {name: self.mean(name, sharpening, half) for name in names}

    def histogram(
        self, sharpening: Sharpening = UNCHANGED, half: Half = "all"
    ) -> ConfidenceHistogram:
        """Confidence and hits of a half. Raises KeyError where the pass kept none."""
        if half != "all":
            return self.histograms[sharpening, half]
        tuning, report = (self.histograms[sharpening, part] for part in ("tuning", "report"))
        return tuning + report

    def joined(self, others: Sequence["GroupFigures"]) -> "GroupFigures":
        """With the sharpenings of other passes of the same model over the same blocks."""
        joined = self
        for other in others:
            require_same_text(joined, other)
            new = [i for i, one in enumerate(other.sharpenings) if one not in joined.sharpenings]
            joined = replace(
                joined,
                sharpenings=(*joined.sharpenings, *(other.sharpenings[i] for i in new)),
                figures=np.concatenate([joined.figures, other.figures[new]]),
                histograms=joined.histograms | other.histograms,
            )
        return joined


def require_same_text(first: GroupFigures, second: GroupFigures) -> None:
    """Raise ValueError unless both are of the same blocks in the same groups."""
    if first.groups != second.groups or first.checksum != second.checksum:
        raise ValueError(
            f"the figures are of different text: {first.groups}, checksum {first.checksum:08x}; "
            f"{second.groups}, checksum {second.checksum:08x}"
        )


def bits_per_byte(ce: float, num_tokens: int, num_bytes: int) -> float:
    """Cross-entropy in nats a token as bits a byte of the text that the tokens stand for."""
    return ce * num_tokens / (num_bytes * float(np.log(2)))
