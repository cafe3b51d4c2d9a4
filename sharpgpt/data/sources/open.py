"""From the setting `dataset` to the source of documents that it names."""

import re
from collections.abc import Callable
from pathlib import Path

from sharpgpt.core.errors import UserError
from sharpgpt.data.sources import hub
from sharpgpt.data.sources import local as local_files
from sharpgpt.data.sources.data_files import format_of
from sharpgpt.data.sources.documents import ALLOWED, HUB_NAMES, DocumentSource, SourceOptions
from sharpgpt.data.sources.single_text import TINYSHAKESPEARE, unknown_dataset


def open_source(
    dataset: str,
    *,
    text_column: str | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    val_fraction: float | None = None,
    cache_dir: str | Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> DocumentSource:
    """The documents that the setting `dataset` names.

    Args:
        dataset: "tinyshakespeare", "openwebtext", "fineweb-edu", ORG/NAME of the hub, or the path
            of files: one, a folder with everything below it (hidden files left out, in the order
            of their names), or a glob. One .txt file is a single text; of several, and of folders
            of them, each is a document.
        text_column: the column of the documents in Parquet and JSON lines; None is "text".
        config_name: the subset of a dataset that has several.
        revision: branch, tag or commit of a dataset of the hub; None is its main branch.
        streaming: read a dataset of the hub over the network and keep nothing, instead of
            downloading its files one after the other into the cache, each while the one before is
            read.
        val_fraction: part for validation, above 0 and below 1. None is 0.1 of the characters of a
            single text, nanoGPT's split for OpenWebText, and 0.005 of the documents otherwise.
        cache_dir: where downloads are kept; None is the cache of the HuggingFace hub ($HF_HOME),
            and for TinyShakespeare `default_cache_dir()`.
        say: takes a line for the user where something takes long.

    Raises `UserError` for what is not there, cannot be reached or holds no such text.
    """
    options = SourceOptions(
        text_column=text_column,
        config_name=config_name,
        revision=revision,
        streaming=streaming,
        val_fraction=val_fraction,
        cache_dir=cache_dir,
        say=say,
    )
    if dataset == TINYSHAKESPEARE:
        return local_files.open_tinyshakespeare(options)
    short = dataset.lower().replace("_", "-")
    if short in HUB_NAMES:
        return hub.open_hub(HUB_NAMES[short], options)
    paths = local_files.find(dataset)
    if paths is not None:
        return local_files.open_local(dataset, paths, options)
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", dataset, re.ASCII) and not format_of(dataset):
        return hub.open_hub(dataset, options)
    known = [TINYSHAKESPEARE, *HUB_NAMES, *HUB_NAMES.values()]
    raise UserError(unknown_dataset(dataset, known, ALLOWED))
