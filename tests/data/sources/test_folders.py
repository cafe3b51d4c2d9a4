"""Which files of a folder are read, and as which split."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data.sources import folders
from sharpgpt.data.sources.folders import files_of_folder, split_by_name
from sharpgpt.data.sources.open import open_source


def write(folder: Path, names: list[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the text of {name}")
    return folder


def named(folder: Path) -> Mapping[str, list[str]]:
    found = files_of_folder(folder)
    return {
        "train": [path.relative_to(folder).as_posix() for path in found.train],
        "validation": [path.relative_to(folder).as_posix() for path in found.validation],
        "left_out": found.left_out,
    }


def test_the_keywords_are_those_of_datasets() -> None:
    from datasets import data_files

    theirs = {str(split): tuple(words) for split, words in data_files.SPLIT_KEYWORDS.items()}
    assert theirs == folders.KEYWORDS
    assert data_files.NON_WORDS_CHARS == folders.SEPARATORS


NAMES = [
    "train.jsonl", "my-train_01.txt", "training.jsonl", "valid.txt", "val.jsonl", "dev-1.jsonl",
    "validation.parquet", "test.jsonl", "eval_set.txt", "a.test.txt", "sub/val.txt", "dev/a.txt",
    "my_dev/a.txt", "test 1/x.txt", "train/val.txt", "data/train/a.txt", "x/evaluation-2/b.txt",
    "contest.txt", "device.txt", "trained.txt", "latest/x.txt", "value.txt", "attest/train.txt",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_are_understood_as_datasets_does(tmp_path: Path, name: str) -> None:
    """One file alone, so that folders and files do not compete."""
    from datasets.data_files import (
        DEFAULT_PATTERNS_SPLIT_IN_DIR_NAME,
        DEFAULT_PATTERNS_SPLIT_IN_FILENAME,
        resolve_pattern,
    )

    write(tmp_path, [name])
    theirs = None
    for patterns in (DEFAULT_PATTERNS_SPLIT_IN_FILENAME, DEFAULT_PATTERNS_SPLIT_IN_DIR_NAME):
        for split, globs in patterns.items():
            for pattern in globs:
                try:
                    resolve_pattern(pattern, base_path=str(tmp_path))
                except FileNotFoundError:
                    continue
                theirs = str(split)
    assert split_by_name(name) == theirs


def test_a_validation_file_is_the_validation_split(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It was trained on: 287 of 300 of its rows."""
    caplog.set_level("INFO")
    write(tmp_path, ["train.txt", "val.txt", "test.txt", "notes.md", "other.txt", ".hidden.txt"])
    assert named(tmp_path) == {
        "train": ["train.txt"],
        "validation": ["val.txt"],
        "left_out": [
            "notes.md (another kind of file)",
            "other.txt (not of the train split)",
            "test.txt (the test split)",
        ],
    }
    source = open_source(str(tmp_path), val_fraction=0.5)
    pieces = [piece for batch in source.batches() for piece in batch.pieces]
    assert [(piece.text, piece.is_validation) for piece in pieces] == [
        ("the text of train.txt", False),
        ("the text of val.txt", True),
    ]
    assert source.facts["split"] == {"rule": "files", "validation": ["val.txt"]}
    assert "the validation split is val.txt" in caplog.text
    assert "left out: notes.md (another kind of file), other.txt" in caplog.text
    assert "val_fraction is not used" in caplog.text
    whole = open_source(str(tmp_path / "*.txt")).facts
    assert whole["num_files"] == 4
    assert "a glob, so all of its files are for training, test.txt included" in caplog.text


def test_without_a_train_file_the_rest_is_for_training(tmp_path: Path) -> None:
    write(tmp_path / "a", ["a.txt", "b.txt", "dev.txt"])
    assert named(tmp_path / "a")["train"] == ["a.txt", "b.txt"]
    assert named(tmp_path / "a")["validation"] == ["dev.txt"]
    write(tmp_path / "b", ["the test of time.txt", "essay.txt"])
    assert named(tmp_path / "b")["train"] == ["essay.txt", "the test of time.txt"]
    write(tmp_path / "c", ["validation/a.txt", "validation/b.txt"])
    assert named(tmp_path / "c")["train"] == ["validation/a.txt", "validation/b.txt"]


def test_linked_folders_are_read_and_each_file_once(tmp_path: Path) -> None:
    """A link to a folder was passed over in silence."""
    folder = write(tmp_path / "data", ["a.txt", "sub/b.txt"])
    write(tmp_path / "elsewhere", ["c.txt", "deep/d.txt"])
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (folder / "sub" / "up").symlink_to("..")
    (folder / "copy.txt").symlink_to("a.txt")
    (folder / "nowhere.txt").symlink_to("missing")
    os.link(folder / "a.txt", folder / "hard.txt")
    found = named(folder)
    assert len(found["train"]) == 4
    assert {Path(name).name for name in found["train"]} == {"a.txt", "b.txt", "c.txt", "d.txt"}
    assert sorted(found["left_out"]) == sorted(
        [
            "copy.txt (the same file as a.txt)",
            "hard.txt (the same file as a.txt)",
            "linked (a link to a folder that is read already)",
            "loop (a link to a folder that is read already)",
            "nowhere.txt (a link to nothing)",
            "sub/up (a link to a folder that is read already)",
        ]
    )


def test_a_folder_of_links_to_nothing_has_no_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to("missing")
    with pytest.raises(UserError, match="a folder without files"):
        open_source(str(tmp_path))
