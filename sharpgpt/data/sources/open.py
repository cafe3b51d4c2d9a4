"""From the setting `dataset` to the source of documents that it names."""

import re
from typing import Any

from sharpgpt.core.errors import UserError
from sharpgpt.data.sources import aliases
from sharpgpt.data.sources.documents import DocumentSource, SourceOptions
from sharpgpt.data.sources.files import format_of
from sharpgpt.data.sources.hub import open_hub
from sharpgpt.data.sources.local import find, open_local
from sharpgpt.data.sources.tinyshakespeare import open_tinyshakespeare


def open_source(dataset: str, **options: Any) -> DocumentSource:
    """The documents that the setting `dataset` names.

    Args:
        dataset: a name in aliases.py, ORG/NAME of the hub, or the path of files: one, a folder
            with everything below it (hidden files left out, sorted by name), or a glob. One .txt
            file is a single text; of several, and of folders of them, each is a document.
        options: the fields of `SourceOptions`.

    Raises `UserError` for what is missing, cannot be reached or holds no such text.
    """
    chosen = SourceOptions(**options)
    if dataset == aliases.TINYSHAKESPEARE:
        return open_tinyshakespeare(chosen)
    alias = aliases.ALIASES.get(dataset.lower().replace("_", "-"))
    if alias is not None:
        return open_hub(alias.repo, chosen)
    paths = find(dataset)
    if paths is not None:
        return open_local(dataset, paths, chosen)
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", dataset, re.ASCII) and not format_of(dataset):
        return open_hub(dataset, chosen)
    known = [*aliases.DATASET_NAMES, *(alias.repo for alias in aliases.ALIASES.values())]
    raise UserError(aliases.unknown_dataset(dataset, known, aliases.ALLOWED))
