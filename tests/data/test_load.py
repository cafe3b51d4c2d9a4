import hashlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data.load import load_data, load_text
from sharpgpt.data.sources import files
from sharpgpt.data.tokenizer import CharTokenizer, load_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def poem(tmp_path: Path) -> Path:
    path = tmp_path / "poem.txt"
    path.write_text("".join(f"line {i} of the poem\n" for i in range(100)), encoding="utf-8")
    return path


@pytest.mark.parametrize("tokenizer", ["gpt2", "char"])
def test_the_split_is_at_nine_tenths_of_the_characters(poem: Path, tokenizer: str) -> None:
    loaded = load_data(dataset=str(poem), tokenizer=tokenizer, max_seq_length=16)
    text = poem.read_text(encoding="utf-8")
    cut = int(len(text) * 0.9)
    assert loaded.tokenizer.name == tokenizer
    assert loaded.tokenizer.fingerprint == load_tokenizer(tokenizer, text).fingerprint
    assert loaded.train_tokens[:].dtype == loaded.val_tokens[:].dtype == np.uint16
    assert loaded.tokenizer.decode(loaded.train_tokens[:]) == text[:cut]
    assert loaded.tokenizer.decode(loaded.val_tokens[:]) == text[cut:]
    threaded = load_data(dataset=str(poem), tokenizer=tokenizer, max_seq_length=16, num_workers=2)
    assert np.array_equal(threaded.train_tokens[:], loaded.train_tokens[:])
    assert np.array_equal(threaded.val_tokens[:], loaded.val_tokens[:])


def test_the_facts_are_plain_and_complete(poem: Path) -> None:
    loaded = load_data(dataset=str(poem), tokenizer="char", max_seq_length=16)
    assert loaded.name == "poem.txt"
    assert json.loads(json.dumps(loaded.source)) == {
        "name": "poem.txt",
        "origin": str(poem),
        "sha256": loaded.source["sha256"],
        "num_bytes": poem.stat().st_size,
        "num_characters": poem.stat().st_size,
        "is_stand_in": False,
        "note": None,
        "tokenizer": "char",
        "tokenizer_sha256": loaded.tokenizer.fingerprint,
        "vocab_size": len(set(poem.read_text(encoding="utf-8"))),
        "num_train_tokens": len(loaded.train_tokens),
        "num_val_tokens": len(loaded.val_tokens),
    }
    assert len(loaded.source["sha256"]) == 64


def test_the_standin_says_what_it_is() -> None:
    loaded = load_data(dataset="tinyshakespeare", tokenizer="gpt2", max_seq_length=1024)
    assert loaded.name == loaded.source["name"] == "shakespeare-standin"
    assert loaded.source["is_stand_in"]
    assert "NOT TinyShakespeare" in loaded.source["note"]
    counts = (loaded.source["num_train_tokens"], loaded.source["num_val_tokens"])
    assert counts == (len(loaded.train_tokens), len(loaded.val_tokens)) == (301_297, 35_906)


def test_tinyshakespeare_has_the_published_counts(tinyshakespeare: Path) -> None:
    loaded = load_data(dataset=str(tinyshakespeare), tokenizer="gpt2", max_seq_length=1024)
    assert loaded.name == "tinyshakespeare"
    assert (len(loaded.train_tokens), len(loaded.val_tokens)) == (301_966, 36_059)
    characters = load_data(dataset=str(tinyshakespeare), tokenizer="char", max_seq_length=256)
    assert isinstance(characters.tokenizer, CharTokenizer)
    assert characters.tokenizer.vocab_size == 65
    assert (len(characters.train_tokens), len(characters.val_tokens)) == (1_003_854, 111_540)


def test_a_split_shorter_than_a_block_says_what_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("abcdefghij" * 10)
    with pytest.raises(UserError) as caught:
        load_data(dataset=str(path), tokenizer="char", max_seq_length=25)
    assert str(caught.value) == (
        f"{path}: too short for blocks of max_seq_length = 25 tokens: the training split (the "
        "first 90%) has 90, the validation split (the rest) 10, and each must have at least 25; "
        "lower max_seq_length to at most 10, or give about 2.5 times as much text"
    )
    assert len(load_data(dataset=str(path), tokenizer="char", max_seq_length=10).val_tokens) == 10
    path.write_text("a")
    with pytest.raises(UserError, match=r"has 0, .* at least 25; give about 25\.0 times"):
        load_data(dataset=str(path), tokenizer="char", max_seq_length=25)


def test_data_py_re_exports_the_package() -> None:
    exported = runpy.run_path(str(ROOT / "data.py"))
    assert {"load_data", "load_text", "TrainingBlocks", "Tokenizer"} <= set(exported["__all__"])
    assert exported["load_data"] is load_data
    assert set(exported["__all__"]) <= set(exported)


