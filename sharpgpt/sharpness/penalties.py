"""The sharpness penalties: each once, its value and its gradient.

A penalty is a function of one row of probabilities p = softmax(z) that *falls* as p sharpens:

    name           value                         g = d value / d p      d value / d z
    neg_entropy    H = -sum p ln p               -(ln p + 1)            -p (ln p + H)
    non_max_sum    1 - m                         -e_m                   -m (e_m - p)
    neg_max_prob   -m                            -e_m                   -m (e_m - p)
    top_k_mass     1 - S                         -1[in the top k]       -p (1[in the top k] - S)

with m the largest probability, e_m the unit vector at its position and S the sum of the k largest.
The last column is the softmax Jacobian applied to g, the same for every penalty:

    d value / d z = p * (g - sum(p * g))

so a penalty needs only its value and g, and everything works with it. A built-in penalty also has
its formula in words, which help texts and model cards show, and a fast path: what the fused pass
(rows.py) writes for it without another pass over the row. To add one, add it to PENALTIES.

Ties go to the lowest index, for the maximum and for the k-th largest. `neg_entropy` is named for
the minus sign in the formula of H: its value is the entropy itself, minimised.

Only methods of tensors are used here, so importing this file needs no torch: the choices of the
setting `penalty_type` are the names in PENALTIES.

Shapes: N rows, T rows of a tile, V vocabulary.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class RowFacts(NamedTuple):
    """What the fused pass knows of each row, [T]: z are its logits, shifted to a maximum of 0."""

    max_prob: Tensor
    """m."""
    rest: Tensor
    """1 - m, exact near m = 1."""
    top_k_rest: Tensor
    """1 - S, exact near S = 1."""
    entropy: Tensor
    """H."""
    mean_z: Tensor
    """sum p z."""
    max_index: Tensor
    """The column of the largest entry, [T, 1]."""
    top_k_index: Tensor
    """The columns of the k largest entries, the largest among them, [T, k]."""


class FastPenalty(NamedTuple):
    """A penalty of each row, with d value / d z = p * (shift + slope z).

    At `columns` [T, k], which contain the largest entry, it is p * inside.
    """

    value: Tensor
    shift: Tensor
    slope: float = 0.0
    columns: Tensor | None = None
    inside: Tensor | None = None


@dataclass(frozen=True)
class Penalty:
    """One penalty as two functions of (probs_NV, log_probs_NV, top_k).

    `value` gives value_N and is differentiable by autograd; `gradient` gives
    g_NV = d value / d probs in closed form, for implementations that write their own backward.
    Probabilities and their logarithms come together, since both are available and ln(p) would lose
    what log_softmax keeps. `log_probs_NV` may be -inf where p is 0. Near p = 1 it is exact too, so
    1 - p is `-log_probs_NV.expm1()`, where `1 - probs_NV` has lost its digits.
    """

    value: Callable[[Tensor, Tensor, int], Tensor]
    gradient: Callable[[Tensor, Tensor, int], Tensor]
    formula: str = ""
    """The value in words."""
    fast: Callable[[RowFacts], FastPenalty] | None = None
    """Value and gradient from what the fused pass knows of a row. None: the fused pass calls the
    functions above. With it, the row mathematics is compiled on a GPU."""


def max_mask(probs_NV: Tensor) -> Tensor:
    """One 1 per row, at the largest entry; of equal ones at the first. Boolean [N, V]."""
    # argmax promises the first of equal maxima; amax would spread its gradient over all of them.
    return (probs_NV < probs_NV).scatter(-1, probs_NV.argmax(-1, keepdim=True), True)


def top_k_mask(probs_NV: Tensor, top_k: int) -> Tensor:
    """k ones per row, at the k largest entries; of equal ones at the first. Boolean [N, V].

    torch.topk promises no order among equals, so it only finds the k-th largest value.
    Raises ValueError unless 1 <= top_k <= V.
    """
    if not 1 <= top_k <= probs_NV.shape[-1]:
        raise ValueError(
            f"top_k: given {top_k}, allowed is 1 to the vocabulary size, {probs_NV.shape[-1]}"
        )
    smallest_N1 = probs_NV.topk(top_k, dim=-1, sorted=True).values[..., -1:]
    above_NV = probs_NV > smallest_N1
    equal_NV = probs_NV == smallest_N1
    num_places_N1 = top_k - above_NV.sum(-1, keepdim=True)
    return above_NV | (equal_NV & (equal_NV.int().cumsum(-1) <= num_places_N1))


def max_prob(probs_NV: Tensor) -> Tensor:
    """m_N, the largest probability of each row."""
    return probs_NV.gather(-1, probs_NV.argmax(-1, keepdim=True)).squeeze(-1)


def top_k_mass(probs_NV: Tensor, top_k: int) -> Tensor:
    """S_N, the sum of the k largest probabilities of each row."""
    return (probs_NV * top_k_mask(probs_NV.detach(), top_k)).sum(-1)


def non_max_sum(probs_NV: Tensor, log_probs_NV: Tensor) -> Tensor:
    """1 - m, [N], with the digits that the difference would lose near m = 1."""
    return -log_probs_NV.gather(-1, probs_NV.argmax(-1, keepdim=True)).squeeze(-1).expm1()


def outside_top_k(probs_NV: Tensor, top_k: int) -> Tensor:
    """1 - S, [N], as the sum of the other probabilities."""
    return probs_NV.masked_fill(top_k_mask(probs_NV.detach(), top_k), 0).sum(-1)


def entropy(probs_NV: Tensor, log_probs_NV: Tensor) -> Tensor:
    """H_N = -sum p ln p, in nats, with 0 ln 0 = 0."""
    return -(probs_NV * _finite(log_probs_NV)).sum(-1)


def _finite(log_probs_NV: Tensor) -> Tensor:
    """ln p with 0 in place of -inf: such an entry has p = 0 and must contribute 0, not NaN."""
    return log_probs_NV.masked_fill(log_probs_NV == -math.inf, 0.0)


def _fast_max(value_T: Tensor, row: RowFacts) -> FastPenalty:
    """d value / d z = p m, and -p (1 - m) at the largest entry."""
    return FastPenalty(value_T, 1 - row.rest, columns=row.max_index, inside=-row.rest)


PENALTIES: dict[str, Penalty] = {
    "non_max_sum": Penalty(
        value=lambda p, log_p, _: non_max_sum(p, log_p),
        gradient=lambda p, _, __: -max_mask(p).to(p.dtype),
        formula="1 - max p",
        fast=lambda row: _fast_max(row.rest, row),
    ),
    "neg_entropy": Penalty(
        value=lambda p, log_p, _: entropy(p, log_p),
        gradient=lambda _, log_p, __: -(_finite(log_p) + 1),
        formula="H(p), the entropy",
        # ln p + H = z - sum p z
        fast=lambda row: FastPenalty(row.entropy, row.mean_z, slope=-1.0),
    ),
    "neg_max_prob": Penalty(
        value=lambda p, _, __: -max_prob(p),
        gradient=lambda p, _, __: -max_mask(p).to(p.dtype),
        formula="-max p",
        fast=lambda row: _fast_max(-row.max_prob, row),
    ),
    "top_k_mass": Penalty(
        value=lambda p, _, top_k: outside_top_k(p, top_k),
        gradient=lambda p, _, top_k: -top_k_mask(p, top_k).to(p.dtype),
        formula="1 - the sum of the top_k largest p",
        fast=lambda row: FastPenalty(
            row.top_k_rest,
            1 - row.top_k_rest,
            columns=row.top_k_index,
            inside=-row.top_k_rest,
        ),
    ),
}


def find_penalty(name: str) -> Penalty:
    """The penalty called `name` in PENALTIES, or at the import path `module:name`.

    Raises:
        ValueError: there is none, or what is there is not a `Penalty`.
    """
    if found := PENALTIES.get(name):
        return found
    if ":" not in name:
        raise ValueError(
            f"penalty: given {name!r}, allowed is one of {[*PENALTIES]}, or module:name, the "
            "import path of a Penalty"
        )
    return _imported_penalty(name)


@functools.cache
def _imported_penalty(path: str) -> Penalty:
    module_name, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"penalty: {path!r} cannot be imported: {error}") from error
    if not isinstance(found, Penalty):
        raise ValueError(f"penalty: {path!r} is a {type(found).__name__}, expected a Penalty")
    return found


def logit_gradient(penalty: Penalty, logits_NV: Tensor, top_k: int) -> Tensor:
    """d value / d logits in closed form, [N, V]: p * (g - sum(p * g))."""
    log_probs_NV = logits_NV.log_softmax(-1)
    probs_NV = log_probs_NV.exp()
    gradient_NV = penalty.gradient(probs_NV, log_probs_NV, top_k)
    # A constant in g changes nothing; less its value at the maximum, no digits cancel near p = 1.
    gradient_NV = gradient_NV - gradient_NV.gather(-1, probs_NV.argmax(-1, keepdim=True))
    weighted_NV = probs_NV * gradient_NV
    return weighted_NV - probs_NV * weighted_NV.sum(-1, keepdim=True)
