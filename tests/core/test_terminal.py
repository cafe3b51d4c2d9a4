"""Text from outside cannot control the terminal that shows it."""

import io
import sys

import pytest

from sharpgpt.core.terminal import one_line, show, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb\bc\x00\x7f", "a\\rb\\x08c\\x00\\x7f"),
        ("\x9b31m\x85", "\\x9b31m\\x85"),
        ("evil\u202etxt.exe\u2066\u200e\u061c", "evil\\u202etxt.exe\\u2066\\u200e\\u061c"),
        ("a\u200bb\ufeff\u200d\u00ad", "a\\u200bb\\ufeff\\u200d\\xad"),
        ("a\u2028b\u2029", "a\\u2028b\\u2029"),
        ("\udcff", "\\udcff"),
        ("\U000e0041", "\\U000e0041"),
        ("né 日本 🙂 a\u0301\u3000\u00a0\ufe0f", "né 日本 🙂 a\u0301\u3000\u00a0\ufe0f"),
        ("two\n\tlines", "two\n\tlines"),
    ],
)
def test_controls_are_escaped_and_text_is_not(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_name_is_one_line() -> None:
    """A run called "x\\nNOTE: all is well" printed a line of its own."""
    assert one_line("x\nNOTE:\tall\r") == "x\\nNOTE:\\tall\\r"


def test_letters_that_the_terminal_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of undecodable bytes, or × on an ASCII terminal, was a UnicodeEncodeError."""
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    show("0.1 × a\udcff")
    assert ascii_only.buffer.getvalue() == b"0.1 \\xd7 a\\udcff\n"
