"""Passes of a model over fixed blocks of text, in chunks of rows: the [N, V] logits never exist.

    passes = ModelPasses(causal_lm, device, text, top_k=5, batch_size=16)
    statistics = passes([UNCHANGED, Temperature(2.0)])

`row_batches` yields the statistics of a batch row by row, `collect` adds them up in groups of
blocks. Between the two, other sums can be taken from the same rows (buckets.py). Memory is that of
one batch and of one chunk of logits; what `collect` keeps has a fixed size.

Shapes: B blocks of a batch, T tokens of a block, N = B * (T - 1) rows, C rows of a chunk, D width,
V vocabulary, Q sharpenings, S statistics.
"""

import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sharpgpt.core.numbers import counted
from sharpgpt.evaluation.calibration import ConfidenceHistogram
from sharpgpt.evaluation.groups import (
    Blocks,
    Groups,
    GroupStatistics,
    make_groups,
    statistic_index,
)
from sharpgpt.evaluation.hidden_states import CACHE_BYTES, HiddenStates
from sharpgpt.evaluation.logits import CHUNK_BYTES, head_logits, model_hidden
from sharpgpt.evaluation.row_statistics import STATISTICS, UNCHANGED, Sharpening, row_statistics
from sharpgpt.evaluation.validation_text import EvaluationText
from sharpgpt.runtime.device import Device

RowLogits = Callable[[Tensor], Iterable[Tensor]]
"""Blocks [B, T] to the logits [C, V] of their rows, block by block, in chunks of any size."""


