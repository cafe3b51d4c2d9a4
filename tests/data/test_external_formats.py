"""Files of other programs, written here by the formats that they publish."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data.prepared import open_prepared

TRAIN = np.random.default_rng(0).integers(0, 50257, 5000)
VAL = np.random.default_rng(1).integers(0, 50257, 700)


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
        ({"count": 1801}, "says 1801 tokens, its size of 4624 bytes does not fit"),
        ({"count": -1}, "says -1 tokens"),
        ({"count": 2**31 - 1}, "says 2147483647 tokens"),
        ({"version": 7}, "in version 7, allowed is version 1"),
        ({"version": 0}, "in version 0, allowed is version 1"),
        ({"count": -(2**31)}, "says -2147483648 tokens"),
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
