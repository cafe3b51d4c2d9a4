"""The targets of a batch, checked before any arithmetic.

A column beyond the vocabulary would be read as padding: a loss of 1e30 with finite gradients. The
check is one reduction over the targets. On a CUDA device it is a device-side assert, as in PyTorch:
the host does not wait. It is an operator of its own, so a compiled model has no graph break.

Shapes: N rows, V vocabulary.
"""

import torch
from torch import Tensor

IGNORED = -1
"""What a checked target is in an ignored row, whatever the caller's `ignore_index`."""


@torch.library.custom_op("sharpgpt::checked_target", mutates_args=())
def checked_target(target_N: Tensor, vocab_size: int, ignore_index: int) -> Tensor:
    """The targets as int64, IGNORED in place of `ignore_index`.

    Raises:
        ValueError: `target_N` does not hold integers.
        IndexError: a target is neither in 0..V-1 nor `ignore_index`.
    """
    if target_N.is_floating_point() or target_N.is_complex() or target_N.dtype == torch.bool:
        raise ValueError(f"target: given {target_N.dtype}, allowed is an integer dtype")
    target_N = target_N.long()
    ignored_N = target_N == ignore_index
    wrong_N = ((target_N < 0) | (target_N >= vocab_size)) & ~ignored_N
    allowed = (
        f"allowed is 0 to {vocab_size - 1} for a vocabulary of {vocab_size}, or ignore_index "
        f"({ignore_index})"
    )
    if target_N.device.type == "cuda":
        torch._assert_async(~wrong_N.any(), f"target outside the vocabulary: {allowed}")
    elif wrong_N.any():
        # Under vmap there are batches of rows.
        row = int(wrong_N.flatten().nonzero()[0])
        raise IndexError(
            f"target: given {target_N.flatten()[row]} in row {row}, {allowed}; "
            f"{int(wrong_N.sum())} of {target_N.numel()} targets are wrong"
        )
    return target_N.masked_fill(ignored_N, IGNORED)


@checked_target.register_fake
def _(target_N: Tensor, vocab_size: int, ignore_index: int) -> Tensor:  # noqa: ARG001
    return torch.empty_like(target_N, dtype=torch.int64)


@checked_target.register_vmap
def _(_: object, in_dims: tuple[int | None, ...], *arguments: int) -> tuple[Tensor, int | None]:
    """Elementwise, so a batch of batches is checked as it is."""
    return checked_target(*arguments), in_dims[0]
