"""Where a text can be cut so that the GPT-2 ids of its pieces join to those of the whole.

`GPT2_PATTERN` cuts a text into words, each of which is merged by itself. So a cut between two words
changes nothing, unless a word on one side becomes another because the other side is gone.
"""

import re
from collections.abc import Iterator

# GPT-2's pattern from the original release, in tiktoken's faster form with possessive quantifiers,
# which match the same.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

PIECE_CHARACTERS = 1 << 18

LONG_WHITESPACE = 1 << 19
"""tiktoken panics where about a million characters of whitespace stand before a word."""

# Unicode's White_Space, which is `\s` in the pattern. Python's `\s` has four more characters.
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


def separable_pieces(text: str, num_characters: int) -> Iterator[str]:
    """Cut `text` into pieces of at least `num_characters` whose GPT-2 ids join to those of `text`.

    Cuts are between a non-whitespace character and a space or newline. No alternative of
    `GPT2_PATTERN` matches across such a place (a match has whitespace only at its beginning, and
    nothing else if it is more than one space), and none looks back behind its start. The
    look-aheads `$` and `(?!\\S)` only follow whitespace, which never ends a piece.
    """
    start = 0
    while start < len(text):
        cut = re.compile(r"\S(?=[ \n])").search(text, start + num_characters - 1)
        end = cut.end() if cut else len(text)
        yield text[start:end]
        start = end


def digestible_pieces(text: str, long_whitespace: int = LONG_WHITESPACE) -> Iterator[str]:
    """Cut `text` so that tiktoken encodes each piece, with ids that join to those of `text`.

    Cuts are around runs of at least `long_whitespace` characters of whitespace.

    The pattern takes a run of two or more characters of whitespace before a word as one word up to
    its last character (`\\s+(?!\\S)`), stepping back from its end, which overflows the stack for a
    very long run. At the end of a text it takes the run as one word without stepping back
    (`\\s++$`). So such a run without its last character is a piece of its own, and so is what
    stands before it, which no word crosses (see `separable_pieces`).
    """
    start = 0
    if len(text) >= long_whitespace:
        # The lookbehind finds the beginning of a run only: else shorter ones take quadratic time.
        pattern = rf"(?<![{_SPACE}])[{_SPACE}]{{{long_whitespace},}}"
        for run in re.finditer(pattern, text):
            end = run.end() - (run.end() < len(text))
            yield text[start : run.start()]
            yield text[run.start() : end]
            start = end
    yield text[start:] if start else text