class ModelPasses:
    """Passes of one model over one text.

    The body of the model is run once: its last hidden states are kept in a temporary file, and
    later passes need only the output layer, in float32. Where they would take more than
    `cache_bytes`, or more than half of what the disk has left, the body is run for each pass.

    Args:
        causal_lm: a HuggingFace causal LM with a linear head.
        device: where it is, and the arithmetic of its body.
        text: the blocks.
        top_k: k of `accuracy_top_k` and `top_k_mass`.
        batch_size: blocks at a time.
        on_blocks: called with the number of blocks after each batch.
    """

    def __init__(
        self,
        causal_lm: nn.Module,
        device: Device,
        text: EvaluationText,
        *,
        top_k: int,
        batch_size: int,
        on_blocks: Callable[[int], None] = lambda _: None,
        cache_bytes: int = CACHE_BYTES,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.causal_lm = causal_lm
        self.device = device
        self.text = text
        self.top_k = top_k
        self.batch_size = batch_size
        self.groups = make_groups(text.blocks.shape[0])
        self._on_blocks = on_blocks
        self._hidden = HiddenStates(cache_bytes)
        self._chunk_bytes = chunk_bytes

    def close(self) -> None:
        """Remove the hidden states; the object cannot be used afterwards."""
        self._hidden.close()

    def batches(self, sharpenings: Sequence[Sharpening] = (UNCHANGED,)) -> Iterator["RowBatch"]:
        """The rows of all blocks in their order."""
        for batch in row_batches(
            self._row_logits(),
            self.text.blocks,
            sharpenings,
            top_k=self.top_k,
            batch_size=self.batch_size,
        ):
            yield batch
            self._on_blocks(len(batch.input_ids))

    def __call__(
        self, sharpenings: Sequence[Sharpening], histograms: Collection[Sharpening] = ()
    ) -> GroupStatistics:
        """One pass; confidences of the report half are kept for `histograms`."""
        return collect(self.batches(sharpenings), self.groups, histograms)

    def some_logits(self, blocks: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """The logits [C, V] of the rows of some blocks, and their targets [C], in chunks."""
        in_block = self.text.blocks.shape[1] - 1
        for number in blocks:
            input_ids_1T = self.text.blocks[number : number + 1]
            target_N, start = input_ids_1T[0, 1:], 0
            for logits_CV in self._row_logits(number * in_block)(input_ids_1T):
                rows = slice(start, start + len(logits_CV))
                start = rows.stop
                yield logits_CV, target_N[rows].to(logits_CV.device)

    def _row_logits(self, first_row: int = 0) -> RowLogits:

        def row_logits(input_ids_BT: Tensor) -> Iterator[Tensor]:
            nonlocal first_row
            num_rows = input_ids_BT[:, 1:].numel()
            hidden_ND = self._hidden.read(first_row, num_rows)
            if hidden_ND is None:
                hidden_BTD = model_hidden(
                    self.causal_lm, self.device, input_ids_BT, boundary_id=self.text.boundary_id
                )
                hidden_ND = hidden_BTD[:, :-1].flatten(0, 1)
                self._hidden.write(first_row, hidden_ND, self.text.num_rows)
            first_row += num_rows
            hidden_ND = hidden_ND.to(self.device.torch_device)
            yield from head_logits(self.causal_lm, hidden_ND, chunk_bytes=self._chunk_bytes)

        return row_logits


@dataclass(frozen=True)
class RowBatch:
    """Statistics of B consecutive blocks, on the CPU: `statistics` [Q, S, B, T-1], `input_ids`
    [B, T].

    Row t of a block is the prediction of its token t + 1.
    """

    first_block: int
    input_ids: Tensor
    sharpenings: tuple[Sharpening, ...]
    statistics: Tensor

    def rows(self, name: str, sharpening: Sharpening = UNCHANGED) -> Tensor:
        """One statistic, [B, T-1]. Raises KeyError where there is none."""
        return self.statistics[statistic_index(name, sharpening, self.sharpenings)]


def row_batches(
    row_logits: RowLogits,
    blocks: Blocks,
    sharpenings: Sequence[Sharpening] = (UNCHANGED,),
    *,
    top_k: int,
    batch_size: int,
) -> Iterator[RowBatch]:
    """The statistics of all blocks in their order, `batch_size` blocks at a time.

    Raises ValueError where `row_logits` gives other than one row for each prediction.
    """
    num_blocks, block_length = blocks.shape
    unique = tuple(dict.fromkeys(sharpenings))
    for first in range(0, num_blocks, batch_size):
        input_ids_BT = blocks[first : first + batch_size]
        target_N = input_ids_BT[:, 1:].flatten()
        position_N = torch.arange(block_length - 1).repeat(len(input_ids_BT))
        chunks, start = [], 0
        for logits_CV in row_logits(input_ids_BT):
            rows = slice(start, start + len(logits_CV))
            start = rows.stop
            statistics_QSC = row_statistics(
                logits_CV,
                target_N[rows].to(logits_CV.device),
                unique,
                top_k=top_k,
                position_N=position_N[rows].to(logits_CV.device),
                block_length=block_length,
            )
            chunks.append(statistics_QSC.cpu())
        if start != len(target_N):
            given, wanted = counted(start, "row"), counted(len(target_N), "prediction")
            raise ValueError(f"row_logits gave {given} for {wanted}")
        statistics_QSN = torch.cat(chunks, -1)
        statistics_QSBT = statistics_QSN.view(*statistics_QSN.shape[:2], -1, block_length - 1)
        yield RowBatch(first, input_ids_BT, unique, statistics_QSBT)


def collect(
    batches: Iterable[RowBatch], groups: Groups, histograms: Collection[Sharpening] = ()
) -> GroupStatistics:
    """The sums of a pass over all blocks, in float64, and the confidences for `histograms`.

    Raises:
        ValueError: the batches are not the blocks that `groups` divides.
    """
    num_rows_G = np.zeros(groups.num_groups)
    totals_QSG: np.ndarray | None = None
    kept = {sharpening: ConfidenceHistogram.empty() for sharpening in histograms}
    sharpenings: tuple[Sharpening, ...] = ()
    checksum, num_blocks = 0, 0
    for batch in batches:
        if totals_QSG is None:
            sharpenings = batch.sharpenings
            totals_QSG = np.zeros((len(sharpenings), len(STATISTICS), groups.num_groups))
        if batch.first_block != num_blocks:
            before = counted(num_blocks, "block")
            raise ValueError(f"given block {batch.first_block} after {before}")
        size = len(batch.input_ids)
        group_B = groups.of_blocks(np.arange(num_blocks, num_blocks + size))
        num_blocks += size
        checksum = zlib.crc32(batch.input_ids.numpy().astype("<i8").tobytes(), checksum)
        # A batch is in few groups; each block is added to its own.
        np.add.at(num_rows_G, group_B, batch.statistics.shape[-1])
        block_sums_QSB = batch.statistics.double().sum(-1).numpy()
        np.add.at(totals_QSG.transpose(2, 0, 1), group_B, block_sums_QSB.transpose(2, 0, 1))
        is_report_B = groups.mask("report")[group_B]
        for sharpening, histogram in kept.items():
            confidence_BT = batch.rows("max_prob", sharpening).numpy()
            hit_BT = batch.rows("accuracy", sharpening).numpy()
            histogram.add(confidence_BT[is_report_B], hit_BT[is_report_B])
    if totals_QSG is None or num_blocks != groups.num_blocks:
        given = counted(num_blocks, "block")
        raise ValueError(f"given {given}, the groups divide {groups.num_blocks}")
    return GroupStatistics(groups, sharpenings, num_rows_G, totals_QSG, kept, checksum)
