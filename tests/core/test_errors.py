"""The message of a user error never carries what a terminal would obey."""

from sharpgpt.core.errors import UserError


def test_control_characters_are_escaped_and_text_is_not() -> None:
    assert str(UserError("a\x1b[2J\x00é\n\tü\u3000")) == "a\\x1b[2J\\x00é\n\tü\u3000"
