"""The files of an output folder that are prepare's own; no other is removed, or named to be.

A preparation begins only where no .bin file is (state.py), and its folder is locked, so the exact
names below are files that it wrote itself. Nothing is removed by a pattern, and no link followed.
"""

import itertools
import re
from pathlib import Path

from sharpgpt.core.numbers import counted
from sharpgpt.data.manifest import MANIFEST, Form
from sharpgpt.data.prepared import JOURNAL
from sharpgpt.data.shard_writer import SPLITS, shard_name
from sharpgpt.data.shards import partial_name

MAX_NAMED = 10
_OWN = re.compile(r"(\.partial_)?([A-Za-z0-9_-]{1,100}_)?(train|val)(_\d{5,})?\.bin")


def remove_journal(folder: Path) -> None:
    """Remove the journal, and what a process left that was killed while it replaced a file."""
    for name in (JOURNAL, MANIFEST):
        (folder / partial_name(name)).unlink(missing_ok=True)
    (folder / JOURNAL).unlink(missing_ok=True)


def discard(folder: Path, form: Form, name: str) -> None:
    """Remove a preparation of data `name` that has no commit: every shard, then the journal."""
    for split in SPLITS:
        for number in itertools.count():
            file = shard_name(form, split, name, number)
            paths = [folder / file, folder / partial_name(file)]
            if not any(path.exists() or path.is_symlink() for path in paths):
                break
            for path in paths:
                path.unlink(missing_ok=True)
            if form == "nanogpt":  # one file
                break
    remove_journal(folder)


def remedy(folder: Path) -> str:
    """What to do about data in `folder` that is in the way: its files by name."""
    kept = [JOURNAL, MANIFEST, partial_name(JOURNAL), partial_name(MANIFEST)]
    names = [path.name for path in sorted(folder.iterdir())]
    names = [name for name in names if name in kept or _OWN.fullmatch(name)]
    listed = ", ".join(names[:MAX_NAMED])
    if len(names) > MAX_NAMED:
        listed += f" and {counted(len(names) - MAX_NAMED, 'other shard')}"
    return (
        f"delete only what prepare wrote, by their names {listed} (keep what is yours), from "
        f"{folder} and prepare again, or give another output"
    )
