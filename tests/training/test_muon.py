"""Muon's update against plain computations: by output neuron, and q, k, v one by one."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharpgpt.model.build import create_gpt2_model
from sharpgpt.training.muon import Muon, muon_groups, normalized, qkv_matrices
from sharpgpt.training.optimizer import layer_matrices

SETTINGS: dict[str, Any] = {
    "lr": 0.1, "weight_decay": 0.2, "momentum": 0.9, "adjust_lr_fn": "match_rms_adamw",
}  # fmt: skip


def gradients(*shape: int) -> list[Tensor]:
    """Of three steps; their rows and columns are of very different sizes."""
    torch.manual_seed(0)
    rows = torch.logspace(-1, 1, shape[0])[:, None]
    return [torch.randn(shape) * rows * torch.logspace(1, 0, shape[1]) for _ in range(3)]


def steps(optimizer: torch.optim.Optimizer, matrix: Tensor, grads: list[Tensor]) -> Tensor:
    for gradient in grads:
        matrix.grad = gradient.clone()
        optimizer.step()
    return matrix.detach()


def ours(matrix: Tensor, *, normalizes: bool, out_dim: int = 0, num_parts: int = 1) -> Muon:
    group = {"params": [matrix], "out_dim": out_dim, "num_parts": num_parts}
    return Muon([group], normalizes=normalizes, **SETTINGS)


def plain_orthogonal(update: np.ndarray) -> np.ndarray:
    """Jordan et al.'s quintic iteration on the singular values themselves."""
    u, s, vt = np.linalg.svd(update, full_matrices=False)
    s = s / np.sqrt((s**2).sum())
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ np.diag(s) @ vt


def plain_normuon(weight: Tensor, grads: list[Tensor], *, normalizes: bool) -> np.ndarray:
    """The weight [out, in] after the steps, in float64."""
    w = weight.double().numpy()
    buffer, v = np.zeros(w.shape), np.zeros(len(w))
    for gradient in grads:
        g = gradient.double().numpy()
        buffer = 0.9 * buffer + 0.1 * g
        o = plain_orthogonal(0.1 * g + 0.9 * buffer)
        if normalizes:
            v = 0.95 * v + 0.05 * (o**2).mean(axis=1)
            scaled = np.array([row / np.sqrt(v[i]) for i, row in enumerate(o)])
            o = scaled * np.sqrt((o**2).sum() / (scaled**2).sum())
        w = w - 0.1 * 0.2 * w - 0.1 * 0.2 * np.sqrt(max(w.shape)) * o
    return w


def distance(one: Any, other: Any, start: Tensor) -> float:
    """Of two weights, relative to how far the steps went from `start`."""
    a, b, c = (np.asarray(each, dtype=np.float64) for each in (one, other, start))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b - c))


@pytest.mark.parametrize("normalizes", [False, True])
@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (16, 16)])
def test_steps_are_those_of_the_plain_computation(shape: tuple[int, int], normalizes: bool) -> None:
    """Newton-Schulz computes in bfloat16. A mean over the wrong dimension is far off."""
    start, grads = torch.randn(shape), gradients(*shape)
    matrix = nn.Parameter(start.clone())
    found = steps(ours(matrix, normalizes=normalizes), matrix, grads)
    right = distance(found, plain_normuon(start, grads, normalizes=normalizes), start)
    of_inputs = plain_normuon(start.T, [g.T for g in grads], normalizes=normalizes).T
    assert right < 0.03
    assert (distance(found, of_inputs, start) > 5 * right) == normalizes


@pytest.mark.parametrize("normalizes", [False, True])
def test_a_conv1d_is_a_linear_layer_transposed(normalizes: bool) -> None:
    start, grads = torch.randn(12, 36), gradients(12, 36)
    linear, conv1d = nn.Parameter(start.T.clone()), nn.Parameter(start.clone())
    expected = steps(ours(linear, normalizes=normalizes), linear, [g.T for g in grads]).T
    found = steps(ours(conv1d, normalizes=normalizes, out_dim=1), conv1d, grads)
    assert distance(found, expected, start) < 1e-3


