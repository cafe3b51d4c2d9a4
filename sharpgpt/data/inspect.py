"""`sharpgpt inspect`: what prepared data holds, and whether it is what was written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sharpgpt.data.manifest import verify
from sharpgpt.data.prepared import PreparedData, data_tokenizer, open_prepared
from sharpgpt.data.shards import ShardedTokens
from sharpgpt.data.tokenizer import Tokenizer
from sharpgpt.files import UserError

NUM_COMMONEST = 20
COUNTED_TOKENS = 1 << 26
"""Of larger splits so many tokens are counted, in pieces spread evenly."""
PIECE_TOKENS = 1 << 20
SHOWN_CHARACTERS = 300
SEARCHED_TOKENS = 1 << 16
"""Where no end-of-text token is found in so many tokens, a document is cut there."""


def inspect_data(
    path: str | Path,
    *,
    num_documents: int = 3,
    with_hashes: bool = True,
    progress: Callable[[int], None] | None = None,
) -> str:
    """The text of `sharpgpt inspect`; `progress` is told the bytes hashed.

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
    lines = [*_facts(data), "", *_documents(data, tokenizer, num_documents), ""]
    lines += [*_commonest(data.train, tokenizer), ""]
    if data.manifest is None:
        lines.append("hashes        none are kept in this form; sizes and headers fit")
    elif with_hashes:
        verify(data.path, progress)
        num_shards = sum(len(split.shards) for split in data.manifest.splits.values())
        lines.append(f"hashes        SHA-256 of all {num_shards} shards as written")
    else:
        lines.append("hashes        not checked")
    return "\n".join(lines)


def _facts(data: PreparedData) -> list[str]:
    facts = {
        "data": f"{data.name} in {data.path}",
        "form": data.form,
        "tokenizer": f"{data.tokenizer_name}, {data.vocab_size:,} tokens",
    }
    for key in ("origin", "revision", "config_name", "text_column", "split", "licence", "note"):
        value = data.source.get(key)
        if value is not None and str(value) != str(data.path):
            facts[key] = str(value)
    for name, tokens in (("training", data.train), ("validation", data.val)):
        facts[name] = f"{len(tokens):,} tokens in {len(tokens.shards):,} shards"
        if data.manifest is not None:
            split = data.manifest.splits["train" if name == "training" else "val"]
            facts[name] += f", {split.num_documents:,} documents, {split.num_bytes:,} bytes of text"
            if split.num_tokens:
                facts[name] += f", {split.num_bytes / split.num_tokens:.3f} bytes a token"
    facts["identity"] = data.sha256
    return [f"{name:<14}{value}" for name, value in facts.items()]


def _documents(data: PreparedData, tokenizer: Tokenizer, num_documents: int) -> list[str]:
    """The beginnings of the first documents; a text without end-of-text tokens is one."""
    lines = []
    start = 0
    for number in range(1, num_documents + 1):
        if start >= len(data.train):
            break
        ids = data.train[start : start + SEARCHED_TOKENS]
        end_id = -1 if data.end_of_text_id is None else data.end_of_text_id
        ends = np.flatnonzero(ids == end_id)
        length = int(ends[0]) if len(ends) else len(ids)
        shown = tokenizer.decode(ids[: min(length, SHOWN_CHARACTERS)])[:SHOWN_CHARACTERS]
        size = f"{length:,} tokens" if len(ends) else f"at least {length:,} tokens"
        lines.append(f"document {number}    {size}: {shown!r}")
        if not len(ends):
            break
        start += length + 1
    return lines


def _commonest(tokens: ShardedTokens, tokenizer: Tokenizer) -> list[str]:
    """The commonest tokens of the training split and their share."""
    counts = np.zeros(tokens.vocab_size, dtype=np.int64)
    num_pieces = -(-len(tokens) // PIECE_TOKENS)
    step = max(1, num_pieces * PIECE_TOKENS // COUNTED_TOKENS)
    for piece in range(0, num_pieces, step):
        ids = tokens[piece * PIECE_TOKENS : (piece + 1) * PIECE_TOKENS]
        found = np.bincount(ids, minlength=len(counts))
        if len(found) > len(counts):
            # It names the shard and the place.
            first = piece * PIECE_TOKENS + int(np.argmax(ids >= len(counts)))
            tokens.gather(np.array([first]), 1)
        counts += found
    total = int(counts.sum())
    if not total:
        return ["commonest     none: the training split is empty"]
    order = np.argsort(-counts, kind="stable")[:NUM_COMMONEST]
    shares = [
        f"{tokenizer.decode([token])!r} {100 * counts[token] / total:.2f}%"
        for token in order.tolist()
        if counts[token]
    ]
    used = int((counts > 0).sum())
    of = "all" if step == 1 else f"{total:,} spread over all"
    return [
        f"commonest     {', '.join(shares)}",
        f"used          {used:,} of {tokens.vocab_size:,} tokens of the vocabulary (in {of} "
        "training tokens)",
    ]
