import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data.inspect import inspect_data
from sharpgpt.data.tokenizer import CharTokenizer, Gpt2Tokenizer, Tokenizer
from tests.data.prepared_folder import prepared

DOCUMENTS = ["The first document, with a little text.", "", "The third.\nIt has two lines."]


def write(folder: Path, tokenizer: Tokenizer, documents: list[str]) -> Path:
    """The documents as both splits, in shards of 10 tokens."""
    end = tokenizer.end_of_text_id
    ids = [
        token
        for text in documents
        for token in [*tokenizer.encode(text), *([] if end is None else [end])]
    ]
    return prepared(
        folder,
        ids=np.array(ids),
        shard_tokens=10,
        tokenizer=tokenizer,
        num_documents=len(documents),
        num_bytes=sum(len(text.encode()) for text in documents),
    )


def write_foreign(folder: Path, ids: Any) -> None:
    for name in ("train.bin", "val.bin"):
        np.array(ids, dtype=np.uint16).tofile(folder / name)


def test_everything_is_told(tmp_path: Path) -> None:
    text = inspect_data(write(tmp_path, Gpt2Tokenizer(), DOCUMENTS))
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
        "SHA-256 of every shard as written (6)",
    ):
        assert words in text, text


def test_a_character_text_is_one_document(tmp_path: Path) -> None:
    coder = CharTokenizer(sorted(set("hello world")))
    text = inspect_data(write(tmp_path, coder, ["hello world"]), with_hashes=False)
    assert "document 1    11 tokens: 'hello world'" in text
    assert "document 2" not in text
    assert "'l' 27.27%, 'o' 18.18%" in text
    assert "not checked" in text


def test_long_documents_are_cut(tmp_path: Path) -> None:
    text = inspect_data(write(tmp_path, Gpt2Tokenizer(), ["word " * 400]), num_documents=1)
    assert f"document 1    401 tokens: {('word ' * 60)!r} ..." in text


def test_what_other_forms_tell_is_counted(tmp_path: Path) -> None:
    coder = Gpt2Tokenizer()
    first, second = coder.encode("Hello there.").tolist(), coder.encode(" A second one").tolist()
    write_foreign(tmp_path, [*first, 50256, *second, 50256])  # as nanoGPT
    text = inspect_data(tmp_path)
    for words in (
        "form          nanogpt",
        "training      8 tokens in 1 shard\n",
        "training      2 end-of-text tokens, one a document",
        "validation    2 end-of-text tokens",
        "compression   3.125 bytes a token, in the first 8",
        "document 1    3 tokens: 'Hello there.'",
        "document 2    3 tokens: ' A second one'",
        "hashes        none are kept in this form",
    ):
        assert words in text, text
    write_foreign(tmp_path, [50256, *first, 50256, *second])  # as llm.c
    text = inspect_data(tmp_path)
    assert "document 1    3 tokens: 'Hello there.'" in text
    assert "document 2    3 tokens: ' A second one'" in text


def test_empty_files_of_other_forms(tmp_path: Path) -> None:
    write_foreign(tmp_path, [])
    assert "none: the training split is empty" in inspect_data(tmp_path)


@pytest.mark.parametrize("place", [0, 5000])
@pytest.mark.parametrize("file", ["train.bin", "val.bin"])
def test_an_id_outside_the_vocabulary_is_found(tmp_path: Path, place: int, file: str) -> None:
    write_foreign(tmp_path, [5] * 6000)
    ids = [5] * 6000
    ids[place] = 60000
    np.array(ids, dtype=np.uint16).tofile(tmp_path / file)
    with pytest.raises(UserError, match=rf"{file}: token {place} has the id 60000, outside"):
        inspect_data(tmp_path)


def test_a_large_split_is_counted_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third piece of 100 tokens: the first, the fourth, ..."""
    monkeypatch.setattr("sharpgpt.data.inspect.PIECE_TOKENS", 100)
    monkeypatch.setattr("sharpgpt.data.inspect.COUNTED_TOKENS", 1000)
    write_foreign(tmp_path, np.repeat(np.tile([262, 50256, 11], 10), 100))
    text = inspect_data(tmp_path)
    assert "commonest     ' the' 100.00%" in text
    assert "in 1,000 spread over all training tokens" in text
    assert "about 0 end-of-text tokens" in text


def test_a_manifest_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path, Gpt2Tokenizer(), DOCUMENTS) / "manifest.json"
    content = json.loads(path.read_text())
    content["name"] = "\x1b[2Jcorpus"
    content["source"]["origin"] = "a\nhashes   all well\u202e" + "x" * 5000
    path.write_text(json.dumps(content))
    text = inspect_data(tmp_path)
    assert "data          \\x1b[2Jcorpus in " in text
    assert "origin        a\\nhashes   all well\\u202exxx" in text
    assert "x" * 1000 not in text
    assert text.replace("\n", "").isprintable()


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, Gpt2Tokenizer(), DOCUMENTS) / "train_00001.bin"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train_00001\.bin: has changed"):
        inspect_data(tmp_path)


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, Gpt2Tokenizer(), DOCUMENTS) / "manifest.json"
    fingerprint = Gpt2Tokenizer().fingerprint
    path.write_text(path.read_text().replace(fingerprint, "0" * 64))
    with pytest.raises(UserError, match="another vocabulary"):
        inspect_data(tmp_path)


def test_what_is_no_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no prepared data; allowed is"):
        inspect_data(tmp_path)