def test_without_additions_it_is_pytorchs_muon_to_the_bit() -> None:
    start, grads = torch.randn(12, 36), gradients(12, 36)
    one, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    expected = steps(torch.optim.Muon([other], **SETTINGS), other, grads)
    assert torch.equal(steps(ours(one, normalizes=False, out_dim=1), one, grads), expected)


@pytest.mark.parametrize("normalizes", [False, True])
def test_three_parts_are_three_matrices(normalizes: bool) -> None:
    start, grads = torch.randn(12, 36), gradients(12, 36)
    whole = nn.Parameter(start.clone())
    found = steps(ours(whole, normalizes=normalizes, out_dim=1, num_parts=3), whole, grads)
    for number, part in enumerate(start.split(12, dim=1)):
        one = nn.Parameter(part.clone())
        of_part = [g.split(12, dim=1)[number].clone() for g in grads]
        expected = steps(ours(one, normalizes=normalizes, out_dim=1), one, of_part)
        assert distance(found.split(12, dim=1)[number], expected, part) < 1e-3


@pytest.mark.parametrize("shape", [(12, 20), (20, 12)])
@pytest.mark.parametrize("num_steps", [5, 3])
def test_matrices_of_one_shape_are_those_one_by_one(shape: tuple[int, int], num_steps: int) -> None:
    starts = [torch.randn(shape) for _ in range(3)]
    grads = [[scale * g for g in gradients(*shape)] for scale in (1.0, 1e-4, 100.0)]
    together = [nn.Parameter(start.clone()) for start in starts]
    group = {"params": together, "out_dim": 0, "num_parts": 1}
    optimizer = Muon([group], normalizes=False, **SETTINGS, ns_steps=num_steps)
    for number in range(3):
        for matrix, its in zip(together, grads, strict=True):
            matrix.grad = its[number].clone()
        optimizer.step()
    for start, its, matrix in zip(starts, grads, together, strict=True):
        alone = nn.Parameter(start.clone())
        of_one = torch.optim.Muon([alone], **SETTINGS, ns_steps=num_steps)
        assert distance(matrix.detach(), steps(of_one, alone, its), start) < 0.01


def test_the_norm_of_an_update_stays_and_a_neuron_without_gradient_is_left() -> None:
    update, second_moment = torch.randn(6, 4), torch.zeros(6, 1)
    update[2] = 0
    new = normalized(update, second_moment, in_dim=1)
    assert new.norm().item() == pytest.approx(update.norm().item())
    assert new[2].abs().max() == 0
    sizes = new[[0, 1, 3, 4, 5]].norm(dim=1)
    assert sizes.allclose(sizes[0], rtol=1e-5), "the first step makes all neurons equal"
    assert not normalized(torch.zeros(6, 4), torch.zeros(6, 1), in_dim=1).any()


def test_the_matrices_of_gpt2_and_of_linear_layers() -> None:
    model = create_gpt2_model(n_layer=2, n_head=2, n_embd=32, vocab_size=65, max_seq_length=16)
    names = {id(p): name for name, p in model.named_parameters()}
    (rest,) = muon_groups(model, layer_matrices(model), split_qkv=False)
    assert (rest["out_dim"], rest["num_parts"], len(rest["params"])) == (1, 1, 8)
    split, rest = muon_groups(model, layer_matrices(model), split_qkv=True)
    assert {names[id(p)][-18:] for p in split["params"]} == {"attn.c_attn.weight"}
    assert (split["num_parts"], rest["num_parts"], len(rest["params"])) == (3, 1, 6)
    linear = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 12))
    (group,) = muon_groups(linear, [linear[0].weight, linear[1].weight], split_qkv=True)
    assert (group["out_dim"], group["num_parts"]) == (0, 1)
    assert qkv_matrices(linear) == []
