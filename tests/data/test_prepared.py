import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data.manifest import MANIFEST, verify
from sharpgpt.data.prepared import data_tokenizer, open_prepared
from sharpgpt.data.tokenizer import CharTokenizer, Gpt2Tokenizer
from tests.data.prepared_folder import IDS, prepared

TRAIN = np.random.default_rng(0).integers(0, 50257, 5000)
VAL = np.random.default_rng(1).integers(0, 50257, 700)


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


# Files of other programs, written here by the formats that they publish.


def write_nanogpt(path: Path, ids: Any) -> None:
    np.array(ids, dtype=np.uint16).tofile(path)


def write_llmc(path: Path, ids: Any, **changes: int) -> None:
    header = np.zeros(256, dtype=np.int32)
    header[0] = changes.get("magic", 20240520)
    header[1] = changes.get("version", 1)
    header[2] = changes.get("count", len(ids))
    path.write_bytes(header.tobytes() + np.array(ids, dtype=np.uint16).tobytes())


@pytest.fixture
def nanogpt(tmp_path: Path) -> Path:
    folder = tmp_path / "openwebtext"
    folder.mkdir()
    write_nanogpt(folder / "train.bin", TRAIN)
    write_nanogpt(folder / "val.bin", VAL)
    return folder


@pytest.fixture
def llmc(tmp_path: Path) -> Path:
    folder = tmp_path / "fineweb10B"
    folder.mkdir()
    for number, first in enumerate(range(0, 5000, 1800)):
        write_llmc(folder / f"fineweb_train_{number:06d}.bin", TRAIN[first : first + 1800])
    write_llmc(folder / "fineweb_val_000000.bin", VAL)
    return folder


@pytest.mark.parametrize("given", ["", "train.bin", "val.bin", "*.bin"])
def test_nanogpt_reads_back_equal(nanogpt: Path, given: str) -> None:
    data = open_prepared(nanogpt / given)
    assert data is not None
    assert data.form == "nanogpt"
    assert np.array_equal(data.train[:], TRAIN)
    assert np.array_equal(data.val[:], VAL)
    assert (data.vocab_size, data.end_of_text_id, data.tokenizer_name) == (50257, 50256, "gpt2")


@pytest.mark.parametrize("given", ["", "*.bin", "fineweb_*_*.bin"])
def test_llmc_reads_back_equal(llmc: Path, given: str) -> None:
    data = open_prepared(llmc / given)
    assert data is not None
    assert data.form == "llm.c"
    assert np.array_equal(data.train[:], TRAIN)
    assert np.array_equal(data.val[:], VAL)
    blocks = data.train.rows(np.array([0, 1790, 3599, 4990]), 10)
    expected = [TRAIN[start : start + 10] for start in (0, 1790, 3599, 4990)]
    assert np.array_equal(blocks, expected)


def test_one_shard_alone_is_the_training_split(llmc: Path) -> None:
    data = open_prepared(llmc / "fineweb_train_000001.bin")
    assert data is not None
    assert np.array_equal(data.train[:], TRAIN[1800:3600])
    assert np.array_equal(data.val[:], VAL)


def test_the_identity_follows_the_content(nanogpt: Path) -> None:
    def identity() -> str:
        data = open_prepared(nanogpt)
        assert data is not None
        return data.sha256

    before = identity()
    assert identity() == before
    write_nanogpt(nanogpt / "train.bin", TRAIN[::-1])
    assert identity() != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 1801}, "says 1,801 tokens, and its size of 4,624 bytes does not fit"),
        ({"count": -1}, "says -1 tokens"),
        ({"count": 2**31 - 1}, "says 2,147,483,647 tokens"),
        ({"version": 7}, "in version 7, allowed is version 1"),
        ({"version": 0}, "in version 0, allowed is version 1"),
        ({"count": -(2**31)}, "says -2,147,483,648 tokens"),
        ({"magic": 20240801}, "has no llm.c header"),
    ],
)
def test_a_header_that_cannot_be(llmc: Path, changes: dict[str, int], message: str) -> None:
    write_llmc(llmc / "fineweb_train_000001.bin", TRAIN[:1800], **changes)
    with pytest.raises(UserError, match=message):
        open_prepared(llmc)


def test_other_faults_are_one_message(nanogpt: Path, tmp_path: Path) -> None:
    (nanogpt / "meta.pkl").write_bytes(b"anything")
    with pytest.raises(UserError, match=r"meta\.pkl; a pickle can run any code and is not read"):
        open_prepared(nanogpt)
    (nanogpt / "meta.pkl").unlink()
    with open(nanogpt / "train.bin", "ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="an odd number"):
        open_prepared(nanogpt)
    (nanogpt / "train.bin").unlink()
    with pytest.raises(UserError, match=r"no \*train\*\.bin"):
        open_prepared(nanogpt)


def test_a_header_that_is_cut_off(nanogpt: Path) -> None:
    """It is no file of tokens without a header either, though train.bin may be one."""
    content = np.array([20240520, 1, 100], dtype="<i4").tobytes()
    for size in (12, 1023):
        (nanogpt / "train.bin").write_bytes(content.ljust(size, b"\0"))
        with pytest.raises(UserError, match=r"train\.bin: ends within its header"):
            open_prepared(nanogpt)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to nothing"])
def test_what_is_no_file_is_not_read(nanogpt: Path, kind: str) -> None:
    path = nanogpt / "train.bin"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nothing")
    with pytest.raises(
        UserError, match=r"train\.bin: cannot be read: (it is not a regular file|No such)"
    ):
        open_prepared(nanogpt)


def test_hidden_files_are_not_meant(nanogpt: Path) -> None:
    """macOS keeps "._train.bin" beside train.bin on disks of other systems."""
    (nanogpt / "._train.bin").write_bytes(b"anything")
    data = open_prepared(nanogpt)
    assert data is not None
    assert np.array_equal(data.train[:], TRAIN)


def test_both_forms_in_one_folder(nanogpt: Path) -> None:
    write_llmc(nanogpt / "val.bin", VAL)
    with pytest.raises(UserError, match=r"some of its \.bin files have llm.c's header and some"):
        open_prepared(nanogpt)


def test_of_both_words_in_a_name_the_last_counts(llmc: Path) -> None:
    for file in llmc.glob("*.bin"):
        file.rename(file.with_name(file.name.replace("fineweb", "training_values")))
    data = open_prepared(llmc)
    assert data is not None
    assert (len(data.train), len(data.val)) == (5000, 700)


def test_an_id_outside_the_vocabulary_is_named_when_it_is_met(nanogpt: Path) -> None:
    ids = TRAIN.copy()
    ids[4000] = 60000
    write_nanogpt(nanogpt / "train.bin", ids)
    data = open_prepared(nanogpt)
    assert data is not None
    data.train.rows(np.array([0]), 100)
    with pytest.raises(UserError, match=r"train\.bin: token 4000 has the id 60000, outside"):
        data.train.rows(np.array([0, 3990]), 100)


def test_what_is_no_token_file_is_left_to_others(tmp_path: Path) -> None:
    assert open_prepared(tmp_path) is None
    assert open_prepared(tmp_path / "none") is None
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "picture.bin").write_bytes(b"123")
    assert open_prepared(tmp_path) is None
    assert open_prepared(tmp_path / "a.txt") is None
    assert open_prepared("a\0b") is None
