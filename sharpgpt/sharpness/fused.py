"""Linear layer, cross-entropy and penalty in one pass that never holds the [N, V] logits.

The dense way keeps several arrays of [N, V] from the forward to the backward pass: 400 MB each for
2,048 rows of GPT-2's vocabulary. Here the rows are processed in chunks. The logits of a chunk are
written to one reused buffer; their statistics are computed, their gradient overwrites them, and the
two gradient products follow at once. The backward pass (gradients.py) only scales the result. These
are the three matrix products that any linear cross-entropy needs, and little else.

The equivalent in plain torch is `reference.linear_sharpness_loss`, with the same arguments and
results. The gradient of the weight and all statistics are summed in float32 (float64 for float64).

With `reduction="none"` the upstream gradient of each row is unknown in the forward pass, so that
pass computes only the values, and the backward pass computes the logits again: four products.

Gradients of gradients and the functions of torch.func (grad, jvp, vmap, ...) are exact, but dense:
they compute the loss as the reference does, with all its logits.

Not supported: logits of -inf.

Shapes: N rows, C rows of a chunk, D width, V vocabulary, S statistics, W buffer columns, B buffers
(rows.py).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sharpgpt.sharpness import reference
from sharpgpt.sharpness.compiled import row_mathematics
from sharpgpt.sharpness.gradients import backward, is_transformed, save
from sharpgpt.sharpness.output import Reduction, SharpnessOutput, SharpnessRows
from sharpgpt.sharpness.products import default_product_dtype, make_products
from sharpgpt.sharpness.reference import IGNORE_INDEX, check_arguments
from sharpgpt.sharpness.rows import PADDING, STATISTICS, RowFactors, padded_width, tile_statistics
from sharpgpt.sharpness.targets import IGNORED, checked_target

BUFFER_BYTES = 64 * 2**20
"""Size of the logits buffer on a CPU: large enough for efficient products, small beside a model."""

GPU_BUFFER_BYTES = 128 * 2**20
"""On a GPU: 667 rows of GPT-2's vocabulary, 3e11 operations, which outweigh the launch of a dozen
kernels. Estimated, not measured."""

TILE_BYTES = 2**20
"""Size of a tile: logits that stay in the cache of a CPU during the row mathematics."""

ROUNDED_TILE_BYTES = 2**21
"""With bfloat16 products, where a tile is copied from the buffer. Measured, as the one above."""


FLOAT16_FACTOR = 1024.0
"""The largest factor of a row in float16 products. Entries of its gradient are at most a few times
this, below 65504; the smallest one that float16 keeps, 6e-8, is a probability of 6e-11."""


def default_chunk_size(
    num_rows: int, vocab_size: int, device_type: str, dtype: torch.dtype = torch.float32
) -> int:
    """C, the rows of a chunk: as many as fill the buffer, in chunks of nearly equal size.

    `dtype` is that of the products; on a CPU the buffer holds it, elsewhere float32.
    """
    limit, item_bytes = GPU_BUFFER_BYTES, 4
    if device_type == "cpu":
        limit, item_bytes = BUFFER_BYTES, min(4, dtype.itemsize)
    most = max(1, limit // (item_bytes * padded_width(vocab_size)))
    num_chunks = -(-num_rows // most)
    return max(1, -(-num_rows // max(1, num_chunks)))


def linear_sharpness_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    *,
    bias: Tensor | None = None,
    penalty: str = "non_max_sum",
    penalty_weight: float | Tensor = 0.0,
    z_loss_weight: float | Tensor = 0.0,
    label_smoothing: float | Tensor = 0.0,
    logit_softcap: float | None = None,
    top_k: int = 5,
    penalty_mask: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    reduction: Reduction = "mean",
    normalizer: float | Tensor | None = None,
    per_row: bool = False,
    chunk_size: int | None = None,
    product_dtype: torch.dtype | None = None,
) -> SharpnessOutput:
    """Cross-entropy plus weighted penalty, z-loss and smoothing of `hidden @ weight.T + bias`.

    Args:
        hidden_ND: inputs of the output layer; float32, float64, bfloat16 or float16.
        weight_VD: its weight; under autocast its dtype may differ from that of `hidden_ND`.
        bias: [V], or None.
        chunk_size: C; None takes `default_chunk_size`. It changes only the order of sums.
        product_dtype: of the matrix products; None takes `products.default_product_dtype`.
        target_N, penalty, penalty_weight, z_loss_weight, label_smoothing, logit_softcap, top_k,
            penalty_mask, ignore_index, reduction, normalizer, per_row: as in
            `reference.sharpness_loss`.

    Returns:
        `SharpnessOutput`; its statistics are means over the valid rows for every reduction.

    Raises:
        ValueError, IndexError: as `reference.sharpness_loss`; ValueError for a chunk_size below 1.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size: given {chunk_size}, allowed is None or at least 1")
    weights = (penalty_weight, z_loss_weight, label_smoothing)
    if is_transformed(hidden_ND, weight_VD, bias, *weights, normalizer):
        return reference.linear_sharpness_loss(
            hidden_ND,
            weight_VD,
            target_N,
            bias=bias,
            penalty=penalty,
            penalty_weight=penalty_weight,
            z_loss_weight=z_loss_weight,
            label_smoothing=label_smoothing,
            logit_softcap=logit_softcap,
            top_k=top_k,
            penalty_mask=penalty_mask,
            ignore_index=ignore_index,
            reduction=reduction,
            normalizer=normalizer,
            per_row=per_row,
        )
    shape = (hidden_ND.shape[0], weight_VD.shape[0])
    check_arguments(
        (*hidden_ND.shape[:-1], weight_VD.shape[0]),
        target_N,
        penalty=penalty,
        penalty_mask=penalty_mask,
        reduction=reduction,
        top_k=top_k,
        label_smoothing=label_smoothing,
        logit_softcap=logit_softcap,
    )
    target_N = checked_target(target_N, weight_VD.shape[0], ignore_index)
    valid_N = target_N != IGNORED
    num_rows = valid_N.sum()
    dtype = product_dtype or default_product_dtype(hidden_ND, weight_VD)
    sum_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    loss_factor_N = valid_N.to(sum_dtype)
    if reduction == "mean":
        divisor = num_rows.clamp(min=1) if normalizer is None else normalizer
        # Filled after the division: 0 / 0 is NaN.
        loss_factor_N = (loss_factor_N / divisor).masked_fill(~valid_N, 0)
    penalty_factor_N = loss_factor_N if penalty_mask is None else loss_factor_N * penalty_mask
    factors = [loss_factor_N, penalty_factor_N * penalty_weight]
    has_smoothing = isinstance(label_smoothing, Tensor) or label_smoothing != 0
    if has_smoothing or isinstance(z_loss_weight, Tensor) or z_loss_weight != 0:
        factors.append(loss_factor_N * z_loss_weight)
    if has_smoothing:
        factors.append(loss_factor_N * label_smoothing)
    layer = [hidden_ND, weight_VD, *([] if bias is None else [bias])]
    loss, statistics_SN, _ = linear_sharpness(
        layer,
        target_N,
        factors,
        penalty=penalty,
        top_k=top_k,
        product_dtype=dtype,
        chunk_size=chunk_size or default_chunk_size(*shape, hidden_ND.device.type, dtype),
        needs=[torch.is_grad_enabled() and tensor.requires_grad for tensor in layer],
        loss_per_row=reduction == "none",
        logit_softcap=logit_softcap,
    )
    with torch.no_grad():
        counted_SN = statistics_SN.detach()
        if penalty_mask is not None:
            penalty_N = counted_SN[1].masked_fill(~penalty_mask, 0)
            counted_SN = torch.stack([counted_SN[0], penalty_N, *counted_SN[2:]])
        means_S = counted_SN.sum(1) / num_rows.clamp(min=1)
    rows = SharpnessRows(*counted_SN) if per_row else None
    means = SharpnessRows(*means_S)._asdict()
    return SharpnessOutput(loss=loss, **means, num_rows=num_rows, rows=rows)


