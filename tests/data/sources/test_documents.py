"""Sources as a whole: what comes out, in what order, and going on from every place."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data import text as text_files
from sharpgpt.data.load import load_data
from sharpgpt.data.sources import file_sources
from sharpgpt.data.sources.aliases import DATASET_NAMES
from sharpgpt.data.sources.documents import Batch, DocumentSource, Piece, State
from sharpgpt.data.sources.open import open_source
from sharpgpt.data.tokenizer import Gpt2Tokenizer, load_tokenizer

DOCUMENTS = [f"document {i}\n" * (i % 9) for i in range(300)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pieces and batches out of little text."""
    monkeypatch.setattr(file_sources, "BATCH_CHARACTERS", 400)
    monkeypatch.setattr(file_sources, "PIECE_CHARACTERS", 30)
    monkeypatch.setattr(text_files, "PIECE_BYTES", 30)


def json_lines(path: Path) -> Path:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


def parquet_folder(path: Path) -> Path:
    path.mkdir()
    for i in range(3):
        part = pa.table({"text": DOCUMENTS[i * 120 : (i + 1) * 120]})
        pq.write_table(part, path / f"{i}.parquet", row_group_size=50)
    return path


def text_folder(path: Path) -> Path:
    for i, text in enumerate(DOCUMENTS[:40]):
        (path / f"{i // 10}").mkdir(parents=True, exist_ok=True)
        (path / f"{i // 10}" / f"{i:03}.txt").write_text(text)
    return path


def one_text(path: Path) -> Path:
    path.write_bytes("\ufeffEine Zeile mit Wörtern,\r\nund noch eine.\r\n".encode() * 60)
    return path


MAKERS: dict[str, Callable[[Path], Path]] = {
    "a.jsonl": json_lines,
    "a.jsonl.gz": json_lines,
    "parquet": parquet_folder,
    "texts": text_folder,
    "a.txt": one_text,
}


def documents_of(pieces: list[Piece]) -> list[tuple[str, bool]]:
    """(text, is_validation) of each document."""
    documents = []
    parts: list[str] = []
    for piece in pieces:
        parts.append(piece.text)
        if piece.ends_document:
            documents.append(("".join(parts), piece.is_validation))
            parts = []
    assert parts == []
    return documents


def pieces_of(source: DocumentSource, start: State | None = None) -> list[Piece]:
    return [piece for batch in source.batches(start) for piece in batch.pieces]


@pytest.mark.parametrize("name", MAKERS)
def test_going_on_from_every_place_gives_exactly_the_rest(
    tmp_path: Path, small: None, name: str
) -> None:
    path = MAKERS[name](tmp_path / name)
    val_fraction = 0.3
    source = open_source(str(path), val_fraction=val_fraction)
    batches = list(source.batches())
    assert len(batches) > 4
    for i, batch in enumerate(batches):
        start = json.loads(json.dumps(batch.after))
        # A source that is opened anew: another process.
        again = open_source(str(path), val_fraction=val_fraction)
        assert again.identity == source.identity
        assert list(again.batches(start)) == batches[i + 1 :]
    assert source.num_bytes == batches[-1].after["bytes_read"]
    positions = [batch.after["bytes_read"] for batch in batches]
    assert positions == sorted(positions)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "parquet", "texts"])
def test_documents_are_all_there_in_order_the_empty_ones_too(
    tmp_path: Path, small: None, name: str
) -> None:
    source = open_source(str(MAKERS[name](tmp_path / name)))
    expected = DOCUMENTS[:40] if name == "texts" else DOCUMENTS
    found = documents_of(pieces_of(source))
    assert [text for text, _ in found] == expected
    assert "" in expected
    assert source.joins_documents
    assert source.facts["split"] == {"rule": "sha256", "val_fraction": 0.005}
    assert json.loads(json.dumps(source.facts)) == source.facts


def test_the_same_documents_are_validated_whatever_the_format(tmp_path: Path) -> None:
    chosen = []
    for name in ["a.jsonl", "parquet", "texts"]:
        source = open_source(str(MAKERS[name](tmp_path / name)), val_fraction=0.3)
        split = dict(documents_of(pieces_of(source)))
        chosen.append({text for text in DOCUMENTS[:40] if split[text]})
    assert chosen[0] == chosen[1] == chosen[2]
    assert 3 < len(chosen[0]) < 30


def test_long_documents_come_in_pieces_whose_ids_join(tmp_path: Path, small: None) -> None:
    text = "words, and more words\r\n\r\n  here's   something\tlonger  ä\u3000 \n" * 30
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}) + "\n" + '{"text": "short"}')
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_bytes(text.encode())
    (tmp_path / "texts" / "b.txt").write_text("short")
    encode = Gpt2Tokenizer().encode
    for name, expected in [("a.jsonl", text), ("texts", text.replace("\r\n", "\n"))]:
        pieces = pieces_of(open_source(str(tmp_path / name)))
        assert len(pieces) > 20
        assert [piece.ends_document for piece in pieces[-2:]] == [True, True]
        ids = np.concatenate([encode(piece.text) for piece in pieces[:-1]])
        assert np.array_equal(ids, encode(expected))


