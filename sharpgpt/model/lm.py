"""The sharpness loss inside the forward of a HuggingFace causal LM: `SharpnessLM`.

The loss is computed inside the forward of the module that is trained: hooks of data-parallel
wrappers then see the use of the output layer, and the logits never leave it.

Shapes: B batch, T positions in a block, D width, V vocabulary, N = B * (T - 1) rows.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from sharpgpt.config import penalised_positions
from sharpgpt.sharpness import SharpnessOutput, linear_sharpness_loss, reference

LINEAR_LOSSES: dict[str, Callable[..., SharpnessOutput]] = {
    "fused": linear_sharpness_loss,
    "reference": reference.linear_sharpness_loss,
}


class SharpnessLM(nn.Module):
    """A causal LM whose forward returns the sharpness loss of a batch of blocks.

    `causal_lm` is the HuggingFace model itself, with `base_model` (tokens to hidden states) and an
    output layer that is one `nn.Linear`. With `boundary_id`, the end-of-text token, no position
    attends to a document other than its own.
    """

    def __init__(
        self,
        causal_lm: nn.Module,
        *,
        penalty: str,
        top_k: int,
        penalty_positions: str = "0:N-2",
        loss: str = "fused",
        boundary_id: int | None = None,
    ) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self.penalty = penalty
        self.top_k = top_k
        self.penalty_positions = penalty_positions
        self.linear_loss = LINEAR_LOSSES[loss]
        self.boundary_id = boundary_id

    def forward(
        self,
        input_ids_BT: Tensor,
        *,
        penalty_weight: float | Tensor = 0.0,
        normalizer: float | None = None,
        per_row: bool = False,
    ) -> SharpnessOutput:
        """The loss of predicting tokens 1..T-1 of each block from those before them.

        `normalizer` is the number of rows in the whole optimizer step, over all micro-batches:
        the loss is the sum over this batch's rows divided by it. None takes this batch's own rows.
        """
        causal_lm = cast(Any, self.causal_lm)
        num_blocks, block_length = input_ids_BT.shape
        attention = {}
        if self.boundary_id is not None:
            attention["attention_mask"] = document_mask(input_ids_BT, self.boundary_id)
        hidden_BTD = causal_lm.base_model(input_ids=input_ids_BT, use_cache=False, **attention)[0]
        head = causal_lm.get_output_embeddings()
        return self.linear_loss(
            hidden_BTD[:, :-1].flatten(0, 1),
            head.weight,
            input_ids_BT[:, 1:].flatten(),
            bias=head.bias,
            penalty=self.penalty,
            penalty_weight=penalty_weight,
            top_k=self.top_k,
            penalty_mask=self._penalty_mask(num_blocks, block_length, input_ids_BT.device),
            normalizer=normalizer,
            per_row=per_row,
        )

    def _penalty_mask(self, num_blocks: int, length: int, device: torch.device) -> Tensor | None:
        """Boolean [N], true at the penalised positions; None when those are all."""
        first, last = penalised_positions(self.penalty_positions, length)
        if (first, last) == (0, length - 2):
            return None
        position_T = torch.arange(length - 1, device=device)
        return ((position_T >= first) & (position_T <= last)).repeat(num_blocks)


def document_mask(input_ids_BT: Tensor, boundary_id: int) -> Tensor:
    """Which positions each position may attend to: boolean [B, 1, T, T], true for earlier ones of
    its own document.

    The end-of-text token counts to the document after it: the first token of a document is
    predicted from that token alone, and the token itself from the document that it ends.
    """
    document_BT = (input_ids_BT == boundary_id).cumsum(1)
    same_BTT = document_BT[:, :, None] == document_BT[:, None, :]
    return same_BTT.tril()[:, None]
