"""One reader for each format of file: text, JSON lines, Parquet; local and remote alike.

A reader yields documents in order, each with the place in the file from which reading resumes after
it. No reader holds more than a little of a file: a block of text, a line, a few pages of a column.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from sharpgpt.config.options import shown
from sharpgpt.core.errors import UserError
from sharpgpt.data.sources.archives import BUFFER_BYTES
from sharpgpt.data.sources.files import (
    DataFile,
    content_from,
    position,
    reading,
)
from sharpgpt.data.text import decoded, refuse_known, text_pieces

Place = dict[str, int]
"""Where in a file to resume; {} is its beginning."""

MAX_LINE_BYTES = 1 << 28
"""A longer line means a file of another format."""

PARQUET_BATCH_BYTES = 1 << 20

_ARRAY_REMEDY = " A file that is one JSON array is converted by: jq -c '.[]' file.json > file.jsonl"


class ColumnError(UserError):
    """The column of the text is not there, or not one; the message says which there are."""

    exit_code = 2


class Read(NamedTuple):
    """A document, or a part of one that is read in parts."""

    text: str
    ends_document: bool
    sha256: Callable[[], bytes]
    """Gives the digest of the whole document's text as UTF-8."""
    place: Place
    """Where to resume after this."""
    bytes_read: int
    """Roughly how much of the file's `num_bytes` has been read, for the progress bar."""


def read_documents(file: DataFile, column: str, place: Place) -> Iterator[Read]:
    """The documents of a file from `place` on.

    `column` is the field or column that holds the text; a text file is one document and has none.
    Raises `UserError` for a file that is damaged, of another format, or without that column.
    """
    if file.format == "text":
        return read_text(file, place)
    if file.format == "json":
        return read_json_lines(file, column, place)
    return read_parquet(file, column, place)


def read_text(file: DataFile, place: Place) -> Iterator[Read]:
    """The pieces of a text file (see `text_pieces`): one document, however long."""
    if "end" in place:
        return
    start = place.get("offset", 0)
    sha256 = functools.cache(functools.partial(_text_sha256, file))
    # One piece behind: a piece is known to be the last when none follows it.
    text, end, bytes_read = "", start, 0
    for next_text, next_end, next_bytes_read in stored_text_pieces(file, start, tell=True):
        if end > start:
            yield Read(text, False, sha256, {"offset": end}, bytes_read)
        text, end, bytes_read = next_text, next_end, next_bytes_read
    yield Read(text, True, sha256, {"offset": end, "end": 1}, file.num_bytes or 0)


def stored_text_pieces(
    file: DataFile, start: int = 0, *, tell: bool = False
) -> Iterator[tuple[str, int, int]]:
    """`text_pieces` of a file with, in addition, how many of its stored bytes are read."""
    with file.open() as raw, reading(file):
        for text, end in text_pieces(content_from(raw, file, start), file.name, start, tell=tell):
            yield text, end, position(raw, file, end)


def _text_sha256(file: DataFile) -> bytes:
    digest = hashlib.sha256()
    for text, _, _ in stored_text_pieces(file):
        digest.update(text.encode())
    return digest.digest()


def read_json_lines(file: DataFile, column: str, place: Place) -> Iterator[Read]:
    """The field `column` of each line, which is a JSON object. Empty lines are skipped.

    Other fields do not matter and may change their type from line to line, which pyarrow's and
    `datasets`' readers refuse. null is an empty document. Halves of surrogate pairs become U+FFFD.
    """
    offset, number = place.get("offset", 0), place.get("line", 0)
    with file.open() as raw, reading(file):
        stream = content_from(raw, file, offset)
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise UserError(
                    f"{file.name}: line {number} is longer than {MAX_LINE_BYTES >> 20} MiB; "
                    f"allowed is one JSON object a line.{_ARRAY_REMEDY}"
                )
            decoded_line = decoded(line, file.name, offset, number - 1)
            text = _json_text(decoded_line, file.name, number, column)
            offset += len(line)
            if text is not None:
                after = {"offset": offset, "line": number}
                yield _whole(text, after, position(raw, file, offset))


def _json_text(line: str, name: str, number: int, column: str) -> str | None:
    """The text of a line, None for an empty line."""
    if not line.strip():
        return None
    try:
        fields = json.loads(line.rstrip())
    except (ValueError, RecursionError) as error:
        if number == 1:
            refuse_known(line.encode(), name)
        is_array = number == 1 and line.lstrip().startswith("[")
        remedy = _ARRAY_REMEDY if is_array else " Fix or remove the line"
        # The error's own line number counts inside the line.
        reason = str(error)
        if isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg} at column {error.colno}"
        raise UserError(
            f"{name}: line {number} is not JSON ({reason}); {_an_object(column)}.{remedy}"
        ) from None
    if not isinstance(fields, dict):
        remedy = _ARRAY_REMEDY if isinstance(fields, list) else ""
        raise UserError(
            f"{name}: line {number} is {shown(fields)}, not an object; "
            f"{_an_object(column)}.{remedy}"
        )
    if line.count(f'"{column}"') > 1:
        pairs = json.loads(line.rstrip(), object_pairs_hook=list)
        if sum(key == column for key, _ in pairs) > 1:
            raise ColumnError(
                f"{name}: line {number}: the field {column!r} is there more than once, so which "
                "one is the text is not known; keep one of them"
            )
    text = fields.get(column, False)
    if text is None:
        return ""
    if isinstance(text, str):
        # Only an escape can give half of a surrogate pair.
        if "\\u" in line:
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return text
    wrong = f"{column!r} is not a string" if column in fields else f"it has no field {column!r}"
    strings = [key for key, value in fields.items() if isinstance(value, str)]
    raise ColumnError(f"{name}: line {number}: {wrong}; {_other_columns(strings)}")


