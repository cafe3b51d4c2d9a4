"""Prepared data: a folder that `sharpgpt prepare` wrote, or token files of other programs.

nanoGPT     train.bin and val.bin: uint16 ids of GPT-2's vocabulary and nothing else.
llm.c       shards with a header of 256 little-endian int32 (the magic number 20240520, version 1,
            the number of tokens, zeros), then uint16 ids. modded-nanogpt writes the same. The file
            name tells the split: *train*.bin, *val*.bin.

Neither records its tokenizer; GPT-2's is assumed, as both programs do, and an id outside its
vocabulary is an error when it is read. nanoGPT's character data keeps its vocabulary in meta.pkl, a
pickle, which could run any code and is never read.
"""

import glob
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sharpgpt.config.architectures import GPT2_VOCABULARY
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import beginning_and_end, readable, user_path
from sharpgpt.core.numbers import counted
from sharpgpt.data.content import contents
from sharpgpt.data.manifest import (
    MANIFEST,
    Manifest,
    SplitName,
    changed_shard,
    read_manifest,
    shards_of,
)
from sharpgpt.data.shards import HEADER_BYTES, MAGIC, Shard, ShardedTokens, regular_size
from sharpgpt.data.sources.download import hashes_folder
from sharpgpt.data.tokenizer import CharTokenizer, Gpt2Tokenizer, Tokenizer

COPY_AGAIN = "copy it again"
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
    source: dict[str, Any]
    """Plain facts."""
    sha256: str
    """Equal means the same tokens."""
    sha256_of_ends: str | None = None
    """What earlier versions recorded in its place for the files of other programs."""
    tokenizer_name: str = "gpt2"
    vocab_size: int = GPT2_VOCABULARY
    end_of_text_id: int | None = GPT2_VOCABULARY - 1
    tokenizer_fingerprint: str | None = None
    """None for the files of other programs, which do not record it."""
    characters: list[str] | None = None
    manifest: Manifest | None = None


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
    """The token files that `path` names: a folder, one file, or a glob. None where there are none.

    For a single file the other split is looked up beside it. Raises `UserError` for files that are
    damaged, of another version, or where a split is missing.
    """
    # Not by the methods of Path, which raise for a name that is too long or a private folder.
    is_folder = os.path.isdir(path)  # noqa: PTH112
    if is_folder:
        chosen = _visible(path)
    elif os.path.exists(path):  # noqa: PTH110
        chosen = [path] if path.suffix == ".bin" else []
    else:
        try:
            names = glob.glob(str(path))  # noqa: PTH207 (Path.glob knows no absolute patterns)
        except ValueError:  # a NUL
            names = []
        chosen = [Path(name) for name in sorted(names) if name.endswith(".bin")]
    if not chosen or (is_folder and not any(_split_of(file) for file in chosen)):
        return None
    folder = chosen[0].parent
    if (folder / "meta.pkl").exists():
        raise UserError(
            f"{folder}: nanoGPT's character data, whose vocabulary is in meta.pkl; a pickle can "
            "run any code and is not read. Give the text itself with tokenizer char"
        )
    shards: dict[str, list[Shard]] = {}
    for split in ("train", "val"):
        files = [file for file in chosen if _split_of(file) == split]
        files = files or [file for file in _visible(folder) if _split_of(file) == split]
        if not files:
            raise UserError(
                f"{path}: no *{split}*.bin among its .bin files; allowed are train.bin and val.bin "
                "as nanoGPT writes them, or shards *train*.bin and *val*.bin as llm.c does"
            )
        shards[split] = [_shard(file) for file in files]
    all_shards = [*shards["train"], *shards["val"]]
    if len({shard.offset_bytes for shard in all_shards}) > 1:
        raise UserError(f"{folder}: some of its .bin files have llm.c's header and some do not")
    form = "llm.c" if all_shards[0].offset_bytes else "nanogpt"
    names = [shard.path.name for shard in all_shards]
    return PreparedData(
        name=folder.resolve().name or "tokens",
        path=folder,
        form=form,
        train=ShardedTokens(shards["train"], "uint16", GPT2_VOCABULARY),
        val=ShardedTokens(shards["val"], "uint16", GPT2_VOCABULARY),
        source={"origin": str(folder), "form": form, "files": names},
        sha256=_identity(shards),
        sha256_of_ends=_former_identity(all_shards),
    )


