"""`load_data`: the tokens of a named text, of a text file or of prepared data, split.

A single text is tokenized in memory: the first 90% of its characters are for training, the rest
for validation (nanoGPT's split), and each part is encoded by itself. Prepared data is read in
place. Everything else is prepared first (`sharpgpt.data.prepare`).
"""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sharpgpt.core.errors import UserError
from sharpgpt.data.prepared import PreparedData, data_tokenizer, open_prepared, require_unchanged
from sharpgpt.data.shards import Tokens
from sharpgpt.data.sources.aliases import TEXTS, TINYSHAKESPEARE, unknown_dataset
from sharpgpt.data.sources.files import existing_path, open_file
from sharpgpt.data.sources.split import single_text_cut, text_val_fraction
from sharpgpt.data.sources.texts import load_named_text
from sharpgpt.data.sources.tinyshakespeare import SHA256, URL
from sharpgpt.data.sources.tinyshakespeare_standin import STANDIN_NAME
from sharpgpt.data.text import SourceText, read_text
from sharpgpt.data.tokenizer import Tokenizer, load_tokenizer

ALLOWED = f"{', '.join(TEXTS)}, the path of a UTF-8 text file, or prepared data"


@dataclass(frozen=True)
class TextData:
    """Text as tokens, split."""

    name: str
    """Of the text; "shakespeare-standin" where TinyShakespeare was unavailable."""
    source: dict[str, Any]
    """Plain facts for environment.json: origin, hash, note, token counts."""
    tokenizer: Tokenizer
    train_tokens: Tokens
    val_tokens: Tokens


def load_data(
    *,
    dataset: str,
    tokenizer: str | Tokenizer,
    max_seq_length: int,
    cache_dir: str | None = None,
    num_workers: int = 0,
    val_fraction: float | None = None,
) -> TextData:
    """The tokens of a named text, of one text file or of prepared data, split.

    The arguments are the settings of these names. `tokenizer` may also be the tokenizer of a
    trained model: it then encodes a text, and must be the one that prepared data was made with.
    Show `source["note"]` to the user when it is not None. Raises `UserError` for everything that is
    wrong with the data, and if either split is shorter than one block of `max_seq_length` tokens.
    `val_fraction` is for a text; prepared data is split already.
    """
    prepared = None if dataset in TEXTS else open_prepared(dataset)
    if prepared is not None:
        require_unchanged(prepared)
        data = _from_prepared(prepared, tokenizer)
    else:
        source = load_text(dataset, cache_dir)
        cut = single_text_cut(len(source.text), text_val_fraction(val_fraction))
        data = _from_text(source, tokenizer, cut, num_workers)
    _require_blocks(data, max_seq_length)
    return data


def load_text(dataset: str, cache_dir: str | Path | None = None, *, url: str = URL) -> SourceText:
    """The text that the setting `dataset` names: one of `aliases.TEXTS` or a path, `~` allowed.

    A text file is UTF-8; its byte order mark is removed and CR LF becomes LF. `cache_dir` is where
    downloads are kept, None for `cache_folder()`; `url` is where TinyShakespeare is downloaded
    from. Raises `UserError` for a name that is unknown, and for a path that is missing, unreadable,
    empty, binary or not UTF-8.
    """
    if dataset in TEXTS:
        return load_named_text(dataset, cache_dir, url)
    path = existing_path(dataset)
    if path is None:
        raise UserError(unknown_dataset(dataset, TEXTS, ALLOWED))
    if path.is_dir():
        raise UserError(
            f"{path}: a folder, allowed is {ALLOWED}; turn it into tokens first: sharpgpt prepare "
            f"--dataset {shlex.quote(str(path))} --output FOLDER"
        )
    with open_file(path) as file:
        text = read_text(file, str(path))
    if not text.strip():
        raise UserError(
            f"{path}: holds no text (it is empty or only whitespace); allowed is {ALLOWED}"
        )
    name = path.resolve().name
    if name in (*TEXTS, STANDIN_NAME):
        name = f"{name}-own"
    source = SourceText(text, name, str(path))
    return replace(source, name=TINYSHAKESPEARE) if source.sha256 == SHA256 else source


def _from_text(
    source: SourceText, tokenizer: str | Tokenizer, cut: int, num_workers: int
) -> TextData:
    text = source.text
    coder = load_tokenizer(tokenizer, text) if isinstance(tokenizer, str) else tokenizer
    train_tokens = coder.encode(text[:cut], num_workers)
    val_tokens = coder.encode(text[cut:], num_workers)
    facts = {
        "name": source.name,
        "origin": source.origin,
        "sha256": source.sha256,
        "num_bytes": source.num_bytes,
        "num_characters": len(text),
        "is_stand_in": source.is_stand_in,
        "note": source.note,
        **_token_facts(coder, train_tokens, val_tokens),
    }
    return TextData(source.name, facts, coder, train_tokens, val_tokens)


def _from_prepared(prepared: PreparedData, tokenizer: str | Tokenizer) -> TextData:
    name = tokenizer if isinstance(tokenizer, str) else tokenizer.name
    if prepared.tokenizer_name != name:
        raise UserError(
            f"tokenizer: given {name}, but {prepared.path} was made with "
            f"{prepared.tokenizer_name}; set tokenizer to {prepared.tokenizer_name}, or prepare "
            "the data again"
        )
    coder = data_tokenizer(prepared)
    if isinstance(tokenizer, Tokenizer) and tokenizer.fingerprint != coder.fingerprint:
        raise UserError(
            f"{prepared.path}: made with another vocabulary than the model's, though both are of "
            f"the tokenizer {name}; give the data that the model was trained on"
        )
    facts = {
        "name": prepared.name,
        "origin": str(prepared.path),
        "sha256": prepared.sha256,
        "sha256_of_ends": prepared.sha256_of_ends,
        "form": prepared.form,
        "is_stand_in": prepared.source.get("is_stand_in") is True,
        "note": prepared.source.get("note"),
        **_token_facts(coder, prepared.train, prepared.val),
        "source": prepared.source,
    }
    return TextData(prepared.name, facts, coder, prepared.train, prepared.val)


def _token_facts(coder: Tokenizer, train: Tokens, val: Tokens) -> dict[str, Any]:
    return {
        "tokenizer": coder.name,
        "tokenizer_sha256": coder.fingerprint,
        "vocab_size": coder.vocab_size,
        "num_train_tokens": len(train),
        "num_val_tokens": len(val),
    }


def _require_blocks(data: TextData, max_seq_length: int) -> None:
    """One message for data that is too short, whichever split it is."""
    num_train, num_val = len(data.train_tokens), len(data.val_tokens)
    shorter = min(num_train, num_val)
    if shorter >= max_seq_length:
        return
    lower = f"lower max_seq_length to at most {shorter}, or " if shorter >= 2 else ""
    more = f"give about {max_seq_length / max(shorter, 1):.1f} times as much text"
    parts = ("the first 90%", "the rest")
    if "num_characters" not in data.source:
        parts = ("train", "val")
        more += ", or prepare it with a larger val_fraction"
    raise UserError(
        f"{data.source['origin']}: too short for blocks of max_seq_length = {max_seq_length} "
        f"tokens: the training split ({parts[0]}) has {num_train}, the validation split "
        f"({parts[1]}) {num_val}, and each must have at least {max_seq_length}; {lower}{more}"
    )
