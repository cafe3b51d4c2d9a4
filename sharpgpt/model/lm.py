"""The sharpness loss inside the forward of a HuggingFace causal LM: `SharpnessLM`.

The loss is computed inside the forward of the trained module, so that hooks of data-parallel
wrappers see the use of the output layer, and the logits never leave it.

Shapes: B batch, T positions in a block, S = T - 1 predicted ones, D width, V vocabulary, N = B * S
rows.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from sharpgpt.config import penalised_positions
from sharpgpt.model.softcap import softcap_of
from sharpgpt.sharpness import SharpnessOutput, linear_sharpness_loss, reference

LINEAR_LOSSES: dict[str, Callable[..., SharpnessOutput]] = {
    "fused": linear_sharpness_loss,
    "reference": reference.linear_sharpness_loss,
}

EVERY_POSITION = "0:N-2"
"""Every position of a block of N tokens that predicts a token of the block."""


class SharpnessLM(nn.Module):
    """A causal LM whose forward returns the sharpness loss of a batch of blocks.

    `causal_lm` is the HuggingFace model itself, with `base_model` (tokens to hidden states) and an
    output layer that is one `nn.Linear`, whose result the soft cap of its config bounds. The fused
    loss multiplies in `output_dtype`; None takes `products.default_product_dtype`. With
    `boundary_id`, the end-of-text token, positions attend only to their own document.
    """

    def __init__(
        self,
        causal_lm: nn.Module,
        *,
        penalty: str,
        top_k: int,
        penalty_positions: str = EVERY_POSITION,
        loss: str = "fused",
        output_dtype: torch.dtype | None = None,
        boundary_id: int | None = None,
    ) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self.penalty = penalty
        self.top_k = top_k
        self.penalty_positions = penalty_positions
        self.linear_loss = LINEAR_LOSSES[loss]
        if loss == "fused":
            self.linear_loss = functools.partial(self.linear_loss, product_dtype=output_dtype)
        self.boundary_id = boundary_id
        self.logit_softcap = softcap_of(causal_lm)

    def forward(
        self,
        input_ids_BT: Tensor,
        *,
        penalty_weight: float | Tensor = 0.0,
        z_loss_weight: float | Tensor = 0.0,
        label_smoothing: float | Tensor = 0.0,
        normalizer: float | None = None,
        per_row: bool = False,
    ) -> SharpnessOutput:
        """The loss of predicting tokens 1..T-1 of each block from those before them.

        `normalizer` is the number of rows in the whole optimizer step, over all micro-batches:
        the loss is the sum over this batch's rows divided by it. None takes this batch's own rows.
        """
        causal_lm = cast(Any, self.causal_lm)
        target_BS = input_ids_BT[:, 1:]
        attention = {}
        if self.boundary_id is not None:
            attention["attention_mask"] = document_mask(input_ids_BT, self.boundary_id)
        hidden_BTD = causal_lm.base_model(input_ids=input_ids_BT, use_cache=False, **attention)[0]
        head = causal_lm.get_output_embeddings()
        return self.linear_loss(
            hidden_BTD[:, :-1].flatten(0, 1),
            head.weight,
            target_BS.flatten(),
            bias=head.bias,
            penalty=self.penalty,
            penalty_weight=penalty_weight,
            z_loss_weight=z_loss_weight,
            label_smoothing=label_smoothing,
            logit_softcap=self.logit_softcap,
            top_k=self.top_k,
            penalty_mask=penalty_mask(self.penalty_positions, target_BS, input_ids_BT.shape[1]),
            normalizer=normalizer,
            per_row=per_row,
        )


def penalty_mask(positions: str, target_BS: Tensor, block_length: int) -> Tensor | None:
    """Boolean [B * S], true at the penalised positions of blocks of N tokens; None for 0:N-2."""
    if positions == EVERY_POSITION:
        return None
    try:
        first, last = penalised_positions(positions, block_length)
    except ValueError as error:
        raise ValueError(f"penalty_positions: {error}") from None
    position_S = torch.arange(target_BS.shape[1], device=target_BS.device)
    return ((position_S >= first) & (position_S <= last)).expand_as(target_BS).flatten()


def check_positions(positions: str) -> None:
    """Raise ValueError unless sequences of some length have these positions."""
    for length in (10**9, *range(2, 1025)):
        try:
            penalised_positions(positions, length)
        except ValueError:
            continue
        return
    raise ValueError(
        f"penalty_positions: given {positions!r}, allowed is first:last, inclusive, each a number, "
        "N, N-2 or N/2, with first <= last <= N-2 in a sequence of N tokens"
    )


def document_mask(input_ids_BT: Tensor, boundary_id: int) -> Tensor:
    """Attention mask, boolean [B, 1, T, T]: true for earlier positions of the same document.

    The end-of-text token belongs to the document after it: the first token of a document is
    predicted from that token alone, and the token itself from the document that it ends.
    """
    document_BT = (input_ids_BT == boundary_id).cumsum(1)
    same_BTT = document_BT[:, :, None] == document_BT[:, None, :]
    return same_BTT.tril()[:, None]
