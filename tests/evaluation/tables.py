"""Models that are tables of logits, text drawn from them, passes over it: the truth is known."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from sharpgpt.evaluation.groups import GroupStatistics, make_groups
from sharpgpt.evaluation.passes import collect, row_batches
from sharpgpt.evaluation.row_statistics import UNCHANGED, Sharpening


def bigram_text(
    logits_VV: Tensor, num_blocks: int, block_length: int, generator: torch.Generator
) -> Tensor:
    """Blocks [num_blocks, T] of a chain whose next token has softmax(logits[token])."""
    probs_VV = logits_VV.double().softmax(-1)
    vocab_size = len(probs_VV)
    tokens = [torch.randint(vocab_size, (num_blocks,), generator=generator)]
    for _ in range(block_length - 1):
        drawn = torch.multinomial(probs_VV[tokens[-1]], 1, generator=generator)
        tokens.append(drawn.flatten())
    return torch.stack(tokens, dim=1)


def unigram_text(probs_V: Tensor, num_blocks: int, block_length: int, seed: int = 0) -> Tensor:
    """Blocks in which every token but the first of a block has its frequency, up to rounding."""
    num_rows = num_blocks * (block_length - 1)
    bounds = (probs_V.double().cumsum(0) * num_rows).round().long()
    counts = torch.diff(bounds, prepend=torch.zeros(1, dtype=torch.long))
    tokens = torch.repeat_interleave(torch.arange(len(probs_V)), counts)
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    rows = tokens[order].view(num_blocks, block_length - 1)
    return torch.cat([torch.zeros(num_blocks, 1, dtype=torch.long), rows], dim=1)


def table_logits(logits_VV: Tensor) -> Callable[[Tensor], Iterable[Tensor]]:
    """A model whose logits depend on the last token alone."""
    return lambda input_ids_BT: [logits_VV[input_ids_BT[:, :-1].flatten()]]


def table_statistics(
    logits_VV: Tensor,
    blocks_BT: Tensor,
    sharpenings: Sequence[Sharpening] = (UNCHANGED,),
    top_k: int = 3,
    max_groups: int = 100,
) -> GroupStatistics:
    """One pass of a table."""
    batches = row_batches(
        table_logits(logits_VV), blocks_BT, sharpenings, top_k=top_k, batch_size=1000
    )
    return collect(batches, make_groups(len(blocks_BT), max_groups))
