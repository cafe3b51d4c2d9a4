"""The text on which a trained model is evaluated: the validation split, in the model's own tokens.

By default it is that of the data that the model was trained on, as its settings name it. A
character model keeps the characters of its training text, whatever text it is given here.
"""

import logging
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.core.numbers import counted
from sharpgpt.data.blocks import validation_blocks as cut_blocks
from sharpgpt.data.huggingface_tokenizer import HuggingFaceTokenizer
from sharpgpt.data.load import load_data
from sharpgpt.data.prepare.automatic import is_one_text, ready_dataset
from sharpgpt.data.shards import Tokens, num_validation_blocks
from sharpgpt.data.sources.documents import SourceOptions
from sharpgpt.data.tokenizer import CharTokenizer, Tokenizer, load_tokenizer
from sharpgpt.evaluation.bits_per_byte import token_byte_lengths
from sharpgpt.evaluation.groups import Blocks
from sharpgpt.evaluation.saved_model import SavedModel, load_saved_tokenizer
from sharpgpt.evaluation.token_bytes import token_spaces

logger = logging.getLogger(__name__)

FREQUENCY_TOKENS = 10_000_000
"""Training tokens, from the first on, that are counted for the buckets by frequency."""

FREQUENCY_BOUNDS = (0.2, 0.4, 0.6, 0.8)
"""Of `frequency_ranks`: five classes of about equal mass in the training text."""

PIECE_TOKENS = 1 << 16


@dataclass(frozen=True)
class EvaluationText:
    """A validation split in one model's tokens, and what is known of it."""

    name: str
    blocks: Blocks
    """[num_blocks, T] of token ids."""
    token_bytes: npt.NDArray[np.int64] | None
    """Bytes of text that each token stands for, [V]; None leaves out bits per byte."""
    token_ranks: npt.NDArray[np.float64]
    """`frequency_ranks` of the training text, [V]."""
    token_spaces: npt.NDArray[np.uint8] | None = None
    """As in `token_spaces`, [V]; None leaves out the place in the word."""
    end_of_text_id: int | None = None
    """The token that ends a document."""
    boundary_id: int | None = None
    """As in `SharpnessLM`: `end_of_text_id` for a model that was trained not to look across it."""
    sha256: str = ""
    num_blocks_in_split: int | None = None
    """Of the whole validation split; None where it is not known."""
    vocabulary: str = ""
    """Fingerprint of the tokenizer: models are compared on the same tokens only."""
    is_stand_in: bool = False
    note: str = ""
    """What the reader must know of this text; empty where nothing."""

    @property
    def num_rows(self) -> int:
        """Predictions in all blocks."""
        num_blocks, length = self.blocks.shape
        return num_blocks * (length - 1)

    def to_dict(self) -> dict[str, Any]:
        """What evaluation.json tells of it."""
        num_blocks, length = self.blocks.shape
        return {
            "name": self.name,
            "sha256": self.sha256,
            "num_blocks": num_blocks,
            "num_blocks_in_split": self.num_blocks_in_split,
            "block_length_tokens": length,
            "num_rows": self.num_rows,
            "is_stand_in": self.is_stand_in,
            "note": self.note,
        }

    def with_note(self, note: str) -> "EvaluationText":
        """With one more note, which is also logged."""
        if not note or note in self.note:
            return self
        logger.warning("%s", note)
        return replace(self, note=f"{self.note} {note}".strip())


def open_validation_text(
    saved: SavedModel,
    *,
    data: str | None = None,
    text_column: str | None = None,
    block_length: int | None = None,
    max_blocks: int | None = None,
) -> EvaluationText:
    """The validation blocks for `saved`.

    Args:
        saved: gives the tokenizer and, where `data` or `block_length` is None, the settings
            `dataset` and `max_seq_length`.
        data: as the setting `dataset`.
        text_column: its column, where that is not the one of the training.
        block_length: tokens of a block, at most the positions of the model.
        max_blocks: as the setting `eval_max_blocks`; None is the whole split.

    Raises:
        UserError: no data is known, it cannot be read, does not fit the model or is too short.
    """
    settings = saved.settings or {}
    dataset = data or settings.get("dataset")
    if not isinstance(dataset, str):
        raise UserError(
            f"dataset: {saved.folder} does not say what it was trained on; give the text or the "
            "prepared data to evaluate on"
        )
    tokenizer = text_tokenizer_of(saved)
    length = block_length or min(int(settings.get("max_seq_length", saved.max_length)), 1024)
    if length > saved.max_length:
        raise UserError(
            f"max_seq_length: given {length}, allowed for {saved.folder} is at most its "
            f"{counted(saved.max_length, 'position')}"
        )
    is_own = dataset == settings.get("dataset")
    names = [field.name for field in fields(SourceOptions)] if is_own else ["cache_dir"]
    how = {name: settings[name] for name in names if name in settings}
    if isinstance(tokenizer, HuggingFaceTokenizer) and not is_one_text(dataset):
        raise UserError(
            f"dataset: given {dataset}, allowed for {saved.folder}, which has a tokenizer of its "
            "own, is a named text or one text file of at most 64 MiB"
        )
    config = TrainingConfig(
        dataset=dataset, tokenizer="char" if tokenizer.name == "char" else "gpt2", **how
    )
    if text_column is not None:
        config.text_column = text_column
    text = load_data(
        dataset=ready_dataset(config),
        tokenizer=tokenizer,
        max_seq_length=length,
        cache_dir=config.cache_dir,
        val_fraction=config.val_fraction,
    )
    return EvaluationText(
        name=text.name,
        blocks=cut_blocks(text.val_tokens, length, max_blocks),
        num_blocks_in_split=num_validation_blocks(len(text.val_tokens), length),
        token_bytes=token_byte_lengths(saved.tokenizer, tokenizer),
        token_ranks=frequency_ranks(_counts(text.train_tokens, tokenizer.vocab_size)),
        token_spaces=token_spaces(saved.tokenizer, tokenizer.vocab_size, tokenizer.end_of_text_id),
        end_of_text_id=tokenizer.end_of_text_id,
        sha256=text.source["sha256"],
        vocabulary=tokenizer.fingerprint,
        is_stand_in=bool(text.source["is_stand_in"]),
    ).with_note(text.source["note"] or "")


