"""What `sharpgpt evaluate` and `sharpgpt compare` share: flags, loading models and their text, and
a model with its figures as plain values."""

import argparse
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.config.resume_rules import KINDS, Kind
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import write_text
from sharpgpt.evaluation.generation_figures import generation_figures
from sharpgpt.evaluation.model_evaluation import EvaluationText, ModelEvaluation, finite
from sharpgpt.evaluation.saved_model import SavedModel, load_model
from sharpgpt.evaluation.validation_text import open_validation_text, tokenizer_of
from sharpgpt.model.build import use_one_operation_gelu
from sharpgpt.model.head import has_linear_head
from sharpgpt.runtime.device import Device, choose_device

BATCH_TOKENS = 8192
"""Tokens of a batch where --batch_size does not say otherwise."""

TEMPERATURES = (0.3, 0.5, 0.7, 0.85, 1.0, 1.2)
TOP_PS = (0.9,)
"""How texts are generated for the curves of quality against diversity."""


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """What `evaluate` and `compare` have in common."""
    parser.add_argument(
        "--data",
        help="name or path, as the setting dataset; its validation split counts "
        "[what the first model was trained on]",
    )
    parser.add_argument(
        "--max_seq_length", type=int, help="tokens of a block [as in training, at most 1024]"
    )
    parser.add_argument(
        "--max_blocks", type=int, help="evaluate so many blocks, evenly spread [all]"
    )
    parser.add_argument(
        "--top_k", type=int, help="k of the top-k accuracy and mass [as in training, else 5]"
    )
    parser.add_argument(
        "--batch_size", type=int, help=f"blocks at a time [{BATCH_TOKENS:,} tokens of them]"
    )
    parser.add_argument(
        "--num_texts", type=int, default=20, help="texts for each way to generate; 0 for none [20]"
    )
    parser.add_argument("--num_tokens", type=int, default=256, help="tokens of each text [256]")
    parser.add_argument("--prompt", help="what texts begin with [as in training, else a newline]")
    parser.add_argument("--seed", type=int, default=0, help="of the generated texts [0]")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps [auto]")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="arithmetic of the model's body; its last layer is evaluated in float32 [float32]",
    )


def problems(arguments: argparse.Namespace) -> list[str]:
    """What is wrong with the flags, all of it."""

    def at_least(name: str, least: int) -> tuple[bool, str]:
        value = getattr(arguments, name)
        return value is None or value >= least, f"at least {least}"

    rules = {
        "max_seq_length": at_least("max_seq_length", 2),
        "max_blocks": at_least("max_blocks", 4),
        "top_k": at_least("top_k", 1),
        "batch_size": at_least("batch_size", 1),
        "num_texts": (
            arguments.num_texts == 0 or arguments.num_texts >= 2,
            "0 for none, else at least 2",
        ),
        "num_tokens": at_least("num_tokens", 8),
        "prompt": (arguments.prompt != "", "at least one character"),
        "seed": (0 <= arguments.seed < 1 << 32, "0 to 2**32 - 1"),
        "output": (arguments.output != "", "a folder"),
    }
    return [
        f"--{name}: given {getattr(arguments, name)!r}, allowed is {allowed}"
        for name, (is_good, allowed) in rules.items()
        if not is_good
    ]


def command(name: str) -> list[str]:
    """The command as it was given, without the place of the program on this machine."""
    return ["sharpgpt", *(sys.argv[1:] if name in sys.argv[1:2] else [name])]


