"""Text from outside, as a terminal may show it: names, messages, generated text.

A control character could move the cursor, forge a line, set the window's title or turn the reading
direction around. `visible` writes each as an escape such as \\x1b or \\u202e: the controls of ASCII
and of Latin-1, carriage return and backspace among them; Unicode's formatting characters, such as
bidirectional overrides, zero-width spaces and joiners; separators of lines and paragraphs; halves
of surrogate pairs. Only newline and tab stay, in a text; in a name (`one_line`) they do not.
"""

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


def show(text: object, *, end: str = "\n", file: TextIO | None = None) -> None:
    """Print `text`, made visible, at once; what the terminal has no letter for becomes an escape.

    Raises what `print` raises.
    """
    target = file or sys.stdout
    shown = visible(str(text))
    encoding = getattr(target, "encoding", None) or "utf-8"
    shown = shown.encode(encoding, "backslashreplace").decode(encoding)
    print(shown, end=end, file=target, flush=True)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    return ascii(character)[1:-1] if unicodedata.category(character) in _HIDDEN else character
