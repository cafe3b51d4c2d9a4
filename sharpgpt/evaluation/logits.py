"""The logits of a HuggingFace causal LM in two steps: hidden states, then the output layer.

Shapes: B blocks of a batch, T tokens of a block, N rows, C rows of a chunk, D width, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpgpt.model.head import evaluating
from sharpgpt.model.lm import document_mask
from sharpgpt.model.softcap import capped
from sharpgpt.runtime.device import Device

CHUNK_BYTES = 64 * 2**20
"""Logits held at one time."""


@torch.no_grad()
def model_hidden(
    causal_lm: nn.Module, device: Device, input_ids_BT: Tensor, *, boundary_id: int | None = None
) -> Tensor:
    """The last hidden states of the model's body, [B, T, D], in the arithmetic of `device`.

    `boundary_id` is as in `SharpnessLM`. The model is in evaluation mode meanwhile.
    """
    model = cast(Any, causal_lm)
    input_ids_BT = input_ids_BT.to(device.torch_device)
    attention = {}
    if boundary_id is not None:
        attention["attention_mask"] = document_mask(input_ids_BT, boundary_id)
    with evaluating(causal_lm), device.autocast():
        hidden_BTD: Tensor = model.base_model(input_ids=input_ids_BT, use_cache=False, **attention)[
            0
        ]
    return hidden_BTD


@torch.no_grad()
def head_logits(
    causal_lm: nn.Module, hidden_ND: Tensor, *, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[Tensor]:
    """The float32 logits of rows of hidden states, [C, V] at a time; the head must be linear.

    They are capped as the model's own.
    """
    head = cast(Any, causal_lm).get_output_embeddings()
    weight_VD = head.weight.float()
    bias_V = None if head.bias is None else head.bias.float()
    rows = max(1, chunk_bytes // (4 * len(weight_VD)))
    for hidden_CD in torch.split(hidden_ND, rows):
        yield capped(causal_lm, F.linear(hidden_CD.float(), weight_VD, bias_V))
