"""Sources of documents over files: many documents in files, or one text.

Where the files are stored, and how they are fetched, is up to `local` and `hub`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from sharpgpt.config.options import shown
from sharpgpt.core.errors import UserError
from sharpgpt.core.files import WHOLE_BYTES
from sharpgpt.data.pieces import PIECE_CHARACTERS, separable_pieces
from sharpgpt.data.sources.documents import Batch, DocumentSource, Piece, SourceOptions, State
from sharpgpt.data.sources.files import FORMATS_IN_WORDS, DataFile
from sharpgpt.data.sources.readers import read_documents, stored_text_pieces
from sharpgpt.data.sources.split import Split, hash_split, single_text_cut, text_val_fraction

BATCH_CHARACTERS = 1 << 20

LISTED_FILES = 1000
"""The facts list so many files; the identity covers all."""


@dataclass
class FileSource:
    """A source of documents in files; see `DocumentSource`."""

    name: str
    facts: dict[str, Any]
    identity: str
    num_bytes: int | None
    joins_documents: bool
    pieces: Callable[[State], Iterator[tuple[Piece, State | None]]]
    """Pieces from a position on, with the position after each, None inside what cannot be resumed;
    {} is the beginning."""
    files: Sequence[DataFile] = ()
    former_identity: Callable[[], str | None] = lambda: None
    """As earlier versions took it, where that differs."""

    def __post_init__(self) -> None:
        self._stamps = [file.stamp() if file.stamp else None for file in self.files]

    def changed_files(self) -> list[str]:
        """The local files that were written to, replaced or removed since the source was opened."""
        changed = []
        for file, before in zip(self.files, self._stamps, strict=True):
            try:
                is_same = file.stamp is None or file.stamp() == before
            except UserError:
                is_same = False
            if not is_same:
                changed.append(file.name)
        return changed

    def newest_change_ns(self) -> int:
        """When the last of the local files was written or put in its place.

        Those that `former_identity` covers as a whole do not count.
        """
        stamps = [stamp for stamp in self._stamps if stamp and stamp[0] > WHOLE_BYTES]
        return max((max(stamp[1:3]) for stamp in stamps), default=0)

    def batches(self, start: State | None = None) -> Iterator[Batch]:
        """See `DocumentSource.batches`."""
        return _batched(self.pieces(start or {}))


def source_of(
    *,
    name: str,
    facts: dict[str, Any],
    files: Sequence[DataFile],
    options: SourceOptions,
    text_column: str = "text",
    split: Split | None = None,
) -> DocumentSource:
    """The source of these files: of one text file a single text, else of documents.

    `split` is for documents, None for the one by hash. Raises `UserError` for files of several
    formats and for options that do not apply to these.
    """
    origin = facts["origin"]
    formats = Counter(file.format for file in files)
    if len(formats) > 1:
        counts = ", ".join(f"{count} of {kind}" for kind, count in sorted(formats.items()))
        raise UserError(
            f"{origin}: files of several formats ({counts}); allowed is one. Choose by a glob, "
            f"such as '**/*{PurePosixPath(files[0].label).suffix}'"
        )
    column = None if "text" in formats else text_column
    if column is None:
        refuse_options(origin, options, "text_column")
    no_text = UserError(
        f"{origin}: holds no text (it is empty or only whitespace); allowed are texts in "
        f"{FORMATS_IN_WORDS}"
    )
    validation = [file.label for file in files if file.is_validation]
    is_single_text = column is None and len(files) == 1
    if is_single_text:
        fraction = text_val_fraction(options.val_fraction)
        split_facts: dict[str, Any] = {"rule": "end", "val_fraction": fraction}
        pieces = partial(_pieces_of_a_text, file=files[0], val_fraction=fraction, no_text=no_text)
    else:
        split = split or hash_split(options.val_fraction)
        split_facts = {"rule": "files", "validation": validation} if validation else split.facts
        pieces = partial(
            _pieces_of_documents, files=files, column=text_column, split=split, no_text=no_text
        )

    def identity_from(identities: Iterable[str]) -> str:
        digest = hashlib.sha256(json.dumps([column, split_facts], sort_keys=True).encode())
        for file, identity in zip(files, identities, strict=True):
            digest.update(json.dumps([file.label, identity]).encode())
        return digest.hexdigest()

    def former_identity() -> str | None:
        formers = [file.former_identity for file in files]
        return identity_from(former() for former in formers if former) if all(formers) else None

    sizes = [file.num_bytes for file in files if file.num_bytes is not None]
    facts = {
        "name": name,
        **facts,
        "text_column": column,
        "split": split_facts,
        "num_files": len(files),
        "files": [{"name": f.label, "num_bytes": f.num_bytes} for f in files[:LISTED_FILES]],
    }
    return FileSource(
        name,
        facts,
        identity=identity_from(file.identity for file in files),
        files=files,
        former_identity=former_identity,
        num_bytes=sum(sizes) if len(sizes) == len(files) else None,
        joins_documents=not is_single_text,
        pieces=pieces,
    )


def refuse_options(origin: str, options: SourceOptions, *names: str) -> None:
    """Raise `UserError` for those of the options that are given though they do not apply here."""
    meanings = {
        "text_column": "is for Parquet and JSON lines, and this is plain text",
        "config_name": "is for datasets of the hub and folders in their layout",
        "revision": "is for datasets of the hub",
        "streaming": "is for datasets of the hub",
    }
    for name in names:
        if getattr(options, name):
            raise UserError(
                f"{name}: given {shown(getattr(options, name))}, which {meanings[name]}; leave it "
                f"out for {origin}"
            )


def _pieces_of_documents(
    start: State, *, files: Sequence[DataFile], column: str, split: Split, no_text: UserError
) -> Iterator[tuple[Piece, State | None]]:
    """The documents of files, one file after the other."""
    first_file, place = start.get("file", 0), start.get("place", {})
    number = start.get("document", 0)
    has_text = start.get("has_text", False)
    # Not None inside a document that is read in parts.
    is_validation: bool | None = start.get("is_validation")
    bytes_before = sum(file.num_bytes or 0 for file in files[:first_file])
    for index, file in enumerate(files[first_file:], start=first_file):
        for read in read_documents(file, column, place):
            if is_validation is None:
                is_validation = file.is_validation
                if is_validation is None:
                    is_validation = split.is_validation(number, read.sha256)
            pieces = _in_pieces(read.text, is_validation, read.ends_document)
            has_text = has_text or bool(read.text.strip())
            if read.ends_document:
                number += 1
                is_validation = None
            after = {
                "file": index,
                "place": read.place,
                "document": number,
                "is_validation": is_validation,
                "has_text": has_text,
                "bytes_read": bytes_before + read.bytes_read,
            }
            for piece in pieces[:-1]:
                yield piece, None
            yield pieces[-1], after
        place = {}
        bytes_before += file.num_bytes or 0
    if not has_text:
        raise no_text


def _pieces_of_a_text(
    start: State, *, file: DataFile, val_fraction: float, no_text: UserError
) -> Iterator[tuple[Piece, State | None]]:
    """One text, whose end is for validation.

    The ids of the training pieces join to those of the text up to the cut, the ids of the
    validation pieces to those of the rest. From the beginning, the text is read twice: its number
    of characters determines the cut.
    """
    num_characters = start.get("num_characters", 0)
    if not start:
        has_text = False
        for text, _, _ in stored_text_pieces(file):
            num_characters += len(text)
            has_text = has_text or bool(text.strip())
        if not has_text:
            raise no_text
    cut = single_text_cut(num_characters, val_fraction)
    character, offset = start.get("character", 0), start.get("offset", 0)
    for text, end, bytes_read in stored_text_pieces(file, offset, tell=True):
        num_train = cut - character
        character += len(text)
        after = {
            "offset": end,
            "character": character,
            "num_characters": num_characters,
            "bytes_read": bytes_read,
        }
        if num_train >= len(text):
            yield Piece(text, False, character == cut), after
            continue
        if num_train > 0:
            yield Piece(text[:num_train], False, True), None
        yield Piece(text[max(num_train, 0) :], True, character == num_characters), after


def _in_pieces(text: str, is_validation: bool, ends_document: bool) -> list[Piece]:
    """The text, cut where it is long, so that one long document is encoded in parallel too."""
    if len(text) <= 2 * PIECE_CHARACTERS:
        return [Piece(text, is_validation, ends_document)]
    texts = list(separable_pieces(text, PIECE_CHARACTERS))
    last = len(texts) - 1
    return [Piece(t, is_validation, ends_document and i == last) for i, t in enumerate(texts)]


def _batched(pieces: Iterable[tuple[Piece, State | None]]) -> Iterator[Batch]:
    """Batches of `BATCH_CHARACTERS` or a little more, each up to a piece that has a state."""
    gathered: list[Piece] = []
    num_characters = 0
    after: State | None = None
    for piece, after in pieces:
        gathered.append(piece)
        num_characters += len(piece.text)
        if after is not None and num_characters >= BATCH_CHARACTERS:
            yield Batch(gathered, after)
            gathered, num_characters = [], 0
    if gathered:
        assert after is not None
        yield Batch(gathered, after)
