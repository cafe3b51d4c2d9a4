"""A user-defined penalty: the Tsallis entropy of order 2 (the Gini impurity), 1 - sum p^2.

python train.py --config configs/quick_test.yaml --penalty_type docs.examples.tsallis:GINI
"""

from torch import Tensor

from sharpgpt.sharpness import Penalty


def value(probs_NV: Tensor, log_probs_NV: Tensor, top_k: int) -> Tensor:  # noqa: ARG001
    """1 - sum p^2 = sum p (1 - p), [N]: the chance that two draws from a row differ.

    1 - p is -expm1(ln p), which has digits left where p rounds to 1.
    """
    return -(probs_NV * log_probs_NV.expm1()).sum(-1)


def gradient(probs_NV: Tensor, log_probs_NV: Tensor, top_k: int) -> Tensor:  # noqa: ARG001
    """d value / d p = -2 p, [N, V]."""
    return -2 * probs_NV


GINI = Penalty(value=value, gradient=gradient)
