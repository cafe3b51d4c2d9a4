"""`sharpgpt sample`: generate text with a trained model, printed as it is generated."""

import sys
from collections.abc import Sequence
from typing import Any, cast

import torch

from sharpgpt.config.flags import flag_parser, parse_options
from sharpgpt.config.options import Options, Text
from sharpgpt.config.values import (
    CountOrNone,
    DeviceName,
    Folder,
    NumGenerated,
    Seed,
    ShareAboveNone,
    Temperature,
)
from sharpgpt.core.terminal import show
from sharpgpt.evaluation.generation import generate_ids
from sharpgpt.evaluation.prompts import DEFAULT_PROMPT, Prompt, saved_model_prompt
from sharpgpt.evaluation.saved_model import SavedModel, load_model
from sharpgpt.report.visible import visible
from sharpgpt.runtime.device import available_device


class SampleOptions(Options):
    """What to sample, and how."""

    checkpoint: Folder
    """A run folder (its newest checkpoint), RUN/best, a checkpoint, or a HuggingFace model."""

    prompt: Text = DEFAULT_PROMPT
    """The text to continue; <|endoftext|> in it is GPT-2's end-of-text token."""

    num_samples: NumGenerated = 1
    """Number of samples."""

    max_new_tokens: NumGenerated = 200
    """Tokens in each."""

    temperature: Temperature = 1.0
    """Sampling temperature; 0 takes the most probable token each time."""

    top_k: CountOrNone = 0
    """Keep the k most probable tokens; 0 keeps all."""

    top_p: ShareAboveNone = 1.0
    """Keep the smallest set of tokens with this mass; 1 keeps all."""

    seed: Seed = 0
    """Sample i is drawn with seed + i."""

    device: DeviceName = "cpu"
    """auto, cpu, cuda, cuda:1 or mps."""


def parse(argv: Sequence[str], prog: str) -> SampleOptions:
    """The options that the command line asks for. Raises `ConfigError` with all problems."""
    parser = flag_parser(prog=prog, description="Generate text with a trained model.")
    return parse_options(SampleOptions, argv, parser=parser, positional=("checkpoint",))


def run(options: SampleOptions) -> int:
    """Print the samples, and notes on stderr. Raises `UserError` for a model that cannot be read or
    used."""
    device = available_device(options.device)
    saved = load_model(options.checkpoint, device)
    prompt = saved_model_prompt(saved, options.prompt)
    for note in prompt.notes:
        _note(note)
    sampling = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p")}
    for number in range(options.num_samples):
        if options.num_samples > 1:
            show(f"--- sample {number + 1} of {options.num_samples}")
        text = stream_text(
            saved,
            prompt,
            max_new_tokens=options.max_new_tokens,
            seed=options.seed + number,
            **sampling,
        )
        if not text.strip():
            what = f"white space only: {visible(text[:60])}" if text else "empty: the text ended"
            _note(f"sample {number + 1} is {what}")
    return 0


def _note(text: str) -> None:
    show(f"NOTE: {text}", file=sys.stderr)


def stream_text(saved: SavedModel, prompt: Prompt, *, max_new_tokens: int, **how: Any) -> str:
    """Print the prompt and its continuation word by word, to the end-of-text token at most; returns
    the continuation. `how` is for `generate_ids`, which goes on past the model's window."""
    from transformers import TextStreamer

    parts: list[str] = []

    class Printer(cast(Any, TextStreamer)):  # type: ignore[misc]
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002
            parts.append(text)
            show(text, end="")

    show(prompt.text, end="")
    generate_ids(
        saved.causal_lm,
        prompt.ids,
        num_texts=1,
        max_length=len(prompt.ids) + max_new_tokens,
        window=saved.max_length,
        end_id=saved.tokenizer.eos_token_id,
        streamer=Printer(saved.tokenizer, skip_prompt=True, skip_special_tokens=True),
        **how,
    )
    show("")
    return "".join(parts)


def encoded_prompt(saved: SavedModel, prompt: str) -> torch.Tensor:
    """The ids of a prompt, [1, L], by the rule of `evaluation/prompts.py`. Raises `UserError` for
    what the tokenizer cannot encode."""
    ids = saved_model_prompt(saved, prompt).ids
    return torch.tensor([ids], device=next(saved.causal_lm.parameters()).device)
