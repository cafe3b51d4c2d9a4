"""Prepared data: a folder that `sharpgpt prepare` wrote, or the files of nanoGPT and llm.c."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpgpt.config.architectures import GPT2_VOCABULARY
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import user_path
from sharpgpt.data.external_formats import find_token_files
from sharpgpt.data.manifest import MANIFEST, Manifest, SplitName, read_manifest, shards_of
from sharpgpt.data.shards import ShardedTokens
from sharpgpt.data.tokenizer import CharTokenizer, Gpt2Tokenizer, Tokenizer

JOURNAL = "journal.json"
"""What an unfinished preparation keeps in its folder."""
SHARD_NAME = re.compile(r"(train|val)_\d{5,}\.bin")


@dataclass(frozen=True)
class PreparedData:
    """Tokens on disk, split, and what is known about them."""

    name: str
    path: Path
    """The folder of the shards."""
    form: str
    train: ShardedTokens
    val: ShardedTokens
    vocab_size: int
    tokenizer_name: str
    tokenizer_fingerprint: str | None
    """None for the files of other programs, which do not record it."""
    characters: list[str] | None
    end_of_text_id: int | None
    source: dict[str, Any]
    """Plain facts."""
    sha256: str
    """Equal means the same tokens."""
    manifest: Manifest | None


def open_prepared(path: str | Path) -> PreparedData | None:
    """The prepared data at `path`, whatever its form; None where there is none.

    Raises:
        UserError: it is damaged or not finished.
    """
    if not str(path):
        return None
    folder = user_path(path)
    # os.path.exists raises for nothing: a name that is too long is just not there.
    if os.path.exists(folder / MANIFEST):  # noqa: PTH110
        return _open_shards(folder)
    if os.path.exists(folder / JOURNAL):  # noqa: PTH110
        raise UserError(
            f"{folder}: holds data whose preparation has not finished; run the same sharpgpt "
            "prepare command again, it resumes where it stopped"
        )
    _refuse_shards_without_manifest(folder)
    return _open_token_files(folder)


def _refuse_shards_without_manifest(path: Path) -> None:
    """Raise `UserError` where `path` is a shard of `sharpgpt prepare`, or a folder of them."""
    is_folder = os.path.isdir(path)  # noqa: PTH112
    files = sorted(path.glob("*.bin")) if is_folder else [path]
    shards = [file for file in files if SHARD_NAME.fullmatch(file.name)]
    if not shards or not os.path.isfile(shards[0]):  # noqa: PTH113
        return
    folder = shards[0].parent
    if not is_folder and (folder / MANIFEST).exists():
        raise UserError(f"{path}: one shard of prepared data; give its folder, {folder}")
    raise UserError(
        f"{folder / MANIFEST}: missing, and {shards[0].name} alone does not say what it holds; "
        "copy the manifest too, or prepare the data again (sharpgpt prepare)"
    )


def data_tokenizer(data: PreparedData) -> Tokenizer:
    """The tokenizer that made the tokens.

    Raises:
        UserError: its vocabulary differs from that of the installed tokenizer of its name.
    """
    tokenizer: Tokenizer
    if data.tokenizer_name == "char":
        tokenizer = CharTokenizer(data.characters or [])
    elif data.tokenizer_name == "gpt2":
        tokenizer = Gpt2Tokenizer()
    else:
        raise UserError(
            f"{data.path}: made with the tokenizer {data.tokenizer_name!r}, allowed are gpt2 and "
            "char; prepare the data again"
        )
    known = data.tokenizer_fingerprint
    if known is not None and known != tokenizer.fingerprint:
        raise UserError(
            f"{data.path}: its tokenizer {data.tokenizer_name} has another vocabulary "
            f"({known[:12]}...) than the one installed ({tokenizer.fingerprint[:12]}...); prepare "
            "the data again"
        )
    end_ids = (None, tokenizer.end_of_text_id)
    if data.vocab_size != tokenizer.vocab_size or data.end_of_text_id not in end_ids:
        raise UserError(
            f"{data.path / MANIFEST}: damaged: vocab_size is {data.vocab_size} and end_of_text_id "
            f"{data.end_of_text_id}, and those of the tokenizer {data.tokenizer_name} are "
            f"{tokenizer.vocab_size} and {tokenizer.end_of_text_id}; prepare the data again"
        )
    return tokenizer


def _open_shards(folder: Path) -> PreparedData:
    manifest = read_manifest(folder)

    def tokens(split: SplitName) -> ShardedTokens:
        shards = shards_of(folder, manifest, split)
        return ShardedTokens(shards, manifest.dtype, manifest.tokenizer.vocab_size)

    return PreparedData(
        name=manifest.name,
        path=folder,
        form=manifest.form,
        train=tokens("train"),
        val=tokens("val"),
        vocab_size=manifest.tokenizer.vocab_size,
        tokenizer_name=manifest.tokenizer.name,
        tokenizer_fingerprint=manifest.tokenizer.fingerprint,
        characters=manifest.tokenizer.characters,
        end_of_text_id=manifest.end_of_text_id,
        source=manifest.source,
        sha256=manifest.identity(),
        manifest=manifest,
    )


def _open_token_files(path: Path) -> PreparedData | None:
    files = find_token_files(path)
    if files is None:
        return None
    names = [shard.path.name for shard in (*files.train, *files.val)]
    return PreparedData(
        name=files.folder.resolve().name or "tokens",
        path=files.folder,
        form=files.form,
        train=ShardedTokens(files.train, "uint16", GPT2_VOCABULARY),
        val=ShardedTokens(files.val, "uint16", GPT2_VOCABULARY),
        vocab_size=GPT2_VOCABULARY,
        tokenizer_name="gpt2",
        tokenizer_fingerprint=None,
        characters=None,
        end_of_text_id=GPT2_VOCABULARY - 1,
        source={"origin": str(files.folder), "form": files.form, "files": names},
        sha256=files.identity(),
        manifest=None,
    )
