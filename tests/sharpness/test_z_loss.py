"""The z-loss in every form of the loss: its value, its gradient, and nothing where it is off.

Errors are norms of differences relative to the norm of the truth, which is float64.
"""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from sharpgpt.sharpness import (
    LinearSharpnessLoss,
    fused,
    linear_sharpness_loss,
    products,
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
IGNORE = -100


@BOTH
def test_it_is_the_square_of_logsumexp_at_every_valid_row(function: Any) -> None:
    """Also outside the penalty mask; divided as the cross-entropy is."""
    hidden_ND, weight_VD, target_N = problem(9, 8, 65)
    target_N[2] = IGNORE
    mask_N, valid_N = torch.arange(9) > 3, torch.arange(9) != 2
    output, gradients = losses_and_gradients(
        function, hidden_ND, weight_VD, target_N, upstream=1.0, penalty_mask=mask_N,
        penalty_weight=0.3, z_loss_weight=0.05, per_row=True,
    )  # fmt: skip
    plain, plain_gradients = losses_and_gradients(
        function, hidden_ND, weight_VD, target_N, upstream=1.0, penalty_mask=mask_N,
        penalty_weight=0.3,
    )  # fmt: skip
    logits_NV = hidden_ND @ weight_VD.T
    lse_N = logits_NV.logsumexp(-1) * valid_N
    torch.testing.assert_close(output.rows.z_loss, lse_N**2)
    torch.testing.assert_close(output.z_loss, (lse_N**2).sum() / 8)
    torch.testing.assert_close(plain.z_loss, output.z_loss)  # known where it is off, too
    torch.testing.assert_close(output.loss, plain.loss + 0.05 * output.z_loss)
    torch.testing.assert_close(output.loss, output.ce + 0.3 * output.penalty + 0.05 * output.z_loss)
    dz_NV = 2 * 0.05 * lse_N[:, None] * logits_NV.softmax(-1) / 8
    for ours, without, term in zip(
        gradients, plain_gradients, (dz_NV @ weight_VD, dz_NV.T @ hidden_ND), strict=True
    ):
        assert relative_error(ours - without, term) < 1e-12


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_reductions_bias_masks_and_upstream_gradients(
    name: str, use_bias: bool, reduction: str
) -> None:
    hidden_ND, weight_VD, target_N = problem(13, 8, 127)
    generator = torch.Generator().manual_seed(1)
    bias = torch.randn(127, generator=generator, dtype=torch.float64) if use_bias else None
    upstream = torch.randn(13 if reduction == "none" else (), generator=generator).double()
    assert_as_reference(
        hidden_ND, weight_VD, target_N.index_fill(0, torch.tensor([0, 5]), IGNORE), 1e-10,
        penalty=name, penalty_weight=0.3, z_loss_weight=torch.tensor(0.2).double(), bias=bias,
        penalty_mask=torch.rand(13, generator=generator) > 0.4, chunk_size=5, top_k=3,
        reduction=reduction, upstream=upstream,
        normalizer=20.0 if reduction == "mean" else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "reduction"), [("neg_entropy", "mean"), ("non_max_sum", "none"), (OWN, "sum")]
)
def test_gradcheck(name: str, reduction: str) -> None:
    hidden_ND, weight_VD, target_N = problem(5, 3, 70)
    target_N[2] = IGNORE

    def losses(hidden_ND: Tensor, weight_VD: Tensor, bias: Tensor) -> Tensor:
        return linear_sharpness_loss(
            hidden_ND, weight_VD, target_N, bias=bias, penalty=name, penalty_weight=0.7, top_k=3,
            z_loss_weight=0.4, reduction=reduction, chunk_size=2,
        ).loss  # fmt: skip

    bias = torch.linspace(-1, 1, 70, dtype=torch.float64)
    leaves = [leaf.requires_grad_() for leaf in (hidden_ND, weight_VD, bias)]
    assert torch.autograd.gradcheck(losses, leaves, fast_mode=True)