def _identity(shards: dict[str, list[Shard]]) -> str:
    """SHA-256 over the split and the content of each file, in order."""
    files = [(split, shard.path) for split in shards for shard in shards[split]]
    sha256s = contents([path for _, path in files], hashes_folder()).sha256s
    lines = [f"{split} {sha256}\n" for (split, _), sha256 in zip(files, sha256s, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def require_unchanged(data: PreparedData) -> None:
    """Raise `UserError` if a shard is not as the manifest says, by its hash where it is not known.

    A shard whose size, times and inode are those at which it was hashed is not read again.
    """
    if data.manifest is None:
        return
    entries = [entry for split in data.manifest.splits.values() for entry in split.shards]
    found = contents([data.path / entry.file for entry in entries], hashes_folder())
    for entry, sha256 in zip(entries, found.sha256s, strict=True):
        if sha256 != entry.sha256:
            raise UserError(changed_shard(data.path / entry.file, sha256, entry.sha256))


def _former_identity(shards: Sequence[Shard]) -> str:
    """The identity of earlier versions: over name, size, first and last 64 KiB of each file."""
    digest = hashlib.sha256()
    for shard in shards:
        with readable(shard.path, COPY_AGAIN), open(shard.path, "rb") as file:
            size = shard.path.stat().st_size
            digest.update(f"{shard.path.name} {size}\n".encode())
            digest.update(beginning_and_end(file, size))
    return digest.hexdigest()


def _visible(folder: Path) -> list[Path]:
    """The .bin files but hidden ones: half-written, or what macOS keeps beside a file."""
    return sorted(file for file in folder.glob("*.bin") if not file.name.startswith("."))


def _split_of(file: Path) -> str | None:
    """The last word decides: train_data_val_000.bin is validation."""
    places = {split: file.name.rfind(split) for split in ("train", "val")}
    split = max(places, key=places.__getitem__)
    return split if places[split] >= 0 else None


def _shard(file: Path) -> Shard:
    """The tokens of one file. Raises `UserError` for a header or a size that is impossible."""
    size = regular_size(file)
    with readable(file, COPY_AGAIN), open(file, "rb") as opened:
        head = opened.read(HEADER_BYTES)
    words = np.frombuffer(head[: len(head) // 4 * 4], dtype="<i4").tolist()
    # Its two halves are not ids of GPT-2's vocabulary, so it cannot be the beginning of tokens.
    if words and words[0] == MAGIC:
        if len(head) < HEADER_BYTES:
            raise UserError(f"{file}: ends within its header of 1024 bytes; {COPY_AGAIN}")
        version, num_tokens = words[1], words[2]
        if version != 1:
            raise UserError(
                f"{file}: llm.c's format in version {version}, allowed is version 1 (uint16)"
            )
        if num_tokens < 0 or size != HEADER_BYTES + 2 * num_tokens:
            raise UserError(
                f"{file}: its header says {counted(num_tokens, 'token')}, and its size of "
                f"{counted(size, 'byte')} does not fit that; {COPY_AGAIN}"
            )
        return Shard(file, HEADER_BYTES, num_tokens)
    if file.name not in ("train.bin", "val.bin"):
        raise UserError(
            f"{file}: has no llm.c header (magic number {MAGIC}), and files without one are called "
            "train.bin and val.bin"
        )
    if size % 2:
        raise UserError(
            f"{file}: {counted(size, 'byte')}, an odd number, not uint16 tokens; {COPY_AGAIN}"
        )
    return Shard(file, 0, size // 2)
