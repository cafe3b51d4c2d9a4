"""Datasets of the HuggingFace hub, and folders in the hub's layout.

`datasets` says which files are the training split of a configuration; `huggingface_hub` downloads
them or reads them over the network. No script of a dataset is ever run: where the main branch has
one, or its files are of another format, the files that the hub itself has converted to Parquet are
taken (branch refs/convert/parquet).

The result is noted in the cache, so that without a network a preparation can resume with files that
are already downloaded.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from sharpgpt.config.options import shown
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import write_text
from sharpgpt.core.jsonio import read_model
from sharpgpt.data.sources.aliases import alias_of_repo
from sharpgpt.data.sources.documents import DocumentSource, SourceOptions
from sharpgpt.data.sources.download import cache_folder
from sharpgpt.data.sources.file_sources import source_of
from sharpgpt.data.sources.files import FORMATS_IN_WORDS, format_of
from sharpgpt.data.sources.hub_files import HubFiles, UnreachableError, hub_errors, require_online
from sharpgpt.data.sources.split import OPENWEBTEXT_NUM_DOCUMENTS, nanogpt_split

logger = logging.getLogger(__name__)

CONVERTED = "refs/convert/parquet"
ANSWER_TIMEOUT_S = 10.0
"""For the first request to the hub, so that a missing network is reported soon."""


class Found(BaseModel):
    """The files of a training split."""

    model_config = ConfigDict(frozen=True)

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
    except UnreachableError as unreachable:
        try:
            found = read_model(cached, Found)
        except (OSError, ValueError):
            raise unreachable from None
        note = f"{repo}: without the hub, the revision found earlier is used ({found.revision})"
    else:
        with contextlib.suppress(OSError):  # a full disk must not stop what needs no cache
            write_text(cached, found.model_dump_json(indent=1))
    alias_name, alias = alias_of_repo(repo)
    files = HubFiles(repo, found.revision, found.paths, options)
    column = options.text_column or alias.text_column
    files.check_column(column)
    split = None
    if alias.split == "nanogpt" and options.val_fraction is None:
        split = nanogpt_split(partial(_openwebtext_documents, files, column))
    # A subset other than the usual one shows in the name.
    usual = alias.config_name or (found.config if alias_name else "default")
    name = alias_name or repo.split("/")[1]
    return source_of(
        name=name if found.config == usual else f"{name}-{found.config}",
        facts={
            "origin": f"{repo} on the HuggingFace hub",
            "config": found.config,
            "revision": found.revision,
            "branch": found.branch,
            "license": found.license,
            "note": note,
        },
        files=files.files,
        options=options,
        text_column=column,
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
    config = options.config_name or alias_of_repo(repo)[1].config_name
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
    """The files that the hub has converted; a part of a dataset only with `accept_partial`."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        info = _info(repo, revision)
    except UserError as error:
        if not isinstance(error.__cause__, RevisionNotFoundError):
            raise
        raise UserError(
            f"{repo}: its files are a script, which is never run, or of an unsupported format, "
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
            f"in an unsupported format; allowed are {FORMATS_IN_WORDS}. Give revision "
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
        # The builder creates a cache folder, which is not wanted.
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


def _openwebtext_documents(files: HubFiles, column: str) -> int:
    num_documents = files.count_documents(column)
    if num_documents != OPENWEBTEXT_NUM_DOCUMENTS:
        logger.info(
            f"OpenWebText has {num_documents:,} documents here and {OPENWEBTEXT_NUM_DOCUMENTS:,} "
            "in nanoGPT's: the validation documents differ, and losses do not compare"
        )
    return num_documents


def _cache_path(repo: str, options: SourceOptions) -> Path:
    request = json.dumps([repo, options.config_name, options.revision])
    name = f"{repo.replace('/', '--')}-{hashlib.sha256(request.encode()).hexdigest()[:16]}.json"
    return cache_folder(options.cache_dir) / "found" / name