@BOTH
@pytest.mark.parametrize("name", ["top_k_mass", OWN])
@pytest.mark.parametrize("shift", ["to zero", -1e4, -100.0, 0.0, 100.0, 1e4])
def test_float32_at_every_height_of_the_logits(function: Any, name: str, shift: Any) -> None:
    """The square is not invariant to a shift of the logits; the rows are, of which it is made."""
    hidden_ND, weight_VD, target_N = problem(6, 8, 127)
    logits_NV = hidden_ND @ weight_VD.T
    lse_N = logits_NV.logsumexp(-1, keepdim=True)
    logits_NV = (logits_NV - lse_N if shift == "to zero" else logits_NV + shift).float()
    found = []
    for dtype in (torch.float32, torch.float64):
        # With a hidden state of ones and zeros the gradient of the weight is that of the logits.
        output, [_, gradient_VN] = losses_and_gradients(
            function, torch.eye(6, dtype=dtype), logits_NV.T.to(dtype).contiguous(), target_N,
            penalty=name, penalty_weight=0.5, z_loss_weight=0.5, top_k=3, reduction="none",
            per_row=True,
        )  # fmt: skip
        found.append((output, gradient_VN.double()))
    (ours, gradient_VN), (truth, true_VN) = found
    resolution = 2e-7 * (logits_NV.abs().amax(-1) + math.log(127))  # of float32
    ours_N, true_N = (output.rows.z_loss.sqrt() for output in (ours, truth))
    assert ((ours_N - true_N).abs() <= resolution).all()
    assert (truth.rows.z_loss < 1e-9).all() == (shift == "to zero")
    assert relative_error(ours.loss.detach(), truth.loss.detach()) < 2e-6
    assert relative_error(gradient_VN, true_VN) < 2e-6


@BOTH
@pytest.mark.parametrize("gap", [5.0, 10.0, 20.0])
@pytest.mark.parametrize("target", [10, 0])
def test_no_digits_are_lost_where_one_logit_of_zero_rules(
    function: Any, gap: float, target: int
) -> None:
    """There the logarithm of the sum is the sum of the others, 1e-9 or so: every entry relative."""
    logits_V = torch.linspace(-1, 0, 65, dtype=torch.float64) - gap
    logits_V[10] = 0

    def found(dtype: torch.dtype, function: Any) -> tuple[Tensor, Tensor]:
        output, [_, gradient_VD] = losses_and_gradients(
            function, torch.ones(1, 1, dtype=dtype), logits_V.to(dtype)[:, None],
            torch.tensor([target]), penalty_weight=1.0, z_loss_weight=3.0,
        )  # fmt: skip
        return output.z_loss.double(), gradient_VD.double()

    ours, ours_VD = found(torch.float32, function)
    truth, true_VD = found(torch.float64, linear_sharpness_loss)
    expected = logits_V.exp()[logits_V < 0].sum().log1p().square()
    assert abs(ours / expected - 1) < 1e-5
    assert abs(truth / expected - 1) < 1e-12
    assert ((ours_VD - true_VD) / true_VD).abs().max() < 3e-5


