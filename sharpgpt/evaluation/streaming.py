"""One pass of a model over fixed blocks of text, in chunks of rows: the [N, V] logits never exist.

    row_logits = model_logits(model, device)
    batches = row_batches(row_logits, blocks, sharpenings, top_k=5, batch_size=8)
    figures = collect(batches, make_groups(len(blocks)), top_k=5)

`row_batches` yields the figures of a batch row by row, `collect` adds them up in groups of blocks.
Between the two, other sums can be taken from the same rows (buckets.py). Memory is that of one
batch and of one chunk of logits; what `collect` keeps has a fixed size.

Shapes: B blocks of a batch, T tokens of a block, N = B * (T - 1) rows, C rows of a chunk, D width,
V vocabulary, Q ways to sharpen, F figures.
"""

import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpgpt.evaluation.calibration import ConfidenceHistogram
from sharpgpt.evaluation.groups import GroupFigures, Groups, Half
from sharpgpt.evaluation.rows import FIGURES, RANK_FIGURES, UNCHANGED, Sharpening, row_figures
from sharpgpt.model.lm import SharpnessLM, document_mask
from sharpgpt.runtime.device import Device

CHUNK_BYTES = 64 * 2**20
"""Logits held at one time."""

RowLogits = Callable[[Tensor], Iterable[Tensor]]
"""Blocks [B, T] to the logits [C, V] of their rows, block by block, in chunks of any size."""


class Blocks(Protocol):
    """What a pass needs of blocks: `ValidationBlocks`, or a tensor [num_blocks, T]."""

    @property
    def shape(self) -> Sequence[int]:
        """(num_blocks, T)."""
        ...

    def __getitem__(self, index: slice, /) -> Tensor: ...


