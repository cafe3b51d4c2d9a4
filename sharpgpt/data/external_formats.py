"""Token files of other programs, read in place: nanoGPT's, llm.c's and modded-nanogpt's.

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
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sharpgpt.core.errors import UserError
from sharpgpt.core.files import beginning_and_end, readable
from sharpgpt.data.shards import Shard, regular_size

MAGIC = 20240520
HEADER_BYTES = 1024
COPY_AGAIN = "copy it again"


@dataclass(frozen=True)
class TokenFiles:
    """The shards of both splits."""

    folder: Path
    train: list[Shard]
    val: list[Shard]

    @property
    def form(self) -> str:
        """llm.c or nanogpt."""
        return "llm.c" if self.train[0].offset_bytes else "nanogpt"

    def identity(self) -> str:
        """SHA-256 over name, size, first and last 64 KiB of each file, quick for any size.

        Raises `UserError` where one cannot be read.
        """
        digest = hashlib.sha256()
        for shard in (*self.train, *self.val):
            with readable(shard.path, COPY_AGAIN), open(shard.path, "rb") as file:
                size = shard.path.stat().st_size
                digest.update(f"{shard.path.name} {size}\n".encode())
                digest.update(beginning_and_end(file, size))
        return digest.hexdigest()


def llmc_header(num_tokens: int) -> bytes:
    """The header of a shard in llm.c's format."""
    header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
    header[:3] = MAGIC, 1, num_tokens
    return header.tobytes()


def find_token_files(path: str | Path) -> TokenFiles | None:
    """The token files that `path` names: a folder, one file, or a glob. None where there are none.

    For a single file the other split is looked up beside it. Raises `UserError` for files that are
    damaged, of another version, or where a split is missing.
    """
    given = Path(path)
    # Not by the methods of Path, which raise for a name that is too long or a private folder.
    is_folder = os.path.isdir(given)  # noqa: PTH112
    if is_folder:
        chosen = _visible(given)
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
    if len({shard.offset_bytes for split in shards.values() for shard in split}) > 1:
        raise UserError(f"{folder}: some of its .bin files have llm.c's header and some do not")
    return TokenFiles(folder, shards["train"], shards["val"])


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
                f"{file}: its header says {num_tokens} tokens, its size of {size} bytes does not "
                f"fit that; {COPY_AGAIN}"
            )
        return Shard(file, HEADER_BYTES, num_tokens)
    if file.name not in ("train.bin", "val.bin"):
        raise UserError(
            f"{file}: has no llm.c header (magic number {MAGIC}), and files without one are called "
            "train.bin and val.bin"
        )
    if size % 2:
        raise UserError(f"{file}: {size} bytes, an odd number, not uint16 tokens; {COPY_AGAIN}")
    return Shard(file, 0, size // 2)
