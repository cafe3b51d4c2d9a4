"""`sharpgpt view`: a text, token by token, as one or several models predict it, on one page."""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from pydantic import Field

from sharpgpt.config.flags import flag_parser, parse_options
from sharpgpt.config.options import Options
from sharpgpt.config.values import MAX_COUNT, DeviceName, FileOrFolder, FileOrText, Folder
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import user_path
from sharpgpt.core.numbers import counted
from sharpgpt.core.terminal import show_line
from sharpgpt.evaluation.predictions import (
    context_length,
    predict_tokens,
    shortest_later_context,
)
from sharpgpt.evaluation.prompts import huggingface_ids
from sharpgpt.evaluation.saved_model import SavedModel, load_model, require_linear_head
from sharpgpt.evaluation.token_bytes import bytes_of_tokens
from sharpgpt.report.view import ModelView, Prediction, TextView, write_view
from sharpgpt.runs.resolve import resolve_model
from sharpgpt.runtime.device import available_device


class ViewOptions(Options):
    """What to show, and where."""

    text: FileOrText
    """A UTF-8 file, or the text itself."""

    runs: tuple[Folder, ...]
    """Run folders (their newest checkpoint), RUN/best, checkpoints, or HuggingFace models; the
    others are compared with the first."""

    max_tokens: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 2000
    """How much of the text, from its start."""

    num_candidates: Annotated[int, Field(ge=1, le=50)] = 5
    """Most probable tokens shown at each place."""

    output: FileOrFolder = "view.html"
    """The page, or a folder for view.html."""

    device: DeviceName = "cpu"
    """auto, cpu, cuda, cuda:1 or mps."""


def parse(argv: Sequence[str], prog: str) -> ViewOptions:
    """The options that the command line asks for. Raises `ConfigError` with all problems."""
    description = "Show a text, token by token, as one or several models predict it, on one page."
    parser = flag_parser(prog=prog, description=description)
    return parse_options(ViewOptions, argv, parser=parser, positional=("text",))


def run(options: ViewOptions) -> int:
    """Write the page and print its path.

    The models are loaded one after the other, so that only one is in memory.

    Raises:
        UserError: a text or a model that cannot be read, models whose tokenizers split the text
            differently, an unavailable device.
    """
    device = available_device(options.device)
    folders = [resolve_model(run) for run in options.runs]  # wrong names before any reading
    output, text = user_path(options.output), options.text
    if os.path.isfile(user_path(text)):  # noqa: PTH113 - Path.is_file raises for a long text
        text = str(user_path(text))
    reads = [
        read_with(
            load_model(folder, device),
            text,
            max_tokens=options.max_tokens,
            num_candidates=options.num_candidates,
        )
        for folder in folders
    ]
    tokens, is_cut, models = (list(column) for column in zip(*reads, strict=True))
    _check_same_tokens(tokens, models)
    notes = []
    if is_cut[0]:
        notes.append(
            f"The text is longer: these are its first {options.max_tokens:,} tokens. "
            "--max_tokens shows more."
        )
    if len({model.name for model in models}) < len(models):
        given = ", ".join(map(str, options.runs))
        notes.append(f"Some models have the same name; in their order they are {given}.")
    page = TextView(_title(text), tokens[0], models, notes)
    show_line(write_view(page, output / "view.html" if output.is_dir() else output))
    return 0


def read_with(
    saved: SavedModel, text: str, *, max_tokens: int, num_candidates: int
) -> tuple[list[bytes], bool, ModelView]:
    """The first `max_tokens` tokens of `text` (or of its file), whether it is longer, and the
    predictions of one model for them."""
    require_linear_head(saved)
    vocab_size = len(cast(Any, saved.causal_lm).get_output_embeddings().weight)
    ids, is_cut = encoded_text(saved, text, max_tokens)
    if max(ids) >= vocab_size:
        raise UserError(
            f"{saved.folder}: the tokenizer gives token {max(ids)}, the model knows "
            f"{vocab_size:,}; give a folder whose tokenizer belongs to its model"
        )
    predictions = predict_tokens(
        saved.causal_lm,
        torch.tensor(ids, device=next(saved.causal_lm.parameters()).device),
        window=saved.max_length,
        num_candidates=min(num_candidates, vocab_size),
    )
    if not predictions.all_finite:
        raise UserError(
            f"{saved.folder}: the model's logits are NaN or infinite (its training diverged, or "
            "the file is damaged); give an earlier checkpoint"
        )
    bytes_of = bytes_of_tokens(
        saved.tokenizer, [*ids, *predictions.candidate_ids.flatten().tolist()]
    )
    columns = (
        predictions.ce, predictions.entropy, predictions.max_prob, predictions.rank,
        predictions.candidate_ids, predictions.candidate_probs,
    )  # fmt: skip
    rows = []
    for id_, ce, entropy, max_prob, rank, candidates, probs in zip(
        ids[1:], *(column.tolist() for column in columns), strict=True
    ):
        pairs = [(bytes_of[candidate], p) for candidate, p in zip(candidates, probs, strict=True)]
        place = candidates.index(id_) if id_ in candidates else None
        rows.append(Prediction(ce, entropy, max_prob, rank, pairs, place))
    model = ModelView(
        name=saved.name if saved.step is None else f"{saved.name}, step {saved.step:,}",
        about=_about(saved),
        predictions=rows,
        context_tokens=context_length(saved.max_length),
        least_context_tokens=shortest_later_context(saved.max_length),
        vocab_size=vocab_size,
    )
    return [bytes_of[id_] for id_ in ids], is_cut, model


