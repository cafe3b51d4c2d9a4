"""Text from a model: HuggingFace's `generate`, continued past the model's window."""

from typing import Any, cast

import torch
from torch import nn

from sharpgpt.data import Tokenizer
from sharpgpt.device import seeded


@torch.no_grad()
def generate_texts(
    causal_lm: nn.Module,
    tokenizer: Tokenizer,
    *,
    prompt: str,
    num_samples: int,
    max_length: int,
    window: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> list[str]:
    """Continue `prompt` `num_samples` times, each to `max_length` tokens, prompt included.

    Where the text outgrows `window` (the positions of the model), the later half of the window
    becomes the context of what follows. A text ends early at the end-of-text token. Temperature 0
    takes the most probable token. Global random states are left as they were.
    """
    model = cast(Any, causal_lm)
    prompt_ids = tokenizer.encode(prompt).tolist()
    text_ids = torch.tensor([prompt_ids] * num_samples, device=model.device)
    end_id = tokenizer.end_of_text_id
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        # top_k=0: HuggingFace would otherwise keep the 50 most probable tokens only.
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    was_training = model.training
    model.eval()
    with seeded(seed, text_ids.device):
        while (length := text_ids.shape[1]) < max_length:
            context = text_ids if length < window else text_ids[:, -max(1, window // 2) :]
            num_new = min(window - context.shape[1], max_length - length)
            longer = model.generate(
                context,
                attention_mask=torch.ones_like(context),
                max_new_tokens=num_new,
                eos_token_id=end_id,
                pad_token_id=0 if end_id is None else end_id,
                **sampling,
            )
            new_ids = longer[:, context.shape[1] :]
            text_ids = torch.cat([text_ids, new_ids], dim=1)
            if end_id is not None and bool((text_ids == end_id).any(dim=1).all()):
                break
    model.train(was_training)
    return [tokenizer.decode(_until_end(ids, len(prompt_ids), end_id)) for ids in text_ids.tolist()]


def _until_end(ids: list[int], prompt_length: int, end_id: int | None) -> list[int]:
    """The ids up to the first end-of-text token after the prompt."""
    if end_id is None or end_id not in ids[prompt_length:]:
        return ids
    return ids[: ids.index(end_id, prompt_length)]
