"""Causal attention for training in bfloat16 on a CPU, for short blocks.

PyTorch's own kernel (2.13) multiplies bfloat16 on a CPU slowly: forward and backward take 3.1 times
the time of two products with a softmax between them at 12 blocks of 64 tokens (4 heads), 1.25 times
at 4 blocks of 256 and 1.08 times at 2 of 512 (12 heads; benchmarks/bench_attention.py). Those hold
the [T, T] probabilities, 2 T^2 bytes for each head, so longer blocks, masks and dropout are left to
PyTorch's.

Shapes: B batch, H heads, T positions, K width of a head.
"""

import functools
from typing import Any, cast

import torch
from torch import Tensor, nn

NAME = "sharpgpt_short_blocks"
LONGEST_BLOCK = 512
"""At 1,024 tokens PyTorch's takes two thirds of the time of the products."""


def use_short_attention(causal_lm: nn.Module, max_seq_length: int) -> None:
    """Let GPT-2 compute its attention by `short_attention`, if its blocks are short."""
    model = cast(Any, causal_lm)
    if max_seq_length > LONGEST_BLOCK or model.config.model_type != "gpt2":
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, short_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def short_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *masks: Tensor | None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """softmax(query @ key.T * scaling, causal) @ value: [B, H, T, K] in, [B, T, H, K] out.

    A transformers attention function. What is no training step in bfloat16 on a CPU is computed by
    transformers' own function for PyTorch's kernel.
    """
    length, width = query.shape[-2:]
    is_ours = (
        query.device.type == "cpu"
        and query.dtype == key.dtype == torch.bfloat16
        and query.shape == key.shape
        and all(mask is None for mask in (*masks, settings.get("attention_mask")))
        and 1 < length <= LONGEST_BLOCK
        and not settings.get("dropout")
    )
    if not is_ours:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        forward = cast(Any, sdpa_attention_forward)
        return cast(tuple[Tensor, None], forward(module, query, key, value, *masks, **settings))
    scaling = settings.get("scaling") or width**-0.5
    score_BHTT = (query * scaling) @ key.transpose(-1, -2)
    score_BHTT += _later_positions(length, query.dtype)
    return (score_BHTT.softmax(-1) @ value).transpose(1, 2), None


@functools.lru_cache(maxsize=4)
def _later_positions(length: int, dtype: torch.dtype) -> Tensor:
    """-inf at the positions after one's own, else 0: [T, T]."""
    return torch.full((length, length), -torch.inf, dtype=dtype).triu(1)
