"""UTF-8 text from a file of any size, piece by piece.

A byte order mark at the beginning is removed and CR LF becomes LF, so that a file from Windows
gives the same tokens as one from elsewhere; nothing else is changed. Binary files, UTF-16 and bytes
that are not UTF-8 end in one message with the place.

The pieces are cut where `pieces.separable_pieces` cuts, before a space or newline that follows a
non-whitespace character, so their GPT-2 ids join to those of the whole text. The cuts are found in
the bytes: the end of a piece is a byte offset at which reading can resume.
"""

import functools
import hashlib
import logging
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from sharpgpt.core.errors import UserError

logger = logging.getLogger(__name__)

PIECE_BYTES = 1 << 18
"""A piece is at least this long, but for the last one."""

MAX_PIECE_BYTES = 1 << 24
"""A text without a place to cut for this long is cut anyway, to bound the memory. The ids of such a
text, which no language has, may differ by a few at the cut."""

_BLOCK_BYTES = 1 << 20

# The last byte of a non-whitespace character, before a space, LF or CR LF. The whitespace
# outside ASCII: U+0085, U+00A0, U+1680, U+2000-200A, U+2028, U+2029, U+202F, U+205F, U+3000.
_CUT = re.compile(
    rb"[\x21-\xff](?<!\xc2[\x85\xa0])(?<!\xe1\x9a\x80)(?<!\xe2\x80[\x80-\x8a\xa8\xa9\xaf])"
    rb"(?<!\xe2\x81\x9f)(?<!\xe3\x80\x80)(?= |\r?\n)"
)


@dataclass(frozen=True)
class SourceText:
    """A whole text and what is known about it."""

    text: str
    name: str
    """The names of `aliases.TEXTS` and "shakespeare-standin" always mean the same bytes."""
    origin: str
    """The file, address or package that the text was read from."""
    note: str | None = None
    """A warning for the user, or None."""
    is_stand_in: bool = False
    """Whether another text than the requested one takes its place."""

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the text as UTF-8."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def num_bytes(self) -> int:
        """Length of the text as UTF-8."""
        return len(self.text.encode())


def read_text(file: BinaryIO, name: str) -> str:
    """The whole text of `file`, which messages call `name`. Raises `UserError`."""
    return "".join(text for text, _ in text_pieces(file, name))


def text_pieces(
    file: BinaryIO, name: str, start: int = 0, *, tell: bool = False
) -> Iterator[tuple[str, int]]:
    """Yield (text, end): the pieces of a file, and the byte offset after each.

    Args:
        file: positioned at `start`.
        name: the file's name in messages.
        start: byte offset, 0 or the end of a piece: the pieces from there on are the same as when
            read from the beginning.
        tell: warn of a place where the ids may not be those of the whole text.

    Raises `UserError` for anything but UTF-8 text.
    """
    offset = start
    num_lines = 0
    data = b""
    searched = PIECE_BYTES - 1
    is_end = False
    while not is_end or data:
        cut = _CUT.search(data, searched)
        if cut is None and not is_end and len(data) < MAX_PIECE_BYTES + 2:
            # Search the end again: up to 2 following bytes decide whether it is a cut.
            searched = max(searched, len(data) - 2)
            block = file.read(_BLOCK_BYTES)
            data += block
            is_end = not block
            continue
        end = cut.end() if cut else len(data)
        if end > MAX_PIECE_BYTES:
            end = _forced_cut(data)
            if tell:
                logger.warning(
                    "%s: no space or line ends for %d MiB from byte offset %d on, so the text is "
                    "cut there; the tokens around the cut may differ from those of the whole",
                    *(name, MAX_PIECE_BYTES >> 20, offset),
                )
                tell = False
        piece = data[:end]
        text = decoded(piece, name, offset, num_lines if start == 0 else None)
        num_lines += piece.count(b"\n")
        data = data[end:]
        searched = PIECE_BYTES - 1
        offset += end
        yield text.replace("\r\n", "\n"), offset


KNOWN = {
    b"\x1f\x8b": ("compressed with gzip", "let its name end in .gz, such as {}.gz"),
    b"\x28\xb5\x2f\xfd": ("compressed with Zstandard", "let its name end in .zst, such as {}.zst"),
    b"\xfd7zXZ": ("compressed with xz", "decompress it: xz -dk {}"),
    b"BZh": ("compressed with bzip2", "decompress it: bzip2 -dk {}"),
    b"\x04\x22\x4d\x18": ("compressed with LZ4", "decompress it: lz4 -dk {}"),
    b"PK\x03\x04": ("a zip archive", "extract its files: unzip {}"),
    b"7z\xbc\xaf": ("a 7z archive", "extract its files: 7z x {}"),
    b"PAR1": ("a Parquet file", "let its name end in .parquet"),
    b"%PDF-": ("a PDF", "extract its text: pdftotext {}"),
}
"""How files begin that are no text: what they are, and what to do."""


def refuse_known(data: bytes, name: str) -> None:
    """Raise `UserError` where `data`, which is no text, begins like a file that is `KNOWN`."""
    for beginning, (what, remedy) in KNOWN.items():
        if data.startswith(beginning):
            remedy = remedy.format(shlex.quote(name))
            raise UserError(f"{name}: {what}, allowed is UTF-8 text; {remedy}")


def _forced_cut(data: bytes) -> int:
    """At `MAX_PIECE_BYTES`, or just before where that would cut a character or a CR LF in two."""
    end = MAX_PIECE_BYTES
    while data[end] & 0xC0 == 0x80 and end > MAX_PIECE_BYTES - 4:
        end -= 1
    return end - 1 if data[end - 1 : end + 1] == b"\r\n" else end


def decoded(data: bytes, name: str, offset: int, num_lines: int | None) -> str:
    """The text of `data`, which is at `offset`, after `num_lines` lines if that is known.

    A byte order mark at offset 0 is removed. Raises `UserError` for anything but UTF-8 text.
    """
    if offset == 0 and data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(
            f"{name}: UTF-16 text, allowed is UTF-8; convert it: "
            f"iconv -f UTF-16 -t UTF-8 {shlex.quote(name)} > converted.txt"
        )
    nul = data.find(b"\0")
    if nul >= 0 and offset == 0:
        refuse_known(data, name)
    if nul >= 0:
        raise UserError(
            f"{name}: a binary file (a NUL at byte offset {offset + nul}), allowed is UTF-8 text; "
            "extract the text from it first"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if offset == 0:
            refuse_known(data, name)
        line = ""
        if num_lines is not None:
            line = f", line {num_lines + data.count(10, 0, error.start) + 1}"
        raise UserError(
            f"{name}: not UTF-8 text (0x{data[error.start]:02x} at byte offset "
            f"{offset + error.start}{line}), allowed is UTF-8; convert it, from Latin-1 for "
            f"example: iconv -f ISO-8859-1 -t UTF-8 {shlex.quote(name)} > converted.txt"
        ) from None
    return text.removeprefix("\ufeff") if offset == 0 else text
