"""The closed forms are the minima: against direct minimisation, and where they must agree."""

import math

import pytest
import torch
from torch import Tensor

from sharpgpt.evaluation.controls import PenaltyMap, mass_map
from sharpgpt.evaluation.entropy_map import NUM_BINS, entropy_map

WEIGHTS = (-3.0, -0.5, -0.05, 0.05, 0.3, 0.7, 1.5, 4.0)


def distribution(vocab_size: int, scale: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(vocab_size, generator=generator, dtype=torch.float64)).log_softmax(
        -1
    )


def objective(log_p_V: Tensor, log_q_V: Tensor, weight: float, top_k: int | None) -> Tensor:
    """CE + weight * entropy, or CE - weight * top-k mass."""
    q_V = log_q_V.exp()
    ce = -(log_p_V.exp() * log_q_V).sum()
    if top_k is None:
        return ce - weight * (q_V * log_q_V).sum()
    return ce - weight * q_V.topk(top_k).values.sum()


def minimised(log_p_V: Tensor, weight: float, top_k: int | None) -> Tensor:
    """The lowest minimum that L-BFGS finds in the logits, from p, from noise and from one token."""
    generator = torch.Generator().manual_seed(1)
    one_token_V = log_p_V.clone()
    one_token_V[log_p_V.argmax()] += 6
    starts = [log_p_V, one_token_V]
    starts += [
        3 * torch.randn(len(log_p_V), generator=generator, dtype=torch.float64) for _ in range(2)
    ]
    found = []
    for start in starts:
        logits_V = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [logits_V],
            max_iter=500,
            tolerance_grad=1e-11,
            tolerance_change=1e-15,
            line_search_fn="strong_wolfe",
        )

        def closure(
            logits_V: Tensor = logits_V, optimizer: torch.optim.LBFGS = optimizer
        ) -> Tensor:
            optimizer.zero_grad()
            value = objective(log_p_V, logits_V.log_softmax(-1), weight, top_k)
            value.backward()
            return value

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        found.append(logits_V.detach().log_softmax(-1))
    return min(found, key=lambda log_q_V: objective(log_p_V, log_q_V, weight, top_k).item())


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize(("vocab_size", "scale"), [(5, 1.0), (7, 2.0), (40, 0.3)])
def test_the_entropy_map_is_the_minimum(vocab_size: int, scale: float, weight: float) -> None:
    log_p_V = distribution(vocab_size, scale)
    log_q_V = entropy_map(log_p_V[None], weight)[0]
    assert log_q_V.exp().sum().item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(
        log_q_V.exp(), minimised(log_p_V, weight, None).exp(), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("weight", [one for one in WEIGHTS if one > 0])
@pytest.mark.parametrize("top_k", [1, 3])
def test_the_mass_map_is_the_minimum(top_k: int, weight: float) -> None:
    log_p_V = distribution(7, 1.0)
    torch.testing.assert_close(
        mass_map(log_p_V[None], weight, top_k)[0].exp(),
        minimised(log_p_V, weight, top_k).exp(),
        rtol=1e-5,
        atol=1e-7,
    )


@pytest.mark.parametrize("weight", [-0.02, -0.5, -3.0, -40.0])
@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize(("vocab_size", "scale"), [(5, 1.0), (40, 0.3), (40, 2.0)])
def test_a_negative_weight_has_its_minimum_where_entries_tie(
    vocab_size: int, scale: float, top_k: int, weight: float
) -> None:
    """The objective is convex there but has a kink: no step in any direction may lower it."""
    log_p_V = distribution(vocab_size, scale)
    q_V = mass_map(log_p_V[None], weight, top_k)[0].exp()
    assert q_V.sum().item() == pytest.approx(1, abs=1e-10)
    best = objective(log_p_V, q_V.log(), weight, top_k)
    generator = torch.Generator().manual_seed(2)
    directions_RV = torch.randn(300, vocab_size, generator=generator, dtype=torch.float64)
    # Between two entries as well, the directions in which a tie is left.
    pairs = torch.eye(vocab_size, dtype=torch.float64)
    directions_RV = torch.cat([directions_RV, (pairs[:, None] - pairs[None]).flatten(0, 1)])
    for size in (1e-2, 1e-4):
        moved_RV = q_V + size * q_V.min() * (directions_RV - directions_RV.mean(-1, keepdim=True))
        for moved_V in moved_RV[(moved_RV > 0).all(-1)]:
            moved_value = objective(log_p_V, (moved_V / moved_V.sum()).log(), weight, top_k)
            assert moved_value >= best - 1e-11


def test_stationarity_and_the_stated_constants() -> None:
    """p_i = q_i (c - w ln q_i) with c = 1 - w H(q); q = p / (mu - w) inside, p / mu outside."""
    log_p_V, weight = distribution(50, 1.5), 0.2
    log_q_V = entropy_map(log_p_V[None], weight)[0]
    q_V = log_q_V.exp()
    c = 1 + weight * (q_V * log_q_V).sum()
    torch.testing.assert_close(log_p_V.exp(), q_V * (c - weight * log_q_V), rtol=1e-9, atol=0)
    q_V = mass_map(log_p_V[None], weight, 4)[0].exp()
    inside_V = torch.zeros(50, dtype=torch.bool)
    inside_V[log_p_V.topk(4).indices] = True
    s = log_p_V.exp()[inside_V].sum()
    mu = ((1 + weight) + ((1 + weight) ** 2 - 4 * weight * (1 - s)).sqrt()) / 2
    divisor_V = torch.where(inside_V, mu - weight, mu)
    torch.testing.assert_close(q_V, log_p_V.exp() / divisor_V, rtol=1e-12, atol=0)


def test_to_first_order_the_entropy_map_is_a_temperature() -> None:
    log_p_V = distribution(30, 1.0)
    for weight in (1e-3, -1e-3):
        tempered_V = (log_p_V / (1 - weight)).softmax(-1)
        mapped_V = entropy_map(log_p_V[None], weight)[0].exp()
        distance = (mapped_V - tempered_V).abs().sum()
        assert distance < 0.01 * (mapped_V - log_p_V.exp()).abs().sum()


def test_a_large_vocabulary_is_solved_in_bins_without_loss() -> None:
    """Rows beyond NUM_BINS entries: stationary, and the same as when no bins are used."""
    log_p_NV = torch.stack([distribution(3000, scale, seed=3) for scale in (0.5, 2.0, 5.0)])
    assert log_p_NV.shape[1] > NUM_BINS
    for weight in (-0.3, 0.05, 0.3, 0.8):
        log_q_NV = entropy_map(log_p_NV, weight)
        q_NV = log_q_NV.exp()
        c_N1 = 1 + weight * (q_NV * log_q_NV).sum(-1, keepdim=True)
        torch.testing.assert_close(
            log_p_NV.exp(), q_NV * (c_N1 - weight * log_q_NV), rtol=1e-5, atol=1e-12
        )


def test_a_flat_row_collapses_at_a_large_weight() -> None:
    """Below some weight a flat row stays flat; above it the minimum puts its mass on one token."""
    flat_NV = torch.zeros(1, 5000).log_softmax(-1)
    near_NV = (flat_NV + 1e-3 * distribution(5000, 1.0)).log_softmax(-1)
    assert entropy_map(near_NV, 0.05).exp().max() < 0.01
    assert entropy_map(near_NV, 0.3).exp().max() > 0.5
    # The collapsed one is lower than the flat one.
    collapsed = objective(near_NV[0], entropy_map(near_NV, 0.3)[0], 0.3, None)
    assert collapsed < (1 + 0.3) * math.log(5000)


def test_order_is_kept_and_weight_zero_changes_nothing() -> None:
    log_p_NV = distribution(60, 2.0).expand(2, -1)
    for penalty in ("neg_entropy", "non_max_sum", "neg_max_prob", "top_k_mass"):
        torch.testing.assert_close(PenaltyMap(penalty, 0.0).log_probs(log_p_NV), log_p_NV)
        for weight in (-0.2, 0.2):
            mapped_NV = PenaltyMap(penalty, weight).log_probs(log_p_NV)
            order_V = log_p_NV[0].argsort()
            assert (mapped_NV[:, order_V].diff() >= -1e-12).all()
    alike = [PenaltyMap(name, 0.3).log_probs(log_p_NV) for name in ("non_max_sum", "neg_max_prob")]
    assert torch.equal(*alike)


def test_the_entropy_map_is_the_cheapest_way_to_its_entropy() -> None:
    """Of distributions with the same mean entropy, none has a lower mean CE if p is the truth."""
    log_p_NV = torch.stack([distribution(40, scale) for scale in (0.5, 1.0, 2.0, 4.0)])
    mapped_NV = entropy_map(log_p_NV, 0.3)

    def mean_entropy(log_q_NV: Tensor) -> float:
        return -(log_q_NV.exp() * log_q_NV).sum(-1).mean().item()

    def mean_ce(log_q_NV: Tensor) -> float:
        return -(log_p_NV.exp() * log_q_NV).sum(-1).mean().item()

    for way in ("temperature", "non_max_sum", "top_k_mass"):
        low, high = 0.0, 30.0
        for _ in range(60):
            middle = (low + high) / 2
            if way == "temperature":
                other_NV = ((1 + middle) * log_p_NV).log_softmax(-1)
            else:
                other_NV = PenaltyMap(way, middle, top_k=3).log_probs(log_p_NV)
            sharper = mean_entropy(other_NV) < mean_entropy(mapped_NV)
            low, high = (low, middle) if sharper else (middle, high)
        assert mean_entropy(other_NV) == pytest.approx(mean_entropy(mapped_NV), abs=1e-6)
        assert mean_ce(mapped_NV) < mean_ce(other_NV) - 1e-4
