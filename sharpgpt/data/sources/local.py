"""Sources from the user's own files: one, a folder with everything below it, or a glob.

A folder in the layout of the hub (a card that lists data files, or shards named
`train-00000-of-00080`) is read as `datasets` reads it: the training split of one configuration. Any
other folder is read as folders.py says.
"""

import glob
import hashlib
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sharpgpt.config.options import shown
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import WHOLE_BYTES, beginning_and_end, readable, user_path
from sharpgpt.core.jsonio import read_bytes
from sharpgpt.core.numbers import counted
from sharpgpt.data.content import contents, stamp
from sharpgpt.data.sources.aliases import DATASET_NAMES, TINYSHAKESPEARE
from sharpgpt.data.sources.documents import DocumentSource, SourceOptions
from sharpgpt.data.sources.download import hashes_folder
from sharpgpt.data.sources.file_sources import refuse_options, source_of
from sharpgpt.data.sources.files import (
    FORMATS_IN_WORDS,
    NOT_READABLE,
    DataFile,
    existing_path,
    format_of,
    open_file,
)
from sharpgpt.data.sources.folders import FolderFiles, files_of_folder, split_by_name, tell
from sharpgpt.data.sources.readers import count_parquet_documents
from sharpgpt.data.sources.split import OPENWEBTEXT_NUM_DOCUMENTS, nanogpt_split
from sharpgpt.data.sources.tinyshakespeare import is_tinyshakespeare
from sharpgpt.data.sources.tinyshakespeare_standin import STANDIN_NAME

logger = logging.getLogger(__name__)

MAX_CARD_BYTES = 16 * 2**20
"""Of the README.md of a dataset."""
_SHARD = re.compile(r"^(.+)-(\d{5})-of-(\d{5})(\..+)$")


def find(dataset: str) -> list[Path] | None:
    """The path that `dataset` is, or those that it matches as a glob; None where it is neither.

    Raises `UserError` for a path that cannot be examined and a glob without a match.
    """
    path = existing_path(dataset)
    if path is not None:
        return [path]
    if not glob.has_magic(dataset):
        return None
    # Hidden files and folders match only where the pattern itself names the dot.
    pattern = str(user_path(dataset))
    matches = map(Path, glob.iglob(pattern, recursive=True))  # noqa: PTH207 (Path.glob has no ~/**)
    files = sorted((match for match in matches if match.is_file()), key=Path.as_posix)
    if not files:
        raise UserError(
            f"dataset: {shown(dataset)} matches no file; check the pattern (** stands for any "
            "folders) and quote it, so that the shell leaves it alone"
        )
    return files


def open_local(dataset: str, paths: Sequence[Path], options: SourceOptions) -> DocumentSource:
    """The source of a file, a folder or the matches of a glob, as `find` gives them."""
    is_folder = len(paths) == 1 and paths[0].is_dir()
    origin = str(paths[0]) if len(paths) == 1 else dataset
    root = paths[0] if is_folder else Path(os.path.commonpath([path.parent for path in paths]))
    facts: dict[str, Any] = {"origin": origin, "note": None}
    refuse_options(origin, options, "revision", "streaming")
    validation: list[Path] = []
    if is_folder and _has_hub_layout(root):
        from sharpgpt.data.sources.hub import data_files_of_folder

        facts["config"], paths = data_files_of_folder(root, options.config_name)
        _require_all_shards(paths)
    else:
        refuse_options(origin, options, "config_name")
        if is_folder:
            paths, validation, _ = _folder_files(root)
            paths = [*paths, *validation]
        elif named := [p.name for p in paths if split_by_name(p.name) in ("validation", "test")]:
            logger.warning(
                "%s: a glob, so all of its files are for training, %s included", dataset, named[0]
            )
    sha256s = contents(paths, hashes_folder()).sha256s
    files = [local_file(path, root, sha256) for path, sha256 in zip(paths, sha256s, strict=True)]
    if validation:
        if options.val_fraction is not None:
            logger.warning("val_fraction is not used: %s has a validation split", origin)
        count = len(files) - len(validation)
        files = [replace(file, is_validation=i >= count) for i, file in enumerate(files)]
    name = (paths[0] if len(paths) == 1 and not is_folder else root).resolve().name
    if name in (*DATASET_NAMES, STANDIN_NAME):
        name = f"{name}-own"
    if len(files) == 1 and is_tinyshakespeare(files[0]):
        name = TINYSHAKESPEARE
    column = options.text_column or "text"
    split = None
    if all(file.format == "parquet" for file in files):
        # Also detects, before anything is read, a damaged file and one without the column.
        num_documents = sum(count_parquet_documents(file, column) for file in files)
        is_whole = num_documents == OPENWEBTEXT_NUM_DOCUMENTS and not validation
        if is_whole and options.val_fraction is None:
            name, split = "openwebtext", nanogpt_split(lambda: num_documents)
    return source_of(
        name=name, facts=facts, files=files, options=options, text_column=column, split=split
    )


def local_file(path: Path, root: Path, sha256: str = "") -> DataFile:
    """A file below `root` with this content; one whose ending is of no known format is text."""
    kind, compression = format_of(path.name) or ("text", None)
    num_bytes = stamp(path)[0]

    def former_identity() -> str:
        with readable(path, NOT_READABLE), open_file(path) as file:
            ends = beginning_and_end(file, num_bytes)
        return hashlib.sha256(str(num_bytes).encode() + ends).hexdigest()

    return DataFile(
        name=str(path),
        num_bytes=num_bytes,
        format=kind,
        compression=compression,
        open=partial(open_file, path),
        label=path.relative_to(root).as_posix(),
        # Of a small file the former identity covers every byte, so it stays what it was.
        identity=former_identity() if num_bytes <= WHOLE_BYTES else sha256,
        former_identity=former_identity,
        stamp=partial(stamp, path),
    )


def _folder_files(folder: Path) -> FolderFiles:
    files = files_of_folder(folder)
    if not files.train:
        raise UserError(
            f"{folder}: a folder without files of {FORMATS_IN_WORDS}. If its texts end otherwise, "
            "rename them to .txt, or give a glob of them"
        )
    tell(folder, files)
    return files


def _has_hub_layout(folder: Path) -> bool:
    """Whether the folder looks like a copy of a dataset of the hub."""
    try:
        card = read_bytes(folder / "README.md", max_bytes=MAX_CARD_BYTES)
        if card.startswith(b"---") and re.search(rb"^configs:", card.split(b"---", 2)[1], re.M):
            return True
    except (OSError, ValueError):
        pass
    shards = (path for pattern in ("*-of-*", "*/*-of-*") for path in folder.glob(pattern))
    return any(_SHARD.match(path.name) and format_of(path.name) for path in shards)


def _require_all_shards(paths: Sequence[Path]) -> None:
    """Refuse an incomplete download."""
    present = set(paths)
    series = {
        (path.parent, shard[1], shard[3], shard[4])
        for path in paths
        if (shard := _SHARD.match(path.name))
    }
    for folder, stem, total, ending in sorted(series):
        wanted = [folder / f"{stem}-{i:05}-of-{total}{ending}" for i in range(int(total))]
        missing = [path.name for path in wanted if path not in present]
        if missing:
            raise UserError(
                f"{folder}: {len(missing):,} of {counted(len(wanted), 'file')} missing, first "
                f"{missing[0]}; complete the download, or give a glob of the files to do without"
            )
