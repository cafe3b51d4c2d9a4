"""What an output folder holds: finished data, a stopped preparation (journal.json), or neither.

A recipe is everything that decides the bytes: equal recipes give equal shards. A finished folder
with an equal recipe is not prepared again, an unfinished one continues, and a folder with another
recipe is refused.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from sharpgpt.config.options import shown
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import write_text
from sharpgpt.core.jsonio import first_problem, read_object
from sharpgpt.data.manifest import MANIFEST, Count, SplitName, read_manifest
from sharpgpt.data.prepare.options import PrepareOptions
from sharpgpt.data.prepare.own_files import remedy
from sharpgpt.data.prepared import JOURNAL
from sharpgpt.data.shard_writer import WriterState
from sharpgpt.data.shards import partial_name
from sharpgpt.data.sources import local as local_files
from sharpgpt.data.sources.aliases import TEXTS
from sharpgpt.data.sources.documents import DocumentSource

VERSION = 1
SOURCE_OPTIONS = ("dataset", "text_column", "config_name", "revision", "val_fraction")
"""Options that select documents. The source's identity covers them, since several names may mean
the same files."""
OUTPUT_OPTIONS = ("tokenizer", "max_documents", "max_tokens", "shard_tokens", "form")

Recipe = dict[str, Any]


class SplitCounts(TypedDict):
    """Of one split."""

    num_documents: Count
    num_bytes: Count


@dataclass(kw_only=True)
class Journal:
    """journal.json: the state of an unfinished preparation.

    It is written before the first token, replaced at every commit once the shards are on the disk,
    and removed when manifest.json exists.
    """

    recipe: Recipe
    """Every option that decides the bytes, and the identity of the source."""
    source: dict[str, Any]
    """The facts of the source, used to explain how two recipes differ."""
    characters: list[Annotated[str, Field(min_length=1, max_length=1)]] | None = None
    """The vocabulary of the char tokenizer, once the first pass has found it."""
    position: dict[str, Any] | None = None
    """The position in the source; None is its beginning."""
    counts: dict[SplitName, SplitCounts]
    """The documents and bytes of text of each split."""
    writers: dict[SplitName, WriterState] = field(default_factory=dict)
    """The state of the `ShardWriter` of each split."""
    version: int = VERSION

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    def write(self, folder: Path) -> None:
        """Replace the journal of `folder`, atomically."""
        content = dataclasses.asdict(self)
        text = json.dumps(content | {"sha256": _digest(content)}) + "\n"
        write_text(folder / JOURNAL, text, temporary_name=partial_name(JOURNAL))


def _digest(content: dict[str, Any]) -> str:
    """SHA-256 of the other fields: a journal that was edited is refused."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def has_own_journal(folder: Path) -> bool:
    """Whether `folder` has an intact journal, and not another file of that name."""
    try:
        content = read_object(folder / JOURNAL)
    except (OSError, ValueError):
        return False
    digest: object = content.pop("sha256", None)
    return digest == _digest(content)


