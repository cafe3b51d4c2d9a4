"""Backward passes beside the usual one: again, of second order, scaled, through views."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from sharpgpt.sharpness import linear_sharpness_loss, reference
from sharpgpt.sharpness.fused import linear_sharpness
from tests.sharpness.test_fused import NAMES, problem, relative_error

IGNORE = -100


def leaves(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    hidden_ND, weight_VD, target_N = problem(6, 4, 70, dtype=dtype)
    target_N[2] = IGNORE
    return hidden_ND.requires_grad_(), weight_VD.requires_grad_(), target_N


@pytest.mark.parametrize("upstream", [1.0, 1.7])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_second_backward_gives_the_same_gradient(upstream: float, reduction: Any) -> None:
    """The saved gradient was handed out as it is: zero_grad then erased it, and 0 came back."""
    hidden_ND, weight_VD, target_N = leaves()
    loss = linear_sharpness_loss(
        hidden_ND, weight_VD, target_N, penalty_weight=0.3, reduction=reduction
    ).loss.sum()
    (loss * upstream).backward(retain_graph=True)
    assert weight_VD.grad is not None
    assert hidden_ND.grad is not None
    assert not weight_VD.grad.requires_grad
    for last in (False, True):
        again = linear_sharpness_loss(
            hidden_ND, weight_VD, target_N, penalty_weight=0.3, reduction=reduction
        ).loss.sum()
        [alone] = torch.autograd.grad(again, [weight_VD], retain_graph=not last)
        assert not alone.requires_grad  # it held the graph
    first = weight_VD.grad.clone(), hidden_ND.grad.clone()
    for _ in range(2):
        weight_VD.grad.zero_()
        hidden_ND.grad.zero_()
        (loss * upstream).backward(retain_graph=True)
        assert torch.equal(weight_VD.grad, first[0])
        assert torch.equal(hidden_ND.grad, first[1])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own, in jvp
@pytest.mark.parametrize("penalty", NAMES)
def test_gradients_of_gradients_are_exact(penalty: str) -> None:
    """They were zeros, without a word."""

    def norms(loss_function: Any) -> list[Tensor]:
        hidden_ND, weight_VD, target_N = leaves()

        def loss(hidden_ND: Tensor, weight_VD: Tensor) -> Tensor:
            how = {"penalty": penalty, "penalty_weight": 0.4, "top_k": 3}
            return loss_function(hidden_ND, weight_VD, target_N, **how).loss

        given = (hidden_ND, weight_VD)
        gradients = torch.autograd.grad(loss(*given), given, create_graph=True)
        square = sum(gradient.square().sum() for gradient in gradients)
        second = torch.autograd.grad(loss(*given) + square, given)
        ones = tuple(torch.ones_like(tensor) for tensor in given)
        plain = tuple(tensor.detach() for tensor in given)
        products = torch.autograd.functional.hvp(loss, plain, ones)[1]
        value, tangent = torch.func.jvp(loss, plain, ones)
        with forward_ad.dual_level():  # forward mode without torch.func
            dual = forward_ad.make_dual(plain[0], ones[0])
            [*_, by_hidden] = forward_ad.unpack_dual(loss(dual, plain[1]))
        by_func = torch.func.grad(loss, argnums=(0, 1))(*plain)
        rows = torch.func.vmap(lambda scale: loss(plain[0] * scale, plain[1]))(torch.arange(3.0))
        return [*second, *products, value, tangent, by_hidden, *by_func, rows]

    ours, truth = norms(linear_sharpness_loss), norms(reference.linear_sharpness_loss)
    for one, other in zip(ours, truth, strict=True):
        assert relative_error(one, other) < 1e-12
        assert other.norm() > 0


def test_gradgradcheck_and_a_vectorised_jacobian() -> None:
    hidden_ND, weight_VD, target_N = leaves()
    hidden_ND, weight_VD = hidden_ND.detach()[:3], weight_VD.detach()[:7]
    target_N = torch.tensor([1, IGNORE, 6])

    def loss(hidden_ND: Tensor, weight_VD: Tensor) -> Tensor:
        how: dict[str, Any] = {"penalty": "neg_entropy", "penalty_weight": 0.3}
        return linear_sharpness_loss(hidden_ND, weight_VD, target_N, reduction="none", **how).loss

    given = hidden_ND.clone().requires_grad_(), weight_VD.clone().requires_grad_()
    assert torch.autograd.gradgradcheck(loss, given)
    for vectorised, plain in zip(
        torch.autograd.functional.jacobian(loss, given, vectorize=True),
        torch.autograd.functional.jacobian(loss, given),
        strict=True,
    ):
        assert relative_error(vectorised, plain) < 1e-12


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("scale", [1.0, 2.0**16, 2.0**24])
def test_float16_with_a_loss_scale_is_as_exact_as_the_dense_way(
    reduction: Any, scale: float
) -> None:
    """The upstream gradient was cast to float16 first, where 2^16 is infinite: NaN.

    The truth is that of the rounded inputs. The dense way rounds the logits to float16.
    """
    hidden_ND, weight_VD, target_N = problem(64, 16, 127, dtype=torch.float16)
    how: dict[str, Any] = {"penalty_weight": 0.2, "reduction": reduction}

    def gradients(function: Any, dtype: torch.dtype) -> list[Tensor]:
        given = [tensor.to(dtype).requires_grad_() for tensor in (hidden_ND, weight_VD)]
        loss = function(*given, target_N, **how).loss
        scaled = (loss.double() if dtype == torch.float64 else loss.float()) * scale
        unscaled = scale * (64 if reduction == "mean" else 1)  # keeps float16 in its range
        return [g.double() / unscaled for g in torch.autograd.grad(scaled.sum() / 64, given)]

    truth = gradients(reference.linear_sharpness_loss, torch.float64)
    ours = gradients(linear_sharpness_loss, torch.float16)
    limit = 65504.0
    for one, true in zip(ours, truth, strict=True):
        if (true.abs().max() * scale) < limit:
            assert relative_error(one, true) < 2e-3
    if scale == 1.0:
        dense = gradients(reference.linear_sharpness_loss, torch.float16)
        for one, other, true in zip(ours, dense, truth, strict=True):
            assert relative_error(one, true) <= relative_error(other, true) * 1.05


@pytest.mark.parametrize("function", [linear_sharpness_loss, reference.linear_sharpness_loss])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_ignored_row_counts_nowhere(function: Any, bad: float) -> None:
    """A NaN there reached the loss, the statistics and the gradient of the weight."""
    hidden_ND, weight_VD, target_N = leaves()
    clean = function(hidden_ND, weight_VD, target_N, penalty_weight=0.3, per_row=True)
    true = torch.autograd.grad(clean.loss, [hidden_ND, weight_VD])
    spoiled_ND = hidden_ND.detach().clone()
    spoiled_ND[2] = bad
    spoiled_ND.requires_grad_()
    ours = function(spoiled_ND, weight_VD, target_N, penalty_weight=0.3, per_row=True)
    assert torch.equal(ours.loss, clean.loss)
    assert all(torch.equal(a, b) for a, b in zip(ours.rows, clean.rows, strict=True))
    found = torch.autograd.grad(ours.loss, [spoiled_ND, weight_VD])
    assert all(torch.equal(a, b) for a, b in zip(found, true, strict=True))
    rows = function(spoiled_ND, weight_VD, target_N, penalty_weight=0.3, reduction="none").loss
    rows.sqrt().sum().backward()  # the upstream gradient of a loss of 0 is infinite
    assert weight_VD.grad is not None
    assert weight_VD.grad.isfinite().all()
    assert spoiled_ND.grad is not None
    assert spoiled_ND.grad[2].eq(0).all()


@pytest.mark.parametrize("function", [linear_sharpness_loss, reference.linear_sharpness_loss])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_an_infinite_upstream_gradient_leaves_ignored_rows_alone(
    function: Any, reduction: Any
) -> None:
    """As of a loss scale that is too large: 0 * inf is NaN."""
    infinite = torch.tensor(float("inf"), dtype=torch.float64)
    hidden_ND, weight_VD, target_N = leaves()
    loss = function(hidden_ND, weight_VD, target_N, penalty_weight=0.3, reduction=reduction).loss
    [found_ND] = torch.autograd.grad(loss, [hidden_ND], infinite)
    assert found_ND[2].eq(0).all()
    nothing = function(
        hidden_ND, weight_VD, torch.full_like(target_N, IGNORE), reduction=reduction
    ).loss
    for gradient in torch.autograd.grad(nothing, [hidden_ND, weight_VD], infinite):
        assert gradient.eq(0).all()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_gradient_that_can_be_differentiated_is_the_same_gradient(reduction: Any) -> None:
    """With a NaN in an ignored row, an infinite upstream gradient there, and a tied weight."""
    hidden_ND, weight_VD, target_N = leaves()
    spoiled_ND = hidden_ND.detach().clone()
    spoiled_ND[2] = float("nan")
    spoiled_ND.requires_grad_()

    def gradients(create_graph: bool) -> list[Tensor]:
        tied_ND = spoiled_ND + weight_VD[: len(spoiled_ND)]
        how: dict[str, Any] = {"penalty_weight": 0.3, "reduction": reduction}
        loss = linear_sharpness_loss(tied_ND, weight_VD, target_N, **how).loss
        total = loss.sqrt().sum()  # infinite in row 2 without a reduction
        found = torch.autograd.grad(total, [spoiled_ND, weight_VD], create_graph=create_graph)
        return [gradient.detach() for gradient in found]

    plain = gradients(create_graph=False)
    assert all(gradient.isfinite().all() and gradient.norm() > 0 for gradient in plain)
    for one, other in zip(gradients(create_graph=True), plain, strict=True):
        assert relative_error(one, other) < 1e-12


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_penalty_weight_can_be_learned(reduction: Any) -> None:
    hidden_ND, weight_VD, target_N = leaves()
    found = []
    for function in (linear_sharpness_loss, reference.linear_sharpness_loss):
        penalty_weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        loss = function(
            hidden_ND, weight_VD, target_N, penalty_weight=penalty_weight, reduction=reduction
        ).loss
        upstream = torch.linspace(1, 2, loss.numel(), dtype=torch.float64).reshape(loss.shape)
        found += torch.autograd.grad((1.7 * upstream * loss).sum(), [penalty_weight])
    assert relative_error(found[0], found[1]) < 1e-12


@pytest.mark.parametrize("function", [linear_sharpness_loss, reference.linear_sharpness_loss])
@pytest.mark.parametrize("penalty", sorted({*NAMES} - {"neg_max_prob"}))
@pytest.mark.parametrize("gap", [5.0, 10.0, 20.0, 40.0])
@pytest.mark.parametrize("target", [10, 0])
@pytest.mark.parametrize("create_graph", [False, True])
def test_no_digits_are_lost_near_one(
    function: Any, penalty: str, gap: float, target: int, create_graph: bool
) -> None:
    """1 - p keeps no digit where p rounds to 1: float32 against float64, every entry relative.

    With a width of 1 the logits are the weight, and its gradient is theirs. The target is the
    largest entry, or another one; for top_k_mass k entries share the maximum.
    """
    logits_V = torch.linspace(-1, 0, 65, dtype=torch.float64)
    largest = 3 if penalty == "top_k_mass" else 1
    logits_V[10 : 10 + largest] = gap

    def found(dtype: torch.dtype, function: Any) -> tuple[Tensor, Tensor]:
        weight_VD = logits_V.to(dtype)[:, None].clone().requires_grad_()
        how = {"penalty": penalty, "penalty_weight": 1.0, "top_k": 3, "per_row": True}
        hidden_ND = torch.ones(1, 1, dtype=dtype)
        output = function(hidden_ND, weight_VD, torch.tensor([target]), **how)
        [gradient_VD] = torch.autograd.grad(output.loss, [weight_VD], create_graph=create_graph)
        return output.rows.penalty.detach().double(), gradient_VD.detach().double().flatten()

    value_N, gradient_V = found(torch.float32, function)
    true_N, true_V = found(torch.float64, linear_sharpness_loss)
    rest = (logits_V - gap).exp()
    rest[10 : 10 + largest] = 0
    if penalty in ("non_max_sum", "top_k_mass"):
        true_N = (rest.sum() / (rest.sum() + largest))[None]
    # float32 knows a logit of 40 to 4e-6, so e^40 and its like to that.
    assert ((value_N - true_N) / true_N).abs().max() < 3e-5
    assert ((gradient_V - true_V) / true_V).abs().max() < 3e-5


def layouts(hidden_ND: Tensor, weight_VD: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The same numbers in other layouts, and constant ones that are expanded."""
    transposed_VD = weight_VD.T.contiguous().T
    sliced_VD = torch.cat([weight_VD, weight_VD], 1)[:, : weight_VD.shape[1]]
    expanded_VD = weight_VD[:1].expand_as(weight_VD)
    strided_ND = hidden_ND.repeat_interleave(2, 0)[::2]
    return [
        *itertools.product([hidden_ND, strided_ND, hidden_ND.T.contiguous().T], [transposed_VD]),
        (hidden_ND, sliced_VD),
        (hidden_ND[:1].expand_as(hidden_ND), expanded_VD),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [0, 3])
