"""Token files of other programs, read where they lie: nanoGPT's, llm.c's and modded-nanogpt's.

nanoGPT     train.bin and val.bin: uint16 ids of GPT-2's vocabulary and nothing else.
llm.c       shards with a header of 256 little-endian int32 (the magic number 20240520, version 1,
            the number of tokens, zeros), then uint16 ids. modded-nanogpt writes the same. Which
            split a file belongs to stands in its name: *train*.bin, *val*.bin.

Neither says which tokenizer made it; GPT-2's is taken for granted, as both programs do, and an id
outside its vocabulary is an error when it is met. nanoGPT's character data keeps its vocabulary in
meta.pkl, a pickle, which could run any code and is never read.
"""

import glob
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sharpgpt.core.errors import UserError
from sharpgpt.data.shards import Shard, regular_size

MAGIC = 20240520
HEADER_BYTES = 1024
HASHED_BYTES = 1 << 16
"""Of each end of a file. The shards of 100 billion tokens are 1,000 files: more would take long."""


@dataclass(frozen=True)
class ForeignFiles:
    """The shards of both splits."""

    name: str
    folder: Path
    form: str
    train: list[Shard]
    val: list[Shard]

    def identity(self) -> str:
        """SHA-256 over name, size, first and last 64 KiB of each file, however large it is.

        Raises `UserError` where one cannot be read.
        """
        digest = hashlib.sha256()
        for shard in (*self.train, *self.val):
            try:
                with open(shard.path, "rb") as file:
                    size = shard.path.stat().st_size
                    digest.update(f"{shard.path.name} {size}\n".encode())
                    digest.update(file.read(HASHED_BYTES))
                    file.seek(max(0, size - HASHED_BYTES))
                    digest.update(file.read(HASHED_BYTES))
            except OSError as error:
                raise UserError(
                    f"{shard.path}: cannot be read: {error.strerror or error}"
                ) from None
        return digest.hexdigest()


def find_foreign(path: str | Path) -> ForeignFiles | None:
    """The token files that `path` means: a folder, one file, or a glob. None where there are none.

    Of one file the other split is looked for beside it. Raises `UserError` for files that are
    damaged, of another version, or where a split is missing.
    """
    given = Path(path)
    # Not by the methods of Path, which raise for a name that is too long or a folder that is shut.
    is_folder = os.path.isdir(given)  # noqa: PTH112
    if is_folder:
        chosen = _token_files(given)
    elif os.path.exists(given):  # noqa: PTH110
        chosen = [given] if given.suffix == ".bin" else []
    else:
        try:
            names = glob.glob(str(given))  # noqa: PTH207 (Path.glob knows no absolute patterns)
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
    beside = _token_files(folder)
    train = [file for file in chosen if _split_of(file) == "train"]
    val = [file for file in chosen if _split_of(file) == "val"]
    train = train or [file for file in beside if _split_of(file) == "train"]
    val = val or [file for file in beside if _split_of(file) == "val"]
    if not train or not val:
        missing = "train" if not train else "val"
        raise UserError(
            f"{path}: no *{missing}*.bin among its .bin files; allowed are train.bin and val.bin "
            "as nanoGPT writes them, or shards *train*.bin and *val*.bin as llm.c does"
        )
    shards = {file: _shard(file) for file in (*train, *val)}
    has_header = {shard.offset_bytes > 0 for shard in shards.values()}
    if len(has_header) > 1:
        raise UserError(f"{folder}: some of its .bin files have llm.c's header and some have not")
    return ForeignFiles(
        name=folder.resolve().name or "tokens",
        folder=folder,
        form="llm.c" if has_header.pop() else "nanogpt",
        train=[shards[file] for file in train],
        val=[shards[file] for file in val],
    )


def _token_files(folder: Path) -> list[Path]:
    """Without hidden ones, which are half-written, or are what macOS keeps beside a file."""
    return sorted(file for file in folder.glob("*.bin") if not file.name.startswith("."))


def _split_of(file: Path) -> str | None:
    """Of names with both words the last one counts: train_data_val_000.bin is validation."""
    places = {split: file.name.rfind(split) for split in ("train", "val")}
    split = max(places, key=places.__getitem__)
    return split if places[split] >= 0 else None


def _shard(file: Path) -> Shard:
    """The tokens of one file. Raises `UserError` for a header or a size that cannot be."""
    try:
        size = regular_size(file)
        with open(file, "rb") as opened:
            head = opened.read(HEADER_BYTES)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
    words: Sequence[int] = np.frombuffer(head[: len(head) // 4 * 4], dtype="<i4").tolist()
    # Its two halves are no ids of GPT-2's vocabulary, so it cannot be the beginning of tokens.
    if words and words[0] == MAGIC:
        if len(head) < HEADER_BYTES:
            raise UserError(f"{file}: ends within its header of 1024 bytes; copy it anew")
        version, num_tokens = words[1], words[2]
        if version != 1:
            raise UserError(
                f"{file}: llm.c's form in version {version}, allowed is version 1 (uint16)"
            )
        if num_tokens < 0 or size != HEADER_BYTES + 2 * num_tokens:
            raise UserError(
                f"{file}: its header says {num_tokens} tokens, its size of {size} bytes does not "
                "fit that; copy it anew"
            )
        return Shard(file, HEADER_BYTES, num_tokens)
    if file.name not in ("train.bin", "val.bin"):
        raise UserError(
            f"{file}: has no header of llm.c's form (magic number {MAGIC}), and files without one "
            "are called train.bin and val.bin"
        )
    if size % 2:
        raise UserError(f"{file}: {size} bytes, an odd number, are no uint16 tokens; copy it anew")
    return Shard(file, 0, size // 2)
