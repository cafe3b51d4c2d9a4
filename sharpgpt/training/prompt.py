"""The prompt of the samples that a training generates."""

from dataclasses import replace

from sharpgpt.config import TrainingConfig
from sharpgpt.core.numbers import counted
from sharpgpt.data.load import TextData
from sharpgpt.evaluation.prompts import Prompt, make_prompt


def training_prompt(config: TrainingConfig, data: TextData) -> Prompt:
    """What samples begin with. Raises `UserError` for what the tokenizer cannot encode."""
    prompt = make_prompt(
        data.tokenizer,
        config.generate_prompt,
        name="generate_prompt",
        window=config.max_seq_length,
        instead=data.tokenizer.decode(data.train_tokens[:1].tolist()),
    )
    length, limit = len(prompt.ids), config.generate_max_length
    if length < limit:
        return prompt
    note = (
        f"generate_max_length: given {limit}, which counts generate_prompt's "
        f"{counted(length, 'token')} too and leaves none to generate; samples have up to "
        f"{counted(limit, 'token')} after the prompt instead. "
        f"Give more than {length}, or a shorter prompt"
    )
    return replace(prompt, notes=(*prompt.notes, note))
