"""A small folder of prepared data, written by the writer itself, for the tests of this folder."""

from pathlib import Path
from typing import Any

import numpy as np

from sharpgpt.data.manifest import Manifest, SplitEntry, TokenizerEntry, write_manifest
from sharpgpt.data.shard_writer import ShardWriter
from sharpgpt.data.tokenizer import CharTokenizer, Tokenizer

IDS = np.random.default_rng(0).integers(0, 1000, 2500)
FINGERPRINT = "0" * 64


def prepared(
    folder: Path,
    *,
    form: Any = "sharpgpt",
    dtype: Any = "uint16",
    ids: Any = IDS,
    shard_tokens: int = 1000,
    tokenizer: Tokenizer | None = None,
    num_documents: int = 3,
    num_bytes: int = 9999,
) -> Path:
    """2,500 training and 100 validation tokens in shards of 1,000, of a GPT-2 that does not exist.

    With a `tokenizer` its name, fingerprint and vocabulary stand in the manifest.
    """
    splits = {}
    for split, part in (("train", ids), ("val", ids[:100])):
        how = {"dtype": dtype, "shard_tokens": shard_tokens, "form": form, "name": "corpus"}
        writer = ShardWriter(folder, split, **how)  # type: ignore[arg-type]
        for first in range(0, len(part), 333):
            writer.append(part[first : first + 333])
        splits[split] = SplitEntry(
            num_tokens=writer.num_tokens,
            num_documents=num_documents,
            num_bytes=num_bytes,
            shards=writer.finish(),
        )
    entry = TokenizerEntry(name="gpt2", fingerprint=FINGERPRINT, vocab_size=50257)
    if tokenizer is not None:
        entry = TokenizerEntry(
            name=tokenizer.name,
            fingerprint=tokenizer.fingerprint,
            vocab_size=tokenizer.vocab_size,
            characters=tokenizer.characters if isinstance(tokenizer, CharTokenizer) else None,
        )
    manifest = Manifest(
        name="corpus",
        form=form,
        dtype=dtype,
        tokenizer=entry,
        end_of_text_id=50256 if tokenizer is None else tokenizer.end_of_text_id,
        splits=splits,  # type: ignore[arg-type]
        source={"origin": "somewhere", "revision": "abc"},
        recipe={"dataset": "x"},
    )
    write_manifest(folder, manifest)
    return folder
