"""`sharpgpt sample`: generate text with a trained model, printed as it is generated."""

import argparse
import sys
from typing import Any, cast

import torch

from sharpgpt.commands.flags import add_device, broken, usable_device
from sharpgpt.core.terminal import show
from sharpgpt.evaluation.generation import generate_ids
from sharpgpt.evaluation.prompts import Prompt, saved_model_prompt
from sharpgpt.evaluation.saved_model import SavedModel, load_model
from sharpgpt.report.visible import visible
from sharpgpt.runs.resolve import MODEL_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sharpgpt sample`."""
    parser.add_argument("checkpoint", help=MODEL_HELP)
    parser.add_argument(
        "--prompt",
        help="the text to continue; <|endoftext|> in it is GPT-2's end-of-text token [a newline]",
    )
    parser.add_argument("--num_samples", type=int, default=1, help="number of samples [1]")
    parser.add_argument("--max_new_tokens", type=int, default=200, help="tokens in each [200]")
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="sampling temperature; 0 takes the most probable token each time [1]",
    )
    parser.add_argument(
        "--top_k", type=int, default=0, help="keep the k most probable tokens; 0 keeps all [0]"
    )
    parser.add_argument(
        "--top_p", type=float, default=1.0, help="keep the smallest set with this mass [1]"
    )
    parser.add_argument("--seed", type=int, default=0, help="sample i is drawn with seed + i [0]")
    add_device(parser)


def problems(arguments: argparse.Namespace) -> list[str]:
    """What is wrong with the flags, all of it."""
    rules = {
        "--num_samples": (arguments.num_samples >= 1, "at least 1"),
        "--max_new_tokens": (arguments.max_new_tokens >= 1, "at least 1"),
        "--temperature": (0 <= arguments.temperature < float("inf"), "a number, at least 0"),
        "--top_k": (arguments.top_k >= 0, "at least 0"),
        "--top_p": (0 < arguments.top_p <= 1, "above 0, at most 1"),
        "--seed": (0 <= arguments.seed < 1 << 32, "0 to 2**32 - 1"),
        "--prompt": (_is_prompt(arguments.prompt), "a Unicode text of at least one character"),
    }
    return broken(arguments, rules)


def _is_prompt(text: str | None) -> bool:
    """Whether a text can be a prompt: not empty, and no bytes that are not UTF-8."""
    return text is None or (text != "" and text == text.encode("utf-8", "ignore").decode())


def run(arguments: argparse.Namespace) -> int:
    """Print the samples, and notes on stderr. Raises `UserError` for a model that cannot be read or
    used."""
    device = torch.device(usable_device(arguments.device))
    saved = load_model(arguments.checkpoint, device)
    prompt = saved_model_prompt(saved, arguments.prompt)
    for note in prompt.notes:
        _note(note)
    sampling = {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p")}
    for number in range(arguments.num_samples):
        if arguments.num_samples > 1:
            show(f"--- sample {number + 1} of {arguments.num_samples}")
        text = stream_text(
            saved,
            prompt,
            max_new_tokens=arguments.max_new_tokens,
            seed=arguments.seed + number,
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
