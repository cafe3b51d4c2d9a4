"""`sharpgpt inspect`: what prepared data holds, and whether it is unchanged since it was written.

It reads the tokens piece by piece, so the data may be of any size. What a manifest says is not
trusted: it is printed without control characters.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sharpgpt.core.errors import UserError
from sharpgpt.core.numbers import counted
from sharpgpt.core.terminal import one_line
from sharpgpt.data.manifest import verify
from sharpgpt.data.prepared import PreparedData, data_tokenizer, open_prepared
from sharpgpt.data.shards import ShardedTokens
from sharpgpt.data.tokenizer import Tokenizer

NUM_COMMONEST = 20
COUNTED_TOKENS = 1 << 26
"""Of larger splits this many tokens are counted, in pieces spread evenly."""
PIECE_TOKENS = 1 << 20
SHOWN_CHARACTERS = 300
SEARCHED_TOKENS = 1 << 16
"""A document without an end-of-text token in so many tokens is cut there."""


def inspect_data(
    path: str | Path,
    *,
    num_documents: int = 3,
    with_hashes: bool = True,
    progress: Callable[[int], None] | None = None,
) -> str:
    """The text of `sharpgpt inspect`; `progress` receives the number of bytes of each hashed part.

    Raises:
        UserError: there is no prepared data at `path`, or it is damaged.
    """
    data = open_prepared(path)
    if data is None:
        raise UserError(
            f"{path}: no prepared data; allowed is a folder that sharpgpt prepare wrote, or "
            "nanoGPT's or llm.c's .bin files"
        )
    tokenizer = data_tokenizer(data)
    counts = {"training": _count(data.train), "validation": _count(data.val)}
    lines = _facts(data)
    if data.manifest is None:
        lines += _estimates(data, tokenizer, counts)
    lines += ["", *_documents(data, tokenizer, num_documents), ""]
    lines += [*_commonest(data.train, counts["training"], tokenizer), ""]
    if data.manifest is None:
        lines.append("hashes        none are kept in this form; sizes and headers fit")
    elif with_hashes:
        verify(data.path, progress)
        num_shards = sum(len(split.shards) for split in data.manifest.splits.values())
        lines.append(f"hashes        SHA-256 of every shard as written ({num_shards:,})")
    else:
        lines.append("hashes        not checked")
    return "\n".join(lines)


def _facts(data: PreparedData) -> list[str]:
    facts = {
        "data": one_line(f"{data.name} in {data.path}"),
        "form": data.form,
        "tokenizer": f"{one_line(data.tokenizer_name)}, {counted(data.vocab_size, 'token')}",
    }
    for key in ("origin", "revision", "config_name", "text_column", "split", "licence", "note"):
        value = data.source.get(key)
        if value is not None and str(value) != str(data.path):
            facts[key] = one_line(str(value)[:1000])
    for name, tokens in (("training", data.train), ("validation", data.val)):
        num_shards = len(tokens.shards)
        facts[name] = f"{counted(len(tokens), 'token')} in {counted(num_shards, 'shard')}"
        if data.manifest is not None:
            split = data.manifest.splits["train" if name == "training" else "val"]
            facts[name] += f", {counted(split.num_documents, 'document')}, "
            facts[name] += f"{counted(split.num_bytes, 'byte')} of text"
            if split.num_tokens:
                facts[name] += f", {split.num_bytes / split.num_tokens:.3f} bytes a token"
    facts["identity"] = data.sha256
    return [f"{name:<14}{value}" for name, value in facts.items()]


def _estimates(
    data: PreparedData, tokenizer: Tokenizer, counts: dict[str, npt.NDArray[np.int64]]
) -> list[str]:
    """Without a manifest: numbers of documents and bytes, estimated from the tokens."""
    end_id = data.end_of_text_id
    assert end_id is not None  # both forms are GPT-2's
    lines = []
    for name, tokens in (("training", data.train), ("validation", data.val)):
        counted = int(counts[name].sum())
        if counted:
            about = "" if counted == len(tokens) else "about "
            number = round(int(counts[name][end_id]) * len(tokens) / counted)
            lines.append(f"{name:<14}{about}{number:,} end-of-text tokens, one a document")
    first = data.train[:SEARCHED_TOKENS]
    text = first[first != end_id]
    if len(text):
        ratio = len(tokenizer.decode(text).encode()) / len(first)
        lines.append(f"compression   {ratio:.3f} bytes a token, in the first {len(first):,}")
    return lines


def _documents(data: PreparedData, tokenizer: Tokenizer, num_documents: int) -> list[str]:
    """The beginnings of the first documents; a text without end-of-text tokens is one."""
    end_id = -1 if data.end_of_text_id is None else data.end_of_text_id
    lines = []
    # llm.c puts the end-of-text token before each document.
    start = int(data.manifest is None and data.train[:1].tolist() == [end_id])
    for number in range(1, num_documents + 1):
        if start >= len(data.train):
            break
        ids = data.train[start : start + SEARCHED_TOKENS]
        ends = np.flatnonzero(ids == end_id)
        length = int(ends[0]) if len(ends) else len(ids)
        text = tokenizer.decode(ids[: min(length, SHOWN_CHARACTERS)])
        more = " ..." if length > SHOWN_CHARACTERS or len(text) > SHOWN_CHARACTERS else ""
        is_complete = len(ends) or start + length == len(data.train)
        size = f"{'' if is_complete else 'at least '}{counted(length, 'token')}"
        lines.append(f"document {number}    {size}: {text[:SHOWN_CHARACTERS]!r}{more}")
        if not len(ends):
            break
        start += length + 1
    return lines


def _count(tokens: ShardedTokens) -> npt.NDArray[np.int64]:
    """[vocab_size]: how often each id occurs in all tokens, or in COUNTED_TOKENS spread over them.

    Raises `UserError` for an id outside the vocabulary.
    """
    counts = np.zeros(tokens.vocab_size, dtype=np.int64)
    num_pieces = -(-len(tokens) // PIECE_TOKENS)
    step = max(1, num_pieces * PIECE_TOKENS // COUNTED_TOKENS)
    for piece in range(0, num_pieces, step):
        ids = tokens[piece * PIECE_TOKENS : (piece + 1) * PIECE_TOKENS]
        counts += np.bincount(ids, minlength=len(counts))
    return counts


def _commonest(
    tokens: ShardedTokens, counts: npt.NDArray[np.int64], tokenizer: Tokenizer
) -> list[str]:
    """The commonest tokens of the training split and their share."""
    total = int(counts.sum())
    if not total:
        return ["commonest     none: the training split is empty"]
    order = np.argsort(-counts, kind="stable")[:NUM_COMMONEST]
    shares = [
        f"{tokenizer.decode([token])!r} {100 * counts[token] / total:.2f}%"
        for token in order.tolist()
        if counts[token]
    ]
    of = "all" if total == len(tokens) else f"{total:,} spread over all"
    return [
        f"commonest     {', '.join(shares)}",
        f"used          {np.count_nonzero(counts):,} of "
        f"{counted(tokens.vocab_size, 'token')} of the vocabulary (in {of} training tokens)",
    ]
