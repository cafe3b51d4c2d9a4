"""Sources from the user's own files: one, a folder with everything below it, or a glob.

A folder in the layout of the hub (a card that lists data files, or shards named
`train-00000-of-00080`) is read as `datasets` reads it: the training split of one configuration. Of
any other folder every file with a known ending is read, hidden ones not.
"""

import glob
import hashlib
import io
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sharpgpt.config.options import shown
from sharpgpt.config.yaml_files import read_value
from sharpgpt.core.errors import UserError
from sharpgpt.data.sources.data_files import FORMATS_IN_WORDS, DataFile, format_of, open_file
from sharpgpt.data.sources.documents import HUB_NAMES, DocumentSource, SourceOptions
from sharpgpt.data.sources.file_sources import (
    SingleTextSource,
    SourceFile,
    refuse_options,
    source_of,
)
from sharpgpt.data.sources.readers import count_parquet_documents
from sharpgpt.data.sources.single_text import (
    TINYSHAKESPEARE,
    TINYSHAKESPEARE_BYTES,
    TINYSHAKESPEARE_SHA256,
    load_text,
    read_utf8,
)
from sharpgpt.data.sources.split import OPENWEBTEXT_NUM_DOCUMENTS, NanoGptSplit, text_val_fraction
from sharpgpt.data.sources.standin import STANDIN_NAME

_IDENTITY_BYTES = 1 << 16
_SHARD = re.compile(r"^(.+)-(\d{5})-of-(\d{5})(\..+)$")


def open_tinyshakespeare(options: SourceOptions) -> DocumentSource:
    """TinyShakespeare or its stand-in (see `load_text`): a single text."""
    refuse_options(TINYSHAKESPEARE, options, "text_column", "config_name", "revision", "streaming")
    text = load_text(TINYSHAKESPEARE, options.cache_dir)
    data = text.text.encode()
    file = DataFile(text.origin, text.num_bytes, "text", None, lambda: io.BytesIO(data))
    return SingleTextSource(
        name=text.name,
        facts={"origin": text.origin, "is_stand_in": text.is_stand_in, "note": text.note},
        file=SourceFile(file, f"{TINYSHAKESPEARE}.txt", text.sha256),
        val_fraction=text_val_fraction(options.val_fraction),
    )


def find(dataset: str) -> list[Path] | None:
    """The path that `dataset` is, or those that it matches as a glob; None where it is neither.

    Raises `UserError` for a path that cannot be looked at and a glob without a match.
    """
    try:
        path = Path(dataset).expanduser()
    except RuntimeError:  # ~name of a user that does not exist
        path = Path(dataset)
    try:
        path.stat()
        return [path] if dataset else None
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL
        pass
    except OSError as error:  # a name that is too long, a folder that may not be searched
        raise UserError(f"dataset: {shown(dataset)} cannot be read: {error.strerror}") from None
    if not glob.has_magic(dataset):
        return None
    # Hidden files and folders match only where the pattern itself names the dot.
    matches = map(Path, glob.iglob(str(path), recursive=True))  # noqa: PTH207 (Path.glob has no ~/**)
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
    if is_folder and _has_hub_layout(root):
        from sharpgpt.data.sources.hub import data_files_of_folder

        facts["config"], paths = data_files_of_folder(root, options.config_name)
        _require_all_shards(paths)
    else:
        refuse_options(origin, options, "config_name")
        paths = _folder_files(root) if is_folder else paths
    files = [_source_file(path, root) for path in paths]
    name = (paths[0] if len(paths) == 1 and not is_folder else root).resolve().name
    if name in (TINYSHAKESPEARE, STANDIN_NAME, *HUB_NAMES):
        name = f"{name}-own"
    if len(files) == 1 and _is_tinyshakespeare(files[0].file, paths[0]):
        name = TINYSHAKESPEARE
    split = None
    if all(file.file.format == "parquet" for file in files):
        # Also finds, before anything is read, a damaged file and one without the column.
        column = options.text_column or "text"
        num_documents = sum(count_parquet_documents(file.file, column) for file in files)
        if num_documents == OPENWEBTEXT_NUM_DOCUMENTS and options.val_fraction is None:
            name, split = "openwebtext", NanoGptSplit(lambda: num_documents)
    return source_of(name=name, facts=facts, files=files, options=options, split=split)


def local_file(path: Path) -> DataFile:
    """A file on the disk; one whose ending is of no known format is text."""
    kind, compression = format_of(path.name) or ("text", None)
    try:
        num_bytes = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return DataFile(str(path), num_bytes, kind, compression, partial(open_file, path))


def _source_file(path: Path, root: Path) -> SourceFile:
    """The file with a hash of its beginning and end, which is quick for any size."""
    file = local_file(path)
    num_bytes = file.num_bytes or 0
    digest = hashlib.sha256(str(num_bytes).encode())
    with file.open() as raw:
        digest.update(raw.read(_IDENTITY_BYTES))
        raw.seek(max(num_bytes - _IDENTITY_BYTES, 0))
        digest.update(raw.read(_IDENTITY_BYTES))
    return SourceFile(file, path.relative_to(root).as_posix(), digest.hexdigest())


def _is_tinyshakespeare(file: DataFile, path: Path) -> bool:
    """Known by its hash, whatever the file is called; with CR LF it is a little longer."""
    is_plain = file.format == "text" and file.compression is None
    if not is_plain or (file.num_bytes or 0) > 2 * TINYSHAKESPEARE_BYTES:
        return False
    return hashlib.sha256(read_utf8(path).encode()).hexdigest() == TINYSHAKESPEARE_SHA256


def _folder_files(folder: Path) -> list[Path]:
    """The files of known formats, those in subfolders too, in the order of their names.

    `.json` is left out, since it is settings as often as data.
    """

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename}: cannot be read: {error.strerror}; allow yourself to read it, or "
            "copy it"
        )

    found = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name)
            for name in names
            if not name.startswith(".") and format_of(name) and not name.lower().endswith(".json")
        ]
    if not found:
        raise UserError(
            f"{folder}: a folder without files of {FORMATS_IN_WORDS}. If its texts end otherwise, "
            "rename them to .txt, or give a glob of them"
        )
    return sorted(found, key=Path.as_posix)


def _has_hub_layout(folder: Path) -> bool:
    """Whether the folder is a copy of a dataset of the hub."""
    try:
        path = folder / "README.md"
        card = path.read_text(encoding="utf-8") if path.is_file() else ""
        header = read_value(card.split("---", 2)[1]) if card.startswith("---") else None
        if isinstance(header, dict) and header.get("configs"):
            return True
    except (OSError, ValueError, IndexError):
        pass
    patterns = ("*-of-*", "*/*-of-*")
    return any(
        _SHARD.match(path.name) and format_of(path.name)
        for pattern in patterns
        for path in folder.glob(pattern)
    )


def _require_all_shards(paths: Sequence[Path]) -> None:
    """Half a download must not pass for the whole."""
    here = set(paths)
    series = {
        (path.parent, shard[1], shard[3], shard[4])
        for path in paths
        if (shard := _SHARD.match(path.name))
    }
    for folder, stem, total, ending in sorted(series):
        wanted = [folder / f"{stem}-{i:05}-of-{total}{ending}" for i in range(int(total))]
        missing = [path.name for path in wanted if path not in here]
        if missing:
            raise UserError(
                f"{folder}: {len(missing)} of {len(wanted)} files are missing, the first is "
                f"{missing[0]}; complete the download, or give a glob of the files to do without"
            )
