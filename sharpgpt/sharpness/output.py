"""What a sharpness loss returns: the loss to differentiate, and every statistic beside it."""

from typing import Literal, NamedTuple

from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


class SharpnessRows(NamedTuple):
    """The statistics row by row, [N] each, detached; 0 in ignored rows."""

    ce: Tensor
    penalty: Tensor
    z_loss: Tensor
    smoothing: Tensor
    max_prob: Tensor
    entropy: Tensor
    top_k_mass: Tensor
    accuracy: Tensor


class SharpnessOutput(NamedTuple):
    """`loss` has the gradient; the rest are means over the valid rows, detached.

    loss = ce + penalty_weight * penalty + z_loss_weight * z_loss + label_smoothing * smoothing,
    reduced ([N] for reduction "none"). A row outside the penalty mask contributes 0 to `penalty`,
    so the identity holds for the means too. `z_loss` is the square of ln sum e^z and `smoothing` is
    z_y - mean z, of every valid row and for every weight. `ce` is that of the targets themselves.
    Losses and entropy are in nats; `accuracy` is the share of rows whose most probable token is the
    target. `rows` is None unless requested.
    """

    loss: Tensor
    ce: Tensor
    penalty: Tensor
    z_loss: Tensor
    smoothing: Tensor
    max_prob: Tensor
    entropy: Tensor
    top_k_mass: Tensor
    accuracy: Tensor
    num_rows: Tensor
    rows: SharpnessRows | None = None
