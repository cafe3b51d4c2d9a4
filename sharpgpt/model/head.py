"""Is a model's output layer one linear map? The loss inside the forward requires it."""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block; afterwards every module is in its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def has_linear_head(model: nn.Module) -> bool:
    """Whether the logits are one linear map of the last hidden state.

    Some architectures scale or cap their logits after the output layer; a loss computed from hidden
    states and weight would silently train something else. A cap shows only at large logits, so the
    weight is enlarged for the comparison. On the meta device (a dry run) there is nothing to
    compare.
    """
    causal_lm = cast(Any, model)
    head = causal_lm.get_output_embeddings()
    if type(model).__name__ == "GPT2LMHeadModel" or (head is not None and head.weight.is_meta):
        return True
    if not isinstance(head, nn.Linear):
        return False
    probe_BT = torch.arange(4, device=head.weight.device)[None] % causal_lm.config.vocab_size
    original = head.weight.clone()
    with evaluating(model):
        try:
            head.weight.mul_(300 / causal_lm(input_ids=probe_BT).logits.abs().max())
            hidden_BTD = causal_lm.base_model(input_ids=probe_BT, use_cache=False)[0]
            logits_BTV = causal_lm(input_ids=probe_BT).logits
            return torch.allclose(head(hidden_BTD), logits_BTV, rtol=1e-4)
        finally:
            head.weight.copy_(original)