def _an_object(column: str) -> str:
    return f"allowed is one JSON object a line, such as {json.dumps({column: '...'})}"


def read_parquet(file: DataFile, column: str, place: Place) -> Iterator[Read]:
    """The column `column`, of strings; no other column is read. null is an empty document."""
    first_group, first_row = place.get("row_group", 0), place.get("row", 0)
    with file.open() as raw, reading(file):
        parquet = open_parquet(raw, file.name, column)
        groups = range(parquet.num_row_groups)
        num_rows = [parquet.metadata.row_group(group).num_rows for group in groups]
        for group in groups[first_group:]:
            rows_before, rows_in_all = sum(num_rows[:group]), sum(num_rows)
            for row, text in _row_group_texts(
                parquet, group, column=column, skipped=first_row, name=file.name
            ):
                after = {"row_group": group, "row": row + 1}
                share = (rows_before + row + 1) / rows_in_all
                yield _whole(text, after, int(share * (file.num_bytes or 0)))
            first_row = 0


def open_parquet(raw: BinaryIO, name: str, column: str) -> Any:
    """A `pyarrow.parquet.ParquetFile`. Raises `UserError` without a column of strings `column`."""
    import pyarrow.parquet as pq

    # Buffered: otherwise a whole column of a row group, perhaps gigabytes, is read at once.
    parquet = pq.ParquetFile(raw, pre_buffer=False, buffer_size=BUFFER_BYTES)
    schema = parquet.schema_arrow
    strings = [field.name for field in schema if _is_string(field.type)]
    if (count := schema.names.count(column)) > 1:
        others = [name for name in strings if schema.names.count(name) == 1]
        raise ColumnError(
            f"{name}: has {count} columns called {column!r}, so which one is the text is not known;"
            f" rename one of them, or another column is it ({_other_columns(others)})"
        )
    if column not in strings:
        wrong = "is missing"
        if column in schema.names:
            wrong = f"does not hold strings (it is {schema.field(column).type!s:.60})"
        raise ColumnError(f"{name}: the column {column!r} {wrong}; {_other_columns(strings)}")
    return parquet


def count_parquet_documents(file: DataFile, column: str) -> int:
    """The rows of a Parquet file, from its end. Raises `UserError` if it lacks the column."""
    with file.open() as raw, reading(file):
        return int(open_parquet(raw, file.name, column).metadata.num_rows)


def _is_string(type_: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(type_):
        type_ = type_.value_type
    checks = (types.is_string, types.is_large_string, types.is_string_view)
    return any(check(type_) for check in checks)


def _row_group_texts(
    parquet: Any, group: int, *, column: str, skipped: int, name: str
) -> Iterator[tuple[int, str]]:
    """(row, text) for the rows of a row group but for the first `skipped`."""
    metadata = parquet.metadata.row_group(group)
    if skipped >= metadata.num_rows:
        return
    leaves = [metadata.column(i) for i in range(metadata.num_columns)]
    num_bytes = next(x.total_uncompressed_size for x in leaves if x.path_in_schema == column)
    batch_rows = PARQUET_BATCH_BYTES * metadata.num_rows // max(num_bytes, 1)
    batch_rows = max(1, min(10_000, batch_rows))
    row = 0
    for batch in parquet.iter_batches(batch_size=batch_rows, row_groups=[group], columns=[column]):
        first = max(skipped - row, 0)
        if first < len(batch):
            try:
                texts = batch.column(column)[first:].to_pylist()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{name}: the column {column!r} is not UTF-8 between rows {row + first} and "
                    f"{row + len(batch) - 1} of row group {group} ({error.reason}); rewrite the "
                    "file as UTF-8"
                ) from None
            for number, text in enumerate(texts, start=row + first):
                yield number, "" if text is None else text
        row += len(batch)


def _other_columns(strings: list[str]) -> str:
    if not strings:
        return "nothing else holds strings, so there is no text to train on"
    listed = ", ".join(strings[:20]) + (", ..." if len(strings) > 20 else "")
    return f"those with strings are: {listed}. Give the one with the text as text_column"


def _whole(text: str, place: Place, bytes_read: int) -> Read:
    return Read(text, True, lambda: hashlib.sha256(text.encode()).digest(), place, bytes_read)