@torch.library.custom_op("sharpgpt::linear_sharpness", mutates_args=())
def linear_sharpness(
    layer: Sequence[Tensor],
    target_N: Tensor,
    factors: Sequence[Tensor],
    *,
    penalty: str,
    top_k: int,
    product_dtype: torch.dtype,
    chunk_size: int,
    needs: Sequence[bool],
    loss_per_row: bool,
    logit_softcap: float | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """(loss, statistics [S, N], gradients of `layer`: empty where `needs` is false).

    `layer` is hidden, weight and, if there is one, bias. The target of an ignored row is IGNORED;
    its factors are 0, and so are its statistics. The loss of a row is the sum of its `factors`,
    those of `RowFactors`, times the first statistics: ce, penalty, z_loss and smoothing; the last
    one or two may be left out. With `loss_per_row`
    the losses are returned, [N], and the backward pass computes the gradients, else their sum.
    Gradients are contiguous, in the dtype of sums; the backward pass casts them.
    """
    hidden_ND, weight_VD, *biases = layer
    need_hidden, need_weight, need_bias = (
        need and not loss_per_row for need in (*needs, False)[:3]
    )
    device = hidden_ND.device
    num_rows, vocab_size = hidden_ND.shape[0], weight_VD.shape[0]
    sum_dtype = factors[0].dtype
    statistics_SN = torch.empty(len(STATISTICS), num_rows, dtype=sum_dtype, device=device)
    chunk_size = min(chunk_size, max(1, num_rows))
    products = make_products(weight_VD, product_dtype, sum_dtype, chunk_size=chunk_size)
    width = padded_width(vocab_size)
    is_rounded = products.logits_dtype != sum_dtype
    make = torch.empty if is_rounded and num_rows else torch.zeros
    grad_hidden_ND, grad_weight_VD, grad_bias_V = gradients = [
        allocate(shape if need else 0, dtype=sum_dtype, device=device)
        for allocate, shape, need in (
            (make, hidden_ND.shape, need_hidden),
            (make, weight_VD.shape, need_weight),
            (torch.zeros, vocab_size, need_bias),
        )
    ]
    num_tile_rows = tile_rows(chunk_size, width, device.type, is_rounded=is_rounded)
    mathematics = row_mathematics(device.type, penalty)
    num_buffers = 2 if logit_softcap is None else 3
    scratch_BTW = (
        torch.empty(num_buffers, num_tile_rows, width, dtype=sum_dtype, device=device)
        if mathematics is tile_statistics
        else None
    )
    copy_TW = torch.empty(num_tile_rows if is_rounded else 0, width, dtype=sum_dtype, device=device)
    ignored_N = target_N == IGNORED
    column_N = target_N.masked_fill(ignored_N, 0)
    unit = _unit(layer, ignored_N, factors, product_dtype)
    scaled = factors if unit is None else [factor_N / unit for factor_N in factors]
    needs_gradient = need_hidden or need_weight or need_bias

    with torch.autocast(device.type, enabled=False):
        for start in range(0, num_rows, chunk_size):
            rows = slice(start, start + chunk_size)
            # A NaN in an ignored row would reach the gradient of the weight: 0 * NaN is NaN.
            hidden_CD = hidden_ND[rows].masked_fill(ignored_N[rows, None], 0).to(product_dtype)
            chunk_CW = products.logits(hidden_CD)
            for first in range(0, len(chunk_CW), num_tile_rows):
                part_TW = chunk_CW[first : first + num_tile_rows]
                place = slice(start + first, start + first + len(part_TW))
                tile_TW = copy_TW[: len(part_TW)].copy_(part_TW) if is_rounded else part_TW
                for bias in biases:
                    tile_TW[:, :vocab_size] += bias
                tile_TW[:, vocab_size:] = PADDING
                of_tile = RowFactors(*(factor_N[place] for factor_N in scaled))
                statistics_SN[:, place] = mathematics(
                    tile_TW,
                    None if scratch_BTW is None else scratch_BTW[:, : len(tile_TW)],
                    column_N[place],
                    penalty=penalty,
                    top_k=top_k,
                    vocab_size=vocab_size,
                    factors=of_tile if needs_gradient else None,
                    is_rounded=is_rounded,
                    logit_softcap=logit_softcap,
                )
                if is_rounded and needs_gradient:
                    part_TW.copy_(tile_TW)
            if need_bias:
                grad_bias_V += chunk_CW[:, :vocab_size].sum(0, dtype=sum_dtype)
            products.write_gradients(
                chunk_CW,
                hidden_CD,
                grad_hidden_CD=grad_hidden_ND[rows] if need_hidden else None,
                grad_weight_VD=grad_weight_VD if need_weight else None,
            )
    if unit is not None:
        for gradient in gradients:
            gradient *= unit
    statistics_SN.masked_fill_(ignored_N, 0)
    product = torch.mul if loss_per_row else torch.dot
    loss, *others = map(product, factors, statistics_SN)
    return sum(others, loss), statistics_SN, gradients[: len(layer)]


def _unit(
    layer: Sequence[Tensor], ignored_N: Tensor, factors: Sequence[Tensor], dtype: torch.dtype
) -> Tensor | None:
    """What float16 gradients of logits are divided by before the products, and multiplied by after.

    A factor of 1 / rows would push them below the smallest float16, a loss scale above the largest.
    Divided by this, the largest factor is at most FLOAT16_FACTOR. None for other dtypes.

    The z-loss has the factor 2 v L, and |L| is at most ln V and the largest logit, which the norms
    of hidden state and weight bound.
    """
    if dtype != torch.float16 or not len(ignored_N):
        return None
    loss_N, penalty_N, *others = (factor_N.abs() for factor_N in factors)
    for z_factor_N in others[:1]:
        hidden_ND, weight_VD, *biases = layer
        norm_N, norm_V = (
            torch.linalg.vector_norm(
                tensor, dim=1, dtype=torch.promote_types(tensor.dtype, loss_N.dtype)
            )
            for tensor in (hidden_ND, weight_VD)
        )
        bound_N = norm_N * norm_V.amax() + math.log(len(weight_VD))
        for bias in biases:
            bound_N += bias.abs().amax()
        loss_N = loss_N + 2 * z_factor_N * bound_N.masked_fill(ignored_N, 0)
    largest = torch.stack([loss_N, penalty_N, *others[1:]]).amax()
    return largest.clamp(min=torch.finfo(largest.dtype).tiny * FLOAT16_FACTOR) / FLOAT16_FACTOR


def tile_rows(chunk_rows: int, width: int, device_type: str, *, is_rounded: bool = False) -> int:
    """Rows of a tile: on a CPU what the cache holds, elsewhere the whole chunk."""
    if device_type != "cpu":
        return max(1, chunk_rows)
    tile_bytes = ROUNDED_TILE_BYTES if is_rounded else TILE_BYTES
    return max(1, min(chunk_rows, tile_bytes // (4 * width)))


@linear_sharpness.register_fake
def _(
    layer: Sequence[Tensor], target_N: Tensor, factors: Sequence[Tensor], **settings: Any
) -> tuple[Tensor, Tensor, list[Tensor]]:
    loss_per_row = settings["loss_per_row"]
    gradients = [
        factors[0].new_empty(tensor.shape if need and not loss_per_row else 0)
        for tensor, need in zip(layer, settings["needs"], strict=True)
    ]
    statistics_SN = factors[0].new_empty(len(STATISTICS), len(target_N))
    return factors[0].new_empty(target_N.shape if loss_per_row else ()), statistics_SN, gradients


linear_sharpness.register_autograd(backward, setup_context=save)