def write_content(path: Path, content: Mapping[str, Any]) -> None:
    """JSON to a file, atomically; its folder is made. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _text_of(content))


def _text_of(content: Mapping[str, Any]) -> str:
    """As JSON; of a path that is no UTF-8, as Linux allows, the strange letters become "?"."""
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    return text.encode("utf-8", errors="replace").decode("utf-8")


def evaluation_device(arguments: argparse.Namespace) -> Device:
    """The device and arithmetic that the flags ask for. Raises `UserError` for one not there."""
    device = choose_device(TrainingConfig(device=arguments.device, dtype=arguments.dtype))
    # Training may round products to TF32. Differences of 0.001 nats should not rest on that.
    torch.set_float32_matmul_precision("highest")
    return device


def check_different(folders: Sequence[Path], given: Sequence[str]) -> None:
    """Raise `UserError` where two names mean one model."""
    seen: dict[Path, str] = {}
    for folder, name in zip(folders, given, strict=True):
        real = folder.resolve()
        if real in seen:
            raise UserError(f"{name}: the same model as {seen[real]}; give each model once")
        seen[real] = name


def load_evaluated(folder: Path, device: Device) -> SavedModel:
    """A model of which rows can be evaluated. Raises `UserError`."""
    saved = load_model(folder, device.torch_device)
    if not has_linear_head(saved.causal_lm):
        raise UserError(
            f"{saved.folder}: the logits are not a plain linear map of the last hidden state; "
            "allowed are causal LMs whose output layer is one nn.Linear, such as GPT-2 or Llama"
        )
    use_one_operation_gelu(saved.causal_lm)
    return saved


def evaluation_text(saved: SavedModel, arguments: argparse.Namespace) -> EvaluationText:
    """The validation split that the flags and a model ask for."""
    return open_validation_text(
        saved,
        data=arguments.data,
        block_length=arguments.max_seq_length,
        max_blocks=arguments.max_blocks,
    )


def check_fits(saved: SavedModel, text: EvaluationText) -> None:
    """Raise `UserError` unless the model can read the blocks of `text`."""
    if tokenizer_of(saved).fingerprint != text.vocabulary:
        raise UserError(
            f"{saved.folder}: its tokenizer is another than that of the models before it, and "
            "figures of different tokens do not compare; evaluate it by itself"
        )
    length = text.blocks.shape[1]
    if saved.max_length < length:
        raise UserError(
            f"{saved.folder}: its {saved.max_length} positions are fewer than the {length} tokens "
            f"of a block; give --max_seq_length {saved.max_length}"
        )


def chosen_top_k(saved: SavedModel, arguments: argparse.Namespace) -> int:
    """--top_k, else that of the training. Raises `UserError` above the vocabulary."""
    top_k = arguments.top_k or (saved.settings or {}).get("top_k", 5)
    vocab_size = tokenizer_of(saved).vocab_size
    if not 1 <= int(top_k) <= vocab_size:
        raise UserError(
            f"--top_k: given {top_k}, allowed is 1 to the vocabulary size, {vocab_size}"
        )
    return int(top_k)


def batch_size(arguments: argparse.Namespace, text: EvaluationText) -> int:
    """--batch_size, else about BATCH_TOKENS tokens."""
    return int(arguments.batch_size or max(1, BATCH_TOKENS // text.blocks.shape[1]))


def generated(
    saved: SavedModel,
    judge: SavedModel,
    text: EvaluationText,
    arguments: argparse.Namespace,
    device: Device,
) -> dict[str, Any] | None:
    """The figures of texts by `saved`, judged by `judge`; None where no texts are wanted."""
    if arguments.num_texts == 0:
        return None
    return generation_figures(
        saved.causal_lm,
        saved.tokenizer,
        judge=judge.causal_lm,
        judge_name=judge.name,
        prompt_ids=_prompt_ids(saved, arguments.prompt, text),
        num_texts=arguments.num_texts,
        num_tokens=arguments.num_tokens,
        window=min(saved.max_length, judge.max_length),
        temperatures=TEMPERATURES,
        top_ps=TOP_PS,
        seed=arguments.seed,
        validation_ids=_validation_ids(text, arguments.num_texts, arguments.num_tokens),
        device=device,
    )


def _prompt_ids(saved: SavedModel, prompt: str | None, text: EvaluationText) -> list[int]:
    """The ids of --prompt; without one of the training's, a newline, or the text's first token.

    Raises `UserError` for what the tokenizer cannot encode, or the model cannot read.
    """
    tokenizer = tokenizer_of(saved)
    if prompt is None:
        for likely in ((saved.settings or {}).get("generate_prompt"), "\n"):
            with contextlib.suppress(UserError):
                if likely and (ids := tokenizer.encode(str(likely)).tolist()):
                    return [int(id_) for id_ in ids][: saved.max_length - 1]
        return [int(text.blocks[0:1][0, 0])]
    try:
        given = tokenizer.encode(prompt).tolist()
    except UserError as error:
        raise UserError(f"--prompt: {error}") from None
    if len(given) >= saved.max_length:
        raise UserError(
            f"--prompt: {len(given)} tokens, allowed are fewer than the {saved.max_length} "
            f"positions of {saved.folder}"
        )
    return [int(id_) for id_ in given]


def _validation_ids(text: EvaluationText, num_texts: int, num_tokens: int) -> torch.Tensor:
    """Pieces of the split as long as the generated texts, evenly spread, one after the other."""
    num_blocks, length = text.blocks.shape
    in_piece = -(-num_tokens // (length - 1))
    last = max(0, num_blocks - in_piece)
    pieces = [
        text.blocks[first : first + in_piece][:, 1:].flatten()[:num_tokens]
        for first in (place * last // max(1, num_texts - 1) for place in range(num_texts))
    ]
    return torch.cat(pieces)


def described(
    saved: SavedModel, evaluation: ModelEvaluation, generation: dict[str, Any] | None
) -> dict[str, Any]:
    """One model with its figures, as plain values."""
    settings = saved.settings or {}
    found: dict[str, Any] = finite(
        {
            "name": saved.name,
            "path": str(saved.folder),
            "step": saved.step,
            "seed": settings.get("seed"),
            "penalty": settings.get("penalty_type"),
            "penalty_weight": settings.get("penalty_weight"),
            "num_parameters": sum(p.numel() for p in saved.causal_lm.parameters()),
            "settings": {
                setting: value
                for setting, value in settings.items()
                if setting in KINDS and KINDS[setting] is not Kind.HOUSEKEEPING
            }
            or None,
            **evaluation.to_dict(),
            "generation": generation,
        }
    )
    return found


def name_apart(found: Sequence[dict[str, Any]]) -> None:
    """Give models of one name the step or the path as well."""
    for tell in (
        lambda one: f"{one['name']}, step {one['step']:,}" if one["step"] is not None else None,
        lambda one: one["path"],
    ):
        names = [one["name"] for one in found]
        for one, name in zip(found, names, strict=True):
            if names.count(name) > 1:
                one["name"] = tell(one) or name
