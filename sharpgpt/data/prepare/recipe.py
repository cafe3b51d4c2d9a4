"""The recipe of prepared data: everything that decides its bytes.

Equal recipes give equal shards. A finished folder with an equal recipe is not prepared again, an
unfinished one continues, and a folder with another recipe is refused.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sharpgpt.config.options import shown
from sharpgpt.core.errors import UserError
from sharpgpt.data.manifest import MANIFEST, read_manifest
from sharpgpt.data.prepare.journal import JOURNAL, Journal, read_journal
from sharpgpt.data.prepare.options import PrepareOptions
from sharpgpt.data.sources import local as local_files
from sharpgpt.data.sources.aliases import TINYSHAKESPEARE
from sharpgpt.data.sources.documents import DocumentSource

SOURCE_OPTIONS = ("dataset", "text_column", "config_name", "revision", "val_fraction")
"""Options that select documents. The source's identity covers them, since several names may mean
the same files."""
OUTPUT_OPTIONS = ("tokenizer", "max_documents", "max_tokens", "shard_tokens", "form")

Recipe = dict[str, Any]


def recipe_of(options: PrepareOptions, source: DocumentSource) -> Recipe:
    """The recipe, plain JSON."""
    names = (*SOURCE_OPTIONS, *OUTPUT_OPTIONS)
    return {name: getattr(options, name) for name in names} | {"identity": source.identity}


def is_finished(folder: Path, recipe: Recipe) -> bool:
    """Whether `folder` holds the finished data of `recipe`.

    Raises `UserError` if it holds the data of another recipe, or if its manifest is damaged.
    """
    if not (folder / MANIFEST).is_file():
        return False
    manifest = read_manifest(folder)
    _require_equal(folder, "finished", (recipe, {}), (manifest.recipe, manifest.source))
    return True


def is_surely_finished(folder: Path, options: PrepareOptions) -> bool:
    """Whether `folder` holds a finished hub dataset, prepared with exactly these options.

    Then the hub is not asked, and a later revision of its main branch changes nothing.
    """
    if not (folder / MANIFEST).is_file() or options.dataset == TINYSHAKESPEARE:
        return False
    recipe = read_manifest(folder).recipe
    names = (*SOURCE_OPTIONS, *OUTPUT_OPTIONS)
    is_equal = all(recipe.get(name) == getattr(options, name) for name in names)
    return is_equal and not _is_local(options.dataset)


def unfinished(folder: Path, recipe: Recipe, source: DocumentSource) -> Journal | None:
    """The journal of a stopped preparation of `recipe` in `folder`; None for a new one.

    Raises `UserError` for another recipe, and for a folder with .bin files but no manifest.
    """
    journal = read_journal(folder)
    if journal is None:
        others = sorted(path.name for path in folder.glob("*.bin"))
        if others:
            raise UserError(
                f"{folder}: holds {others[0]} and no manifest, so it was not written "
                "by SharpGPT; give another output, or move the .bin files away"
            )
        return None
    _require_equal(folder, "unfinished", (recipe, source.facts), (journal.recipe, journal.source))
    return journal


def clear_remains(folder: Path) -> None:
    """Remove the temporary files of a process that was killed while it replaced a file."""
    for name in (JOURNAL, MANIFEST):
        for path in folder.glob(f".{name}.*"):
            path.unlink(missing_ok=True)


def discard(folder: Path, shards: Iterable[str]) -> None:
    """Remove a preparation that failed before its first commit, including finished `shards`."""
    clear_remains(folder)
    for path in [*folder.glob(".partial_*.bin"), *(folder / name for name in shards)]:
        path.unlink(missing_ok=True)
    (folder / JOURNAL).unlink(missing_ok=True)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder if it is empty."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def _is_local(dataset: str) -> bool:
    try:
        return local_files.find(dataset) is not None
    except UserError:
        return True


def _require_equal(
    folder: Path,
    state: str,
    asked: tuple[Recipe, dict[str, Any]],
    found: tuple[Recipe, dict[str, Any]],
) -> None:
    """Compare two recipes, each with the facts of its source."""
    (asked_recipe, asked_facts), (found_recipe, found_facts) = asked, found
    differences = [
        f"{name} is {shown(found_recipe.get(name))} there and {shown(asked_recipe[name])} here"
        for name in OUTPUT_OPTIONS
        if found_recipe.get(name) != asked_recipe[name]
    ]
    remedy = "give another output, or delete the folder"
    if found_recipe.get("identity") != asked_recipe["identity"]:
        named = [
            f"{name} is {shown(found_recipe.get(name))} there and {shown(asked_recipe[name])} here"
            for name in SOURCE_OPTIONS
            if found_recipe.get(name) != asked_recipe[name]
        ]
        differences += named or ["the dataset itself has changed since"]
        revision = found_facts.get("revision")
        if state == "unfinished" and revision and revision != asked_facts.get("revision"):
            remedy += f", or continue with its revision: --revision {revision}"
    if differences:
        raise UserError(
            f"{folder}: holds {state} data of another recipe: {'; '.join(differences)}. To prepare "
            f"what is asked for here, {remedy}"
        )
