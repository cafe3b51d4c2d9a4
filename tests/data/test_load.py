import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sharpgpt.data
from sharpgpt.core.errors import UserError
from sharpgpt.data.load import load_data
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


def test_the_door_opens_on_the_package() -> None:
    door = runpy.run_path(str(ROOT / "data.py"))
    assert "load_data" in door["__all__"]
    assert set(door["__all__"]) <= set(sharpgpt.data.load.__all__)
    for name in door["__all__"]:
        assert door[name] is getattr(sharpgpt.data.load, name)


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