def tokens_so_far(folder: Path) -> int:
    """How many tokens another process has committed in `folder`; 0 where that is not known."""
    try:
        writers = read_object(folder / JOURNAL)["writers"].values()
        return sum(
            int(state["partial_tokens"]) + sum(int(e["num_tokens"]) for e in state["entries"])
            for state in writers
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0


def refuse_another_recipe(folder: Path, recipe: Recipe) -> None:
    """Raise `UserError` if the journal in `folder` is that of another recipe."""
    if has_own_journal(folder):
        with contextlib.suppress(OSError, ValueError, KeyError):  # finished just now
            found = read_object(folder / JOURNAL)["recipe"]
            _require_equal(folder, found, recipe, held="unfinished data")


def unfinished(folder: Path, recipe: Recipe, source: DocumentSource) -> Journal | None:
    """The journal of a stopped preparation of `recipe` in `folder`; None for a new one.

    Raises `UserError` for a journal that is damaged, of another version or recipe, and for a folder
    with .bin files but no manifest.
    """
    path = folder / JOURNAL
    try:
        content = read_object(path)
    except FileNotFoundError:
        if others := sorted(path.name for path in folder.glob("*.bin")):
            raise UserError(
                f"{folder}: holds {others[0]} and no manifest, so it was not written "
                "by SharpGPT; give another output, or move the .bin files away"
            ) from None
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {remedy(folder)}") from None
    digest = content.pop("sha256", None)
    if content.get("version") != VERSION or digest != _digest(content):
        raise UserError(
            f"{path}: damaged, or not written by this version of SharpGPT; {remedy(folder)}"
        )
    try:
        journal: Journal = TypeAdapter(Journal).validate_json(json.dumps(content))
    except ValidationError as error:
        raise UserError(f"{path}: damaged ({first_problem(error)}); {remedy(folder)}") from None
    journal.recipe = _with_former(path, journal.recipe, recipe, source)
    also = ""
    revision = journal.source.get("revision")
    is_equal = journal.recipe.get("identity") == source.identity
    if revision and revision != source.facts.get("revision") and not is_equal:
        also = f", or continue with its revision: --revision {revision}"
    _require_equal(folder, journal.recipe, recipe, held="unfinished data", also=also)
    return journal


def recipe_of(options: PrepareOptions, source: DocumentSource) -> Recipe:
    """The recipe, plain JSON."""
    names = (*SOURCE_OPTIONS, *OUTPUT_OPTIONS)
    return {name: getattr(options, name) for name in names} | {"identity": source.identity}


def _with_former(path: Path, found: Recipe, recipe: Recipe, source: DocumentSource) -> Recipe:
    """`found`, the recipe in the file `path`, with the present identity where it has the former.

    Earlier versions hashed the ends of local files only. With equal ends the whole is equal if no
    file was written, or put there, after `path`.
    """
    former = getattr(source, "former_identity", lambda: None)
    if found.get("identity") == recipe["identity"] or found.get("identity") != former():
        return found
    newest_ns: int = source.newest_change_ns()  # type: ignore[attr-defined]
    if newest_ns >= path.stat().st_mtime_ns:
        raise UserError(
            f"{path}: of an earlier version of SharpGPT, which recorded only the ends of its "
            f"files, and {source.name} has been written, copied or moved since; whether it has "
            "changed in between is not known. Train on the folder as it is, or "
            f"{remedy(path.parent)}"
        )
    return found | {"identity": recipe["identity"]}


def is_finished(folder: Path, recipe: Recipe, source: DocumentSource) -> bool:
    """Whether `folder` holds the finished data of `recipe`.

    Raises `UserError` if it holds the data of another recipe, or if its manifest is damaged.
    """
    if not (folder / MANIFEST).is_file():
        return False
    found = _with_former(folder / MANIFEST, read_manifest(folder).recipe, recipe, source)
    _require_equal(folder, found, recipe, held="finished data")
    return True


def is_surely_finished(folder: Path, options: PrepareOptions) -> bool:
    """Whether `folder` holds a finished hub dataset, prepared with exactly these options.

    Then the hub is not asked, and a later revision of its main branch changes nothing.
    """
    if not (folder / MANIFEST).is_file() or options.dataset in TEXTS:
        return False
    recipe = read_manifest(folder).recipe
    if _differences((*SOURCE_OPTIONS, *OUTPUT_OPTIONS), recipe, vars(options)):
        return False
    try:
        return local_files.find(options.dataset) is None
    except UserError:
        return False


def _differences(names: Iterable[str], found: Recipe, asked: Recipe) -> list[str]:
    return [
        f"{name} is {shown(found.get(name))} there and {shown(asked[name])} here"
        for name in names
        if found.get(name) != asked[name]
    ]


def _require_equal(
    folder: Path, found: Recipe, asked: Recipe, *, held: str, also: str = ""
) -> None:
    differences = _differences(OUTPUT_OPTIONS, found, asked)
    if found.get("identity") != asked["identity"]:
        named = _differences(SOURCE_OPTIONS, found, asked)
        differences += named or ["the dataset itself has changed since"]
    if differences:
        raise UserError(
            f"{folder}: holds {held} of another recipe: {'; '.join(differences)}. To prepare what "
            f"is asked for here, {remedy(folder)}{also}"
        )
