"""From the setting `dataset` to the source of documents that it names."""

from typing import Any

from sharpgpt.config.options import nearest, shown
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import user_path
from sharpgpt.core.hub import has_hub_form
from sharpgpt.data.sources import aliases
from sharpgpt.data.sources.documents import DocumentSource, SourceOptions
from sharpgpt.data.sources.files import format_of
from sharpgpt.data.sources.hub import open_hub
from sharpgpt.data.sources.hub_files import UnreachableError
from sharpgpt.data.sources.local import find, open_local
from sharpgpt.data.sources.texts import open_named_text

HUB = "hf://datasets/"
"""Before ORG/NAME: a dataset of the hub, also where a folder ORG is here."""


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
    if dataset in aliases.TEXTS:
        return open_named_text(dataset, chosen)
    alias = aliases.ALIASES.get(dataset.lower().replace("_", "-"))
    if alias is not None:
        return open_hub(alias.repo, chosen)
    paths = find(dataset)
    if paths is not None:
        return open_local(dataset, paths, chosen)
    name = dataset.removeprefix(HUB)
    if has_hub_form(name) and not format_of(name):
        return _open_hub(name, chosen, is_explicit=name != dataset)
    known = [*aliases.DATASET_NAMES, *(alias.repo for alias in aliases.ALIASES.values())]
    raise UserError(aliases.unknown_dataset(dataset, known, aliases.ALLOWED))


def _open_hub(name: str, options: SourceOptions, *, is_explicit: bool) -> DocumentSource:
    """ORG/NAME may also be a path with a mistake in it; the message then gives both readings."""
    if is_explicit:
        return open_hub(name, options)
    path = user_path(name)
    if path.parent.is_dir():
        names = [str(path.parent / entry.name) for entry in path.parent.iterdir()]
        raise UserError(
            f"dataset: given {shown(name)}, taken for a path, since there is a folder "
            f"{path.parent}, and it has no {path.name}{nearest(name, names)}; for the dataset "
            f"{name} of the HuggingFace hub give {HUB}{name}"
        )
    try:
        return open_hub(name, options)
    except UnreachableError as error:
        raise UserError(f"{error}. As a path: there is no folder {path.parent} here") from error
