"""What a sharpness loss returns: the loss to differentiate, and every statistic beside it."""

from typing import Literal, NamedTuple

from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


class SharpnessRows(NamedTuple):
    """The statistics row by row, [N] each, detached; ignored rows hold 0."""

    ce: Tensor
    penalty: Tensor
    max_prob: Tensor
    entropy: Tensor
    top_k_mass: Tensor
    accuracy: Tensor


class SharpnessOutput(NamedTuple):
    """`loss` carries the gradient; all else is detached and a mean over the valid rows.

    loss = ce + penalty_weight * penalty, reduced as asked ([N] for reduction "none"). A row outside
    the penalty mask contributes 0 to `penalty`, so the identity holds for the means too. Losses and
    entropy are in nats; `accuracy` is the share of rows whose most probable token is the target.
    `rows` is None unless asked for.
    """

    loss: Tensor
    ce: Tensor
    penalty: Tensor
    max_prob: Tensor
    entropy: Tensor
    top_k_mass: Tensor
    accuracy: Tensor
    num_rows: Tensor
    rows: SharpnessRows | None = None
