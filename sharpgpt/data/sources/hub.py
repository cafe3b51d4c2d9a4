"""Datasets of the HuggingFace hub, and folders in the hub's layout.

`datasets` says which files are the training split of a configuration; `huggingface_hub` downloads
them or reads them over the network. No script of a dataset is ever run: where the main branch has
one, or its files are of another format, the files that the hub itself has converted to Parquet are
taken (branch refs/convert/parquet).

What was found is noted in the cache, so that without a network a preparation can go on with files
that are already in the cache.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sharpgpt.config.options import shown
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import write_text
from sharpgpt.data.sources.data_files import FORMATS_IN_WORDS, format_of
from sharpgpt.data.sources.documents import HUB_NAMES, DocumentSource, SourceOptions
from sharpgpt.data.sources.file_sources import SourceFile, source_of
from sharpgpt.data.sources.hub_files import HubFiles, UnreachableError, hub_errors, require_online
from sharpgpt.data.sources.single_text import default_cache_dir
from sharpgpt.data.sources.split import OPENWEBTEXT_NUM_DOCUMENTS, NanoGptSplit

CONVERTED = "refs/convert/parquet"
DEFAULT_CONFIGS = {HUB_NAMES["fineweb-edu"]: "sample-10BT"}
ANSWER_TIMEOUT_S = 10.0
"""For the first question to the hub: without a network the user is told soon."""


@dataclass(frozen=True)
class Found:
    """The files of a training split."""

    config: str
    revision: str
    """The commit."""
    branch: str
    paths: list[tuple[str, int | None]]
    """(path in the repository, size in bytes), in the order of the dataset."""
    license: str | None


def open_hub(repo: str, options: SourceOptions) -> DocumentSource:
    """The training split of the dataset `repo` (ORG/NAME) of the hub."""
    note = None
    cached = _cache_path(repo, options)
    try:
        require_online(repo)
        found = _find(repo, options)
    except UnreachableError:
        if (earlier := _read_found(cached)) is None:
            raise
        found = earlier
        note = f"{repo}: without the hub, the revision found earlier is taken ({found.revision})"
    else:
        _write_found(cached, found)
    files = HubFiles(repo, found.revision, found.paths, options)
    column = options.text_column or "text"
    files.check_column(column)
    split = None
    if repo == HUB_NAMES["openwebtext"] and options.val_fraction is None:
        split = NanoGptSplit(partial(_openwebtext_documents, files, column, options))
    return source_of(
        name=_name(repo, found.config),
        facts={
            "origin": f"{repo} on the HuggingFace hub",
            "config": found.config,
            "revision": found.revision,
            "branch": found.branch,
            "license": found.license,
            "note": note,
        },
        files=[
            SourceFile(file, path, f"{repo}@{found.revision}")
            for file, (path, _) in zip(files.files, found.paths, strict=True)
        ],
        options=options,
        split=split,
    )


def data_files_of_folder(folder: Path, config_name: str | None) -> tuple[str, list[Path]]:
    """The configuration and the training files of a folder in the hub's layout, as `datasets`
    finds them. Raises `UserError` where it finds none, or some outside the folder."""
    root = folder.resolve()
    config, names = _data_files(str(folder), str(root), config_name)
    paths = [Path(os.path.normpath(name)) for name in names]
    outside = [path for path in paths if not path.is_relative_to(root)]
    if outside:
        raise UserError(
            f"{folder}: the card (README.md) names files outside the folder, such as {outside[0]}; "
            "allowed are files inside it"
        )
    return config, [folder / path.relative_to(root) for path in paths]


def _find(repo: str, options: SourceOptions) -> Found:
    """Ask the hub."""
    revision = options.revision or "main"
    config = options.config_name or DEFAULT_CONFIGS.get(repo)
    info = _info(repo, revision)
    names = [file.rfilename for file in info.siblings]
    if revision == CONVERTED or _are_converted(names):
        return _find_converted(repo, config, revision, accept_partial=True)
    if f"{repo.split('/')[1]}.py" not in names:
        config_found, urls = _data_files(repo, repo, config, revision=info.sha)
        found = _found(config_found, revision, info, urls)
        if all(format_of(path) for path, _ in found.paths):
            return found
    return _find_converted(repo, config, CONVERTED, accept_partial=False)


def _are_converted(names: Sequence[str]) -> bool:
    """Whether these are the files of the branch `CONVERTED`: CONFIG/SPLIT/0000.parquet."""
    visible = [name for name in names if not name.startswith(".")]
    return bool(visible) and all(re.fullmatch(r".+/.+/\d{4}\.parquet", name) for name in visible)


def _find_converted(repo: str, config: str | None, revision: str, *, accept_partial: bool) -> Found:
    """The files that the hub has converted; those of half a dataset only if they were asked for."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        info = _info(repo, revision)
    except UserError as error:
        if not isinstance(error.__cause__, RevisionNotFoundError):
            raise
        raise UserError(
            f"{repo}: its files are a script, which is never run, or of a format that is not read, "
            f"and the hub has not converted them to Parquet; allowed are {FORMATS_IN_WORDS}. "
            "Convert the dataset to Parquet, and give the path of the files"
        ) from None
    names = [file.rfilename for file in info.siblings]
    configs = sorted({name.split("/")[0] for name in names if name.count("/") >= 2})
    if config is None and len(configs) == 1:
        config = configs[0]
    if (config or "default") not in configs:
        raise UserError(_which_config(repo, config, configs))
    config = config or "default"
    _, urls = _data_files(repo, repo, None, revision=info.sha, data_dir=config)
    found = _found(config, revision, info, urls)
    if not accept_partial and any("/partial-" in path for path, _ in found.paths):
        raise UserError(
            f"{repo}: the hub has converted only the first part of it to Parquet, and the whole is "
            f"in a format that is not read; allowed are {FORMATS_IN_WORDS}. Give revision "
            f"{CONVERTED} if the part is enough"
        )
    return found