def encoded_text(saved: SavedModel, text: str, max_tokens: int) -> tuple[list[int], bool]:
    """The first `max_tokens` ids of `text` (or of its file), and whether it is longer.

    No more of the text is read and encoded than is needed. Names of special tokens in it are text.
    """
    max_characters = max_tokens + 1
    while True:
        part, is_part = _characters(text, max_characters)
        ids = huggingface_ids(saved, part, "TEXT", split_special_tokens=True)
        if len(ids) > max_tokens or not is_part:
            break
        max_characters *= 4
    if len(ids) < 2:
        raise UserError(
            f"TEXT: {_shortened(part)} gives {len(ids)} token, allowed is at least 2 (the first "
            "one is not predicted); give a longer text"
        )
    return ids[:max_tokens], is_part or len(ids) > max_tokens


def _characters(text: str, max_characters: int) -> tuple[str, bool]:
    """The beginning of a text or of the file that it names, and whether it is longer."""
    if os.path.isfile(text):  # noqa: PTH113 - Path.is_file raises for a text too long for a name
        try:
            with open(text, encoding="utf-8", newline="") as file:
                content = file.read(max_characters + 1)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{text}: is not UTF-8 text ({error.reason}); convert it, for example with iconv"
            ) from None
    else:
        content = text
        _check_text(text)
    return content[:max_characters], len(content) > max_characters


def _check_text(text: str) -> None:
    """Raise `UserError` for a text that looks like a file name, or is not Unicode."""
    if re.fullmatch(r"\S*[/\\]\S*|\S+\.[A-Za-z]\w{0,4}", text):
        raise UserError(
            f"TEXT: {text!r} looks like a file (no space, but a slash or an extension), which "
            "does not exist; give an existing one, or a text with a space in it"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"TEXT: {_shortened(text)} is not valid UTF-8; put the text into a UTF-8 file"
        ) from None


def _check_same_tokens(tokens: Sequence[list[bytes]], models: Sequence[ModelView]) -> None:
    """Raise `UserError` if two models split the text into different tokens."""
    for own, model in zip(tokens, models, strict=True):
        if own == tokens[0]:
            continue
        pairs = enumerate(zip(tokens[0], own, strict=False), 1)
        examples = [
            f" (token {place}: {a.decode(errors='replace')!r} and {b.decode(errors='replace')!r})"
            for place, (a, b) in pairs
            if a != b
        ]
        raise UserError(
            f"--runs: {models[0].name} and {model.name} split the text into different "
            f"tokens{examples[0] if examples else ''}, and a view compares token by token; give "
            "runs with the same tokenizer, or view each by itself"
        )


def _about(saved: SavedModel) -> str:
    """Size and penalty of a model."""
    num_parameters = sum(parameter.numel() for parameter in saved.causal_lm.parameters())
    words = [counted(num_parameters, "parameter")]
    settings = saved.settings or {}
    weight, penalty = settings.get("penalty_weight"), settings.get("penalty_type")
    if isinstance(weight, int | float) and math.isfinite(weight) and penalty:
        shown = "w" if settings.get("entropy_target") else f"{weight:g}"
        loss = f"cross-entropy + {shown} × {penalty}" if weight else "cross-entropy alone"
        words.append(f"trained with {loss}")
    return ", ".join(words)


def _title(text: str) -> str:
    return Path(text).name if os.path.isfile(text) else _shortened(text)  # noqa: PTH113


def _shortened(text: str) -> str:
    words = " ".join(text.split())
    return f"“{words[:60].rstrip()}…”" if len(words) > 60 else f"“{words}”"
