"""Muon with what PyTorch's does not have: an update normalised by output neuron, and q, k, v apart.

For the orthogonalised update O of a matrix (Jordan et al. 2024, *Muon*), NorMuon (Li et al. 2025,
arXiv 2510.05491) keeps a running mean v of the squares of each output neuron's update and divides
by its root; the whole is scaled back to the norm of O, so that no other learning rate is needed:

    v     = beta2 * v + (1 - beta2) * mean_over_inputs(O ** 2)
    O_hat = O / (sqrt(v) + eps)
    O_new = O_hat * norm(O) / norm(O_hat)

An output neuron is a row of the weight of nn.Linear, [out, in], and a column of that of
HuggingFace's Conv1D, [in, out].

GPT-2 keeps the maps to queries, keys and values in one matrix, `c_attn`, though they are three.
Jordan et al. found Muon better if each is orthogonalised by itself.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz  # of the pinned PyTorch

BETA2 = 0.95
EPS = 1e-10


class Muon(torch.optim.Muon):
    """PyTorch's, for the parameter groups of `muon_groups`; with neither addition its very steps.

    The state of a matrix also has `second_moment`, v, if `normalizes` is given: [out, 1], or
    [1, out] for a Conv1D.
    """

    def __init__(self, groups: list[dict[str, Any]], *, normalizes: bool, **settings: Any) -> None:
        super().__init__(groups, **settings)
        self.normalizes = normalizes

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step, for all matrices that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._update(matrix, matrix.grad, group)

    def _update(self, matrix: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, momentum, out_dim = self.state[matrix], group["momentum"], group["out_dim"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
            if self.normalizes:
                state["second_moment"] = torch.zeros_like(gradient.narrow(1 - out_dim, 0, 1))
        buffer = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        update = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
        matrix.mul_(1 - group["lr"] * group["weight_decay"])

        def parts(tensor: Tensor) -> tuple[Tensor, ...]:
            return tensor.chunk(group["num_parts"], dim=out_dim)

        for number, (part, raw) in enumerate(zip(parts(matrix), parts(update), strict=True)):
            orthogonal = _zeropower_via_newtonschulz(
                raw, group["ns_coefficients"], group["ns_steps"], group["eps"]
            )
            if self.normalizes:
                second_moment = parts(state["second_moment"])[number]
                orthogonal = normalized(orthogonal.float(), second_moment, in_dim=1 - out_dim)
            learning_rate = _adjust_lr(group["lr"], group["adjust_lr_fn"], part.shape)
            part.add_(orthogonal, alpha=-learning_rate)


def normalized(update: Tensor, second_moment: Tensor, *, in_dim: int) -> Tensor:
    """`update` divided by the root of `second_moment`, which it is first added to; same norm."""
    second_moment.lerp_(update.square().mean(dim=in_dim, keepdim=True), 1 - BETA2)
    scaled = update / (second_moment.sqrt() + EPS)
    norm, scaled_norm = torch.linalg.vector_norm(update), torch.linalg.vector_norm(scaled)
    return scaled.mul_(norm / scaled_norm.clamp(min=EPS))


def muon_groups(
    causal_lm: nn.Module, matrices: Iterable[nn.Parameter], *, split_qkv: bool
) -> list[dict[str, Any]]:
    """Parameter groups of matrices whose output neurons are the same dimension (`out_dim`), in as
    many parts (`num_parts`)."""
    transposed = {id(module.weight) for _, module in _conv1ds(causal_lm)}
    split = {id(weight) for weight in qkv_matrices(causal_lm)} if split_qkv else set()
    groups: dict[tuple[int, int], list[nn.Parameter]] = {}
    for matrix in matrices:
        kind = (int(id(matrix) in transposed), 3 if id(matrix) in split else 1)
        groups.setdefault(kind, []).append(matrix)
    return [
        {"params": params, "out_dim": out_dim, "num_parts": num_parts}
        for (out_dim, num_parts), params in groups.items()
    ]


def qkv_matrices(causal_lm: nn.Module) -> list[Tensor]:
    """The matrices [D, 3 D] of GPT-2 that hold queries, keys and values side by side."""
    return [
        module.weight
        for name, module in _conv1ds(causal_lm)
        if name.endswith("c_attn") and module.weight.shape[1] == 3 * module.weight.shape[0]
    ]


def _conv1ds(causal_lm: nn.Module) -> list[tuple[str, Any]]:
    from transformers.pytorch_utils import Conv1D

    return [each for each in causal_lm.named_modules() if isinstance(each[1], Conv1D)]
