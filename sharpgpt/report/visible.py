"""Texts as a reader can see them: whitespace, control characters and halves of characters."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

SPACE, NEWLINE, CONTINUED = "·", "↵", "‥"
MARKS = {" ": SPACE, "\n": NEWLINE, "\t": "→", "\r": "⟨CR⟩"}


@dataclass(frozen=True)
class TokenText:
    """How one token of a text is shown."""

    running: str
    """In the text itself: spaces between words stay, and after each ↵ there is a line break."""
    alone: str
    """By itself, with every space marked; the bytes, such as ⟨F0 9F⟩, if it is part of one."""
    part_of: str
    """The characters that it shares with its neighbours, marked; empty for a whole token."""
    is_space: bool
    """Whether it is nothing but spaces, which the running text shows as marks too."""


def visible(text: str) -> str:
    """`text` with a mark for each character that cannot be seen or that changes how others look.

    Space ·, newline ↵, tab →, carriage return ⟨CR⟩, everything else of that kind (control,
    formatting, private, unassigned, other spaces) as ⟨U+00A0⟩: signs that every font has. An accent
    without a letter is shown on ◌.
    """
    shown = [_visible(character) for character in text]
    if text and unicodedata.category(text[0]).startswith("M"):
        shown.insert(0, "◌")
    return "".join(shown)


def sample_text(text: str) -> str:
    """A generated text as it is; one that would be a blank card, with its marks."""
    is_blank = all(unicodedata.category(character)[0] in "CZ" for character in text)
    return visible(text).replace(NEWLINE, f"{NEWLINE}\n") if is_blank else text


def printable(text: str) -> str:
    """`visible`, but spaces stay spaces: for names and sentences."""
    return " ".join(map(visible, text.split(" ")))


def visible_bytes(token: bytes) -> str:
    """`visible` for a token's bytes; bytes that are no whole characters as ⟨F0 9F⟩."""
    try:
        return visible(token.decode())
    except UnicodeDecodeError as error:
        cut = token[error.start : error.end].hex(" ").upper()
        before = visible(token[: error.start].decode())
        return f"{before}⟨{cut}⟩{visible_bytes(token[error.end :])}"


def texts_of_tokens(tokens: Sequence[bytes]) -> list[TokenText]:
    """How the tokens of a text are shown, one after the other.

    A character that several tokens share is shown in the first of them; the others are ‥.
    """
    data = b"".join(tokens)
    characters = _characters(data)
    texts, start, index = [], 0, 0
    for token in tokens:
        end = start + len(token)
        while index < len(characters) and characters[index][1] <= start:
            index += 1
        after = index
        while after < len(characters) and characters[after][0] < end:
            after += 1
        touched = characters[index:after]
        own = "".join(text for first, _, text in touched if first >= start)
        shared = "".join(text for first, last, text in touched if first < start or last > end)
        is_space = own != "" and own.strip(" ") == ""
        texts.append(TokenText(_running(own), visible_bytes(token), visible(shared), is_space))
        start = end
    return texts


def _characters(data: bytes) -> list[tuple[int, int, str]]:
    """(first byte, byte after the last, text) of each character; broken ones as ⟨F0 9F⟩."""
    characters: list[tuple[int, int, str]] = []
    start = 0
    while start < len(data):
        try:
            whole, broken = data[start:].decode(), b""
        except UnicodeDecodeError as error:
            whole = data[start : start + error.start].decode()
            broken = data[start + error.start : start + error.end]
        for character in whole:
            size = len(character.encode())
            characters.append((start, start + size, character))
            start += size
        if broken:
            characters.append((start, start + len(broken), f"⟨{broken.hex(' ').upper()}⟩"))
            start += len(broken)
    return characters


def _running(text: str) -> str:
    """`text` for the running text; ‥ for the rest of a character that began before."""
    if not text:
        return CONTINUED
    if text.isspace():
        return visible(text).replace(NEWLINE, f"{NEWLINE}\n")
    return printable(text).replace(NEWLINE, f"{NEWLINE}\n")


def _visible(character: str) -> str:
    if character in MARKS:
        return MARKS[character]
    if unicodedata.category(character)[0] in "CZ":
        return f"⟨U+{ord(character):04X}⟩"
    return character
