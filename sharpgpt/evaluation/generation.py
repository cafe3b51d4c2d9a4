"""Text from a model: HuggingFace's `generate`, continued past the model's window."""

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from sharpgpt.data.tokenizer import Tokenizer
from sharpgpt.model.head import evaluating
from sharpgpt.model.quiet import quiet_transformers
from sharpgpt.runtime.device import seeded


@torch.no_grad()
def generate_ids(
    causal_lm: nn.Module,
    prompt_ids: Sequence[int],
    *,
    num_texts: int,
    max_length: int,
    window: int,
    temperature: float,
    top_p: float,
    top_k: int = 0,
    seed: int,
    end_id: int | None = None,
    never: Sequence[int] = (),
    streamer: Any = None,
) -> Tensor:
    """`num_texts` continuations of the prompt as ids, [num_texts, at most max_length], prompt
    included.

    Where the texts outgrow `window` (the positions of the model, at least 2), the later half of the
    window becomes the context of what follows. Temperature 0 takes the most probable token, top_k 0
    keeps all; HuggingFace's `streamer` is given the tokens of a single text as they come. Once
    every text has `end_id`, all end; what follows the first one in a row has no meaning. The tokens
    `never` are not drawn. Nothing else changes the distribution: what the model's
    generation_config.json may set (a repetition penalty, say) is ignored. Global random states and
    the model are left as they were, however this ends.
    """
    assert window >= 2, "a context and a token to follow it"
    model = cast(Any, causal_lm)
    text_ids = torch.tensor([list(prompt_ids)] * num_texts, device=model.device)
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        # top_k=0: HuggingFace would otherwise keep the 50 most probable tokens only.
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    from transformers.generation.configuration_utils import GenerationConfig

    # With the same weights; the model itself may be written to a checkpoint at this moment.
    plain = copy.copy(model)
    plain.generation_config = GenerationConfig()
    with evaluating(plain), seeded(seed, text_ids.device), quiet_transformers():
        while (length := text_ids.shape[1]) < max_length:
            context = text_ids if length < window else text_ids[:, -max(1, window // 2) :]
            longer = plain.generate(
                context,
                attention_mask=torch.ones_like(context),
                max_new_tokens=min(window - context.shape[1], max_length - length),
                eos_token_id=end_id,
                pad_token_id=0 if end_id is None else end_id,
                suppress_tokens=list(never) or None,
                streamer=streamer,
                **sampling,
            )
            text_ids = torch.cat([text_ids, longer[:, context.shape[1] :]], dim=1)
            if end_id is not None:
                is_end = text_ids[:, len(prompt_ids) :] == end_id
                if bool(is_end.any(dim=1).all()):
                    break
    return text_ids


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
    """Continue `prompt` `num_samples` times, each to `max_length` tokens, prompt included, or to
    its end-of-text token; see `generate_ids`, and `Tokenizer.encode_prompt` for the prompt."""
    prompt_ids = tokenizer.encode_prompt(prompt)
    text_ids = generate_ids(
        causal_lm,
        prompt_ids,
        num_texts=num_samples,
        max_length=max_length,
        window=window,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        end_id=tokenizer.end_of_text_id,
    )
    end_id = tokenizer.end_of_text_id
    return [tokenizer.decode(_until_end(ids, len(prompt_ids), end_id)) for ids in text_ids.tolist()]


def _until_end(ids: list[int], prompt_length: int, end_id: int | None) -> list[int]:
    """The ids up to the first end-of-text token after the prompt."""
    if end_id is None or end_id not in ids[prompt_length:]:
        return ids
    return ids[: ids.index(end_id, prompt_length)]
