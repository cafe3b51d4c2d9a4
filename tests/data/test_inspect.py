from pathlib import Path

import numpy as np
import pytest

from sharpgpt.data.inspect import inspect_data
from sharpgpt.data.manifest import Manifest, SplitEntry, TokenizerEntry, write_manifest
from sharpgpt.data.shard_writer import ShardWriter
from sharpgpt.data.tokenizer import CharTokenizer, Gpt2Tokenizer, Tokenizer
from sharpgpt.files import UserError

DOCUMENTS = ["The first document, with a little text.", "", "The third.\nIt has two lines."]


def prepared(folder: Path, tokenizer: Tokenizer, documents: list[str]) -> Path:
    end = tokenizer.end_of_text_id
    ids = np.concatenate(
        [[*tokenizer.encode(text), *([] if end is None else [end])] for text in documents]
    )
    splits = {}
    for split in ("train", "val"):
        writer = ShardWriter(folder, split, dtype="uint16", shard_tokens=10)  # type: ignore[arg-type]
        writer.append(ids)
        splits[split] = SplitEntry(
            num_tokens=len(ids), num_documents=len(documents),
            num_bytes=sum(len(text.encode()) for text in documents), shards=writer.finish(),
        )  # fmt: skip
    characters = tokenizer.characters if isinstance(tokenizer, CharTokenizer) else None
    entry = TokenizerEntry(
        name=tokenizer.name, fingerprint=tokenizer.fingerprint, vocab_size=tokenizer.vocab_size,
        characters=characters,
    )  # fmt: skip
    manifest = Manifest(
        name="corpus", form="sharpgpt", dtype="uint16", tokenizer=entry, end_of_text_id=end,
        splits=splits, source={"origin": "somewhere", "revision": "abc"}, recipe={},  # type: ignore[arg-type]
    )  # fmt: skip
    write_manifest(folder, manifest)
    return folder


def test_everything_is_told(tmp_path: Path) -> None:
    text = inspect_data(prepared(tmp_path, Gpt2Tokenizer(), DOCUMENTS))
    for words in (
        "corpus in ",
        "tokenizer     gpt2, 50,257 tokens",
        "origin        somewhere",
        "revision      abc",
        "training      21 tokens in 3 shards, 3 documents, 67 bytes of text, 3.190 bytes a token",
        "document 1    9 tokens: 'The first document, with a little text.'",
        "document 2    0 tokens: ''",
        "document 3    9 tokens: 'The third.\\nIt has two lines.'",
        "'<|endoftext|>' 14.29%",
        "used          16 of 50,257",
        "SHA-256 of all 6 shards as written",
    ):
        assert words in text, text


def test_a_character_text_is_one_document(tmp_path: Path) -> None:
    coder = CharTokenizer(sorted(set("hello world")))
    text = inspect_data(prepared(tmp_path, coder, ["hello world"]), with_hashes=False)
    assert "document 1    at least 11 tokens: 'hello world'" in text
    assert "document 2" not in text
    assert "'l' 27.27%, 'o' 18.18%" in text
    assert "not checked" in text


def test_other_forms_have_no_hashes(tmp_path: Path) -> None:
    np.arange(1000, dtype=np.uint16).tofile(tmp_path / "train.bin")
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "val.bin")
    text = inspect_data(tmp_path)
    assert "form          nanogpt" in text
    assert "none are kept in this form" in text


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    path = prepared(tmp_path, Gpt2Tokenizer(), DOCUMENTS) / "train_00001.bin"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train_00001\.bin: has changed"):
        inspect_data(tmp_path)


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    path = prepared(tmp_path, Gpt2Tokenizer(), DOCUMENTS) / "manifest.json"
    fingerprint = Gpt2Tokenizer().fingerprint
    path.write_text(path.read_text().replace(fingerprint, "0" * 64))
    with pytest.raises(UserError, match="another vocabulary"):
        inspect_data(tmp_path)


def test_what_is_no_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no prepared data; allowed is"):
        inspect_data(tmp_path)