def test_batches_hold_about_a_million_characters(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": "word " * 10_000}) + "\n" for _ in range(100))
    (tmp_path / "a.jsonl").write_text(lines)
    sizes = [
        sum(len(piece.text) for piece in batch.pieces)
        for batch in open_source(str(tmp_path / "a.jsonl")).batches()
    ]
    assert len(sizes) == 5
    assert set(sizes[:-1]) == {1_050_000}


@pytest.mark.parametrize("tokenizer", ["gpt2", "char"])
def test_a_single_text_gives_the_tokens_of_load_data(
    tmp_path: Path, small: None, tokenizer: str
) -> None:
    path = one_text(tmp_path / "a.txt")
    loaded = load_data(dataset=str(path), tokenizer=tokenizer, max_seq_length=16)
    source = open_source(str(path))
    assert not source.joins_documents
    assert source.name == loaded.name
    pieces = pieces_of(source)
    assert len(pieces) > 50
    text = "".join(piece.text for piece in pieces)
    encode = load_tokenizer(tokenizer, text).encode
    for is_validation, tokens in [(False, loaded.train_tokens), (True, loaded.val_tokens)]:
        own = [piece for piece in pieces if piece.is_validation == is_validation]
        assert np.array_equal(np.concatenate([encode(p.text) for p in own]), tokens[:])
        assert [piece.ends_document for piece in own] == [False] * (len(own) - 1) + [True]


def test_tinyshakespeare_or_its_standin_by_name(tmp_path: Path) -> None:
    source = open_source("tinyshakespeare", cache_dir=tmp_path)
    assert source.name == "shakespeare-standin"
    assert source.facts["is_stand_in"]
    assert "NOT TinyShakespeare" in source.facts["note"]
    encode = Gpt2Tokenizer().encode
    counts = [0, 0]
    for piece in pieces_of(source):
        counts[piece.is_validation] += len(encode(piece.text))
    assert counts == [301_297, 35_906]
    assert not source.joins_documents


def test_a_copy_of_tinyshakespeare_is_known_under_any_name(tmp_path: Path) -> None:
    copy = Path(__file__).parents[3] / "../shared/data/tinyshakespeare.txt"
    if not copy.is_file():
        pytest.skip("there is no copy of TinyShakespeare beside the repository")
    path = tmp_path / "input.txt"
    path.write_bytes(copy.read_bytes().replace(b"\n", b"\r\n"))
    source = open_source(str(path))
    assert source.name == source.facts["name"] == "tinyshakespeare"
    encode = Gpt2Tokenizer().encode
    counts = [0, 0]
    for piece in pieces_of(source):
        counts[piece.is_validation] += len(encode(piece.text))
    assert counts == [301_966, 36_059]


def test_a_large_single_text_is_split_at_its_share_of_characters(
    tmp_path: Path, small: None
) -> None:
    path = one_text(tmp_path / "a.txt")
    pieces = pieces_of(open_source(str(path), val_fraction=0.25))
    lengths = [0, 0]
    for piece in pieces:
        lengths[piece.is_validation] += len(piece.text)
    assert lengths[0] == int(sum(lengths) * 0.75)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b""),
        ("a.txt", b" \n\r\n\t"),
        ("a.jsonl", b""),
        ("a.jsonl", b'\n{"text": " \\n"}\n{"text": null}\n'),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
        ("a.jsonl.gz", b""),
    ],
)
def test_a_corpus_without_text_says_so(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(open_source(str(path)).batches())
    assert str(caught.value).startswith(
        f"{path}: holds no text (it is empty or only whitespace); allowed are texts in .txt"
    )


def test_parquet_without_rows_holds_no_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: holds no text"):
        list(open_source(str(tmp_path / "a.parquet")).batches())


def test_text_seen_before_the_stop_counts_afterwards(tmp_path: Path, small: None) -> None:
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"text": "text " * 100}) + "\n" + '{"text": " "}\n' * 3
    )
    source = open_source(str(tmp_path / "a.jsonl"))
    first, rest = source.batches()
    assert list(source.batches(first.after)) == [rest]
    assert list(source.batches(rest.after)) == []


@pytest.mark.parametrize(
    ("dataset", "remedy"),
    [
        ("tinyshakespear", "; did you mean tinyshakespeare?"),
        ("open-web-text", "; did you mean openwebtext?"),
        ("FOLDER/poem.txt", "; did you mean FOLDER/poems.txt?"),
        ("none/of-these.parquet", "; check the spelling, or give the full path"),
        ("FOLDER/none/of/these", "; check the spelling, or give the full path"),
        ("~nobody-of-this-name/x/y", "; check the spelling, or give the full path"),
        ("a\0b", "; check the spelling, or give the full path"),
        ("", "; check the spelling, or give the full path"),
    ],
)
def test_what_is_neither_name_nor_path_gets_the_allowed_and_the_nearest(
    tmp_path: Path, dataset: str, remedy: str
) -> None:
    (tmp_path / "poems.txt").write_text("poems")
    with pytest.raises(UserError) as caught:
        open_source(dataset.replace("FOLDER", str(tmp_path)))
    message = str(caught.value).replace(str(tmp_path), "FOLDER")
    assert message.startswith("dataset: given ")
    assert f"allowed is {', '.join(DATASET_NAMES)}, a dataset of the Hugg" in message
    assert message.endswith(remedy)


@pytest.mark.parametrize("name", ["a.txt", "tinyshakespeare"])
@pytest.mark.parametrize(
    "options",
    [
        {"text_column": "text"},
        {"config_name": "default"},
        {"revision": "main"},
        {"streaming": True},
    ],
)
def test_options_that_mean_nothing_are_refused(
    tmp_path: Path, name: str, options: dict[str, str | bool]
) -> None:
    one_text(tmp_path / "a.txt")
    dataset = str(tmp_path / name) if name == "a.txt" else name
    with pytest.raises(UserError, match=f"^{next(iter(options))}: given .* leave it out for"):
        open_source(dataset, **options)  # type: ignore[arg-type]


def test_batches_compare_by_value() -> None:
    """The tests above lean on it."""
    assert Batch([Piece("a", False, True)], {"x": 1}) == Batch([Piece("a", False, True)], {"x": 1})
    assert Batch([Piece("a", False, True)], {}) != Batch([Piece("a", True, True)], {})
