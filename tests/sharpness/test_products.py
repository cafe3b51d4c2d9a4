"""The dtype of the matrix products, and those in bfloat16 on a CPU.

Any CPU can compute them, with or without the instructions, so these tests run everywhere.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from sharpgpt.sharpness import PENALTIES, linear_sharpness_loss, products, reference
from sharpgpt.sharpness.products import BLOCK_COLUMNS, default_product_dtype

HALF = torch.bfloat16


@pytest.mark.parametrize(
    ("dtype", "has_instructions", "expected"),
    [
        (torch.float32, True, torch.float32),
        (torch.float64, True, torch.float64),
        (torch.bfloat16, True, torch.bfloat16),
        (torch.bfloat16, False, torch.float32),
        (torch.float16, True, torch.float32),
    ],
)
def test_a_cpu_multiplies_bfloat16_only_where_it_has_the_instructions(
    dtype: torch.dtype,
    has_instructions: bool,
    expected: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(products, "cpu_multiplies_bfloat16", lambda: has_instructions)
    tensor = torch.ones(1, 1, dtype=dtype)
    assert default_product_dtype(tensor, tensor) == expected
    if dtype == torch.bfloat16:
        wide = tensor.float()
        assert default_product_dtype(wide, wide) == torch.float32
        with torch.autocast("cpu", dtype=dtype):
            assert default_product_dtype(wide, wide) == expected


@pytest.mark.parametrize(
    ("machine", "capabilities", "has_onednn", "expected"),
    [
        ("x86_64", {"avx512_bf16": True}, True, True),
        ("AMD64", {"avx512_bf16": False, "amx_bf16": True}, True, True),
        ("x86_64", {"avx512_bf16": False, "avx512_f": True}, True, False),
        ("x86_64", {"avx512_bf16": True}, False, False),
        ("arm64", {}, False, False),
    ],
)
def test_the_instructions_are_asked_for(
    machine: str,
    capabilities: dict[str, bool],
    has_onednn: bool,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A build of PyTorch without oneDNN, as on a Mac, cannot be asked about ARM's."""
    monkeypatch.setattr(products.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: has_onednn)
    assert products.cpu_multiplies_bfloat16.__wrapped__() == expected


def problem(num_rows: int, vocab_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of standard deviation about 2, some rows near p = 1, some ignored."""
    generator = torch.Generator().manual_seed(1)
    hidden_ND = torch.randn(num_rows, 16, generator=generator) * 2
    hidden_ND[::3] *= 4
    weight_VD = torch.randn(vocab_size, 16, generator=generator) / 4
    target_N = torch.randint(vocab_size, (num_rows,), generator=generator)
    target_N[1::5] = -100
    return hidden_ND, weight_VD, target_N


def results(loss: Any, dtype: torch.dtype, given: tuple[Tensor, ...], **how: Any) -> list[Tensor]:
    """The loss, the statistics of the rows, and the gradients of hidden, weight and bias."""
    hidden_ND, weight_VD, target_N, bias_V = given
    leaves = [t.to(dtype).requires_grad_() for t in (hidden_ND, weight_VD, bias_V)]
    output = loss(leaves[0], leaves[1], target_N, bias=leaves[2], per_row=True, **how)
    upstream = 1.5 if output.loss.ndim == 0 else torch.linspace(1, 2, len(output.loss))
    gradients = torch.autograd.grad((output.loss * upstream).sum(), leaves)
    return [output.loss.detach(), *output.rows[:4], *gradients]


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", sorted(PENALTIES))
def test_errors_stay_within_the_budget(name: str, reduction: str) -> None:
    """At most 1.5 times the error of the dense bfloat16 loss, for every result.

    More columns than a block of the weight's gradient has, and a last block that is not full.
    """
    hidden_ND, weight_VD, target_N = problem(300, BLOCK_COLUMNS + 131)
    # The inputs are bfloat16 numbers, so that only the arithmetic differs.
    bias_V = torch.linspace(-1, 1, len(weight_VD)).to(HALF)
    given = (hidden_ND.to(HALF), weight_VD.to(HALF), target_N, bias_V)
    how = {"penalty": name, "penalty_weight": 0.5, "reduction": reduction}
    true = results(reference.linear_sharpness_loss, torch.float64, given, **how)
    dense = results(reference.linear_sharpness_loss, HALF, given, **how)
    ours = results(linear_sharpness_loss, HALF, given, **how, product_dtype=HALF, chunk_size=128)
    for number, (o, d, t) in enumerate(zip(ours, dense, true, strict=True)):
        # The error of a single number is chance, that of many is the arithmetic's.
        if o.ndim:
            assert (o - t).norm() <= 1.5 * (d - t).norm() + 1e-6 * t.norm(), number
        assert (o - t).norm() <= 0.03 * t.norm(), number


def test_rows_and_columns_are_in_their_places() -> None:
    """Numbers that bfloat16 holds exactly: one-hot hidden states give rows of the weight."""
    weight_VD = torch.randint(-8, 9, (130, 4), generator=torch.Generator().manual_seed(0)).float()
    hidden_ND = torch.eye(4).repeat(3, 1)
    target_N = torch.arange(12)
    found = linear_sharpness_loss(
        hidden_ND, weight_VD, target_N, product_dtype=HALF, chunk_size=5, per_row=True
    )
    expected = linear_sharpness_loss(hidden_ND, weight_VD, target_N, per_row=True)
    for one, other in zip(found.rows, expected.rows, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-6)


def test_a_batch_without_rows_has_zero_gradients() -> None:
    weight_VD = torch.ones(70, 4, requires_grad=True)
    hidden_ND = torch.ones(0, 4, requires_grad=True)
    output = linear_sharpness_loss(
        hidden_ND, weight_VD, torch.zeros(0, dtype=torch.int64), product_dtype=HALF
    )
    output.loss.backward()
    assert weight_VD.grad is not None
    assert not weight_VD.grad.any()
