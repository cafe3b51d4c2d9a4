import pytest

from sharpgpt.report.visible import printable, texts_of_tokens, visible, visible_bytes


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        (" the", "·the"),
        ("a\n\tb", "a↵→b"),
        ("\r\n", "⟨CR⟩↵"),
        ("\x00\x1b\x7f", "⟨U+0000⟩⟨U+001B⟩⟨U+007F⟩"),
        ("\u202e\u200b\u00a0\ufeff", "⟨U+202E⟩⟨U+200B⟩⟨U+00A0⟩⟨U+FEFF⟩"),
        ("\u0301", "◌\u0301"),
        ("e\u0301", "e\u0301"),
        ("<b>&", "<b>&"),
        ("", ""),
    ],
)
def test_what_cannot_be_seen_gets_a_sign(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_sentences_keep_their_spaces() -> None:
    assert printable("a run\n of  two") == "a run↵ of  two"


def test_bytes_that_are_no_whole_character() -> None:
    assert visible_bytes(b" \xf0\x9f") == "·⟨F0 9F⟩"
    assert visible_bytes(b"\x98\x80!") == "⟨98⟩⟨80⟩!"
    assert visible_bytes("é".encode()) == "é"


def test_a_character_of_several_tokens_stands_in_the_first() -> None:
    """😀 is F0 9F 98 80, é is C3 A9; the third token holds the end of one and half of the other."""
    tokens = [b"a \xf0\x9f", b"\x98", b"\x80\xc3", b"\xa9b", b" c"]
    texts = texts_of_tokens(tokens)
    assert [text.running for text in texts] == ["a 😀", "‥", "é", "b", " c"]
    assert [text.part_of for text in texts] == ["😀", "😀", "😀é", "é", ""]
    assert [text.alone for text in texts] == ["a·⟨F0 9F⟩", "⟨98⟩", "⟨80⟩⟨C3⟩", "⟨A9⟩b", "·c"]


def test_a_text_cut_inside_a_character_is_shown_to_its_end() -> None:
    texts = texts_of_tokens([b"a", b"\xf0\x9f"])
    assert [text.running for text in texts] == ["a", "⟨F0 9F⟩"]
    assert texts[1].alone == "⟨F0 9F⟩"


def test_lines_break_after_their_newlines_and_spaces_alone_are_marked() -> None:
    texts = texts_of_tokens([b"a", b"\n", b"\n\n", b"  ", b" b", b"c\n d", b" \n"])
    shown = ["a", "↵\n", "↵\n↵\n", "··", " b", "c↵\n d", "·↵\n"]
    assert [text.running for text in texts] == shown
    assert [text.is_space for text in texts] == [False, False, False, True, False, False, False]


def test_no_tokens_give_no_texts() -> None:
    assert texts_of_tokens([]) == []
    assert texts_of_tokens([b"", b"a"])[1].running == "a"
