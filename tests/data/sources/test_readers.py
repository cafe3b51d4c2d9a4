"""Formats: what is read, from which place on, and what is said about files that are wrong."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data import text as text_files
from sharpgpt.data.sources import archives, readers
from sharpgpt.data.sources.files import DataFile, format_of
from sharpgpt.data.sources.local import local_file
from sharpgpt.data.sources.readers import Place, Read, read_documents

DOCUMENTS = ["first", "", "zwei ä", " \n", "with\r\nCR", "emoji 😀 \u2028 \x00", "x" * 3000, "last"]


def compressed(data: bytes, ending: str) -> bytes:
    if ending.endswith(".gz"):
        middle = len(data) // 2  # Two members, as `cat a.gz b.gz` makes them.
        return gzip.compress(data[:middle]) + gzip.compress(data[middle:])
    if ending.endswith(".zst"):
        return bytes(pa.Codec("zstd").compress(data, asbytes=True))
    return data


def read(path: Path, column: str = "text", place: Place | None = None) -> list[Read]:
    return list(read_documents(local_file(path, path.parent), column, place or {}))


def json_lines(path: Path, documents: list[str]) -> Path:
    lines = "".join(json.dumps({"n": i, "text": text}) + "\n" for i, text in enumerate(documents))
    path.write_bytes(compressed(lines.encode(), path.name))
    return path


def parquet(path: Path, documents: list[str], **options: Any) -> Path:
    pq.write_table(pa.table({"n": range(len(documents)), "text": documents}), path, **options)
    return path


def raw(path: Path, data: bytes) -> Path:
    path.write_bytes(compressed(data, path.name))
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", ("text", None)),
        ("A.TXT.GZ", ("text", "gzip")),
        ("a.b.jsonl.zst", ("json", "zstd")),
        ("c4-train.00000-of-01024.json.gz", ("json", "gzip")),
        ("data/train-00000-of-00080.parquet", ("parquet", None)),
        ("a.parquet.gz", None),
        ("README.md", None),
        ("a.gz", None),
        ("txt", None),
    ],
)
def test_the_ending_says_the_format(name: str, expected: tuple[str, str | None] | None) -> None:
    assert format_of(name) == expected


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_documents_come_whole_and_from_every_place(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    if ending == ".parquet":
        parquet(path, DOCUMENTS, row_group_size=3)
    else:
        json_lines(path, DOCUMENTS)
    reads = read(path)
    assert [r.text for r in reads] == DOCUMENTS
    assert all(r.ends_document for r in reads)
    assert [r.sha256() for r in reads] == [hashlib.sha256(d.encode()).digest() for d in DOCUMENTS]
    for i, r in enumerate(reads):
        place = json.loads(json.dumps(r.place))
        assert [after.text for after in read(path, place=place)] == DOCUMENTS[i + 1 :]
    positions = [r.bytes_read for r in reads]
    assert positions == sorted(positions)
    assert 0 < positions[0] <= positions[-1] == path.stat().st_size


@pytest.mark.parametrize("ending", [".txt", ".txt.gz", ".txt.zst"])
def test_a_text_file_is_one_document_in_pieces(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "PIECE_BYTES", 50)
    text = "\ufeffeine Zeile mit Wörtern\r\n" * 40
    path = raw(tmp_path / f"a{ending}", text.encode())
    expected = text.removeprefix("\ufeff").replace("\r\n", "\n")
    reads = read(path)
    assert len(reads) > 10
    assert "".join(r.text for r in reads) == expected
    assert [r.ends_document for r in reads] == [False] * (len(reads) - 1) + [True]
    assert {r.sha256() for r in reads} == {hashlib.sha256(expected.encode()).digest()}
    for i, r in enumerate(reads):
        after = read(path, place=r.place)
        assert [(a.text, a.ends_document, a.place) for a in after] == [
            (a.text, a.ends_document, a.place) for a in reads[i + 1 :]
        ]
    assert reads[-1].bytes_read == path.stat().st_size


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_an_empty_text_file_is_an_empty_document(tmp_path: Path, content: bytes) -> None:
    reads = read(raw(tmp_path / "a.txt", content))
    assert [(r.text, r.ends_document) for r in reads] == [("", True)]
    assert read(tmp_path / "a.txt", place=reads[0].place) == []


def test_only_the_field_of_the_text_counts_in_json(tmp_path: Path) -> None:
    lines = [
        '\ufeff{"text": "one", "meta": {"a": 1}}\r',
        '{"meta": [1, null, {"b": "c"}], "text": "two"}',
        "",
        '  {"text": null, "meta": "a string", "text2": NaN}  ',
        '{"text": "half \\ud83d and whole \\ud83d\\ude00 \\u00e4"}',
        '{"meta": 3.5, "text": "no newline at the end"}',
    ]
    path = raw(tmp_path / "a.jsonl", "\n".join(lines).encode())
    reads = read(path)
    assert [r.text for r in reads] == [
        "one",
        "two",
        "",
        "half \ufffd and whole 😀 ä",
        "no newline at the end",
    ]
    assert [r.place["line"] for r in reads] == [1, 2, 4, 5, 6]
    assert [r.text for r in read(path, place=reads[1].place)] == [r.text for r in reads[2:]]
    assert all(r.sha256() for r in reads)


@pytest.mark.parametrize(
    "type_",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
)
def test_parquet_with_strings_of_every_kind(tmp_path: Path, type_: pa.DataType) -> None:
    """The column stands after one of several leaves, and one of its values is null."""
    texts = ["a", None, "ä", "a"]
    array = pa.array(texts).cast(type_) if not pa.types.is_dictionary(type_) else None
    column = pa.array(texts).dictionary_encode() if array is None else array
    nested = pa.array([{"x": "1", "y": [1.0]}] * 4)
    table = pa.table({"meta": nested, "body.raw": column, "n": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "a.parquet")
    reads = read(tmp_path / "a.parquet", column="body.raw")
    assert [r.text for r in reads] == ["a", "", "ä", "a"]


def test_no_more_than_a_little_of_a_row_group_is_decoded_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "PARQUET_BATCH_BYTES", 1000)
    documents = [f"{i} " * 50 for i in range(500)]
    path = parquet(tmp_path / "a.parquet", documents, use_dictionary=False)
    sizes = []
    iter_batches = pq.ParquetFile.iter_batches

    def watched(self: Any, batch_size: int, **options: Any) -> Any:
        sizes.append(batch_size)
        return iter_batches(self, batch_size, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    assert [r.text for r in read(path)] == documents
    assert len(sizes) == 1
    assert 1 <= sizes[0] < 10


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def _nothing(path: Path) -> None:
    path.write_bytes(b"")


MANY = [f"{i} is a number, {i * i} its square" for i in range(2000)]


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("a.jsonl.gz", _cut_off, "PATH: damaged, or not a gzip file (it ends too early)"),
        ("a.jsonl.gz", _flip, "PATH: damaged, or not a gzip file ("),
        ("a.jsonl.zst", _cut_off, "PATH: damaged, or not a zstd file ("),
        ("a.jsonl.zst", _flip, "PATH: damaged, or not a zstd file ("),
        ("a.txt.gz", _cut_off, "PATH: damaged, or not a gzip file"),
        ("a.parquet", _cut_off, "PATH: damaged, or not a parquet file (Parquet magic bytes not"),
        ("a.parquet", _nothing, "PATH: damaged, or not a parquet file (Parquet file size is 0"),
        ("a.parquet", _flip, "PATH: damaged, or not a parquet file ("),
    ],
)
def test_a_damaged_file_says_so(
    tmp_path: Path, name: str, spoil: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / name
    if name.endswith(".parquet"):
        parquet(path, MANY, row_group_size=100, use_dictionary=False, write_page_checksum=True)
    elif name.startswith("a.jsonl"):
        json_lines(path, MANY)
    else:
        raw(path, "\n".join(MANY).encode())
    assert len(read(path)) in (1, len(MANY))
    spoil(path)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(message.replace("PATH", str(path)))
    assert str(caught.value).endswith(
        "; compare its size with the original's, and copy or download it again"
    )


def made_by(command: str, path: Path) -> Path:
    """`path`, made by a shell from the file `a` beside it."""
    (path.parent / "a").write_text("".join(f'{{"text": "{text}"}}\n' for text in MANY))
    command = command.replace("OUT", path.name)
    subprocess.run(["bash", "-ec", command], cwd=path.parent, check=True)
    return path


PADDING = "head -c 512 /dev/zero"
SKIPPABLE = r"printf '\x5f\x2a\x4d\x18\x04\0\0\0abcd'"


@pytest.mark.skipif(not all(map(shutil.which, ("gzip", "zstd"))), reason="no gzip or zstd here")
@pytest.mark.parametrize(
    ("name", "command", "times"),
    [
        ("a.jsonl.gz", f"(gzip -c a; {PADDING}) > OUT", 1),
        ("a.jsonl.gz", f"(gzip -c a; {PADDING}; gzip -1c a; : | gzip) > OUT", 2),
        ("a.jsonl.gz", "(: | gzip; gzip -9c a) > OUT", 1),
        ("a.jsonl.gz", ": > OUT", 0),
        ("a.jsonl.zst", "(zstd -c a; zstd -19 --no-check -c a; : | zstd) > OUT", 2),
        ("a.jsonl.zst", f"({SKIPPABLE}; cat a | zstd; {SKIPPABLE}; zstd -c a) > OUT", 2),
        ("a.jsonl.zst", "cat a | zstd --long=27 > OUT", 1),
        ("a.jsonl.zst", ": | zstd > OUT", 0),
        ("a.jsonl.zst", ": > OUT", 0),
    ],
)
def test_a_sound_archive_is_read_whole(tmp_path: Path, name: str, command: str, times: int) -> None:
    """gzip of members with padding between or after them was called damaged."""
    path = made_by(command, tmp_path / name)
    assert [r.text for r in read(path)] == MANY * times
    if times:
        place = read(path)[len(MANY) - 2].place
        assert [r.text for r in read(path, place=place)][:1] == MANY[-1:]


@pytest.mark.skipif(shutil.which("zstd") is None, reason="no zstd here")
@pytest.mark.parametrize("log", [28, 31])
def test_zstandard_with_a_long_window(tmp_path: Path, log: int) -> None:
    """It was called damaged; without the package that reads it, the message names the package."""
    path = made_by(f"cat a | zstd --long={log} --ultra -20 > OUT", tmp_path / "a.jsonl.zst")
    if archives._zstd() is not None:
        assert [r.text for r in read(path)] == MANY
        return
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(
        f"{path}: its Zstandard window is longer than 128 MiB, and the package that reads such "
        "files is missing; pip install backports.zstd"
    )


@pytest.mark.skipif(not all(map(shutil.which, ("gzip", "zstd"))), reason="no gzip or zstd here")
@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_other_bytes_after_an_archive_are_no_padding(tmp_path: Path, kind: str) -> None:
    """A member whose beginning is damaged looks the same, so nothing is left out in silence."""
    if kind == "zstd" and archives._zstd() is None:
        pytest.skip("pyarrow reads Zstandard here, which calls such a file damaged")
    ending = {"gzip": "gz", "zstd": "zst"}[kind]
    path = made_by(f"({kind} -c a; printf garbage) > OUT", tmp_path / f"a.jsonl.{ending}")
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path}: the bytes after the end of its {kind} data are no {kind}, so some of it may be "
        f"missing; compare its size with the original's, or keep what can be read: {kind} -dc "
        f"{path} > COPY"
    )


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (gzip.compress(b"a" * 99), "compressed with gzip, allowed is UTF-8 text; let its name end"),
        (
            bz2.compress(b"a" * 99),
            "compressed with bzip2, allowed is UTF-8 text; decompress it: bz",
        ),
        (lzma.compress(b"a"), "compressed with xz, allowed is UTF-8 text; decompress it: xz -dk"),
        (b"PK\x03\x04\0\0", "a zip archive, allowed is UTF-8 text; extract its files: unzip "),
        (b"PAR1\0\0", "a Parquet file, allowed is UTF-8 text; let its name end in .parquet"),
    ],
    ids=["gzip", "bzip2", "xz", "zip", "parquet"],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.xz"])
def test_what_is_no_text_is_called_what_it_is(
    tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: {what}")


def test_a_file_that_got_shorter_cannot_be_gone_on_with(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl.gz", MANY)
    place = read(path)[-1].place
    json_lines(path, MANY[:10])
    with pytest.raises(UserError, match="it is shorter than it was"):
        read(path, place=place)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"text": "a"}\n{"text": "b"\n{"text": "c"}',
            "PATH: line 2 is not JSON (Expecting ',' delimiter at column 13); allowed is one JSON "
            'object a line, such as {"text": "..."}. Fix or remove the line',
        ),
        (
            b'[\n{"text": "a"}]',
            "PATH: line 1 is not JSON (Expecting value at column 2); allowed is one "
            'JSON object a line, such as {"text": "..."}. A file that is one JSON array is '
            "converted by: jq -c '.[]' file.json > file.jsonl",
        ),
        (b'[{"text": "a"}]', "PATH: line 1 is [{'text': 'a'}], not an object; allowed is one JSON"),
        (b'{"text": "a"}\n"b"', "PATH: line 2 is 'b', not an object; allowed is one JSON object"),
        (b"[" * 100_000, "PATH: line 1 is not JSON ("),
        (
            b'{"text": "a"}\n\n{"body": "b", "n": 1, "title": "t"}',
            "PATH: line 3: it has no field 'text'; those with strings are: body, title. Give the "
            "one with the text as text_column",
        ),
        (b'{"text": 3}', "PATH: line 1: 'text' is not a string; nothing else holds strings, so"),
        (
            b'{"text": false}',
            "PATH: line 1: 'text' is not a string; nothing else holds strings, so",
        ),
        (
            b'{"text": "a"}\n{"text": "\xe4"}',
            "PATH: not UTF-8 text (0xe4 at byte offset 24, line 2), allowed is UTF-8",
        ),
        ('{"text": "a"}'.encode("utf-16"), "PATH: UTF-16 text, allowed is UTF-8; convert it"),
        (b'{"n": ' + b"9" * 5000 + b"}", "PATH: line 1 is not JSON (Exceeds the limit"),
    ],
)
def test_a_line_that_is_no_document_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = raw(tmp_path / "a.jsonl", content)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(message.replace("PATH", str(path)))


def test_a_line_without_an_end_is_not_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "MAX_LINE_BYTES", 1 << 20)
    asked = []

    class Endless(io.BytesIO):
        def readline(self, size: int | None = -1) -> bytes:
            asked.append(size)
            return b" " * (size or 0)

    file = DataFile("a.json", None, "json", None, Endless)
    with pytest.raises(
        UserError, match=r"a\.json: line 1 is longer than 1 MiB; allowed is one JSON"
    ):
        list(read_documents(file, "text", {}))
    assert asked == [(1 << 20) + 1]


def test_parquet_without_the_column_lists_those_with_strings(tmp_path: Path) -> None:
    table = pa.table({"body": ["a"], "n": [1], "title": ["t"], "tags": [["x"]]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError) as caught:
        read(tmp_path / "a.parquet")
    assert str(caught.value) == (
        f"{tmp_path / 'a.parquet'}: the column 'text' is missing; those with strings are: body, "
        "title. Give the one with the text as text_column"
    )
    with pytest.raises(
        UserError, match=r"the column 'tags' does not hold strings .*; those with strings are"
    ):
        read(tmp_path / "a.parquet", column="tags")
    pq.write_table(pa.table({"n": [1]}), tmp_path / "b.parquet")
    with pytest.raises(
        UserError, match="nothing else holds strings, so there is no text to train on"
    ):
        read(tmp_path / "b.parquet", column="n")


@pytest.mark.parametrize("column", ["text", "body"])
def test_parquet_with_several_columns_of_one_name(tmp_path: Path, column: str) -> None:
    """A KeyError, where it is the column of the text; others do not matter."""
    texts, numbers = pa.array(["a", "b"]), pa.array([1, 2])
    structs = pa.array([{"text": "x"}, {"text": "y"}])
    table = pa.table(
        [texts, numbers, texts, texts, structs, structs],
        names=["text", "n", "text", "body", "meta", "meta"],
    )
    pq.write_table(table, tmp_path / "a.parquet")
    if column == "body":
        assert [r.text for r in read(tmp_path / "a.parquet", column="body")] == ["a", "b"]
        return
    with pytest.raises(UserError) as caught:
        read(tmp_path / "a.parquet")
    assert caught.value.exit_code == 2
    assert str(caught.value) == (
        f"{tmp_path / 'a.parquet'}: has 2 columns called 'text', so which one is the text is not "
        "known; rename one of them, or another column is it (those with strings are: body. Give "
        "the one with the text as text_column)"
    )


@pytest.mark.parametrize(
    "array",
    [
        pa.array([{"text": "a"}]),
        pa.array([["a", "b"]]),
        pa.array([[{"text": "a"}]]),
        pa.array([None], pa.null()),
        pa.array([b"a"]),
        pa.array([[("k", "v")]], pa.map_(pa.string(), pa.string())),
        pa.array([1.5]),
    ],
    ids=lambda array: str(array.type),
)
def test_parquet_whose_column_is_no_text(tmp_path: Path, array: pa.Array) -> None:
    pq.write_table(pa.table({"text": array, "body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError) as caught:
        read(tmp_path / "a.parquet")
    message = f"{tmp_path / 'a.parquet'}: the column 'text' does not hold strings (it is "
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(
        "); those with strings are: body. Give the one with the text as text_column"
    )
    assert [r.text for r in read(tmp_path / "a.parquet", column="body")] == ["a"]


def test_a_field_that_is_there_twice_is_refused_in_json(tmp_path: Path) -> None:
    """The later one was taken in silence."""
    lines = [
        '{"text": "a", "meta": {"text": "inner"}, "n": 1, "n": 2}',
        '{"text": "he said \\"text\\" and \\"text\\""}',
        '{"text": "b", "text": "c"}',
    ]
    path = raw(tmp_path / "a.jsonl", "\n".join(lines).encode())
    with pytest.raises(UserError, match="line 3: the field 'text' is there more than once"):
        read(path)
    raw(path, "\n".join(lines[:2]).encode())
    assert [r.text for r in read(path)] == ["a", 'he said "text" and "text"']


def test_parquet_with_bytes_that_are_not_utf8_says_where(tmp_path: Path) -> None:
    texts = pa.array([b"a", b"b", b"\xe4\xe4"]).view(pa.string())
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    with pytest.raises(UserError) as caught:
        read(tmp_path / "a.parquet")
    assert "the column 'text' is not UTF-8 between rows 0 and 2 of row group 0" in str(caught.value)


def test_what_a_remote_file_says_reaches_the_user() -> None:
    """pyarrow passes on what its file raises, instead of calling the file damaged."""

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:  # noqa: ARG002
            raise UserError("the network is gone")

        readline = read

    data = io.BytesIO()
    pq.write_table(pa.table({"text": ["a"]}), data)
    for kind, compression in [
        ("parquet", None),
        ("json", None),
        ("json", "gzip"),
        ("text", "zstd"),
    ]:
        file = DataFile("a", 1, kind, compression, lambda: Broken(data.getvalue()))
        with pytest.raises(UserError, match=r"^the network is gone$"):
            list(read_documents(file, "text", {}))
