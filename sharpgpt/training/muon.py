"""Muon with what PyTorch's does not have: an update normalised by output neuron, and q, k, v apart.

For the orthogonalised update O of a matrix (Jordan et al. 2024, *Muon*), NorMuon (Li et al. 2025,
arXiv 2510.05491) keeps a running mean v of the squares of each output neuron's update and divides
by its root; the whole is scaled back to the norm of O, so that no other learning rate is needed:

    v     = beta2 * v + (1 - beta2) * mean_over_inputs(O ** 2)
    O_hat = O / (sqrt(v) + eps)
    O_new = O_hat * norm(O) / norm(O_hat)

An output neuron is a row of the weight of nn.Linear, [out, in], and a column of that of
HuggingFace's Conv1D, [in, out].

Matrices of one shape are orthogonalised together: on a CPU small ones take two thirds of the time.

GPT-2 keeps the maps to queries, keys and values in one matrix, `c_attn`, though they are three.
Jordan et al. found Muon better if each is orthogonalised by itself.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

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
        """One step, for all matrices that have a gradient; those of one shape at once."""
        assert closure is None
        for group in self.param_groups:
            by_shape = defaultdict[tuple[int, ...], list[Part]](list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    for part in self._parts(matrix, matrix.grad, group):
                        by_shape[part.weight.shape].append(part)
            for shape, parts in by_shape.items():
                learning_rate = _adjust_lr(group["lr"], group["adjust_lr_fn"], torch.Size(shape))
                updates = orthogonalized([part.update for part in parts], group)
                for part, orthogonal in zip(parts, updates, strict=True):
                    if part.second_moment is not None:
                        orthogonal = normalized(
                            orthogonal.float(), part.second_moment, in_dim=1 - group["out_dim"]
                        )
                    part.weight.add_(orthogonal, alpha=-learning_rate)

    def _parts(self, matrix: Tensor, gradient: Tensor, group: dict[str, Any]) -> Iterator["Part"]:
        """Decay the weight, add the gradient to the momentum, and divide both into their parts."""
        state, momentum, out_dim = self.state[matrix], group["momentum"], group["out_dim"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
            if self.normalizes:
                state["second_moment"] = torch.zeros_like(gradient.narrow(1 - out_dim, 0, 1))
        buffer = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        update = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
        matrix.mul_(1 - group["lr"] * group["weight_decay"])

        def divided(tensor: Tensor | None) -> Sequence[Tensor | None]:
            num_parts = group["num_parts"]
            return [None] * num_parts if tensor is None else tensor.chunk(num_parts, dim=out_dim)

        # In bfloat16, as the iteration computes.
        tensors = (matrix, update.bfloat16(), state.get("second_moment"))
        for weight, raw, second_moment in zip(*map(divided, tensors), strict=True):
            assert weight is not None
            assert raw is not None
            yield Part(weight, raw, second_moment)


class Part(NamedTuple):
    """A matrix, or one of several that share a parameter, with its update and its v."""

    weight: Tensor
    update: Tensor
    second_moment: Tensor | None


def orthogonalized(updates: Sequence[Tensor], group: dict[str, Any]) -> Sequence[Tensor]:
    """The nearest orthogonal matrices, roughly, of updates of one shape (Jordan et al. 2024).

    Newton-Schulz steps in bfloat16, those of PyTorch's Muon: X = a X + (b X X^T + c (X X^T)^2) X.
    """
    if len(updates) == 1:
        settings = group["ns_coefficients"], group["ns_steps"], group["eps"]
        return [_zeropower_via_newtonschulz(updates[0], *settings)]
    x_GRC = torch.stack(list(updates))
    is_tall = x_GRC.shape[1] > x_GRC.shape[2]
    if is_tall:
        x_GRC = x_GRC.mT
    x_GRC = x_GRC / x_GRC.norm(dim=(1, 2), keepdim=True).clamp(min=group["eps"])
    a, b, c = group["ns_coefficients"]
    for _ in range(group["ns_steps"]):
        gram_GRR = x_GRC @ x_GRC.mT
        factor_GRR = torch.baddbmm(gram_GRR, gram_GRR, gram_GRR, beta=b, alpha=c)
        x_GRC = torch.baddbmm(x_GRC, factor_GRR, x_GRC, beta=a)
    return (x_GRC.mT if is_tall else x_GRC).unbind()


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
