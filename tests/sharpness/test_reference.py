"""The reference loss: plain cross-entropy at weight 0, exact reductions, masks and messages."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sharpgpt.sharpness import PENALTIES, fused, sharpness_loss
from sharpgpt.sharpness.reference import linear_sharpness_loss

NAMES = sorted(PENALTIES)


def batch(num_rows: int = 13, vocab_size: int = 65) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    logits_NV = torch.randn(num_rows, vocab_size, generator=generator) * 3
    return logits_NV, torch.randint(vocab_size, (num_rows,), generator=generator)


@pytest.mark.parametrize("name", NAMES)
def test_weight_zero_is_plain_cross_entropy_bit_for_bit(name: str) -> None:
    logits_NV, target_N = batch()
    ours_NV, plain_NV = logits_NV.clone().requires_grad_(), logits_NV.clone().requires_grad_()
    output = sharpness_loss(ours_NV, target_N, penalty=name, penalty_weight=0.0, reduction="sum")
    expected = F.cross_entropy(plain_NV, target_N, reduction="none").sum()
    output.loss.backward()
    expected.backward()
    assert torch.equal(output.loss, expected)
    assert torch.equal(ours_NV.grad, plain_NV.grad)
    assert output.penalty != 0  # still reported


@pytest.mark.parametrize("weight", [-0.5, 0.1, 2.0])
@pytest.mark.parametrize("name", NAMES)
def test_loss_is_ce_plus_weighted_penalty(name: str, weight: float) -> None:
    logits_NV, target_N = batch()
    target_N[:4] = logits_NV[:4].argmax(-1)  # at random hardly any is the most probable
    output = sharpness_loss(logits_NV, target_N, penalty=name, penalty_weight=weight)
    torch.testing.assert_close(output.loss, output.ce + weight * output.penalty)
    torch.testing.assert_close(output.ce, F.cross_entropy(logits_NV, target_N))
    p_NV = logits_NV.softmax(-1)
    torch.testing.assert_close(output.max_prob, p_NV.amax(-1).mean())
    torch.testing.assert_close(output.top_k_mass, p_NV.topk(5).values.sum(-1).mean())
    torch.testing.assert_close(output.entropy, torch.special.entr(p_NV).sum(-1).mean())
    torch.testing.assert_close(output.accuracy, (p_NV.argmax(-1) == target_N).float().mean())


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck_of_the_whole_loss(name: str) -> None:
    logits_NV, target_N = batch(5, 9)
    target_N[1] = -100
    mask_N = torch.tensor([True, True, False, True, False])

    def losses(logits_NV: Tensor) -> Tensor:
        return sharpness_loss(
            logits_NV,
            target_N,
            penalty=name,
            penalty_weight=0.7,
            top_k=3,
            penalty_mask=mask_N,
            reduction="none",
        ).loss

    assert torch.autograd.gradcheck(losses, logits_NV.double().requires_grad_())


def test_reductions_agree_under_any_upstream_gradient() -> None:
    logits_NV, target_N = batch()
    target_N[3] = -100
    gradients = {}
    for reduction in ("none", "sum", "mean"):
        leaf_NV = logits_NV.double().requires_grad_()
        output = sharpness_loss(
            leaf_NV, target_N, penalty="neg_entropy", penalty_weight=0.3, reduction=reduction
        )
        loss = output.loss.sum() if reduction == "none" else output.loss
        (1.7 * loss).backward()
        gradients[reduction] = leaf_NV.grad
    torch.testing.assert_close(gradients["none"], gradients["sum"])
    torch.testing.assert_close(gradients["sum"] / 12, gradients["mean"])


def test_ignored_rows_count_for_nothing() -> None:
    logits_NV, target_N = batch()
    ignored_N = torch.arange(13) % 3 == 0
    kept = sharpness_loss(logits_NV[~ignored_N], target_N[~ignored_N], penalty_weight=0.2)
    leaf_NV = logits_NV.clone().requires_grad_()
    output = sharpness_loss(
        leaf_NV, target_N.masked_fill(ignored_N, -100), penalty_weight=0.2, per_row=True
    )
    output.loss.backward()
    for ours, expected in zip(output[:-1], kept[:-1], strict=True):
        torch.testing.assert_close(ours, expected)
    assert (leaf_NV.grad[ignored_N] == 0).all()
    assert all((row_N[ignored_N] == 0).all() for row_N in output.rows)


def test_no_valid_row_gives_loss_zero_and_zero_gradients() -> None:
    logits_NV, target_N = batch()
    leaf_NV = logits_NV.clone().requires_grad_()
    output = sharpness_loss(leaf_NV, torch.full_like(target_N, -100), penalty_weight=0.5)
    output.loss.backward()
    assert output.loss == 0
    assert output.num_rows == 0
    assert torch.equal(leaf_NV.grad, torch.zeros_like(logits_NV))


@pytest.mark.parametrize("function", [linear_sharpness_loss, fused.linear_sharpness_loss])
@pytest.mark.parametrize("normalizer", [None, 0.0, torch.tensor(0)])
def test_nothing_divided_by_nothing_is_nothing(function: Any, normalizer: Any) -> None:
    """A batch without labels, with num_items_in_batch=0, wrote NaN into the parameters."""
    hidden_ND, weight_VD = torch.randn(3, 4).requires_grad_(), torch.randn(5, 4).requires_grad_()
    output = function(
        hidden_ND, weight_VD, torch.full((3,), -100), penalty_weight=0.5, normalizer=normalizer
    )
    for gradient in torch.autograd.grad(output.loss, [hidden_ND, weight_VD]):
        assert gradient.eq(0).all()
    assert [value.item() for value in output[:-1]] == [0] * (len(output) - 1)


def test_what_stands_in_an_ignored_row_of_logits_counts_nowhere() -> None:
    logits_NV, target_N = batch()
    target_N[3] = -100
    expected = sharpness_loss(logits_NV, target_N, penalty_weight=0.2)
    leaf_NV = logits_NV.index_fill(0, torch.tensor([3]), torch.nan).requires_grad_()
    output = sharpness_loss(leaf_NV, target_N, penalty_weight=0.2)
    assert all(torch.equal(a, b) for a, b in zip(output[:-1], expected[:-1], strict=True))
    (gradient_NV,) = torch.autograd.grad(output.loss, [leaf_NV])
    assert gradient_NV.isfinite().all()
    assert gradient_NV[3].eq(0).all()


def test_penalty_mask_leaves_cross_entropy_alone() -> None:
    logits_NV, target_N = batch()
    mask_N = torch.arange(13) < 4
    rows = sharpness_loss(logits_NV, target_N, penalty_weight=1.0, per_row=True).rows
    output = sharpness_loss(logits_NV, target_N, penalty_weight=1.0, penalty_mask=mask_N)
    torch.testing.assert_close(output.penalty, rows.penalty[:4].sum() / 13)
    torch.testing.assert_close(output.loss, rows.ce.mean() + output.penalty)


def test_half_precision_is_computed_in_float32() -> None:
    logits_NV, target_N = batch()
    half_NV = logits_NV.bfloat16()
    output = sharpness_loss(half_NV, target_N, penalty="neg_entropy", penalty_weight=0.5)
    exact = sharpness_loss(half_NV.double(), target_N, penalty="neg_entropy", penalty_weight=0.5)
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss.double(), exact.loss, rtol=1e-6, atol=0)


def test_a_tensor_weight_is_the_number() -> None:
    logits_NV, target_N = batch()
    number = sharpness_loss(logits_NV, target_N, penalty_weight=0.25).loss
    tensor = sharpness_loss(logits_NV, target_N, penalty_weight=torch.tensor(0.25)).loss
    assert torch.equal(number, tensor)


@pytest.mark.parametrize("use_bias", [True, False])
def test_linear_form_is_the_loss_of_the_linear_layer(use_bias: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    hidden_ND = torch.randn(6, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    weight_VD = torch.randn(11, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(11, dtype=torch.float64, requires_grad=True) if use_bias else None
    target_N = torch.randint(11, (6,), generator=generator)
    leaves = [hidden_ND, weight_VD] + ([bias] if bias is not None else [])
    ours = linear_sharpness_loss(
        hidden_ND, weight_VD, target_N, bias=bias, penalty="top_k_mass", penalty_weight=0.3
    ).loss
    logits_NV = F.linear(hidden_ND, weight_VD, bias)
    dense = sharpness_loss(logits_NV, target_N, penalty="top_k_mass", penalty_weight=0.3).loss
    pairs = zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(dense, leaves), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"penalty": "entropy"}, "penalty: given 'entropy', allowed is one of"),
        ({"reduction": "avg"}, "reduction: given 'avg', allowed is"),
        ({"penalty_mask": torch.ones(3, dtype=torch.bool)}, "penalty_mask: given torch.bool"),
        ({"penalty_mask": torch.ones(13)}, "penalty_mask: given torch.float32"),
        ({"top_k": 66}, "top_k: given 66"),
        ({"top_k": 0}, "top_k: given 0"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, object], message: str) -> None:
    logits_NV, target_N = batch()
    with pytest.raises(ValueError, match=message):
        sharpness_loss(logits_NV, target_N, **change)
    with pytest.raises(ValueError, match="do not fit"):
        sharpness_loss(logits_NV, target_N[:5])
