"""Label smoothing in every form of the loss: its value, its gradient, and nothing where it is off.

Errors are norms of differences relative to the norm of the truth, which is float64.
"""

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
    reference,
    rows,
    sharpness_loss,
)
from tests.sharpness.test_fused import (
    NAMES,
    OWN,
    assert_as_reference,
    given_logits,
    losses_and_gradients,
    problem,
    relative_error,
)

BOTH = pytest.mark.parametrize("function", [linear_sharpness_loss, reference.linear_sharpness_loss])
IGNORE = -100


@BOTH
@pytest.mark.parametrize("smoothing", [0.05, 0.9])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_it_is_pytorchs(function: Any, reduction: Any, smoothing: float) -> None:
    hidden_ND, weight_VD, target_N = problem(9, 8, 65)
    target_N[2] = IGNORE
    upstream = torch.linspace(1, 2, 9 if reduction == "none" else 1, dtype=torch.float64).squeeze()

    def pytorchs(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> Any:
        loss = F.cross_entropy(
            hidden_ND @ weight_VD.T, target_N, label_smoothing=smoothing, reduction=reduction
        )
        return sharpness_loss(hidden_ND @ weight_VD.T, target_N)._replace(loss=loss)

    truth, expected = losses_and_gradients(
        pytorchs, hidden_ND, weight_VD, target_N, upstream=upstream
    )
    ours, gradients = losses_and_gradients(
        function, hidden_ND, weight_VD, target_N, upstream=upstream, reduction=reduction,
        label_smoothing=smoothing,
    )  # fmt: skip
    torch.testing.assert_close(ours.loss, truth.loss, rtol=1e-12, atol=0)
    for gradient, true in zip(gradients, expected, strict=True):
        assert relative_error(gradient, true) < 1e-12


@BOTH
def test_the_loss_is_the_sum_of_its_parts_at_every_valid_row(function: Any) -> None:
    """Also outside the penalty mask. `ce` is that of the targets as they are."""
    hidden_ND, weight_VD, target_N = problem(9, 8, 65)
    target_N[2] = IGNORE
    weights = {"penalty_weight": 0.3, "z_loss_weight": 0.05, "label_smoothing": 0.2}
    how: dict[str, Any] = {"penalty_mask": torch.arange(9) > 3, "per_row": True}
    output = function(hidden_ND, weight_VD, target_N, **weights, **how)
    plain = function(hidden_ND, weight_VD, target_N, **how)
    z_NV = hidden_ND @ weight_VD.T
    valid_N = target_N != IGNORE
    expected_N = (z_NV[torch.arange(9), target_N.clamp(min=0)] - z_NV.mean(-1)) * valid_N
    for found in (output, plain):  # known where it is off, too
        torch.testing.assert_close(found.rows.smoothing, expected_N)
        torch.testing.assert_close(found.smoothing, expected_N.sum() / 8)
        assert torch.equal(found.ce, plain.ce)
    terms = 0.3 * output.penalty + 0.05 * output.z_loss + 0.2 * output.smoothing
    torch.testing.assert_close(output.loss, output.ce + terms)


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
        penalty=name, penalty_weight=-0.3, label_smoothing=torch.tensor(0.2).double(), bias=bias,
        penalty_mask=torch.rand(13, generator=generator) > 0.4, chunk_size=5, top_k=3,
        reduction=reduction, upstream=upstream, z_loss_weight=0.1 if use_bias else 0.0,
        normalizer=20.0 if reduction == "mean" else None,
    )  # fmt: skip


@pytest.mark.parametrize("vocab_size", [65, 127, 50257])
@pytest.mark.parametrize("smoothing", [0.05, 0.5])
def test_float32_is_the_reference_to_1e_5(smoothing: float, vocab_size: int) -> None:
    given = problem(7, 64, vocab_size, dtype=torch.float32)
    assert_as_reference(*given, 1e-5, label_smoothing=smoothing, chunk_size=4)


@pytest.mark.parametrize("kind", ["huge", "tied", "0.9", "0.999"])
@pytest.mark.parametrize("name", ["neg_entropy", "top_k_mass"])
def test_hard_rows(name: str, kind: str) -> None:
    hidden_ND, weight_VD, target_N = given_logits(kind)
    assert_as_reference(
        hidden_ND.float(), weight_VD.float(), target_N, 1e-5, penalty=name, penalty_weight=0.5,
        top_k=3, label_smoothing=0.05, only_weight=kind == "huge",
    )  # fmt: skip


