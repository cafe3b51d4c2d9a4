"""The matrix products of the fused loss: their dtype, and the layout that makes them fast.

    logits = hidden @ weight.T
    grad_hidden = gradient @ weight
    grad_weight += gradient.T @ hidden

The logits of a chunk of rows are held in one reused buffer, and their gradient replaces them there.

On a GPU, products in half precision give float32 results, which the buffer holds. On a CPU they
cannot (PyTorch 2.13), so there the buffer holds bfloat16 (`Bfloat16Products`), half as large, and
the row mathematics works on a float32 copy of a few rows.

Shapes: C rows of a chunk, D width, V vocabulary, W buffer columns: V rounded up (rows.py).
"""

import abc
import functools
import platform

import torch
from torch import Tensor

from sharpgpt.sharpness.rows import padded_width

BLOCK_COLUMNS = 4096
"""Columns whose weight gradient is computed at once in bfloat16 and added to the float32 sum: 6 MB
at width 768, which the cache holds."""


def default_product_dtype(hidden_ND: Tensor, weight_VD: Tensor) -> torch.dtype:
    """The dtype of the matrix products: autocast's, else that of the inputs.

    On a CPU half precision becomes float32, but for bfloat16 where the processor multiplies it.
    """
    device_type = hidden_ND.device.type
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    else:
        dtype = torch.promote_types(hidden_ND.dtype, weight_VD.dtype)
    if device_type != "cpu" or (dtype == torch.bfloat16 and cpu_multiplies_bfloat16()):
        return dtype
    return torch.promote_types(dtype, torch.float32)


@functools.cache
def cpu_multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products in bfloat16: AVX512_BF16, AMX, ARM's.

    They are used through oneDNN, which some builds of PyTorch lack.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if platform.machine().lower() in {"arm64", "aarch64"}:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


class Products(abc.ABC):
    """The products in `dtype`, with a buffer for the logits of `chunk_size` rows."""

    def __init__(self, weight_VD: Tensor, dtype: torch.dtype, buffer_CW: Tensor) -> None:
        self.dtype, self.vocab_size = dtype, len(weight_VD)
        self._buffer_CW = buffer_CW

    @property
    def logits_dtype(self) -> torch.dtype:
        """Of the logits and of their gradient."""
        return self._buffer_CW.dtype

    @abc.abstractmethod
    def logits(self, hidden_CD: Tensor) -> Tensor:
        """The logits of a chunk, [C, W], in the buffer; the columns from V on are anything."""

    @abc.abstractmethod
    def write_gradients(
        self,
        gradient_CW: Tensor,
        hidden_CD: Tensor,
        *,
        grad_hidden_CD: Tensor | None,
        grad_weight_VD: Tensor | None,
    ) -> None:
        """Write the gradient of the hidden states and add that of the weight, where wanted.

        `gradient_CW` is that of the logits, in the buffer.
        """


class WideProducts(Products):
    """Products whose results, the logits and the sums, are in `sum_dtype`."""

    def __init__(
        self, weight_VD: Tensor, dtype: torch.dtype, sum_dtype: torch.dtype, *, chunk_size: int
    ) -> None:
        width = padded_width(len(weight_VD))
        super().__init__(weight_VD, dtype, weight_VD.new_empty(chunk_size, width, dtype=sum_dtype))
        self._weight_VD = weight_VD.to(dtype)

    def logits(self, hidden_CD: Tensor) -> Tensor:
        """As in `Products`."""
        logits_CW = self._buffer_CW[: len(hidden_CD)]
        _multiply_into(logits_CW[:, : self.vocab_size], hidden_CD, self._weight_VD.T)
        return logits_CW

    def write_gradients(
        self,
        gradient_CW: Tensor,
        hidden_CD: Tensor,
        *,
        grad_hidden_CD: Tensor | None,
        grad_weight_VD: Tensor | None,
    ) -> None:
        """As in `Products`."""
        gradient_CV = gradient_CW[:, : self.vocab_size].to(self.dtype)
        if grad_hidden_CD is not None:
            _multiply_into(grad_hidden_CD, gradient_CV, self._weight_VD)
        if grad_weight_VD is not None:
            _add_product(grad_weight_VD, gradient_CV.T, hidden_CD)


class Bfloat16Products(Products):
    """Products of a CPU in bfloat16.

    The weight is padded with zeros to W rows, so that the products use the whole buffer. The
    gradient of the weight is computed for a few columns at a time, so that its float32 sum is
    updated from the cache.
    """

    def __init__(self, weight_VD: Tensor, *, chunk_size: int) -> None:
        width = padded_width(len(weight_VD))
        self._weight_WD = weight_VD.new_zeros(width, weight_VD.shape[1], dtype=torch.bfloat16)
        self._weight_WD[: len(weight_VD)] = weight_VD
        buffer_CW = self._weight_WD.new_empty(chunk_size, width)
        super().__init__(weight_VD, torch.bfloat16, buffer_CW)
        self._is_first = True
        self._product_BD = self._weight_WD.new_empty(BLOCK_COLUMNS, weight_VD.shape[1])

    def logits(self, hidden_CD: Tensor) -> Tensor:
        """The logits of a chunk, [C, W], in the buffer."""
        return torch.mm(hidden_CD, self._weight_WD.T, out=self._buffer_CW[: len(hidden_CD)])

    def write_gradients(
        self,
        gradient_CW: Tensor,
        hidden_CD: Tensor,
        *,
        grad_hidden_CD: Tensor | None,
        grad_weight_VD: Tensor | None,
    ) -> None:
        """As in `Products`; the first chunk writes the gradient of the weight."""
        if grad_hidden_CD is not None:
            grad_hidden_CD.copy_(torch.mm(gradient_CW, self._weight_WD))
        if grad_weight_VD is None:
            return
        for start in range(0, self.vocab_size, BLOCK_COLUMNS):
            block_BD = grad_weight_VD[start : start + BLOCK_COLUMNS]
            gradient_CB = gradient_CW[:, start : start + len(block_BD)]
            product_BD = torch.mm(gradient_CB.T, hidden_CD, out=self._product_BD[: len(block_BD)])
            if self._is_first:
                block_BD.copy_(product_BD)
            else:
                block_BD += product_BD
        self._is_first = False


def make_products(
    weight_VD: Tensor, dtype: torch.dtype, sum_dtype: torch.dtype, *, chunk_size: int
) -> Products:
    """The products of this dtype on the device of the weight."""
    if weight_VD.device.type == "cpu" and dtype == torch.bfloat16:
        return Bfloat16Products(weight_VD, chunk_size=chunk_size)
    return WideProducts(weight_VD, dtype, sum_dtype, chunk_size=chunk_size)


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