def _info(repo: str, revision: str) -> Any:
    """What the hub knows of a revision: its commit (`sha`), files (`siblings`), tags."""
    from huggingface_hub import HfApi

    with hub_errors(repo):
        return HfApi().dataset_info(
            repo, revision=revision, timeout=ANSWER_TIMEOUT_S, files_metadata=True
        )


def _found(config: str, branch: str, info: Any, urls: Sequence[str]) -> Found:
    sizes = {file.rfilename: file.size for file in info.siblings}
    # hf://datasets/ORG/NAME@COMMIT/PATH
    paths = [url.split("@", 1)[1].split("/", 1)[1] for url in urls]
    licenses = [tag.partition(":")[2] for tag in info.tags or [] if tag.startswith("license:")]
    return Found(
        config=config,
        revision=info.sha,
        branch=branch,
        paths=[(path, sizes.get(path)) for path in paths],
        license=", ".join(licenses) or None,
    )


def _data_files(
    origin: str,
    path: str,
    config: str | None,
    *,
    revision: str | None = None,
    data_dir: str | None = None,
) -> tuple[str, list[str]]:
    """(configuration, files of its split train), as `datasets` finds them.

    `path` is a folder or a repository, and `origin` what messages call it.
    """
    import datasets

    try:
        # The builder makes a folder for what it would build, which is not wanted.
        with tempfile.TemporaryDirectory() as folder, hub_errors(origin):
            builder = datasets.load_dataset_builder(
                path, name=config, revision=revision, data_dir=data_dir, cache_dir=folder
            )
    except ValueError as error:
        listed = re.search(r"vailable(?: configs)?: \[(.*?)\]", str(error))
        if listed is None:
            raise UserError(f"{origin}: {_first_line(error)}") from None
        known = re.findall(r"'([^']+)'", listed[1])
        raise UserError(_which_config(origin, config, known)) from None
    except (FileNotFoundError, RuntimeError) as error:
        raise UserError(
            f"{origin}: no data files were found ({_first_line(error)}); allowed are "
            f"{FORMATS_IN_WORDS}"
        ) from None
    files = builder.config.data_files or {}
    if "train" not in files:
        splits = ", ".join(map(str, files)) or "none"
        raise UserError(
            f"{origin}: the dataset has no split train, which is the one that is read (it has: "
            f"{splits}); download it, and give the path of the files"
        )
    return str(builder.config.name), [str(file) for file in files["train"]]


def _which_config(origin: str, config: str | None, known: Sequence[str]) -> str:
    listed = ", ".join(known[:50]) + (", ..." if len(known) > 50 else "")
    given = f"given {shown(config)}" if config else "it has several, and none was given"
    return f"config_name: {origin}: {given}; allowed is one of {listed}"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _name(repo: str, config: str) -> str:
    """Short; another subset than the usual one has another name."""
    short = {known: short for short, known in HUB_NAMES.items()}.get(repo)
    if short and config == DEFAULT_CONFIGS.get(repo, config):
        return short
    name = short or repo.split("/")[1]
    return name if config == "default" and not short else f"{name}-{config}"


def _openwebtext_documents(files: HubFiles, column: str, options: SourceOptions) -> int:
    num_documents = files.count_documents(column)
    if num_documents != OPENWEBTEXT_NUM_DOCUMENTS:
        options.say(
            f"OpenWebText has {num_documents:,} documents here and {OPENWEBTEXT_NUM_DOCUMENTS:,} "
            "in nanoGPT's: the validation documents are others, and losses do not compare"
        )
    return num_documents


def _cache_path(repo: str, options: SourceOptions) -> Path:
    folder = default_cache_dir()
    if options.cache_dir is not None:
        folder = Path(options.cache_dir).expanduser()
    asked = json.dumps([repo, options.config_name, options.revision])
    name = f"{repo.replace('/', '--')}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.json"
    return folder / "found" / name


def _write_found(path: Path, found: Found) -> None:
    # A convenience for a later time without a network, which no full disk shall spoil.
    with contextlib.suppress(OSError):
        write_text(path, json.dumps(dataclasses.asdict(found), indent=1))


def _read_found(path: Path) -> Found | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["paths"] = [(str(name), size) for name, size in values["paths"]]
        return Found(**values)
    except (OSError, ValueError, TypeError, KeyError):
        return None