@pytest.mark.parametrize("vocab_size", [1, 65])
def test_real_and_fake_agree_on_every_layout(
    dtype: torch.dtype, num_rows: int, vocab_size: int
) -> None:
    """A transposed weight failed under torch.compile: the strides of its gradient differed."""
    hidden_ND, weight_VD, target_N = problem(num_rows, 4, vocab_size, dtype=dtype)
    factor_N = torch.ones(num_rows)
    cases = layouts(hidden_ND, weight_VD) if num_rows else [(hidden_ND, weight_VD)]
    for (hidden, weight), needs in itertools.product(
        cases, [[True, True], [True, False], [False, True], [False, False]]
    ):
        settings = {
            "penalty": "neg_entropy", "top_k": 1, "product_dtype": torch.float32, "chunk_size": 2,
            "needs": needs, "loss_per_row": False,
        }  # fmt: skip
        torch.library.opcheck(
            linear_sharpness,
            ([hidden, weight], target_N, [factor_N] * 2),
            settings,
            test_utils=("test_schema", "test_faketensor"),
        )


def test_views_compile_and_give_the_same_gradients() -> None:
    hidden_ND, weight_VD, target_N = problem(5, 4, 65, dtype=torch.float32)

    def loss(hidden_ND: Tensor, weight_VD: Tensor) -> Tensor:
        return linear_sharpness_loss(hidden_ND, weight_VD, target_N, penalty_weight=0.2).loss

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for hidden, weight in layouts(hidden_ND, weight_VD):
        given = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
        ours = torch.autograd.grad(compiled(*given), given)
        for one, other in zip(ours, torch.autograd.grad(loss(*given), given), strict=True):
            assert relative_error(one, other) < 1e-6
