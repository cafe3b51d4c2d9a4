"""manifest.json: what prepared data is, where it came from, and the hash of every shard.

It is written last, so a folder that has one is finished. It is not trusted: it is read as plain
JSON, every field is checked, and file names that could lead out of the folder are refused.
docs/data.md describes the fields.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import readable, write_text
from sharpgpt.core.jsonio import parse_model, parse_object, read_bytes
from sharpgpt.data.shards import HEADER_BYTES, RESTORE, Shard, partial_name, require_size

MANIFEST = "manifest.json"
VERSION = 1
MAX_BYTES = 64 * 2**20
"""Larger files are refused unread; the manifest of 100,000 shards has 15 MB."""

Count = Annotated[int, Field(ge=0, lt=1 << 62)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Form = Literal["sharpgpt", "nanogpt", "llm.c"]
SplitName = Literal["train", "val"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class ShardEntry(_Record):
    """One shard."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}$")]
    num_tokens: Count
    sha256: Sha256
    """Of the whole file, a header included."""


class SplitEntry(_Record):
    """The training or the validation split."""

    num_tokens: Count
    num_documents: Count
    num_bytes: Count
    """Of the text as UTF-8, without the end-of-text tokens."""
    shards: list[ShardEntry]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(shard.num_tokens for shard in self.shards) != self.num_tokens:
            raise ValueError("the shards do not add up to num_tokens")
        return self


class TokenizerEntry(_Record):
    """The tokenizer that made the ids."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    fingerprint: Sha256
    """SHA-256 of its vocabulary (`Tokenizer.fingerprint`)."""
    vocab_size: Annotated[int, Field(ge=1, le=1 << 32)]
    characters: list[Annotated[str, Field(min_length=1, max_length=1)]] | None = None
    """Of the char tokenizer: the token with id i is characters[i]."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.characters is not None) != (self.name == "char"):
            raise ValueError("characters belong to the char tokenizer alone")
        if self.characters is not None:
            if len(self.characters) != self.vocab_size:
                raise ValueError("characters do not fit vocab_size")
            if len(set(self.characters)) < len(self.characters):
                raise ValueError("one of the characters appears twice")
        return self


class Manifest(_Record):
    """All of manifest.json."""

    version: Literal[1] = 1
    name: Annotated[str, Field(min_length=1, max_length=300)]
    form: Form
    dtype: Literal["uint16", "uint32"]
    tokenizer: TokenizerEntry
    end_of_text_id: Count | None
    splits: dict[SplitName, SplitEntry]
    source: dict[str, Any]
    """Plain facts: origin, revision, files, licence."""
    recipe: dict[str, Any]
    """Every option that decides the bytes; equal recipes give equal shards."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if set(self.splits) != {"train", "val"}:
            raise ValueError(f"splits are {sorted(self.splits)}, expected train and val")
        files = [shard.file for split in self.splits.values() for shard in split.shards]
        if len(set(files)) < len(files):
            raise ValueError("a shard is listed twice")
        if self.tokenizer.vocab_size > 1 << 16 and self.dtype == "uint16":
            raise ValueError("dtype: uint16 cannot hold the ids of this vocabulary")
        if self.end_of_text_id is not None and self.end_of_text_id >= self.tokenizer.vocab_size:
            raise ValueError("end_of_text_id is outside the vocabulary")
        return self

    def identity(self) -> str:
        """SHA-256 over the hashes of all shards: equal means the same tokens."""
        names: tuple[SplitName, ...] = ("train", "val")
        hashes = [f"{name} {shard.sha256}" for name in names for shard in self.splits[name].shards]
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json, atomically; when this returns it survives a power cut."""
    text = manifest.model_dump_json(indent=2) + "\n"
    write_text(folder / MANIFEST, text, temporary_name=partial_name(MANIFEST))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of prepared data.

    Raises:
        UserError: it is missing, damaged, of another version, or contradicts itself.
    """
    path = folder / MANIFEST
    again = "prepare the data again (sharpgpt prepare), or copy the folder again"
    try:
        data = read_bytes(path, max_bytes=MAX_BYTES)
    except FileNotFoundError:
        raise UserError(f"{path}: missing, so the data is not finished; {again}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {again}") from None
    try:
        content = parse_object(data)
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error!s:.300}); {again}") from None
    version = content.get("version")
    if version != VERSION or isinstance(version, bool):
        raise UserError(
            f"{path}: of version {version!r:.40}, and this SharpGPT reads version {VERSION}; "
            "prepare the data again, or use the SharpGPT that wrote it"
        )
    try:
        return parse_model(json.dumps(content), Manifest, name=MANIFEST)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error!s:.300}); {again}") from None


def shards_of(folder: Path, manifest: Manifest, split: SplitName) -> list[Shard]:
    """The shards of a split."""
    offset = HEADER_BYTES if manifest.form == "llm.c" else 0
    entries = manifest.splits[split].shards
    return [Shard(folder / entry.file, offset, entry.num_tokens) for entry in entries]


def verify(folder: Path, progress: Callable[[int], None] | None = None) -> Manifest:
    """Compare every shard with its size and its hash; `progress` receives the bytes of each read.

    Raises:
        UserError: naming the first shard that is missing, cannot be read or has changed.
    """
    manifest = read_manifest(folder)
    for split in manifest.splits:
        for shard in shards_of(folder, manifest, split):
            require_size(shard, np.dtype(manifest.dtype).itemsize)
    for entry in (entry for split in manifest.splits.values() for entry in split.shards):
        path = folder / entry.file
        with readable(path, f"check the disk, then {RESTORE}"):
            found = sha256_of(path, progress)
        if found != entry.sha256:
            raise UserError(changed_shard(path, found, entry.sha256))
    return manifest


def changed_shard(path: Path, found: str, expected: str) -> str:
    """The message for a shard that was edited or damaged."""
    return (
        f"{path}: has changed since it was written (SHA-256 {found[:12]}..., expected "
        f"{expected[:12]}...); {RESTORE}"
    )


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(1 << 22):
            digest.update(data)
            if progress is not None:
                progress(len(data))
    return digest.hexdigest()
