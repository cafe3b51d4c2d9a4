"""Loads models one after another and evaluates them on one text: what `evaluate` and `compare`
share."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.config.resume_rules import KINDS, Kind
from sharpgpt.core.errors import UserError
from sharpgpt.core.numbers import counted
from sharpgpt.evaluation.generated_text import TextPlan, generation_metrics
from sharpgpt.evaluation.model_evaluation import ModelEvaluation
from sharpgpt.evaluation.options import BATCH_TOKENS, EvaluationOptions
from sharpgpt.evaluation.passes import ModelPasses
from sharpgpt.evaluation.prompts import DEFAULT_PROMPT, make_prompt
from sharpgpt.evaluation.saved_model import SavedModel, load_model, require_linear_head
from sharpgpt.evaluation.validation_text import (
    EvaluationText,
    another_text_note,
    for_model,
    open_validation_text,
    text_tokenizer_of,
)
from sharpgpt.model.build import use_one_operation_gelu
from sharpgpt.runtime.console import Console
from sharpgpt.runtime.device import choose_device
from sharpgpt.runtime.environment import describe_environment

logger = logging.getLogger(__name__)


class Evaluator:
    """One device, one text, and one model after another.

    The first model decides on the text and on k where the options do not.

    Args:
        options: what to evaluate on, and how.
        num_models: how many models will be opened.
        console: shows the progress.

    Raises:
        UserError: the device is not on this machine.
    """

    text: EvaluationText
    top_k: int

    def __init__(self, options: EvaluationOptions, num_models: int, console: Console) -> None:
        self.device = choose_device(TrainingConfig(device=options.device, dtype=options.dtype))
        # Training may round products to TF32. Differences of 0.001 nats should not rest on that.
        torch.set_float32_matmul_precision("highest")
        self._options = options
        self._num_models = num_models
        self._num_opened = 0
        self._progress = _Progress(console)

    @contextlib.contextmanager
    def opened(self, folder: Path) -> Iterator[tuple[SavedModel, ModelPasses]]:
        """A model and its passes over the text, closed at the end of the block.

        Raises:
            UserError: the model or the text cannot be read, or they do not belong together.
        """
        self._progress.open()
        saved = load_model(folder, self.device.torch_device)
        require_linear_head(saved)
        use_one_operation_gelu(saved.causal_lm)
        options = self._options
        if self._num_opened == 0:
            self.text = open_validation_text(
                saved,
                data=options.dataset,
                text_column=options.text_column,
                block_length=options.max_seq_length,
                max_blocks=options.max_blocks,
            )
            self.top_k = _top_k(saved, options.top_k)
        _check_fits(saved, self.text)
        if options.dataset is None:
            self.text = self.text.with_note(another_text_note(saved, self.text))
        self._num_opened += 1
        num_blocks, length = self.text.blocks.shape
        self._progress.start(f"{saved.name} ({self._num_opened} of {self._num_models})", num_blocks)
        passes = ModelPasses(
            saved.causal_lm,
            self.device,
            for_model(saved, self.text),
            top_k=self.top_k,
            batch_size=options.batch_size or max(1, BATCH_TOKENS // length),
            on_blocks=self._progress.advance,
        )
        with contextlib.closing(passes):
            yield saved, passes

    def show(self, activity: str) -> None:
        """Show what is done now beside the progress bar."""
        self._progress.show(activity)

    def facts(
        self, saved: SavedModel, evaluation: ModelEvaluation, judge: SavedModel | None
    ) -> dict[str, Any]:
        """A model with everything that was measured of it, in JSON types.

        `judge` gives the perplexity of the texts that the model generates; None generates none.
        """
        generation = None
        if judge is not None and self._options.num_texts > 0:
            self.show(f"{saved.name}: generating texts")
            generation = self._generation(saved, judge)
        settings = saved.settings or {}
        return {
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

    def environment(self, command: str) -> dict[str, Any]:
        """What the evaluation ran on, and the command without the path of the program."""
        words = sys.argv[1:] if sys.argv[1:2] == [command] else [command]
        return describe_environment(self.device) | {"command": ["sharpgpt", *words]}

    def _generation(self, saved: SavedModel, judge: SavedModel) -> dict[str, Any]:
        options = self._options
        plan = TextPlan(
            prompt_ids=_prompt_ids(saved, options.prompt, self.text),
            num_texts=options.num_texts,
            num_tokens=options.num_tokens,
            seed=options.seed,
        )
        validation_ids = _validation_ids(self.text, options.num_texts, options.num_tokens)
        return generation_metrics(
            saved, plan, judge=judge, validation_ids=validation_ids, device=self.device
        )


class _Progress:
    """A bar of the blocks of the current pass on a terminal, a line for each model elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._num_blocks = self._num_done = 0

    def open(self) -> None:
        """Show a bar, without a length while the first model is loaded."""
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

        if not self._console.has_bar:
            activity = TextColumn("{task.fields[activity]}")
            columns = (activity, BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
            self._console.start_bar(*columns, total=None, activity="", transient=True)

    def start(self, model: str, num_blocks: int) -> None:
        """Show that the evaluation of a model begins."""
        self._num_blocks = num_blocks
        if not self._console.has_bar:
            logger.info("Evaluating %s", model)
        self.show(model)

    def show(self, activity: str) -> None:
        """Begin a new activity."""
        self._num_done = 0
        self._console.update_bar(activity=activity, completed=0, total=self._num_blocks)

    def advance(self, num_blocks: int) -> None:
        """Count blocks; those past the last one belong to another pass."""
        if self._num_done >= self._num_blocks:
            self._num_done = 0
        self._num_done += num_blocks
        self._console.update_bar(completed=self._num_done)


def check_different(folders: Sequence[Path], given: Sequence[str | Path]) -> None:
    """Raise `UserError` where two of the paths that were given name one model."""
    seen: dict[Path, str | Path] = {}
    for folder, name in zip(folders, given, strict=True):
        real = folder.resolve()
        if real in seen:
            raise UserError(f"{name}: the same model as {seen[real]}; give each model once")
        seen[real] = name


def _check_fits(saved: SavedModel, text: EvaluationText) -> None:
    """Raise `UserError` unless the model can read the blocks of `text`."""
    if text_tokenizer_of(saved).fingerprint != text.vocabulary:
        raise UserError(
            f"{saved.folder}: its tokenizer is another than that of the models before it, and "
            "statistics of different tokens do not compare; evaluate it by itself"
        )
    length = text.blocks.shape[1]
    if saved.max_length < length:
        raise UserError(
            f"{saved.folder}: it has {counted(saved.max_length, 'position')}, fewer than the "
            f"{length} tokens of a block; give max_seq_length {saved.max_length}"
        )


def _top_k(saved: SavedModel, given: int | None) -> int:
    """The k that was given, else that of the training. Raises `UserError` above the vocabulary."""
    top_k = int(given or (saved.settings or {}).get("top_k", 5))
    vocab_size = text_tokenizer_of(saved).vocab_size
    if not 1 <= top_k <= vocab_size:
        raise UserError(f"top_k: given {top_k}, allowed is 1 to the vocabulary size, {vocab_size}")
    return top_k


def _prompt_ids(saved: SavedModel, prompt: str | None, text: EvaluationText) -> list[int]:
    """The ids of a prompt; without one those of the training's, or of a newline, or the first
    character of the text. See `prompts.py`.

    Raises `UserError` for what the tokenizer cannot encode.
    """
    tokenizer = text_tokenizer_of(saved)
    how: dict[str, Any] = {
        "name": "prompt",
        "window": saved.max_length,
        "instead": tokenizer.decode([int(text.blocks[0:1][0, 0])]),
    }
    if prompt is not None:
        made = make_prompt(tokenizer, prompt, **how)
    else:
        trained_with = (saved.settings or {}).get("generate_prompt")
        made = make_prompt(tokenizer, DEFAULT_PROMPT, **how)
        with contextlib.suppress(UserError):
            made = make_prompt(tokenizer, trained_with or DEFAULT_PROMPT, **how)
    for note in made.notes:
        logger.warning("%s", note, extra={"once": note})
    return made.ids


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
