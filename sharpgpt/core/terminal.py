"""Text from outside, as a terminal may show it: names, messages, generated text.

A control character could move the cursor, forge a line, set the window's title or turn the reading
direction around. `visible` writes each as an escape such as \\x1b or \\u202e: the controls of ASCII
and of Latin-1, carriage return and backspace among them; Unicode's formatting characters, such as
bidirectional overrides, zero-width spaces and joiners; separators of lines and paragraphs; halves
of surrogate pairs. Only newline and tab stay, in a text; in a name (`one_line`) they do not.
"""

import errno
import logging
import re
import sys
import unicodedata
from typing import TextIO

_SUSPECT = re.compile(r"[^\n\t -~\u00a0-\u00ac\u00ae-\u02ff]")
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def visible(text: str) -> str:
    """`text` with an escape for every control and formatting character but newline and tab."""
    return _SUSPECT.sub(_escaped, text)


def one_line(text: str) -> str:
    """`visible`, newlines and tabs too: for a name, or a message of somebody else."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def message(text: str) -> str:
    """`visible`, with each line after the first indented: none looks like a new message."""
    return re.sub(r"\n(?=\S)", "\n  ", visible(text))


def show(text: object, *, end: str = "\n", file: TextIO | None = None) -> None:
    """Print `text`, made visible, at once; what the terminal has no letter for becomes an escape.

    Raises what `print` raises; an OSError says that it is about standard output.
    """
    target = file or sys.stdout
    shown = visible(str(text))
    encoding = getattr(target, "encoding", None) or "utf-8"
    shown = shown.encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(shown, end=end, file=target, flush=True)
    except OSError as error:
        if target is not sys.stdout:
            raise
        is_closed = error.errno == errno.EBADF
        reason = "is closed" if is_closed else f"cannot be written: {error.strerror or error}"
        raise OSError(error.errno, f"standard output {reason}") from error


def show_line(text: object, *, file: TextIO | None = None) -> None:
    """`show` in one line, whatever names are in it."""
    show(one_line(str(text)), file=file)


class VisibleFilter(logging.Filter):
    """For a handler of another library's logger, whose messages may quote a file from anyone."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Make the record visible."""
        record.msg, record.args = visible(record.getMessage()), ()
        return True


def make_library_visible(name: str) -> None:
    """Make visible what the handlers of the logger `name` print from now on."""
    for handler in logging.getLogger(name).handlers:
        if not any(isinstance(one, VisibleFilter) for one in handler.filters):
            handler.addFilter(VisibleFilter())


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    return ascii(character)[1:-1] if unicodedata.category(character) in _HIDDEN else character