def model_logits(
    model: nn.Module,
    device: Device,
    *,
    boundary_id: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> RowLogits:
    """The float32 logits of a HuggingFace causal LM with a linear head, or of a `SharpnessLM`.

    The body runs in the arithmetic of `device`, the head in float32. `boundary_id` is as in
    `SharpnessLM`, whose own is taken for one. The model is put into evaluation mode for each batch
    and left in the mode in which it was.
    """
    if isinstance(model, SharpnessLM):
        boundary_id = model.boundary_id
        model = model.causal_lm

    def row_logits(input_ids_BT: Tensor) -> Iterator[Tensor]:
        hidden_BTD = model_hidden(model, device, input_ids_BT, boundary_id=boundary_id)
        yield from head_logits(model, hidden_BTD[:, :-1].flatten(0, 1), chunk_bytes=chunk_bytes)

    return row_logits


@torch.no_grad()
def model_hidden(
    causal_lm: nn.Module, device: Device, input_ids_BT: Tensor, *, boundary_id: int | None = None
) -> Tensor:
    """The last hidden states of the model's body, [B, T, D], in the arithmetic of `device`."""
    model = cast(Any, causal_lm)
    input_ids_BT = input_ids_BT.to(device.torch_device)
    attention = {}
    if boundary_id is not None:
        attention["attention_mask"] = document_mask(input_ids_BT, boundary_id)
    was_training = model.training
    model.eval()
    with device.autocast():
        hidden_BTD: Tensor = model.base_model(input_ids=input_ids_BT, use_cache=False, **attention)[
            0
        ]
    model.train(was_training)
    return hidden_BTD


@torch.no_grad()
def head_logits(
    causal_lm: nn.Module, hidden_ND: Tensor, *, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[Tensor]:
    """The float32 logits of rows of hidden states, [C, V] at a time."""
    head = cast(Any, causal_lm).get_output_embeddings()
    weight_VD = head.weight.float()
    bias_V = None if head.bias is None else head.bias.float()
    rows = max(1, chunk_bytes // (4 * len(weight_VD)))
    for hidden_CD in torch.split(hidden_ND, rows):
        yield F.linear(hidden_CD.float(), weight_VD, bias_V)


@dataclass(frozen=True)
class RowBatch:
    """Figures of B consecutive blocks, on the CPU: `ranks` [F, B, T-1], `figures` [Q, F, B, T-1],
    `input_ids` [B, T].

    Row t of a block is the prediction of its token t + 1.
    """

    first_block: int
    input_ids: Tensor
    sharpenings: tuple[Sharpening, ...]
    ranks: Tensor
    figures: Tensor

    def rows(self, name: str, sharpening: Sharpening = UNCHANGED) -> Tensor:
        """One figure, [B, T-1]. Raises KeyError where there is none."""
        if name in RANK_FIGURES:
            return self.ranks[RANK_FIGURES.index(name)]
        if name not in FIGURES or sharpening not in self.sharpenings:
            raise KeyError(f"no figure {name!r} at {sharpening}")
        return self.figures[self.sharpenings.index(sharpening), FIGURES.index(name)]


def row_batches(
    row_logits: RowLogits,
    blocks: Blocks,
    sharpenings: Sequence[Sharpening] = (UNCHANGED,),
    *,
    top_k: int,
    batch_size: int,
) -> Iterator[RowBatch]:
    """The figures of all blocks in their order, `batch_size` blocks at a time.

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
            chunks.append(
                row_figures(
                    logits_CV,
                    target_N[rows].to(logits_CV.device),
                    unique,
                    top_k=top_k,
                    position_N=position_N[rows].to(logits_CV.device),
                    block_length=block_length,
                )
            )
        if start != len(target_N):
            raise ValueError(f"row_logits gave {start} rows for {len(target_N)} predictions")
        shape = (len(input_ids_BT), block_length - 1)
        yield RowBatch(
            first,
            input_ids_BT,
            unique,
            torch.cat([chunk.ranks.cpu() for chunk in chunks], -1).reshape(-1, *shape),
            torch.cat([chunk.figures.cpu() for chunk in chunks], -1).reshape(
                len(unique), -1, *shape
            ),
        )


def collect(
    batches: Iterable[RowBatch],
    groups: Groups,
    *,
    top_k: int,
    histograms: bool | Collection[Sharpening] = True,
) -> GroupFigures:
    """The sums of a pass over all blocks, in float64; with `histograms`, what calibration needs,
    for all sharpenings or for some.

    Raises:
        ValueError: the batches are not the blocks that `groups` divides.
    """
    num_rows_G = np.zeros(groups.num_groups)
    ranks_FG = np.zeros((len(RANK_FIGURES), groups.num_groups))
    figures_QFG: np.ndarray | None = None
    kept: dict[tuple[Sharpening, Half], ConfidenceHistogram] = {}
    sharpenings: tuple[Sharpening, ...] = ()
    checksum, num_blocks = 0, 0
    for batch in batches:
        if figures_QFG is None:
            sharpenings = batch.sharpenings
            figures_QFG = np.zeros((len(sharpenings), len(FIGURES), groups.num_groups))
        if batch.first_block != num_blocks:
            raise ValueError(f"given block {batch.first_block} after {num_blocks} blocks")
        size = len(batch.input_ids)
        group_B = groups.of_blocks(np.arange(num_blocks, num_blocks + size))
        num_blocks += size
        checksum = zlib.crc32(batch.input_ids.numpy().astype("<i8").tobytes(), checksum)
        # A batch is in few groups; each block is added to its own.
        np.add.at(num_rows_G, group_B, batch.ranks.shape[-1])
        np.add.at(ranks_FG.T, group_B, batch.ranks.double().sum(-1).numpy().T)
        block_sums_QFB = batch.figures.double().sum(-1).numpy()
        np.add.at(figures_QFG.transpose(2, 0, 1), group_B, block_sums_QFB.transpose(2, 0, 1))
        chosen = histograms if not isinstance(histograms, bool) else sharpenings * histograms
        if not chosen:
            continue
        hit_BT = batch.rows("accuracy").numpy()
        for sharpening in chosen:
            confidence_BT = batch.rows("max_prob", sharpening).numpy()
            for half in ("tuning", "report"):
                in_half_B = groups.mask(half)[group_B]
                kept.setdefault((sharpening, half), ConfidenceHistogram.empty()).add(
                    confidence_BT[in_half_B], hit_BT[in_half_B]
                )
    if figures_QFG is None or num_blocks != groups.num_blocks:
        raise ValueError(f"given {num_blocks} blocks, the groups divide {groups.num_blocks}")
    return GroupFigures(
        groups, top_k, sharpenings, num_rows_G, ranks_FG, figures_QFG, kept, checksum
    )


def evaluate_groups(
    row_logits: RowLogits,
    blocks: Blocks,
    groups: Groups,
    sharpenings: Sequence[Sharpening] = (UNCHANGED,),
    *,
    top_k: int,
    batch_size: int,
    histograms: bool | Collection[Sharpening] = True,
) -> GroupFigures:
    """`collect` of `row_batches`: one pass."""
    batches = row_batches(row_logits, blocks, sharpenings, top_k=top_k, batch_size=batch_size)
    return collect(batches, groups, top_k=top_k, histograms=histograms)
