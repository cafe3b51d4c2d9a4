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

Shapes: N rows, C rows of a chunk, D width, V vocabulary, S statistics, W buffer columns (rows.py).
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


FLOAT16_FACTOR = 1024.0
"""The largest factor of a row in float16 products. Entries of its gradient are at most a few times
this, below 65504; the smallest one that float16 keeps, 6e-8, is a probability of 6e-11."""


def default_chunk_size(num_rows: int, vocab_size: int, device_type: str) -> int:
    """C, the rows of a chunk: as many as fill the buffer, in chunks of nearly equal size."""
    limit = BUFFER_BYTES if device_type == "cpu" else GPU_BUFFER_BYTES
    most = max(1, limit // (4 * padded_width(vocab_size)))
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
    top_k: int = 5,
    penalty_mask: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    reduction: Reduction = "mean",
    normalizer: float | Tensor | None = None,
    per_row: bool = False,
    chunk_size: int | None = None,
) -> SharpnessOutput:
    """Cross-entropy plus weighted penalty and z-loss of the logits `hidden @ weight.T + bias`.

    Args:
        hidden_ND: inputs of the output layer; float32, float64, bfloat16 or float16.
        weight_VD: its weight; under autocast its dtype may differ from that of `hidden_ND`.
        bias: [V], or None.
        chunk_size: C; None takes `default_chunk_size`. It changes only the order of sums.
        target_N, penalty, penalty_weight, z_loss_weight, top_k, penalty_mask, ignore_index,
            reduction, normalizer, per_row: as in `reference.sharpness_loss`.

    Returns:
        `SharpnessOutput`; its statistics are means over the valid rows for every reduction.

    Raises:
        ValueError, IndexError: as `reference.sharpness_loss`; ValueError for a chunk_size below 1.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size: given {chunk_size}, allowed is None or at least 1")
    if is_transformed(hidden_ND, weight_VD, bias, penalty_weight, z_loss_weight, normalizer):
        return reference.linear_sharpness_loss(
            hidden_ND,
            weight_VD,
            target_N,
            bias=bias,
            penalty=penalty,
            penalty_weight=penalty_weight,
            z_loss_weight=z_loss_weight,
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
    )
    target_N = checked_target(target_N, weight_VD.shape[0], ignore_index)
    valid_N = target_N != IGNORED
    num_rows = valid_N.sum()
    product_dtype = _product_dtype(hidden_ND, weight_VD)
    sum_dtype = torch.float64 if product_dtype == torch.float64 else torch.float32
    loss_factor_N = valid_N.to(sum_dtype)
    if reduction == "mean":
        divisor = num_rows.clamp(min=1) if normalizer is None else normalizer
        # Filled after the division: 0 / 0 is NaN.
        loss_factor_N = (loss_factor_N / divisor).masked_fill(~valid_N, 0)
    penalty_factor_N = loss_factor_N if penalty_mask is None else loss_factor_N * penalty_mask
    factors = [loss_factor_N, penalty_factor_N * penalty_weight]
    if isinstance(z_loss_weight, Tensor) or z_loss_weight != 0:
        factors.append(loss_factor_N * z_loss_weight)
    layer = [hidden_ND, weight_VD, *([] if bias is None else [bias])]
    loss, statistics_SN, _ = linear_sharpness(
        layer,
        target_N,
        factors,
        penalty=penalty,
        top_k=top_k,
        product_dtype=product_dtype,
        chunk_size=chunk_size or default_chunk_size(*shape, hidden_ND.device.type),
        needs=[torch.is_grad_enabled() and tensor.requires_grad for tensor in layer],
        loss_per_row=reduction == "none",
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


def _product_dtype(hidden_ND: Tensor, weight_VD: Tensor) -> torch.dtype:
    """The dtype of the matrix products: autocast's, else that of the inputs; float32 on a CPU.

    CPUs multiply half precision no faster without special units, and would round the logits.
    """
    device_type = hidden_ND.device.type
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    else:
        dtype = torch.promote_types(hidden_ND.dtype, weight_VD.dtype)
    return torch.promote_types(dtype, torch.float32) if device_type == "cpu" else dtype


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
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """(loss, statistics [S, N], gradients of `layer`: empty where `needs` is false).

    `layer` is hidden, weight and, if there is one, bias. The target of an ignored row is IGNORED;
    its factors are 0, and so are its statistics. The loss of a row is the sum of its `factors`,
    those of `RowFactors`, times ce, penalty and, with three factors, z_loss. With `loss_per_row`
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
    grad_hidden_ND, grad_weight_VD, grad_bias_V = gradients = [
        torch.zeros(shape if need else 0, dtype=sum_dtype, device=device)
        for shape, need in (
            (hidden_ND.shape, need_hidden),
            (weight_VD.shape, need_weight),
            (vocab_size, need_bias),
        )
    ]
    width = padded_width(vocab_size)
    buffer_CW = torch.empty(min(chunk_size, num_rows), width, dtype=sum_dtype, device=device)
    num_tile_rows = tile_rows(len(buffer_CW), width, device.type)
    mathematics = row_mathematics(device.type, penalty)
    scratch_2TW = (
        torch.empty(2, num_tile_rows, width, dtype=sum_dtype, device=device)
        if mathematics is tile_statistics
        else None
    )
    cast_weight_VD = weight_VD.to(product_dtype)
    ignored_N = target_N == IGNORED
    column_N = target_N.masked_fill(ignored_N, 0)
    unit = _unit(layer, ignored_N, factors, product_dtype)
    scaled = factors if unit is None else [factor_N / unit for factor_N in factors]

    with torch.autocast(device.type, enabled=False):
        for start in range(0, num_rows, chunk_size):
            rows = slice(start, start + chunk_size)
            # A NaN in an ignored row would reach the gradient of the weight: 0 * NaN is NaN.
            hidden_CD = hidden_ND[rows].masked_fill(ignored_N[rows, None], 0).to(product_dtype)
            chunk_CW = buffer_CW[: len(hidden_CD)]
            logits_CV = chunk_CW[:, :vocab_size]
            chunk_CW[:, vocab_size:] = PADDING
            _multiply_into(logits_CV, hidden_CD, cast_weight_VD.T)
            for bias in biases:
                logits_CV += bias
            for first in range(0, len(chunk_CW), num_tile_rows):
                tile_TW = chunk_CW[first : first + num_tile_rows]
                place = slice(start + first, start + first + len(tile_TW))
                of_tile = RowFactors(*(factor_N[place] for factor_N in scaled))
                statistics_SN[:, place] = mathematics(
                    tile_TW,
                    None if scratch_2TW is None else scratch_2TW[:, : len(tile_TW)],
                    column_N[place],
                    penalty=penalty,
                    top_k=top_k,
                    vocab_size=vocab_size,
                    factors=of_tile if need_hidden or need_weight or need_bias else None,
                )
            if need_bias:
                grad_bias_V += logits_CV.sum(0)
            gradient_CV = logits_CV.to(product_dtype)
            if need_hidden:
                _multiply_into(grad_hidden_ND[rows], gradient_CV, cast_weight_VD)
            if need_weight:
                _add_product(grad_weight_VD, gradient_CV.T, hidden_CD)
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
    loss_N, penalty_N, *z_loss = (factor_N.abs() for factor_N in factors)
    for z_factor_N in z_loss:
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
    largest = torch.maximum(loss_N.amax(), penalty_N.amax())
    return largest.clamp(min=torch.finfo(largest.dtype).tiny * FLOAT16_FACTOR) / FLOAT16_FACTOR


def tile_rows(chunk_rows: int, width: int, device_type: str) -> int:
    """Rows of a tile: on a CPU what the cache holds, elsewhere the whole chunk."""
    if device_type != "cpu":
        return max(1, chunk_rows)
    return max(1, min(chunk_rows, TILE_BYTES // (4 * width)))


def _multiply_into(out_CV: Tensor, a_CD: Tensor, b_DV: Tensor) -> None:
    """out = a @ b, whatever the dtype of the products."""
    if a_CD.dtype == out_CV.dtype:
        torch.mm(a_CD, b_DV, out=out_CV)
    else:
        out_CV.copy_(torch.mm(a_CD, b_DV, out_dtype=out_CV.dtype))


def _add_product(out_VD: Tensor, a_VC: Tensor, b_CD: Tensor) -> None:
    """out += a @ b, summed in the dtype of out."""
    if a_VC.dtype == out_VD.dtype:
        out_VD.addmm_(a_VC, b_CD)
    else:
        out_VD += torch.mm(a_VC, b_CD, out_dtype=out_VD.dtype)


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
