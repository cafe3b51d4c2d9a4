"""The data files of a local folder: which are read, which are the validation split, and the rest.

Links are followed, each real file is read once. Files and folders that are named as the hub's
splits (train, validation, val, dev, test and the like, as the package `datasets` has them) are
those splits: train is for training, a validation split is the validation split, and a test split is
left out. Where nothing is named train, what is named after no split is for training.
"""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sharpgpt.core.files import readable
from sharpgpt.data.sources.files import NOT_READABLE, format_of

logger = logging.getLogger(__name__)

KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""`datasets.data_files.SPLIT_KEYWORDS`; a test compares the two."""

SEPARATORS = "-._ 0-9"

NAMED_FILES = 5
"""So many of the files that are left out are named."""


class FolderFiles(NamedTuple):
    """The files of a folder, each list in the order of their names."""

    train: list[Path]
    validation: list[Path]
    left_out: list[str]
    """`name (why)` each, relative to the folder."""


def files_of_folder(folder: Path) -> FolderFiles:
    """Everything below `folder`. Raises `UserError` for a folder that cannot be read.

    `.json` is left out, since it is settings as often as data.
    """
    found, left_out = [], []
    seen: dict[tuple[int, int], Path] = {}
    for path, problem in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if problem is not None:
            left_out.append(f"{name} ({problem})")
        elif not format_of(path.name) or path.name.lower().endswith(".json"):
            left_out.append(f"{name} (another kind of file)")
        else:
            status = path.stat()
            first = seen.setdefault((status.st_dev, status.st_ino), path)
            if first is path:
                found.append(path)
            else:
                left_out.append(f"{name} (the same file as {first.relative_to(folder)})")
    splits = _splits(folder, found)
    has_train = "train" in splits.values()
    train, validation = [], []
    for path in found:
        split = splits.get(path)
        if split == "validation":
            validation.append(path)
        elif split == "train" or (split is None and not has_train):
            train.append(path)
        else:
            why = "the test split" if split == "test" else "not of the train split"
            left_out.append(f"{path.relative_to(folder).as_posix()} ({why})")
    if not train:  # such as a folder whose every file is named validation
        train, validation = sorted([*train, *validation], key=Path.as_posix), []
    return FolderFiles(train, validation, left_out)


def tell(folder: Path, files: FolderFiles) -> None:
    """Log which files are the validation split, and which are left out."""
    if files.validation:
        names = [path.relative_to(folder).as_posix() for path in files.validation]
        logger.info("%s: the validation split is %s", folder, _listed(names))
    if files.left_out:
        logger.info("%s: left out: %s", folder, _listed(files.left_out))


def split_by_name(name: str) -> str | None:
    """The split that a path relative to its dataset is named after: by folders first."""
    *folders, file = name.split("/")
    for split, keywords in KEYWORDS.items():
        words = "|".join(keywords)
        pattern = rf"(?:.*[{SEPARATORS}])?(?:{words})(?:[{SEPARATORS}].*)?"
        if any(re.fullmatch(pattern, part) for part in folders):
            return split
    for split, keywords in KEYWORDS.items():
        words = "|".join(keywords)
        if re.fullmatch(rf"(?:.*[{SEPARATORS}])?(?:{words})[{SEPARATORS}].*", file):
            return split
    return None


def _splits(folder: Path, paths: list[Path]) -> dict[Path, str]:
    """The split of each file that is named after one; none where only test names are found."""
    splits = {path: split_by_name(path.relative_to(folder).as_posix()) for path in paths}
    found = {path: split for path, split in splits.items() if split is not None}
    return found if {"train", "validation"} & set(found.values()) else {}


def _walk(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """(file, problem) in the order of the names; each real folder once, hidden ones not at all."""
    with readable(folder, NOT_READABLE):
        root = folder.stat()
    seen = {(root.st_dev, root.st_ino)}

    def refuse(error: OSError) -> None:
        with readable(Path(error.filename), NOT_READABLE):
            raise error

    found: list[tuple[Path, str | None]] = []
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        kept = []
        for name in sorted(folders):
            path = Path(parent, name)
            if name.startswith("."):
                continue
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                found.append((path, "a link to a folder that is read already"))
            else:
                seen.add((status.st_dev, status.st_ino))
                kept.append(name)
        folders[:] = kept
        for name in names:
            path = Path(parent, name)
            if not name.startswith("."):
                found.append((path, None if path.exists() else "a link to nothing"))
    return iter(sorted(found, key=lambda pair: pair[0].as_posix()))


def _listed(names: list[str]) -> str:
    more = len(names) - NAMED_FILES
    return ", ".join(names[:NAMED_FILES]) + (f" and {more} more" if more > 0 else "")