def another_text_note(saved: SavedModel, text: EvaluationText) -> str:
    """What the reader must know of a model that was trained on another text; empty otherwise."""
    if saved.text_sha256 in (None, text.sha256):
        return ""
    return (
        f"{saved.name} was trained on another text than what {text.name} is here (another "
        "SHA-256), so its training text may be in the validation text. Give the text it was "
        "trained on as dataset."
    )


def for_model(saved: SavedModel, text: EvaluationText) -> EvaluationText:
    """`text` as a model reads it: across the ends of documents, or not, as it was trained."""
    keeps_apart = (saved.settings or {}).get("document_boundaries") == "respect"
    return replace(text, boundary_id=text.end_of_text_id if keeps_apart else None)


def tokenizer_of(saved: SavedModel) -> Tokenizer:
    """The tokenizer of a model folder as ours, which encodes long texts fast.

    Raises:
        UserError: it is neither GPT-2's nor one of single characters.
    """
    tokenizer = _our_tokenizer(saved.tokenizer)
    if tokenizer is None:
        raise UserError(
            f"{saved.folder}: its tokenizer has "
            f"{counted(len(saved.tokenizer.get_vocab()), 'token')}; allowed is "
            "that of GPT-2 or one of single characters, as train.py saves them"
        )
    _require_known_ids(saved, tokenizer)
    return tokenizer


def text_tokenizer_of(saved: SavedModel) -> Tokenizer:
    """The tokenizer of any model folder, for text: ours where it is one of ours.

    Raises:
        UserError: it is not a fast tokenizer, or has tokens that the model does not know.
    """
    tokenizer = _our_tokenizer(saved.tokenizer) or HuggingFaceTokenizer(saved.tokenizer)
    _require_known_ids(saved, tokenizer)
    return tokenizer


def tokenizer_fingerprint(folder: Path) -> str:
    """Of the tokenizer of a model folder, without its model; as `EvaluationText.vocabulary`.

    Raises:
        UserError: it cannot be read.
    """
    tokenizer = load_saved_tokenizer(folder)
    return (_our_tokenizer(tokenizer) or HuggingFaceTokenizer(tokenizer)).fingerprint


def _our_tokenizer(tokenizer: Any) -> Tokenizer | None:
    """A HuggingFace tokenizer as the one of ours that it is; None for another."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    in_order = sorted(vocabulary, key=vocabulary.__getitem__)
    if all(len(token) == 1 for token in in_order) and sorted(vocabulary.values()) == list(
        range(len(vocabulary))
    ):
        return CharTokenizer(in_order)
    if len(vocabulary) == 50257 and vocabulary.get("<|endoftext|>") == 50256:
        return load_tokenizer("gpt2", "")
    return None


def _require_known_ids(saved: SavedModel, tokenizer: Tokenizer) -> None:
    rows = len(cast(Any, saved.causal_lm).get_output_embeddings().weight)
    if rows < tokenizer.vocab_size:
        raise UserError(
            f"{saved.folder}: the tokenizer has {counted(tokenizer.vocab_size, 'token')}, the "
            f"model knows {rows:,}; give a folder whose tokenizer belongs to its model"
        )


def frequency_ranks(token_counts_V: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """For each token the share of all occurrences that more frequent tokens have, [V] in [0, 1].

    So bounds (0.2, 0.4, 0.6, 0.8) make buckets of about equal mass, the frequent tokens first.
    Of equally frequent tokens the lower index counts as more frequent. Without any occurrence, 0.
    """
    order = np.argsort(-token_counts_V, kind="stable")
    before = np.cumsum(token_counts_V[order]) - token_counts_V[order]
    ranks = np.empty(len(token_counts_V))
    ranks[order] = before / max(1, token_counts_V.sum())
    return ranks


def _counts(tokens: Tokens, vocab_size: int) -> npt.NDArray[np.int64]:
    """How often each token occurs among the first of them, [V]."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, min(len(tokens), FREQUENCY_TOKENS), PIECE_TOKENS):
        counts += np.bincount(tokens[start : start + PIECE_TOKENS], minlength=vocab_size)
    return counts
