"""Small causal LMs of transformers, padded batches, and the loss that they should have."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sharpgpt.model.build import create_gpt2_model
from sharpgpt.sharpness import reference

VOCABULARY = 127
LENGTH = 16


def gpt2(dropout: float = 0.0, vocab_size: int = VOCABULARY) -> Any:
    return create_gpt2_model(
        n_layer=2, n_head=2, n_embd=32, vocab_size=vocab_size, max_seq_length=64, dropout=dropout,
        end_of_text_id=None,
    )  # fmt: skip


def llama(model_type: str = "llama", **changes: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    torch.manual_seed(3)
    config = AutoConfig.for_model(model_type, **sizes | changes)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


both_models = pytest.mark.parametrize("make", [gpt2, llama])


def padded_examples(count: int = 8) -> list[dict[str, Tensor]]:
    """Sequences of 3 to 16 tokens, padded to 16, the first of the prompt not to be learned."""
    generator = torch.Generator().manual_seed(11)
    examples = []
    for index in range(count):
        input_ids_T = torch.randint(VOCABULARY, (LENGTH,), generator=generator)
        mask_T = torch.arange(LENGTH) < LENGTH - (index * 5) % 14
        labels_T = input_ids_T.masked_fill(~mask_T, -100)
        labels_T[: index % 3] = -100
        examples.append({"input_ids": input_ids_T, "attention_mask": mask_T, "labels": labels_T})
    return examples


def batch(count: int = 8) -> dict[str, Tensor]:
    examples = padded_examples(count)
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


def dense_reference(model: Any, inputs: dict[str, Tensor], **settings: Any) -> Any:
    logits_BTV = model(**{name: inputs[name] for name in inputs if name != "labels"}).logits
    return reference.sharpness_loss(
        logits_BTV[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten(), **settings
    )


def gradients(model: Any, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@torch.no_grad()
def relative(given: Tensor, truth: Tensor) -> float:
    return float((given - truth).norm() / truth.norm())
