"""Prepared data: a folder that `sharpgpt prepare` wrote, or the files of nanoGPT and llm.c."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpgpt.config.architectures import GPT2_VOCABULARY
from sharpgpt.data.foreign import HEADER_BYTES, find_foreign
from sharpgpt.data.manifest import MANIFEST, Manifest, SplitName, read_manifest
from sharpgpt.data.shards import Shard, ShardedTokens
from sharpgpt.data.tokenizer import CharTokenizer, Tokenizer, load_tokenizer
from sharpgpt.files import UserError

JOURNAL = "journal.json"
"""What a preparation that has not finished keeps in its folder."""


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
    """None where the files do not say by what they were made (other programs' forms)."""
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
        UserError: there is, but it is damaged or not finished.
    """
    folder = Path(path).expanduser()
    if (folder / MANIFEST).is_file():
        return _open_own(folder)
    if (folder / JOURNAL).is_file():
        raise UserError(
            f"{folder}: holds data whose preparation has not finished; run the same sharpgpt "
            "prepare command again, it goes on where it was stopped"
        )
    return _open_foreign(path)


def data_tokenizer(data: PreparedData) -> Tokenizer:
    """The tokenizer that made the tokens.

    Raises:
        UserError: its vocabulary is another than that of the installed tokenizer of its name.
    """
    if data.tokenizer_name == "char":
        tokenizer: Tokenizer = CharTokenizer(data.characters or [])
    elif data.tokenizer_name == "gpt2":
        tokenizer = load_tokenizer("gpt2", "")
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
    return tokenizer


def _open_own(folder: Path) -> PreparedData:
    manifest = read_manifest(folder)
    offset = HEADER_BYTES if manifest.form == "llm.c" else 0

    def tokens(split: SplitName) -> ShardedTokens:
        shards = [
            Shard(folder / shard.file, offset, shard.num_tokens)
            for shard in manifest.splits[split].shards
        ]
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


def _open_foreign(path: str | Path) -> PreparedData | None:
    files = find_foreign(path)
    if files is None:
        return None
    return PreparedData(
        name=files.name,
        path=files.folder,
        form=files.form,
        train=ShardedTokens(files.train, "uint16", GPT2_VOCABULARY),
        val=ShardedTokens(files.val, "uint16", GPT2_VOCABULARY),
        vocab_size=GPT2_VOCABULARY,
        tokenizer_name="gpt2",
        tokenizer_fingerprint=None,
        characters=None,
        end_of_text_id=GPT2_VOCABULARY - 1,
        source={
            "origin": str(files.folder),
            "form": files.form,
            "files": [shard.path.name for shard in (*files.train, *files.val)],
        },
        sha256=files.identity(),
        manifest=None,
    )
