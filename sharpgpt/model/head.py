"""Is a model's output layer one linear map? What the loss inside the forward requires."""

from typing import Any, cast

import torch
from torch import nn


@torch.no_grad()
def has_linear_head(model: nn.Module) -> bool:
    """Whether the logits are one linear map of the last hidden state.

    Some architectures scale or cap their logits after the output layer; a loss computed from hidden
    states and weight would silently train something else. A cap shows at large logits only, so the
    weight is enlarged for the comparison. On the meta device (a dry run) nothing can be compared.
    """
    causal_lm = cast(Any, model)
    head = causal_lm.get_output_embeddings()
    if type(model).__name__ == "GPT2LMHeadModel" or (head is not None and head.weight.is_meta):
        return True
    if not isinstance(head, nn.Linear):
        return False
    probe_BT = torch.arange(4, device=head.weight.device)[None] % causal_lm.config.vocab_size
    original = head.weight.clone()
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        head.weight.mul_(300 / causal_lm(input_ids=probe_BT).logits.abs().max())
        hidden_BTD = causal_lm.base_model(input_ids=probe_BT, use_cache=False)[0]
        logits_BTV = causal_lm(input_ids=probe_BT).logits
        return torch.allclose(head(hidden_BTD), logits_BTV, rtol=1e-4)
    finally:
        head.weight.copy_(original)
        for module, mode in modes.items():
            module.training = mode
