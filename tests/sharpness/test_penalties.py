"""Each penalty against its formula: autograd in float64, on rows that have broken other code."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from sharpgpt.sharpness import PENALTIES, Penalty
from sharpgpt.sharpness.penalties import entropy, logit_gradient, max_prob, top_k_mask, top_k_mass

NAMES = sorted(PENALTIES)


def rows(kind: str, vocab_size: int) -> Tensor:
    """Float64 logits [4, V] of one kind."""
    generator = torch.Generator().manual_seed(1)
    logits_NV = torch.randn(4, vocab_size, generator=generator, dtype=torch.float64)
    if kind == "flat":
        return logits_NV * 1e-3
    if kind == "peaked":  # p = 0.9, 0.99, 0.999, 0.9999 at one place
        for row, p in enumerate((0.9, 0.99, 0.999, 0.9999)):
            rest = logits_NV[row, 1:].logsumexp(0)
            logits_NV[row, 0] = rest + math.log(p / (1 - p))
        return logits_NV
    if kind == "tied":
        return logits_NV.round()
    if kind == "huge":
        return logits_NV * 6 + 1e4
    return logits_NV


def formula(name: str, logits_NV: Tensor, top_k: int) -> Tensor:
    """The values as the README writes them, with none of the package's code."""
    p_NV = torch.softmax(logits_NV, -1)
    if name == "neg_entropy":
        return -(p_NV * torch.log_softmax(logits_NV, -1)).sum(-1)
    order_NV = torch.sort(p_NV, dim=-1, descending=True, stable=True).values
    return {
        "non_max_sum": 1 - order_NV[:, 0],
        "neg_max_prob": -order_NV[:, 0],
        "top_k_mass": 1 - order_NV[:, :top_k].sum(-1),
    }[name]


@pytest.mark.parametrize("vocab_size", [7, 65, 127])
@pytest.mark.parametrize("kind", ["plain", "flat", "peaked", "tied", "huge"])
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_are_those_of_the_formula(name: str, kind: str, vocab_size: int) -> None:
    check_against_formula(name, PENALTIES[name], rows(kind, vocab_size))


def check_against_formula(name: str, penalty: Penalty, logits_NV: Tensor) -> None:
    logits_NV.requires_grad_()
    upstream_N = torch.randn(4, dtype=torch.float64)
    expected_N = formula(name, logits_NV, top_k=3)
    (expected_NV,) = torch.autograd.grad(expected_N, logits_NV, upstream_N)

    log_p_NV = logits_NV.log_softmax(-1)
    value_N = penalty.value(log_p_NV.exp(), log_p_NV, 3)
    (autograd_NV,) = torch.autograd.grad(value_N, logits_NV, upstream_N)
    closed_NV = upstream_N[:, None] * logit_gradient(penalty, logits_NV.detach(), 3)

    torch.testing.assert_close(value_N, expected_N, rtol=1e-10, atol=1e-13)
    scale = expected_NV.norm()
    # Norms relative to the truth: a zeroed, doubled or flipped gradient fails. 1e-15 is the
    # rounding of probabilities near 1, far below the smallest gradient here.
    assert scale > 1e-6
    assert (autograd_NV - expected_NV).norm() < 1e-8 * scale + 1e-15, "autograd"
    assert (closed_NV - expected_NV).norm() < 1e-8 * scale + 1e-15, "closed form"


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_the_value_by_the_probabilities(name: str) -> None:
    """With its constant, which the softmax Jacobian would hide."""
    p_NV = rows("plain", 11).softmax(-1).requires_grad_()
    value_N = PENALTIES[name].value(p_NV, p_NV.log(), 3)
    (expected_NV,) = torch.autograd.grad(value_N.sum(), p_NV)
    gradient_NV = PENALTIES[name].gradient(p_NV.detach(), p_NV.detach().log(), 3)
    if name == "top_k_mass":  # the sum of the others, whose gradient differs by the constant 1
        gradient_NV = gradient_NV + 1
    torch.testing.assert_close(gradient_NV, expected_NV)


@pytest.mark.parametrize("kind", ["plain", "flat", "peaked", "huge"])
@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str, kind: str) -> None:
    def value(logits_NV: Tensor) -> Tensor:
        log_p_NV = logits_NV.log_softmax(-1)
        return PENALTIES[name].value(log_p_NV.exp(), log_p_NV, 3)

    assert torch.autograd.gradcheck(value, rows(kind, 11).requires_grad_(), atol=1e-7)


