import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data.manifest import MANIFEST, verify
from sharpgpt.data.prepared import data_tokenizer, open_prepared
from sharpgpt.data.tokenizer import CharTokenizer, Gpt2Tokenizer
from tests.data.prepared_folder import IDS, prepared


@pytest.mark.parametrize(
    ("form", "dtype", "files"),
    [
        ("sharpgpt", "uint16", ["train_00000.bin", "train_00001.bin", "train_00002.bin"]),
        ("sharpgpt", "uint32", ["train_00000.bin", "train_00001.bin", "train_00002.bin"]),
        ("nanogpt", "uint16", ["train.bin"]),
        ("llm.c", "uint16", [f"corpus_train_{i:06d}.bin" for i in range(3)]),
    ],
)
def test_what_is_written_reads_back(
    tmp_path: Path, form: str, dtype: str, files: list[str]
) -> None:
    """By its manifest, and without it as the other program's files."""
    data = open_prepared(prepared(tmp_path, form=form, dtype=dtype))
    assert data is not None
    assert [shard.path.name for shard in data.train.shards] == files
    assert np.array_equal(data.train[:], IDS)
    assert np.array_equal(data.val[:], IDS[:100])
    assert not list(tmp_path.glob(".partial*"))
    verify(tmp_path)
    if form != "sharpgpt":
        (tmp_path / MANIFEST).unlink()
        foreign = open_prepared(tmp_path)
        assert foreign is not None
        assert (foreign.form, foreign.manifest) == (form, None)
        assert np.array_equal(foreign.train[:], IDS)
        assert np.array_equal(foreign.val[:], IDS[:100])


def test_an_unfinished_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "journal.json").write_text("{}")
    with pytest.raises(UserError, match="has not finished; run the same sharpgpt prepare command"):
        open_prepared(tmp_path)


def test_shards_without_their_manifest(tmp_path: Path) -> None:
    prepared(tmp_path)
    shard = tmp_path / "train_00001.bin"
    with pytest.raises(UserError, match=f"one shard of prepared data; give its folder, {tmp_path}"):
        open_prepared(shard)
    (tmp_path / MANIFEST).unlink()
    for given in (tmp_path, shard):
        with pytest.raises(UserError, match=r"manifest\.json: missing, and train_0000"):
            open_prepared(given)


@pytest.mark.parametrize(
    "path", ["", "a\0b", "a" * 5000, "a/" * 5000, "~nobody-of-this-name/x", "[", "none", "org/name"]
)
def test_what_is_no_path_of_data_is_left_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_prepared(path) is None


def test_the_home_folder_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    prepared(tmp_path)
    data = open_prepared("~")
    assert data is not None
    assert data.path == tmp_path


def test_the_tokenizer_comes_with_the_data(tmp_path: Path) -> None:
    coder = CharTokenizer(["a", "b"])
    data = open_prepared(prepared(tmp_path, ids=coder.encode("abba" * 100), tokenizer=coder))
    assert data is not None
    assert data_tokenizer(data).decode(data.train[:4]) == "abba"


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (("tokenizer", "fingerprint", "0" * 64), "has another vocabulary"),
        (("tokenizer", "name", "bert"), "made with the tokenizer 'bert', allowed are gpt2 and"),
        (("tokenizer", "vocab_size", 60000), "damaged: vocab_size is 60000"),
        (("end_of_text_id", 5), "end_of_text_id 5, and those of the tokenizer gpt2 are 50257"),
    ],
)
def test_a_tokenizer_that_is_not_the_datas(
    tmp_path: Path, field: tuple[Any, ...], message: str
) -> None:
    path = prepared(tmp_path, tokenizer=Gpt2Tokenizer()) / MANIFEST
    content = json.loads(path.read_text())
    *place, key, value = field
    part = content[place[0]] if place else content
    part[key] = value
    path.write_text(json.dumps(content))
    data = open_prepared(tmp_path)
    assert data is not None
    with pytest.raises(UserError, match=message):
        data_tokenizer(data)
