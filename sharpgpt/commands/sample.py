"""`sharpgpt sample`: generate text with a trained model, printed as it is generated."""

import argparse
from typing import Any, cast

import torch

from sharpgpt.commands.flags import add_device, broken, usable_device
from sharpgpt.core.errors import UserError
from sharpgpt.evaluation.saved_model import SavedModel, load_model
from sharpgpt.runs.resolve import MODEL_HELP
from sharpgpt.runtime.device import seeded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sharpgpt sample`."""
    parser.add_argument("checkpoint", help=MODEL_HELP)
    parser.add_argument("--prompt", default="\n", help="the text to continue [a newline]")
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
        "--prompt": (bool(arguments.prompt), "at least one character"),
    }
    return broken(arguments, rules)


def run(arguments: argparse.Namespace) -> int:
    """Print the samples. Raises `UserError` for a model that cannot be read or used."""
    device = torch.device(usable_device(arguments.device))
    saved = load_model(arguments.checkpoint, device)
    sampling: dict[str, Any] = {"do_sample": False}
    if arguments.temperature > 0:
        names = ("temperature", "top_k", "top_p")
        sampling = {"do_sample": True} | {name: getattr(arguments, name) for name in names}
    for number in range(arguments.num_samples):
        if arguments.num_samples > 1:
            print(f"--- sample {number + 1} of {arguments.num_samples}", flush=True)
        with seeded(arguments.seed + number, device):
            stream_text(saved, arguments.prompt, arguments.max_new_tokens, sampling)
    return 0


@torch.no_grad()
def stream_text(
    saved: SavedModel, prompt: str, max_new_tokens: int, sampling: dict[str, Any]
) -> None:
    """Print the prompt and its continuation word by word, to the end-of-text token at most.

    Where the text outgrows the model's window, the later half of the window is the context of what
    follows.
    """
    from transformers import TextStreamer

    class Printer(cast(Any, TextStreamer)):  # type: ignore[misc]
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002
            print(text, end="", flush=True)

    model = cast(Any, saved.causal_lm)
    text_1L = encoded_prompt(saved, prompt)
    last = text_1L.shape[1] + max_new_tokens
    end_id = saved.tokenizer.eos_token_id
    print(prompt, end="", flush=True)
    while text_1L.shape[1] < last:
        window = saved.max_length
        is_short = text_1L.shape[1] < window
        context_1L = text_1L if is_short else text_1L[:, -max(1, window // 2) :]
        longer_1L = model.generate(
            context_1L,
            attention_mask=torch.ones_like(context_1L),
            max_new_tokens=min(window - context_1L.shape[1], last - text_1L.shape[1]),
            eos_token_id=end_id,
            pad_token_id=0 if end_id is None else end_id,
            streamer=Printer(saved.tokenizer, skip_prompt=True, skip_special_tokens=True),
            **sampling,
        )
        text_1L = torch.cat([text_1L, longer_1L[:, context_1L.shape[1] :]], dim=1)
        if end_id is not None and text_1L[0, -1] == end_id:
            break
    print(flush=True)


def encoded_prompt(saved: SavedModel, prompt: str) -> torch.Tensor:
    """The ids of the prompt, [1, L]. Raises `UserError` for what the tokenizer cannot encode."""
    try:
        ids = saved.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    except Exception as error:  # a character without a token; tokenizers raises a bare Exception
        raise UserError(
            f"--prompt: {prompt!r} cannot be encoded by the model's tokenizer ({error}); a "
            "character model knows only the characters of its training text"
        ) from None
    if not ids:
        raise UserError(f"--prompt: {prompt!r} gives no token; give a text")
    return torch.tensor([ids], device=next(saved.causal_lm.parameters()).device)