def test_importing_the_package_does_not_import_the_heavy_ones() -> None:
    script = "import sys, data; print([m for m in ('transformers', 'httpx') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_prepared_data_is_opened_where_it_lies(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 50257, 3000).astype(np.uint16)
    ids.tofile(tmp_path / "train.bin")
    ids[:300].tofile(tmp_path / "val.bin")
    loaded = load_data(dataset=str(tmp_path), tokenizer="gpt2", max_seq_length=64)
    assert np.array_equal(loaded.train_tokens[:], ids)
    assert (loaded.name, loaded.source["form"]) == (tmp_path.name, "nanogpt")
    assert loaded.source["num_val_tokens"] == 300
    json.dumps(loaded.source)
    with pytest.raises(UserError, match="was made with gpt2; set tokenizer to gpt2"):
        load_data(dataset=str(tmp_path), tokenizer="char", max_seq_length=64)
    with pytest.raises(UserError, match=r"the validation split \(val\) 300, .* val_fraction"):
        load_data(dataset=str(tmp_path), tokenizer="gpt2", max_seq_length=512)


def test_a_file_with_any_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notes.md"
    path.write_bytes("\ufeffä\r\nb\rc\ufeff\n".encode())
    source = load_text(str(path))
    assert source.text == "ä\nb\rc\ufeff\n"
    assert (source.name, source.origin, source.note) == ("notes.md", str(path), None)
    assert source.num_bytes == len(source.text.encode())
    assert source.sha256 == hashlib.sha256(source.text.encode()).hexdigest()
    assert not source.is_stand_in
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_text("~/notes.md").text == source.text


@pytest.mark.parametrize("name", ["tinyshakespeare", "shakespeare-standin"])
def test_another_text_never_goes_under_a_known_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    assert load_text(str(tmp_path / name)).name == f"{name}-own"


def test_a_folder_is_to_be_prepared(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a folder, .* tokens first: sharpgpt prepare --dataset /"):
        load_text(str(tmp_path))


def _denied(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


def _write(data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "a b.txt").write_bytes(data)
        return folder / "a b.txt"

    return write


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_write(b""), "PATH: holds no text (it is empty or only whitespace); allowed is"),
        (_write(b" \n\t\r\n"), "PATH: holds no text (it is empty or only whitespace)"),
        (_write(b"\xef\xbb\xbf\n"), "PATH: holds no text (it is empty or only whitespace)"),
        (
            _write(b"text\n\x00\x01"),
            "PATH: a binary file (a NUL at byte offset 5), allowed is UTF-8 text; extract",
        ),
        (
            _write("one\ntwo\nkäse".encode("latin-1")),
            "PATH: not UTF-8 text (0xe4 at byte offset 9, line 3), allowed is UTF-8; convert it, "
            "from Latin-1 for example: iconv -f ISO-8859-1 -t UTF-8 'PATH' > converted.txt",
        ),
        (
            _write(b"\xef\xbb\xbfab\xc3"),
            "PATH: not UTF-8 text (0xc3 at byte offset 5, line 1), allowed",
        ),
        (
            _write("text".encode("utf-16")),
            "PATH: UTF-16 text, allowed is UTF-8; convert it: iconv -f UTF-16 -t UTF-8 'PATH'",
        ),
        (_fifo, "PATH: neither a file nor a folder; allowed are text files, and files of .txt"),
    ],
)
def test_a_path_that_holds_no_text_says_so(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(UserError) as caught:
        load_text(str(path))
    assert str(caught.value).startswith(message.replace("PATH", str(path)))


def test_unreadable_files_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text")
    with monkeypatch.context() as patch:
        patch.setattr(files, "open", _denied, raising=False)
        with pytest.raises(UserError) as caught:
            load_text(str(path))
    remedy = "cannot be read: Permission denied; change its permissions, or copy it"
    assert str(caught.value) == f"{path}: {remedy}"
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        load_text("x" * 5000)


@pytest.mark.parametrize(
    ("dataset", "remedy"),
    [
        ("tinyshakespear", "; did you mean tinyshakespeare?"),
        ("Tiny_Shakespeare", "; did you mean tinyshakespeare?"),
        ("FOLDER/poem.txt", "; did you mean FOLDER/poems.txt?"),
        ("FOLDER/none/of/these", "; check the spelling, or give the full path"),
        ("FOLDER/poems.txt/inside", "; check the spelling, or give the full path"),
        ("~nobody-of-this-name/x", "; check the spelling, or give the full path"),
        ("a\0b", "; check the spelling, or give the full path"),
        ("", "; check the spelling, or give the full path"),
    ],
)
def test_an_unknown_name_gets_the_allowed_ones_and_the_nearest(
    tmp_path: Path, dataset: str, remedy: str
) -> None:
    (tmp_path / "poems.txt").write_text("poems")
    with pytest.raises(UserError) as caught:
        load_text(dataset.replace("FOLDER", str(tmp_path)))
    message = str(caught.value).replace(str(tmp_path), "FOLDER")
    assert message.startswith("dataset: given ")
    assert message.endswith(
        ", which is neither a known name nor an existing file or folder; allowed is "
        "tinyshakespeare, shakespeare-plays, the path of a UTF-8 text file, or prepared data"
        f"{remedy}"
    )


def test_val_fraction_is_of_the_end_of_a_text(poem: Path) -> None:
    whole = load_data(dataset=str(poem), tokenizer="char", max_seq_length=16)
    half = load_data(dataset=str(poem), tokenizer="char", max_seq_length=16, val_fraction=0.5)
    num_tokens = len(whole.train_tokens) + len(whole.val_tokens)
    assert len(whole.train_tokens) == int(num_tokens * 0.9)
    assert len(half.train_tokens) == int(num_tokens * 0.5)
    assert len(half.train_tokens) + len(half.val_tokens) == num_tokens
