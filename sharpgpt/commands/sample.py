"""`sharpgpt sample`: text from a trained model, printed as it is made."""

import argparse
import sys
from typing import Any, TextIO, cast

import torch

from sharpgpt.core.errors import UserError
from sharpgpt.evaluation.saved_model import SavedModel, load_model
from sharpgpt.runtime.device import seeded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `sharpgpt sample`."""
    parser.add_argument("checkpoint", help="checkpoint, run folder, or HuggingFace model folder")
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
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps [cpu]")


def problems(arguments: argparse.Namespace) -> list[str]:
    """What is wrong with the flags, all of it."""
    rules = {
        "num_samples": (arguments.num_samples >= 1, "at least 1"),
        "max_new_tokens": (arguments.max_new_tokens >= 1, "at least 1"),
        "temperature": (0 <= arguments.temperature < float("inf"), "a number, at least 0"),
        "top_k": (arguments.top_k >= 0, "at least 0"),
        "top_p": (0 < arguments.top_p <= 1, "above 0, at most 1"),
        "seed": (0 <= arguments.seed < 1 << 32, "0 to 2**32 - 1"),
        "prompt": (bool(arguments.prompt), "at least one character"),
    }
    return [
        f"--{name}: given {getattr(arguments, name)!r}, allowed is {allowed}"
        for name, (is_good, allowed) in rules.items()
        if not is_good
    ]


def sample(arguments: argparse.Namespace, out: TextIO = sys.stdout) -> None:
    """Print the samples. Raises `UserError` for a model that cannot be read or used."""
    saved = load_model(arguments.checkpoint, torch.device(arguments.device))
    for number in range(arguments.num_samples):
        if arguments.num_samples > 1:
            print(f"--- sample {number + 1} of {arguments.num_samples}", file=out, flush=True)
        stream_text(
            saved,
            prompt=arguments.prompt,
            max_new_tokens=arguments.max_new_tokens,
            temperature=arguments.temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
            seed=arguments.seed + number,
            out=out,
        )


@torch.no_grad()
def stream_text(
    saved: SavedModel,
    *,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    out: TextIO,
) -> None:
    """Print the prompt and its continuation word by word, to the end-of-text token at most.

    Where the text outgrows the model's window, the later half of the window is the context of what
    follows.
    """
    from transformers import TextStreamer

    class Printer(cast(Any, TextStreamer)):  # type: ignore[misc]
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002
            print(text, end="", file=out, flush=True)

    model = cast(Any, saved.causal_lm)
    text_1L = encoded_prompt(saved, prompt)
    last = text_1L.shape[1] + max_new_tokens
    end_id = saved.tokenizer.eos_token_id
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    print(prompt, end="", file=out, flush=True)
    with seeded(seed, text_1L.device):
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
    print(file=out, flush=True)


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