@pytest.mark.parametrize("vocab_size", [1, 63, 64, 65, 127])
def test_columns_of_padding_do_not_count(vocab_size: int) -> None:
    """Equal logits far below 0, where a column of padding would be the largest if it were 0."""
    hidden_ND, weight_VD = torch.full((3, 1), -50.0), torch.ones(vocab_size, 1)
    output = linear_sharpness_loss(hidden_ND, weight_VD, torch.tensor([0, 0, IGNORE]), top_k=1)
    assert output.z_loss.item() == pytest.approx((math.log(vocab_size) - 50) ** 2, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_off_is_off_bit_for_bit_and_costs_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden_ND, weight_VD, target_N = problem(13, 8, 127, dtype=torch.float32)
    given = (hidden_ND, weight_VD, target_N)
    how = {"penalty": name, "penalty_weight": 0.3}
    expected, expected_gradients = losses_and_gradients(linear_sharpness_loss, *given, **how)
    for z_loss_weight in (0, 0.0, torch.tensor(0.0)):
        with_0: dict[str, Any] = how | {"z_loss_weight": z_loss_weight}
        output, gradients = losses_and_gradients(linear_sharpness_loss, *given, **with_0)
        assert all(torch.equal(a, b) for a, b in zip(output[:-1], expected[:-1], strict=True))
        assert all(torch.equal(a, b) for a, b in zip(gradients, expected_gradients, strict=True))

    def never(*_: Tensor) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(reference, "log_sum_exp", never)  # another pass over the logits
    dense = reference.linear_sharpness_loss(*given, z_loss_weight=0.0, **how)
    plain = reference.linear_sharpness_loss(*given, **how)
    assert torch.equal(dense.loss, plain.loss)
    torch.testing.assert_close(dense.z_loss, expected.z_loss)


@BOTH
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_an_ignored_row_counts_nowhere(function: Any, bad: float, reduction: Any) -> None:
    hidden_ND, weight_VD, target_N = problem(6, 4, 70)
    target_N[2] = IGNORE
    how: dict[str, Any] = {"z_loss_weight": 0.3, "per_row": True, "reduction": reduction}
    clean, true = losses_and_gradients(function, hidden_ND, weight_VD, target_N, **how)
    spoiled_ND = hidden_ND.index_fill(0, torch.tensor([2]), bad)
    ours, found = losses_and_gradients(function, spoiled_ND, weight_VD, target_N, **how)
    assert torch.equal(ours.loss, clean.loss)
    assert all(torch.equal(a, b) for a, b in zip(ours.rows, clean.rows, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(found, true, strict=True))
    upstream = torch.tensor(float("inf"), dtype=torch.float64)
    _, [infinite_ND, _] = losses_and_gradients(
        function, spoiled_ND, weight_VD, target_N, upstream=upstream, **how
    )
    assert infinite_ND[2].eq(0).all()
    nothing, gradients = losses_and_gradients(
        function, spoiled_ND, weight_VD, torch.full_like(target_N, IGNORE), upstream=upstream, **how
    )
    assert [value.sum().item() for value in nothing[:-1]] == [0] * (len(nothing) - 1)
    assert all(gradient.eq(0).all() for gradient in gradients)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own, in jvp
@pytest.mark.parametrize("penalty", ["neg_entropy", OWN])
def test_gradients_of_gradients_and_transforms_are_exact(penalty: str) -> None:
    hidden_ND, weight_VD, target_N = problem(6, 4, 70)
    target_N[2] = IGNORE

    def found(loss_function: Any) -> list[Tensor]:
        def loss(hidden_ND: Tensor, weight_VD: Tensor, z_loss_weight: Tensor) -> Tensor:
            how = {"penalty": penalty, "penalty_weight": 0.4, "top_k": 3}
            return loss_function(
                hidden_ND, weight_VD, target_N, z_loss_weight=z_loss_weight, **how
            ).loss

        plain = (hidden_ND, weight_VD, torch.tensor(0.2, dtype=torch.float64))
        given = tuple(tensor.clone().requires_grad_() for tensor in plain)
        gradients = torch.autograd.grad(loss(*given), given, create_graph=True)
        square = sum(gradient.square().sum() for gradient in gradients)
        second = torch.autograd.grad(loss(*given) + square, given)
        ones = tuple(torch.ones_like(tensor) for tensor in plain)
        products = torch.autograd.functional.hvp(loss, plain, ones)[1]
        value, tangent = torch.func.jvp(loss, plain, ones)
        with forward_ad.dual_level():  # forward mode without torch.func
            dual = forward_ad.make_dual(plain[2], ones[2])
            [*_, by_weight] = forward_ad.unpack_dual(loss(*plain[:2], dual))
        by_func = torch.func.grad(loss, argnums=(0, 1, 2))(*plain)
        weights = torch.arange(3.0, dtype=torch.float64)
        batched = torch.func.vmap(lambda weight: loss(*plain[:2], weight))(weights)
        return [*gradients, *second, *products, value, tangent, by_weight, *by_func, batched]

    ours, truth = found(linear_sharpness_loss), found(reference.linear_sharpness_loss)
    for one, other in zip(ours, truth, strict=True):
        assert relative_error(one.detach(), other.detach()) < 1e-12
        assert other.norm() > 0


def test_gradgradcheck_of_the_dense_formula() -> None:
    """Its shift by the maximum is hidden from autograd."""
    logits_NV = problem(3, 4, 7)[0].requires_grad_()
    assert torch.autograd.gradcheck(reference.log_sum_exp, logits_NV)
    assert torch.autograd.gradgradcheck(reference.log_sum_exp, logits_NV)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_its_weight_can_be_learned(reduction: Any) -> None:
    hidden_ND, weight_VD, target_N = problem(6, 4, 70)
    target_N[2] = IGNORE
    found = []
    for function in (linear_sharpness_loss, reference.linear_sharpness_loss):
        z_loss_weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        loss = function(
            hidden_ND, weight_VD, target_N, z_loss_weight=z_loss_weight, reduction=reduction
        ).loss
        upstream = torch.linspace(1, 2, loss.numel(), dtype=torch.float64).reshape(loss.shape)
        found += torch.autograd.grad((1.7 * upstream * loss).sum(), [z_loss_weight])
    assert relative_error(found[0], found[1]) < 1e-12


@pytest.mark.parametrize("scale", [0, 2, -1])
@pytest.mark.parametrize("name", ["neg_entropy", "top_k_mass", OWN])
def test_a_mistake_in_its_gradient_is_seen(
    name: str, scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even with PaLM's weight."""

    def mistaken(loss: Tensor, penalty: Tensor, z_loss: Tensor) -> rows.RowFactors:
        return rows.RowFactors(loss, penalty, scale * z_loss)

    hidden_ND, weight_VD, target_N = problem(11, 64, 127, dtype=torch.float32)
    how = {"penalty": name, "penalty_weight": 0.01, "z_loss_weight": 1e-4}
    assert_as_reference(hidden_ND, weight_VD, target_N, 1e-5, **how)
    monkeypatch.setattr(fused, "RowFactors", mistaken)
    with pytest.raises(AssertionError):
        assert_as_reference(hidden_ND, weight_VD, target_N, 1e-5, **how)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("weight", [1e-4, 1.0])
@pytest.mark.parametrize("height", [0.0, 1e4, -1e4])
def test_products_in_float16_stay_in_its_range(
    height: float, weight: float, reduction: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, with its products made by hand. The gradient of a row has the factor 2 v L, here
    up to 2e4, which is infinite in float16 after a scale that knows the other factors alone."""

    def multiply_into(out: Tensor, a: Tensor, b: Tensor) -> None:
        out.copy_(a.float() @ b.float())

    monkeypatch.setattr(fused, "default_product_dtype", lambda *_: torch.float16)
    monkeypatch.setattr(products, "_multiply_into", multiply_into)
    monkeypatch.setattr(products, "_add_product", lambda out, a, b: out.add_(a.float() @ b.float()))
    hidden_ND, weight_VD, target_N = problem(16, 16, 127, dtype=torch.float16)
    target_N[3] = IGNORE
    hidden_ND[3] = torch.nan
    how: dict[str, Any] = {"penalty_weight": 0.2, "z_loss_weight": weight, "reduction": reduction}
    found = [
        losses_and_gradients(
            function, hidden_ND.to(dtype), weight_VD.to(dtype), target_N,
            bias=torch.full((127,), height, dtype=dtype), upstream=1 / 16, **how,
        )[1]
        for function, dtype in (
            (linear_sharpness_loss, torch.float16),
            (reference.linear_sharpness_loss, torch.float64),
        )
    ]  # fmt: skip
    for ours, truth in zip(*found, strict=True):
        assert 0 < truth.abs().max() < 65504
        assert relative_error(ours, truth) < 2e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_scale_of_float16_products_takes_inputs_of_any_dtype(dtype: torch.dtype) -> None:
    """Under autocast the inputs keep theirs. The square of 300 is infinite in float16."""
    layer = [torch.full((2, 1), value, dtype=dtype) for value in (300.0, 2.0)]
    factors = [torch.ones(2), torch.zeros(2), torch.full((2,), 0.5)]
    unit = fused._unit(layer, torch.tensor([False, True]), factors, torch.float16)
    assert unit is not None
    largest = 1 + 2 * 0.5 * (600 + math.log(2))
    assert unit.item() == pytest.approx(largest / fused.FLOAT16_FACTOR, rel=1e-5)


def test_modules_and_dense_logits_take_it() -> None:
    hidden_ND, weight_VD, target_N = problem(9, 8, 65)
    settings = {"penalty": "top_k_mass", "penalty_weight": 0.5, "z_loss_weight": 0.2}
    ours = LinearSharpnessLoss(**settings)(hidden_ND, weight_VD, target_N)
    assert torch.equal(
        ours.loss, linear_sharpness_loss(hidden_ND, weight_VD, target_N, **settings).loss
    )
    dense = sharpness_loss(F.linear(hidden_ND, weight_VD), target_N, **settings)
    torch.testing.assert_close(dense.loss, ours.loss)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("z_loss_weight", "reduction"), [(0.3, "mean"), (torch.tensor(0.3), "none")]
)
def test_compiled_equals_eager_without_a_graph_break(z_loss_weight: Any, reduction: Any) -> None:
    hidden_ND, weight_VD, target_N = problem(13, 8, 127)

    def step(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, **how: Any) -> Any:
        return linear_sharpness_loss(
            hidden_ND.tanh(), weight_VD, target_N, penalty_weight=0.3, reduction=reduction,
            z_loss_weight=z_loss_weight, **how,
        )  # fmt: skip

    eager, eager_gradients = losses_and_gradients(step, hidden_ND, weight_VD, target_N)
    compiled, gradients = losses_and_gradients(
        torch.compile(step, fullgraph=True, backend="aot_eager"), hidden_ND, weight_VD, target_N
    )
    for ours, expected in zip(compiled[:-1], eager[:-1], strict=True):
        torch.testing.assert_close(ours, expected)
    for ours, expected in zip(gradients, eager_gradients, strict=True):
        assert relative_error(ours, expected) < 1e-12