@pytest.mark.parametrize("kind", ["plain", "flat", "peaked", "tied", "huge"])
@pytest.mark.parametrize("factor", [0.0, 2.0, -1.0])
@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_gradient_would_be_seen(name: str, factor: float, kind: str) -> None:
    right = PENALTIES[name]
    wrong = dataclasses.replace(
        right, gradient=lambda p, log_p, k: factor * right.gradient(p, log_p, k)
    )
    with pytest.raises(AssertionError, match="closed form"):
        check_against_formula(name, wrong, rows(kind, 65))


@pytest.mark.parametrize("name", NAMES)
def test_falls_as_the_distribution_sharpens(name: str) -> None:
    logits_NV = rows("plain", 65)
    values = [formula(name, logits_NV / t, 5).mean() for t in (2.0, 1.0, 0.5, 0.25)]
    ours = []
    for temperature in (2.0, 1.0, 0.5, 0.25):
        log_p_NV = (logits_NV / temperature).log_softmax(-1)
        ours.append(PENALTIES[name].value(log_p_NV.exp(), log_p_NV, 5).mean())
    assert ours == sorted(ours, reverse=True)
    torch.testing.assert_close(torch.stack(ours), torch.stack(values))


@pytest.mark.parametrize("name", NAMES)
def test_a_shift_of_the_logits_changes_nothing(name: str) -> None:
    logits_NV = rows("plain", 65)
    shifted_NV = logit_gradient(PENALTIES[name], logits_NV + 1e4, 3)
    torch.testing.assert_close(
        shifted_NV, logit_gradient(PENALTIES[name], logits_NV, 3), rtol=1e-9, atol=1e-12
    )


def test_of_equals_the_first_is_taken() -> None:
    p_NV = torch.tensor([[0.1, 0.3, 0.1, 0.3, 0.1, 0.1]])
    assert top_k_mask(p_NV, 1).tolist() == [[False, True, False, False, False, False]]
    assert top_k_mask(p_NV, 3).tolist() == [[True, True, False, True, False, False]]
    gradient_NV = PENALTIES["non_max_sum"].gradient(p_NV, p_NV.log(), 1)
    assert gradient_NV.tolist() == [[0, -1, 0, 0, 0, 0]]


def test_top_k_of_the_whole_vocabulary_is_everything() -> None:
    p_NV = rows("tied", 7).softmax(-1)
    torch.testing.assert_close(top_k_mass(p_NV, 7), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("top_k", [0, 8])
def test_top_k_outside_the_vocabulary_is_refused(top_k: int) -> None:
    with pytest.raises(ValueError, match=f"given {top_k}, allowed is 1 to the vocabulary size, 7"):
        top_k_mask(rows("plain", 7).softmax(-1), top_k)


def test_excluded_tokens_have_no_part_and_make_no_nan() -> None:
    """Logits of -inf (p = 0, ln p = -inf) once gave 0 * -inf in entropies of this kind."""
    logits_NV = rows("plain", 7).clone()
    logits_NV[:, 3] = -torch.inf
    logits_NV.requires_grad_()
    kept_NV = torch.cat([logits_NV[:, :3], logits_NV[:, 4:]], dim=1)
    for name in NAMES:
        log_p_NV = logits_NV.log_softmax(-1)
        value_N = PENALTIES[name].value(log_p_NV.exp(), log_p_NV, 3)
        torch.testing.assert_close(value_N, formula(name, kept_NV, 3))
        closed_NV = logit_gradient(PENALTIES[name], logits_NV.detach(), 3)
        assert closed_NV.isfinite().all()
        assert (closed_NV[:, 3] == 0).all()


def test_entropy_and_max_prob_lie_in_their_ranges() -> None:
    for kind in ("plain", "flat", "peaked", "tied", "huge"):
        log_p_NV = rows(kind, 65).log_softmax(-1)
        entropy_N, max_N = entropy(log_p_NV.exp(), log_p_NV), max_prob(log_p_NV.exp())
        assert ((entropy_N >= 0) & (entropy_N <= math.log(65) + 1e-12)).all()
        assert ((max_N >= 1 / 65) & (max_N <= 1)).all()