@pytest.mark.parametrize("smoothing", [0.05, 0.5])
def test_bfloat16_is_no_worse_than_the_dense_path(smoothing: float) -> None:
    given = problem(64, 64, 1000, dtype=torch.bfloat16)
    how: dict[str, Any] = {"label_smoothing": smoothing, "penalty_weight": 0.1}
    double = [tensor.double() for tensor in given[:2]]
    truth = losses_and_gradients(reference.linear_sharpness_loss, *double, given[2], **how)
    dense = losses_and_gradients(reference.linear_sharpness_loss, *given, **how)
    ours = losses_and_gradients(
        linear_sharpness_loss, *given, product_dtype=torch.bfloat16, chunk_size=27, **how
    )
    (ours_output, ours_gradients), (dense_output, dense_gradients) = ours, dense
    for a, b, t in zip(
        [ours_output.loss.detach(), *ours_gradients],
        [dense_output.loss.detach(), *dense_gradients],
        [truth[0].loss.detach(), *truth[1]],
        strict=True,
    ):
        assert relative_error(a, t) <= 1.5 * relative_error(b, t) + 1e-7


@pytest.mark.parametrize(
    ("name", "reduction"), [("neg_entropy", "mean"), ("non_max_sum", "none"), (OWN, "sum")]
)
def test_gradcheck(name: str, reduction: str) -> None:
    hidden_ND, weight_VD, target_N = problem(5, 3, 70)
    target_N[2] = IGNORE

    def losses(hidden_ND: Tensor, weight_VD: Tensor, bias: Tensor) -> Tensor:
        return linear_sharpness_loss(
            hidden_ND, weight_VD, target_N, bias=bias, penalty=name, penalty_weight=0.7, top_k=3,
            label_smoothing=0.4, reduction=reduction, chunk_size=2,
        ).loss  # fmt: skip

    bias = torch.linspace(-1, 1, 70, dtype=torch.float64)
    leaves = [leaf.requires_grad_() for leaf in (hidden_ND, weight_VD, bias)]
    assert torch.autograd.gradcheck(losses, leaves, fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
def test_off_is_off_bit_for_bit(name: str) -> None:
    given = problem(13, 8, 127, dtype=torch.float32)
    how = {"penalty": name, "penalty_weight": 0.3}
    for function in (linear_sharpness_loss, reference.linear_sharpness_loss):
        expected, expected_gradients = losses_and_gradients(function, *given, **how)
        for smoothing in (0, 0.0, torch.tensor(0.0)):
            with_0: dict[str, Any] = how | {"label_smoothing": smoothing}
            output, gradients = losses_and_gradients(function, *given, **with_0)
            assert all(torch.equal(a, b) for a, b in zip(output[:-1], expected[:-1], strict=True))
            assert all(
                torch.equal(a, b) for a, b in zip(gradients, expected_gradients, strict=True)
            )


@BOTH
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_an_ignored_row_counts_nowhere(function: Any, bad: float, reduction: Any) -> None:
    hidden_ND, weight_VD, target_N = problem(6, 4, 70)
    target_N[2] = IGNORE
    how: dict[str, Any] = {"label_smoothing": 0.3, "per_row": True, "reduction": reduction}
    clean, true = losses_and_gradients(function, hidden_ND, weight_VD, target_N, **how)
    spoiled_ND = hidden_ND.index_fill(0, torch.tensor([2]), bad)
    ours, found = losses_and_gradients(function, spoiled_ND, weight_VD, target_N, **how)
    assert torch.equal(ours.loss, clean.loss)
    assert all(torch.equal(a, b) for a, b in zip(ours.rows, clean.rows, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(found, true, strict=True))
    nothing, gradients = losses_and_gradients(
        function, spoiled_ND, weight_VD, torch.full_like(target_N, IGNORE), **how,
        upstream=torch.tensor(float("inf"), dtype=torch.float64),
    )  # fmt: skip
    assert [value.sum().item() for value in nothing[:-1]] == [0] * (len(nothing) - 1)
    assert all(gradient.eq(0).all() for gradient in gradients)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own, in jvp
def test_gradients_of_gradients_transforms_and_a_weight_that_is_learned_are_exact() -> None:
    hidden_ND, weight_VD, target_N = problem(6, 4, 70)
    target_N[2] = IGNORE

    def found(loss_function: Any) -> list[Tensor]:
        def loss(hidden_ND: Tensor, weight_VD: Tensor, smoothing: Tensor) -> Tensor:
            how = {"penalty": "neg_entropy", "penalty_weight": 0.4, "label_smoothing": smoothing}
            return loss_function(hidden_ND, weight_VD, target_N, **how).loss

        plain = (hidden_ND, weight_VD, torch.tensor(0.2, dtype=torch.float64))
        given = tuple(tensor.clone().requires_grad_() for tensor in plain)
        once = torch.autograd.grad(1.7 * loss(*given), given)
        gradients = torch.autograd.grad(loss(*given), given, create_graph=True)
        square = sum(gradient.square().sum() for gradient in gradients)
        second = torch.autograd.grad(loss(*given) + square, given)
        ones = tuple(torch.ones_like(tensor) for tensor in plain)
        value, tangent = torch.func.jvp(loss, plain, ones)
        with forward_ad.dual_level():  # forward mode without torch.func
            dual = forward_ad.make_dual(plain[2], ones[2])
            [*_, by_weight] = forward_ad.unpack_dual(loss(*plain[:2], dual))
        by_func = torch.func.grad(loss, argnums=(0, 1, 2))(*plain)
        weights = torch.linspace(0, 0.5, 3, dtype=torch.float64)
        batched = torch.func.vmap(lambda weight: loss(*plain[:2], weight))(weights)
        return [*once, *gradients, *second, value, tangent, by_weight, *by_func, batched]

    ours, truth = found(linear_sharpness_loss), found(reference.linear_sharpness_loss)
    for one, other in zip(ours, truth, strict=True):
        assert relative_error(one.detach(), other.detach()) < 1e-12
        assert other.norm() > 0


@pytest.mark.parametrize("scale", [0, 2, -1])
@pytest.mark.parametrize("name", ["neg_entropy", OWN])
def test_a_mistake_in_its_gradient_is_seen(
    name: str, scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*factors: Tensor) -> rows.RowFactors:
        return rows.RowFactors(*factors[:3], scale * factors[3])

    given = problem(11, 64, 127, dtype=torch.float32)
    how = {"penalty": name, "penalty_weight": 0.01, "label_smoothing": 1e-3}
    assert_as_reference(*given, 1e-5, **how)
    monkeypatch.setattr(fused, "RowFactors", mistaken)
    with pytest.raises(AssertionError):
        assert_as_reference(*given, 1e-5, **how)


def test_the_scale_of_float16_products_knows_it() -> None:
    """A number is below 1; a tensor may be anything."""
    factors = [torch.ones(2), torch.zeros(2), torch.zeros(2), torch.full((2,), 4096.0)]
    layer = [torch.ones(2, 1), torch.ones(3, 1)]
    unit = fused._unit(layer, torch.tensor([False, True]), factors, torch.float16)
    assert unit is not None
    assert unit.item() == 4096 / fused.FLOAT16_FACTOR


def test_modules_and_dense_logits_take_it() -> None:
    hidden_ND, weight_VD, target_N = problem(9, 8, 65)
    settings = {"penalty": "top_k_mass", "penalty_weight": 0.5, "label_smoothing": 0.2}
    ours = LinearSharpnessLoss(**settings)(hidden_ND, weight_VD, target_N)
    assert torch.equal(
        ours.loss, linear_sharpness_loss(hidden_ND, weight_VD, target_N, **settings).loss
    )
    dense = sharpness_loss(F.linear(hidden_ND, weight_VD), target_N, **settings)
    torch.testing.assert_close(dense.loss, ours.loss)


@BOTH
@pytest.mark.parametrize("smoothing", [-0.1, 1, float("nan")])
def test_it_is_below_1(function: Any, smoothing: float) -> None:
    with pytest.raises(ValueError, match="label_smoothing: given"):
        function(*problem(3, 4, 5), top_k=2, label_smoothing=smoothing)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_compiled_equals_eager_without_a_graph_break() -> None:
    given = problem(13, 8, 127)

    def step(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, **how: Any) -> Any:
        return linear_sharpness_loss(
            hidden_ND.tanh(), weight_VD, target_N, reduction="none",
            label_smoothing=torch.tensor(0.3), **how,
        )  # fmt: skip

    eager, eager_gradients = losses_and_gradients(step, *given)
    compiled, gradients = losses_and_gradients(
        torch.compile(step, fullgraph=True, backend="aot_eager"), *given
    )
    for ours, expected in zip(compiled[:-1], eager[:-1], strict=True):
        torch.testing.assert_close(ours, expected)
    for ours, expected in zip(gradients, eager_gradients, strict=True):
        assert relative_error(ours, expected) < 1e-12
