"""Targets outside the vocabulary: an error before any arithmetic, in every way to the loss."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sharpgpt.sharpness import LinearSharpnessLoss, linear_sharpness_loss, reference
from sharpgpt.sharpness.targets import IGNORED, checked_target

LOSSES: list[Callable[..., Any]] = [
    linear_sharpness_loss,
    reference.linear_sharpness_loss,
    lambda hidden, weight, target, **how: LinearSharpnessLoss(**how)(hidden, weight, target),
    lambda hidden, weight, target, **how: reference.sharpness_loss(
        hidden @ weight.T, target, **how
    ),
]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("wrong", [65, 100, 2**40, -1, -99])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_target_outside_the_vocabulary_is_an_error(
    loss: Callable[..., Any], wrong: int, reduction: str
) -> None:
    """It read the padding of the buffer: a loss of 5e29, with finite gradients."""
    hidden_ND, weight_VD = torch.randn(4, 3), torch.randn(65, 3)
    target_N = torch.tensor([1, -100, wrong, 64])
    message = f"target: given {wrong} in row 2, allowed is 0 to 64 .* ignore_index (-100)"
    with pytest.raises(IndexError, match=message.replace("(", r"\(").replace(")", r"\)")):
        loss(hidden_ND, weight_VD, target_N, reduction=reduction)


def test_the_first_of_several_is_named() -> None:
    with pytest.raises(IndexError, match=r"given 9 in row 1, .*; 2 of 4 targets are wrong"):
        checked_target(torch.tensor([4, 9, -100, -3]), 5, -100)


def test_the_ignored_value_is_the_callers() -> None:
    target_N = torch.tensor([0, 7, -100], dtype=torch.int32)
    with pytest.raises(IndexError, match=re.escape("given -100 in row 2")):
        checked_target(target_N, 5, 7)
    assert checked_target(target_N[:2], 5, 7).tolist() == [0, IGNORED]
    assert checked_target(torch.tensor([2, 3]), 5, 3).tolist() == [2, IGNORED]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64])
def test_targets_are_integers(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="allowed is an integer dtype"):
        checked_target(torch.zeros(3, dtype=dtype), 5, -100)


def test_the_check_is_an_operator_that_can_be_compiled() -> None:
    for dtype in (torch.int64, torch.int32):
        target_N = torch.tensor([1, -100, 4], dtype=dtype)
        torch.library.opcheck(checked_target, (target_N, 5, -100))
    compiled = torch.compile(
        lambda hidden, weight, target: linear_sharpness_loss(hidden, weight, target).loss,
        fullgraph=True,
        backend="aot_eager",
    )
    hidden_ND, weight_VD = torch.randn(3, 4), torch.randn(65, 4)
    assert compiled(hidden_ND, weight_VD, torch.tensor([1, 2, 3])).isfinite()
    with pytest.raises(IndexError, match="given 100"):
        compiled(hidden_ND, weight_VD, torch.tensor([1, 2, 100]))
