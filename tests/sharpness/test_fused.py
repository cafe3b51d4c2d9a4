"""The fused loss against the reference in float64, on the shapes and rows that have broken others.

Errors are norms of differences relative to the norm of the truth.
"""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sharpgpt.sharpness import (
    PENALTIES,
    LinearSharpnessLoss,
    SharpnessOutput,
    fused,
    reference,
    rows,
)
from sharpgpt.sharpness.fused import default_chunk_size, linear_sharpness_loss

BUILT_IN = sorted(PENALTIES)
OWN = "docs.examples.tsallis:GINI"
NAMES = [*BUILT_IN, OWN]


def problem(
    num_rows: int, width: int, vocab_size: int, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """(hidden, weight, target) with logits of standard deviation about 2."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden_ND = normal(num_rows, width) * 2
    weight_VD = normal(vocab_size, width) / math.sqrt(width)
    target_N = torch.randint(vocab_size, (num_rows,), generator=generator)
    return hidden_ND.to(dtype), weight_VD.to(dtype), target_N


def losses_and_gradients(
    loss: Any,
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    *,
    upstream: Any = 1.7,
    **how: Any,
) -> tuple[SharpnessOutput, list[Tensor]]:
    leaves = [hidden_ND.clone().requires_grad_(), weight_VD.clone().requires_grad_()]
    if how.get("bias") is not None:
        how["bias"] = how["bias"].clone().requires_grad_()
        leaves.append(how["bias"])
    output = loss(leaves[0], leaves[1], target_N, **how)
    return output, list(torch.autograd.grad((output.loss * upstream).sum(), leaves))


def relative_error(ours: Tensor, truth: Tensor) -> float:
    difference = (ours.double() - truth.double()).norm()
    return (difference / truth.double().norm().clamp(min=1e-300)).item()


def assert_as_reference(
    hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, limit: float, **how: Any
) -> None:
    chunk_size, only_weight = how.pop("chunk_size", None), how.pop("only_weight", False)
    ours, our_gradients = losses_and_gradients(
        linear_sharpness_loss, hidden_ND, weight_VD, target_N, chunk_size=chunk_size, **how
    )
    double = {
        k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v
        for k, v in how.items()
    }
    truth, true_gradients = losses_and_gradients(
        reference.linear_sharpness_loss, hidden_ND.double(), weight_VD.double(), target_N, **double
    )
    assert relative_error(ours.loss.detach(), truth.loss.detach()) < limit
    for name in ("ce", "penalty", "z_loss", "smoothing", "max_prob", "entropy", "top_k_mass"):
        assert relative_error(getattr(ours, name), getattr(truth, name)) < limit, name
    torch.testing.assert_close(ours.accuracy.double(), truth.accuracy, rtol=1e-6, atol=0)
    assert torch.equal(ours.num_rows, truth.num_rows)
    pairs = list(zip(our_gradients, true_gradients, strict=True))
    for our_gradient, true_gradient in pairs[1:] if only_weight else pairs:
        assert true_gradient.norm() > 0
        assert relative_error(our_gradient, true_gradient) < limit


@pytest.mark.parametrize(
    ("width", "vocab_size"),
    [(64, 65), (64, 127), (64, 50257), (64, 50304), (768, 65), (768, 127), (768, 50257)],
)
@pytest.mark.parametrize("name", NAMES)
def test_float32_is_the_reference_to_1e_5(name: str, width: int, vocab_size: int) -> None:
    hidden_ND, weight_VD, target_N = problem(11, width, vocab_size, dtype=torch.float32)
    assert_as_reference(
        hidden_ND, weight_VD, target_N, 1e-5, penalty=name, penalty_weight=0.4, chunk_size=4
    )


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
        hidden_ND, weight_VD, target_N.index_fill(0, torch.tensor([0, 5]), -100), 1e-10,
        penalty=name, penalty_weight=-0.3, bias=bias, reduction=reduction, upstream=upstream,
        penalty_mask=torch.rand(13, generator=generator) > 0.4, chunk_size=5, top_k=3,
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck(name: str, reduction: str) -> None:
    hidden_ND, weight_VD, target_N = problem(5, 3, 70)
    target_N[2] = -100

    def losses(hidden_ND: Tensor, weight_VD: Tensor, bias: Tensor) -> Tensor:
        return linear_sharpness_loss(
            hidden_ND, weight_VD, target_N, bias=bias, penalty=name, penalty_weight=0.7, top_k=3,
            reduction=reduction, chunk_size=2,
        ).loss  # fmt: skip

    bias = torch.linspace(-1, 1, 70, dtype=torch.float64)
    leaves = [leaf.requires_grad_() for leaf in (hidden_ND, weight_VD, bias)]
    assert torch.autograd.gradcheck(losses, leaves)


def given_logits(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """A problem with chosen logits: hidden is the identity, the weight their transpose."""
    hidden_ND, weight_VD, _ = problem(6, 8, 127)
    logits_NV = hidden_ND @ weight_VD.T
    if kind == "huge":
        logits_NV = logits_NV + 1e4
    elif kind == "tied":
        logits_NV = logits_NV.round()
    else:
        rest_N = logits_NV[:, 1:].logsumexp(-1)
        logits_NV[:, 0] = rest_N + math.log(float(kind) / (1 - float(kind)))
    target_N = torch.tensor([0, 0, 0, 3, 4, 5])  # column 0 is the peak
    return torch.eye(6, dtype=torch.float64), logits_NV.T.contiguous(), target_N


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["huge", "tied", "0.9", "0.99", "0.999"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_hard_rows(name: str, kind: str, dtype: torch.dtype) -> None:
    hidden_ND, weight_VD, target_N = given_logits(kind)
    assert_as_reference(
        hidden_ND.to(dtype), weight_VD.to(dtype), target_N,
        1e-9 if dtype == torch.float64 else 1e-5,
        penalty=name, penalty_weight=0.5, top_k=3,
        # With weights of 1e4 the gradient of hidden is a difference of huge terms in any code;
        # that of the weight is the gradient of the logits itself.
        only_weight=kind == "huge",
    )  # fmt: skip


def test_of_equal_logits_the_first_is_taken_across_blocks() -> None:
    generator = torch.Generator().manual_seed(0)
    for vocab_size, top_k in itertools.product((5, 64, 65, 1000), (1, 3, 5)):
        logits_NV = torch.randint(0, 4, (20, vocab_size), generator=generator).float()
        width = rows.padded_width(vocab_size)
        padded_NW = F.pad(logits_NV, (0, width - vocab_size), value=rows.PADDING)
        block_max_NB = rows.in_blocks(padded_NW).amax(-1)
        ours = rows.top_k_indices(padded_NW, block_max_NB, top_k)
        stable = logits_NV.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
        assert torch.equal(ours, stable.sort(dim=-1).values)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_large_k_searches_whole_rows(name: str) -> None:
    hidden_ND, weight_VD, target_N = problem(7, 8, 300)
    for top_k in (4, 5, 200, 299):
        assert_as_reference(
            hidden_ND, weight_VD, target_N, 1e-10, penalty=name, penalty_weight=0.5, top_k=top_k
        )


@pytest.mark.parametrize("ignored", ["some", "all"])
def test_ignored_rows(ignored: str) -> None:
    hidden_ND, weight_VD, target_N = problem(9, 8, 65)
    keep = torch.arange(9) % 2 == 0 if ignored == "some" else torch.zeros(9, dtype=torch.bool)
    output, (grad_hidden_ND, grad_weight_VD) = losses_and_gradients(
        linear_sharpness_loss, hidden_ND, weight_VD, target_N.masked_fill(~keep, -100),
        penalty="neg_entropy", penalty_weight=0.5, per_row=True,
    )  # fmt: skip
    assert (grad_hidden_ND[~keep] == 0).all()
    assert all((row_N[~keep] == 0).all() for row_N in output.rows)
    if ignored == "all":
        assert output.loss == 0
        assert (grad_weight_VD == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_result_does_not_depend_on_the_chunks(name: str) -> None:
    hidden_ND, weight_VD, target_N = problem(13, 8, 127)
    results = [
        losses_and_gradients(
            linear_sharpness_loss, hidden_ND, weight_VD, target_N,
            penalty=name, penalty_weight=0.5, chunk_size=chunk_size,
        )
        for chunk_size in (1, 2, 5, 13, 100, None)
    ]  # fmt: skip
    for output, gradients in results[1:]:
        torch.testing.assert_close(output.loss, results[0][0].loss, rtol=1e-12, atol=0)
        for gradient, first in zip(gradients, results[0][1], strict=True):
            assert relative_error(gradient, first) < 1e-12


@pytest.mark.parametrize("name", BUILT_IN)
def test_weight_zero_does_not_know_the_penalty_bit_for_bit(name: str) -> None:
    hidden_ND, weight_VD, target_N = problem(13, 8, 127, dtype=torch.float32)
    results = [
        losses_and_gradients(
            linear_sharpness_loss,
            hidden_ND,
            weight_VD,
            target_N,
            penalty=penalty,
            penalty_weight=weight,
        )
        for penalty, weight in (("non_max_sum", 0.0), (name, 0.0), (name, torch.tensor(0.0)))
    ]
    for output, gradients in results[1:]:
        assert torch.equal(output.loss, results[0][0].loss)
        assert all(torch.equal(a, b) for a, b in zip(gradients, results[0][1], strict=True))
    plain = F.cross_entropy(hidden_ND @ weight_VD.T, target_N)
    torch.testing.assert_close(results[0][0].loss, plain, rtol=1e-6, atol=0)


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
def test_frozen_inputs_get_no_gradient_and_cost_no_memory(frozen: str) -> None:
    hidden_ND, weight_VD, target_N = problem(9, 8, 65)
    hidden_ND.requires_grad_(frozen == "weight")
    weight_VD.requires_grad_(frozen == "hidden")
    output = linear_sharpness_loss(hidden_ND, weight_VD, target_N, penalty_weight=0.5)
    assert output.loss.requires_grad == (frozen != "both")
    if frozen == "both":
        return
    output.loss.backward()
    assert (hidden_ND.grad is None) == (frozen == "hidden")
    assert (weight_VD.grad is None) == (frozen == "weight")
    _, (true_hidden, true_weight) = losses_and_gradients(
        reference.linear_sharpness_loss, hidden_ND.detach(), weight_VD.detach(), target_N,
        penalty_weight=0.5, upstream=1.0,
    )  # fmt: skip
    ours, truth = (
        (hidden_ND.grad, true_hidden) if frozen == "weight" else (weight_VD.grad, true_weight)
    )
    assert relative_error(ours, truth) < 1e-10


def test_no_gradient_is_computed_that_nobody_can_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation would cost the three products of training, and the memory of a gradient."""
    original, needs = fused.linear_sharpness, list[list[bool]]()

    def watched(*arguments: Any, **settings: Any) -> Any:
        needs.append(settings["needs"])
        return original(*arguments, **settings)

    monkeypatch.setattr(fused, "linear_sharpness", watched)
    hidden_ND, weight_VD, target_N = problem(5, 8, 65)
    weight_VD.requires_grad_()
    linear_sharpness_loss(hidden_ND, weight_VD, target_N)
    with torch.no_grad():
        linear_sharpness_loss(hidden_ND, weight_VD, target_N)
    assert needs == [[False, True], [False, False]]


@pytest.mark.parametrize("name", NAMES)
def test_tied_weights_get_both_gradients(name: str) -> None:
    _, table_VD, target_N = problem(9, 8, 65)
    ids_N = torch.arange(9)
    gradients = []
    for loss in (linear_sharpness_loss, reference.linear_sharpness_loss):
        leaf_VD = table_VD.clone().requires_grad_()
        hidden_ND = F.embedding(ids_N, leaf_VD).tanh()
        loss(hidden_ND, leaf_VD, target_N, penalty=name, penalty_weight=0.5).loss.backward()
        gradients.append(leaf_VD.grad)
    assert relative_error(gradients[0], gradients[1]) < 1e-10


@pytest.mark.parametrize(
    ("dtype", "product_dtype"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
@pytest.mark.parametrize("name", BUILT_IN)
def test_half_precision_is_no_worse_than_the_dense_path(
    name: str, dtype: torch.dtype, product_dtype: torch.dtype
) -> None:
    """Also at p near 0.999, where a bfloat16 gradient buffer would lose 1 - p."""
    for sharpness in (1.0, 4.0):
        hidden_ND, weight_VD, target_N = problem(64, 64, 1000, dtype=dtype)
        hidden_ND = hidden_ND * sharpness
        how = {"penalty": name, "penalty_weight": 0.5}
        truth, true_gradients = losses_and_gradients(
            reference.linear_sharpness_loss, hidden_ND.double(), weight_VD.double(), target_N, **how
        )
        dense, dense_gradients = losses_and_gradients(
            reference.linear_sharpness_loss, hidden_ND, weight_VD, target_N, **how
        )
        ours, our_gradients = losses_and_gradients(
            linear_sharpness_loss, hidden_ND, weight_VD, target_N, product_dtype=product_dtype,
            chunk_size=27, **how,
        )  # fmt: skip
        assert ours.loss.dtype == torch.float32
        for a, b, t in zip(
            [ours.loss, *our_gradients], [dense.loss, *dense_gradients],
            [truth.loss, *true_gradients], strict=True,
        ):  # fmt: skip
            assert (
                relative_error(a.detach(), t.detach())
                <= 1.5 * relative_error(b.detach(), t.detach()) + 1e-7
            )


def test_autocast_leaves_gradients_in_the_dtype_of_the_inputs() -> None:
    hidden_ND, weight_VD, target_N = problem(9, 8, 65, dtype=torch.float32)
    how = {"penalty_weight": 0.5, "product_dtype": torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, gradients = losses_and_gradients(
            linear_sharpness_loss, hidden_ND.bfloat16(), weight_VD, target_N, **how
        )
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32]
    _, exact = losses_and_gradients(
        linear_sharpness_loss, hidden_ND.bfloat16().float(), weight_VD, target_N, penalty_weight=0.5
    )
    assert relative_error(gradients[1], exact[1]) < 1e-6


@pytest.mark.parametrize("scale", [0, 2, -1])
@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_in_the_penalty_gradient_is_seen(
    name: str, scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even with the weight of the smallest published experiments."""

    def mistaken(loss: Tensor, penalty: Tensor) -> rows.RowFactors:
        return rows.RowFactors(loss, scale * penalty)

    hidden_ND, weight_VD, target_N = problem(11, 64, 127, dtype=torch.float32)
    how = {"penalty": name, "penalty_weight": 0.01}
    assert_as_reference(hidden_ND, weight_VD, target_N, 1e-5, **how)
    monkeypatch.setattr(fused, "RowFactors", mistaken)
    with pytest.raises(AssertionError):
        assert_as_reference(hidden_ND, weight_VD, target_N, 1e-5, **how)


def test_an_ignored_upstream_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden_ND, weight_VD, target_N = problem(11, 8, 127)
    detached = fused.linear_sharpness

    def ignoring(*arguments: Any, **settings: Any) -> Any:
        loss, *rest = detached(*arguments, **settings)
        loss.register_hook(torch.ones_like)
        return (loss, *rest)

    monkeypatch.setattr(fused, "linear_sharpness", ignoring)
    with pytest.raises(AssertionError):
        assert_as_reference(hidden_ND, weight_VD, target_N, 1e-5)


def test_a_second_backward_pass_gives_the_same_again() -> None:
    for upstream in (1.0, 0.3):
        hidden_ND, weight_VD, target_N = problem(5, 8, 65)
        hidden_ND.requires_grad_()
        loss = upstream * linear_sharpness_loss(hidden_ND, weight_VD, target_N).loss
        first = torch.autograd.grad(loss, hidden_ND, retain_graph=True)[0].clone()
        assert torch.equal(torch.autograd.grad(loss, hidden_ND)[0], first)


def test_a_normalizer_takes_the_place_of_the_number_of_rows() -> None:
    hidden_ND, weight_VD, target_N = problem(9, 8, 65)
    for normalizer in (20.0, torch.tensor(20.0)):
        how = {"penalty_weight": 0.5, "normalizer": normalizer}
        assert_as_reference(hidden_ND, weight_VD, target_N, 1e-7, **how)
    ours = linear_sharpness_loss(hidden_ND, weight_VD, target_N, normalizer=20.0)
    torch.testing.assert_close(ours.loss, ours.ce * 9 / 20)


def test_the_logits_are_never_held() -> None:
    """The largest tensor that is made is the buffer of a chunk, or as large as the weight."""
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes: list[int] = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            sizes.extend(t.untyped_storage().nbytes() for t in (result,) if isinstance(t, Tensor))
            return result

    hidden_ND, weight_VD, target_N = problem(400, 8, 1000, dtype=torch.float32)
    with Recorder():
        linear_sharpness_loss(
            hidden_ND.requires_grad_(), weight_VD.requires_grad_(), target_N,
            penalty="neg_entropy", penalty_weight=0.5, chunk_size=20,
        ).loss.backward()  # fmt: skip
    assert max(sizes) <= 20 * 1024 * 4 < 400 * 1000 * 4


def test_the_module_is_the_function() -> None:
    hidden_ND, weight_VD, target_N = problem(9, 8, 65)
    how = {"bias": torch.linspace(-1, 1, 65).double(), "penalty_mask": torch.arange(9) > 3}
    settings = {"penalty": "top_k_mass", "penalty_weight": 0.5, "top_k": 3}
    module = LinearSharpnessLoss(**settings)
    ours = module(hidden_ND, weight_VD, target_N, **how)
    expected = linear_sharpness_loss(hidden_ND, weight_VD, target_N, **how, **settings)
    assert torch.equal(ours.loss, expected.loss)
    assert "penalty='top_k_mass'" in repr(module)


def test_chunks_are_nearly_equal_and_fill_the_buffer() -> None:
    for num_rows, vocab_size in itertools.product((1, 12, 508, 2048, 8184), (65, 50257)):
        chunk = default_chunk_size(num_rows, vocab_size, "cpu")
        assert 1 <= chunk <= num_rows
        assert chunk * 4 * rows.padded_width(vocab_size) <= fused.BUFFER_BYTES
        num_chunks = -(-num_rows // chunk)
        assert num_rows - (num_chunks - 1) * chunk > chunk - num_chunks


# torch's compiler imports its own deprecated parts (PyTorch 2.13).
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_equals_eager_without_a_graph_break(reduction: str) -> None:
    hidden_ND, weight_VD, target_N = problem(13, 8, 127)

    def step(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, **how: Any) -> Any:
        return linear_sharpness_loss(
            hidden_ND.tanh(), weight_VD, target_N, penalty="neg_entropy", reduction=reduction,
            penalty_weight=torch.tensor(0.3), **how,
        )  # fmt: skip

    eager, eager_gradients = losses_and_gradients(step, hidden_ND, weight_VD, target_N)
    compiled, gradients = losses_and_gradients(
        torch.compile(step, fullgraph=True), hidden_ND, weight_VD, target_N
    )
    for ours, expected in zip(compiled[:-1], eager[:-1], strict=True):
        torch.testing.assert_close(ours, expected)
    for ours, expected in zip(gradients, eager_gradients, strict=True):
        assert relative_error(ours, expected) < 1e-12


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("loss_per_row", [False, True])
def test_the_operator_is_registered_soundly(loss_per_row: bool) -> None:
    hidden_ND, weight_VD, target_N = problem(5, 8, 65)
    factor_N = torch.full((5,), 0.2, dtype=torch.float64)
    arguments = (
        [hidden_ND.requires_grad_(), weight_VD.requires_grad_()],
        target_N,
        [factor_N, 0.1 * factor_N, 0.01 * factor_N],
    )
    settings = {
        "penalty": "top_k_mass",
        "top_k": 3,
        "product_dtype": torch.float64,
        "chunk_size": 2,
        "needs": [True, True],
        "loss_per_row": loss_per_row,
    }
    # test_autograd_registration and the rest of torch's own checks, aliasing and fakes among them
    torch.library.opcheck(
        fused.linear_sharpness,
        arguments,
        settings,
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"penalty": "entropy"}, "penalty: given 'entropy', allowed is one of"),
        ({"penalty": "no_such_module:x"}, "cannot be imported"),
        ({"penalty": "math:pi"}, "is a float, expected a Penalty"),
        ({"top_k": 66}, "top_k: given 66"),
        ({"top_k": 0}, "top_k: given 0"),
        ({"chunk_size": 0}, "chunk_size: given 0"),
        ({"reduction": "avg"}, "reduction: given 'avg'"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], message: str) -> None:
    hidden_ND, weight_VD, target_N = problem(5, 8, 65)
    with pytest.raises(ValueError, match=message):
        linear_sharpness_loss(hidden_ND, weight_VD, target_N, **change)
