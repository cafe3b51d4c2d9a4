"""The fused loss as a torch module that keeps its settings."""

from typing import Any

from torch import Tensor, nn

from sharpgpt.sharpness.fused import linear_sharpness_loss
from sharpgpt.sharpness.output import SharpnessOutput


class LinearSharpnessLoss(nn.Module):
    """`linear_sharpness_loss` as a module that keeps the settings; it has no parameters.

    The weight of the output layer is an argument, so that it can be tied to the embedding:

        criterion = LinearSharpnessLoss(penalty="neg_entropy", penalty_weight=0.01)
        criterion(hidden_ND, lm_head.weight, target_N).loss.backward()
    """

    def __init__(self, **settings: Any) -> None:
        """Keep the keyword arguments of `linear_sharpness_loss`: penalty, z_loss_weight, ..."""
        super().__init__()
        self.settings = settings

    def forward(
        self,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        target_N: Tensor,
        *,
        bias: Tensor | None = None,
        penalty_mask: Tensor | None = None,
    ) -> SharpnessOutput:
        """The loss of one batch; shapes, result and errors as in `linear_sharpness_loss`."""
        return linear_sharpness_loss(
            hidden_ND, weight_VD, target_N, bias=bias, penalty_mask=penalty_mask, **self.settings
        )

    def extra_repr(self) -> str:
        """The settings, for printing a model."""
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
