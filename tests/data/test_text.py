import io
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data import text as text_files
from sharpgpt.data.text import read_text, text_pieces
from sharpgpt.data.tokenizer import Gpt2Tokenizer

SPACES = "\u0085\u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000\x1c\x1f\t\v\f\r"
ALPHABET = [*"aB3.'é中😀\u200b\ufeff", " ", " ", "\n", "\r\n", "\r", "'ll", *SPACES]


class Trickle(io.BytesIO):
    """A stream whose reads give a few bytes, as those of a network do."""

    def __init__(self, data: bytes, seed: int) -> None:
        super().__init__(data)
        self._lengths = random.Random(seed)

    def read(self, size: int | None = -1) -> bytes:
        assert size is None or size >= 5
        return super().read(self._lengths.randint(1, 5))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "PIECE_BYTES", 8)
    monkeypatch.setattr(text_files, "MAX_PIECE_BYTES", 40)
    monkeypatch.setattr(text_files, "_BLOCK_BYTES", 5)


def texts(seed: int) -> Iterator[str]:
    random_ = random.Random(seed)
    for _ in range(150):
        yield "".join(random_.choices(ALPHABET, k=random_.randint(0, 120)))


def pieces_of(data: bytes, start: int = 0, seed: int = 0) -> list[tuple[str, int]]:
    stream = Trickle(data, seed)
    stream.seek(start)
    return list(text_pieces(stream, "a.txt", start))


def test_the_pieces_are_the_text_and_go_on_from_every_end(small: None) -> None:
    num_pieces = 0
    for text in texts(seed=1):
        data = text.encode()
        pieces = pieces_of(data)
        expected = text.removeprefix("\ufeff").replace("\r\n", "\n")
        assert "".join(piece for piece, _ in pieces) == expected
        for i, (_, end) in enumerate(pieces):
            assert pieces_of(data, end, seed=i) == pieces[i + 1 :]
        assert not pieces or pieces[-1][1] == len(data)
        num_pieces += len(pieces)
    assert num_pieces > 600


def test_the_ids_of_the_pieces_join(
    monkeypatch: pytest.MonkeyPatch, small: None, tmp_path: Path
) -> None:
    """Also those that are cut by force, where a text has no place to cut."""
    monkeypatch.setattr(text_files, "MAX_PIECE_BYTES", 10_000)
    tokenizer = Gpt2Tokenizer()
    num_cuts = 0
    for text in texts(seed=2):
        pieces = pieces_of(text.encode())
        joined = [token for piece, _ in pieces for token in tokenizer.encode(piece).tolist()]
        whole = text.removeprefix("\ufeff").replace("\r\n", "\n")
        assert joined == tokenizer.encode(whole).tolist()
        num_cuts += len(pieces) - 1
    assert num_cuts > 300


def test_a_text_without_a_place_to_cut_is_cut_between_characters(small: None) -> None:
    for text in ["a" * 200, "中" * 60, "😀" * 50, "\r\n" * 80, "é" * 19 + "x\r\n" * 30]:
        data = text.encode()
        pieces = pieces_of(data)
        assert len(pieces) > 2
        assert "".join(piece for piece, _ in pieces) == text.replace("\r\n", "\n")
        ends = [0, *(end for _, end in pieces)]
        assert all(b - a <= 40 for a, b in itertools.pairwise(ends))
        for i, (_, end) in enumerate(pieces):
            assert pieces_of(data, end, seed=i) == pieces[i + 1 :]


def test_real_pieces_have_their_size(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"nothing so long as a line\r\n" * 40_000)
    with open(path, "rb") as file:
        pieces = list(text_pieces(file, "a.txt"))
    lengths = [len(text.encode()) for text, _ in pieces[:-1]]
    assert len(lengths) == 4
    assert all(text_files.PIECE_BYTES * 0.95 < length < 2**18 + 30 for length in lengths)
    assert "".join(text for text, _ in pieces) == path.read_text(encoding="utf-8")


def test_errors_far_into_a_file_say_where() -> None:
    lines = b"line of text\n" * 100_000
    with pytest.raises(UserError) as caught:
        list(text_pieces(io.BytesIO(lines + b"k\xe4se"), "a.txt"))
    assert str(caught.value).startswith(
        "a.txt: not UTF-8 text (0xe4 at byte offset 1300001, line 100001), allowed is UTF-8"
    )
    stream = io.BytesIO(lines + b"\0")
    _, end = next(text_pieces(stream, "a.txt"))
    stream.seek(end)
    with pytest.raises(UserError, match=r"a binary file \(a NUL at byte offset 1300000\)"):
        list(text_pieces(stream, "a.txt", end))
    stream = io.BytesIO(lines + b"\xff")
    stream.seek(end)
    with pytest.raises(UserError, match=r"not UTF-8 text \(0xff at byte offset 1300000\)"):
        list(text_pieces(stream, "a.txt", end))


def test_read_text_keeps_what_is_not_a_line_ending_of_windows() -> None:
    assert read_text(io.BytesIO(b"a\r\r\n\n\rb"), "a.txt") == "a\r\n\n\rb"
