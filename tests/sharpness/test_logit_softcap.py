"""The soft cap of the logits in every form of the loss; nothing changes where it is off.

Errors are norms of differences relative to the norm of the truth, which is float64.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from sharpgpt.sharpness import (
    LinearSharpnessLoss,
    linear_sharpness_loss,
    reference,
    rows,
    sharpness_loss,
)
from tests.sharpness.test_fused import (
    NAMES,
    OWN,
    assert_as_reference,
    losses_and_gradients,
    problem,
    relative_error,
)

BOTH = pytest.mark.parametrize("function", [linear_sharpness_loss, reference.linear_sharpness_loss])
CAPS = pytest.mark.parametrize("cap", [0.5, 3.0, 30.0, 40.0])  # the last one by tanh
IGNORE = -100
EVERYTHING: dict[str, Any] = {
    "penalty": "neg_entropy",
    "penalty_weight": 0.3,
    "z_loss_weight": 0.05,
    "label_smoothing": 0.1,
}


@BOTH
@CAPS
def test_all_is_of_the_capped_logits(function: Any, cap: float) -> None:
    hidden_ND, weight_VD, target_N = problem(9, 8, 65)
    target_N[2] = IGNORE
    output = function(
        4 * hidden_ND, weight_VD, target_N, logit_softcap=cap, per_row=True, **EVERYTHING
    )
    capped_NV = cap * (4 * hidden_ND @ weight_VD.T / cap).tanh()
    expected = sharpness_loss(capped_NV, target_N, per_row=True, **EVERYTHING)
    torch.testing.assert_close(output.loss, expected.loss)
    for ours, truth in zip(output.rows, expected.rows, strict=True):
        torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("cap", [2.0, 40.0])
@pytest.mark.parametrize("name", NAMES)
def test_reductions_bias_masks_and_upstream_gradients(
    name: str, cap: float, reduction: str
) -> None:
    hidden_ND, weight_VD, target_N = problem(13, 8, 127)
    generator = torch.Generator().manual_seed(1)
    assert_as_reference(
        4 * hidden_ND, weight_VD, target_N.index_fill(0, torch.tensor([0, 5]), IGNORE), 1e-10,
        penalty_mask=torch.rand(13, generator=generator) > 0.4, chunk_size=5, top_k=3,
        bias=torch.randn(127, generator=generator, dtype=torch.float64), reduction=reduction,
        upstream=torch.randn(13 if reduction == "none" else (), generator=generator).double(),
        logit_softcap=cap, **EVERYTHING | {"penalty": name},
    )  # fmt: skip


@pytest.mark.parametrize("cap", [3.0, 30.0, 40.0])
@pytest.mark.parametrize("vocab_size", [65, 127, 50257])
def test_float32_is_the_reference_to_1e_5(vocab_size: int, cap: float) -> None:
    given = problem(7, 64, vocab_size, dtype=torch.float32)
    assert_as_reference(*given, 1e-5, logit_softcap=cap, chunk_size=4, **EVERYTHING)


@BOTH
@pytest.mark.parametrize("cap", [30.0, 40.0])
@pytest.mark.parametrize("height", [-150.0, 0.0, 150.0])
def test_float32_at_every_height_of_the_logits(function: Any, height: float, cap: float) -> None:
    """Far from 0 all logits of a row are within a fraction of the cap and of each other."""
    _, logits_VN, target_N = problem(6, 6, 127)
    logits_VN = (logits_VN * 4 + height / 3).float()
    found = []
    for dtype in (torch.float32, torch.float64):
        # With a hidden state of ones and zeros the gradient of the weight is that of the logits.
        found.append(
            losses_and_gradients(
                function, torch.eye(6, dtype=dtype), logits_VN.to(dtype), target_N,
                logit_softcap=cap, **EVERYTHING,
            )
        )  # fmt: skip
    (ours, [_, gradient_VN]), (truth, [_, true_VN]) = found
    assert relative_error(ours.loss.detach(), truth.loss.detach()) < 1e-5
    # 1 - (z / c)^2 has the digits that z has at the distance from the cap.
    assert relative_error(gradient_VN, true_VN) < (1e-5 if height == 0 else 2e-4)


@CAPS
def test_bfloat16_is_no_worse_than_the_dense_path(cap: float) -> None:
    given = problem(64, 64, 1000, dtype=torch.bfloat16)
    how = EVERYTHING | {"logit_softcap": cap}
    double = [tensor.double() for tensor in given[:2]]
    truth, true_gradients = losses_and_gradients(
        reference.linear_sharpness_loss, *double, given[2], **how
    )
    dense, dense_gradients = losses_and_gradients(reference.linear_sharpness_loss, *given, **how)
    ours, our_gradients = losses_and_gradients(
        linear_sharpness_loss, *given, product_dtype=torch.bfloat16, chunk_size=27, **how
    )
    for a, b, t in zip(
        [ours.loss, *our_gradients], [dense.loss, *dense_gradients],
        [truth.loss, *true_gradients], strict=True,
    ):  # fmt: skip
        limit = 1.5 * relative_error(b.detach(), t.detach()) + 1e-7
        assert relative_error(a.detach(), t.detach()) <= limit


@pytest.mark.parametrize(
    ("name", "reduction", "cap"),
    [("neg_entropy", "mean", 1.0), ("non_max_sum", "none", 40.0), (OWN, "sum", 3.0)],
)
def test_gradcheck(name: str, reduction: str, cap: float) -> None:
    hidden_ND, weight_VD, target_N = problem(5, 3, 70)
    target_N[2] = IGNORE

    def losses(hidden_ND: Tensor, weight_VD: Tensor, bias: Tensor) -> Tensor:
        return linear_sharpness_loss(
            hidden_ND, weight_VD, target_N, bias=bias, reduction=reduction, chunk_size=2, top_k=3,
            logit_softcap=cap, **EVERYTHING | {"penalty": name},
        ).loss  # fmt: skip

    bias = torch.linspace(-1, 1, 70, dtype=torch.float64)
    leaves = [leaf.requires_grad_() for leaf in (hidden_ND, weight_VD, bias)]
    assert torch.autograd.gradcheck(losses, leaves, fast_mode=True)


@pytest.mark.parametrize("cap", [0.25, 1.0, 40.0])
@pytest.mark.parametrize("vocab_size", [1, 63, 64, 65, 127])
def test_columns_of_padding_do_not_count(vocab_size: int, cap: float) -> None:
    """Equal logits at the lower end of the cap, where a column of padding is as large."""
    hidden_ND, weight_VD = torch.full((3, 1), -1e4), torch.ones(vocab_size, 1)
    output, gradients = losses_and_gradients(
        linear_sharpness_loss, hidden_ND, weight_VD, torch.tensor([0, 0, IGNORE]), top_k=1,
        logit_softcap=cap, penalty="neg_entropy", penalty_weight=1.0,
    )  # fmt: skip
    expected = torch.tensor(float(vocab_size)).log()
    torch.testing.assert_close(output.ce, expected)
    torch.testing.assert_close(output.entropy, expected)
    torch.testing.assert_close(output.z_loss, (expected - cap).square())
    assert all(gradient.eq(0).all() for gradient in gradients)  # nothing moves at the cap


@BOTH
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_ignored_row_counts_nowhere(function: Any, bad: float) -> None:
    hidden_ND, weight_VD, target_N = problem(6, 4, 70)
    target_N[2] = IGNORE
    how = EVERYTHING | {"logit_softcap": 2.0, "per_row": True}
    clean, true = losses_and_gradients(function, hidden_ND, weight_VD, target_N, **how)
    spoiled_ND = hidden_ND.index_fill(0, torch.tensor([2]), bad)
    ours, found = losses_and_gradients(function, spoiled_ND, weight_VD, target_N, **how)
    assert torch.equal(ours.loss, clean.loss)
    assert all(torch.equal(a, b) for a, b in zip(ours.rows, clean.rows, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(found, true, strict=True))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own, in jvp
def test_gradients_of_gradients_and_transforms_are_exact() -> None:
    hidden_ND, weight_VD, target_N = problem(6, 4, 70)
    target_N[2] = IGNORE

    def found(loss_function: Any) -> list[Tensor]:
        def loss(hidden_ND: Tensor, weight_VD: Tensor) -> Tensor:
            return loss_function(
                hidden_ND, weight_VD, target_N, logit_softcap=2.0, **EVERYTHING
            ).loss

        given = tuple(tensor.clone().requires_grad_() for tensor in (hidden_ND, weight_VD))
        gradients = torch.autograd.grad(loss(*given), given, create_graph=True)
        square = sum(gradient.square().sum() for gradient in gradients)
        second = torch.autograd.grad(loss(*given) + square, given)
        ones = tuple(torch.ones_like(tensor) for tensor in given)
        value, tangent = torch.func.jvp(loss, (hidden_ND, weight_VD), ones)
        by_func = torch.func.grad(loss, argnums=(0, 1))(hidden_ND, weight_VD)
        scaled = torch.stack([hidden_ND, 2 * hidden_ND])
        batched = torch.func.vmap(lambda hidden_ND: loss(hidden_ND, weight_VD))(scaled)
        return [*gradients, *second, value, tangent, *by_func, batched]

    ours, truth = found(linear_sharpness_loss), found(reference.linear_sharpness_loss)
    for one, other in zip(ours, truth, strict=True):
        assert relative_error(one.detach(), other.detach()) < 1e-12
        assert other.norm() > 0


@pytest.mark.parametrize("cap", [3.0, 40.0])
def test_a_gradient_of_the_logits_before_the_cap_is_seen(
    cap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = problem(11, 64, 127, dtype=torch.float32)
    assert_as_reference(*given, 1e-5, logit_softcap=cap)

    def mistaken(z_TW: Tensor, *_: Any) -> None:
        z_TW.mul_(1)

    monkeypatch.setattr(rows, "_through_softcap", mistaken)
    with pytest.raises(AssertionError):
        assert_as_reference(*given, 1e-5, logit_softcap=cap)


def test_modules_take_it() -> None:
    given = problem(9, 8, 65)
    ours = LinearSharpnessLoss(logit_softcap=2.0, **EVERYTHING)(*given)
    expected = linear_sharpness_loss(*given, logit_softcap=2.0, **EVERYTHING)
    assert torch.equal(ours.loss, expected.loss)
    assert not torch.equal(ours.loss, linear_sharpness_loss(*given, **EVERYTHING).loss)


@BOTH
@pytest.mark.parametrize("cap", [0, -1.0, float("inf"), float("nan")])
def test_it_is_above_0(function: Any, cap: float) -> None:
    with pytest.raises(ValueError, match="logit_softcap: given"):
        function(*problem(3, 4, 5), top_k=2, logit_softcap=cap)
