"""Datasets that have a short name. A new one is one line in `ALIASES`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sharpgpt.config.options import nearest, shown
from sharpgpt.core.files import user_path

TINYSHAKESPEARE = "tinyshakespeare"
PLAYS = "shakespeare-plays"
TEXTS = (TINYSHAKESPEARE, PLAYS)


@dataclass(frozen=True, kw_only=True)
class Alias:
    """A dataset of the HuggingFace hub and the defaults for reading it."""

    repo: str
    """ORG/NAME on the hub."""
    config_name: str | None = None
    """The subset, of a dataset that has several."""
    text_column: str = "text"
    split: Literal["sha256", "nanogpt"] = "sha256"
    """Which documents are for validation; see split.py."""


ALIASES = {
    "openwebtext": Alias(repo="Skylion007/openwebtext", split="nanogpt"),
    "fineweb-edu": Alias(repo="HuggingFaceFW/fineweb-edu", config_name="sample-10BT"),
}

DATASET_NAMES = (*TEXTS, *ALIASES)

ALLOWED = (
    f"{', '.join(DATASET_NAMES)}, a dataset of the HuggingFace hub as ORG/NAME, or the path of a "
    "file or folder, or a glob, of .txt, .jsonl (both also .gz and .zst) or .parquet"
)


def alias_of_repo(repo: str) -> tuple[str | None, Alias]:
    """(short name, defaults) of a dataset of the hub; (None, plain defaults) if it has no alias."""
    named = ((name, alias) for name, alias in ALIASES.items() if alias.repo == repo)
    return next(named, (None, Alias(repo=repo)))


def unknown_dataset(dataset: str, known: Sequence[str], allowed: str) -> str:
    """The message for a dataset that is neither one of the `known` names nor an existing path."""
    path = user_path(dataset)
    try:
        names = [str(path.parent / entry.name) for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        names = []
    suggestion = nearest(dataset, known) or nearest(str(path), names)
    return (
        f"dataset: given {shown(dataset)}, which is neither a known name nor an existing file or "
        f"folder; allowed is {allowed}"
        f"{suggestion or '; check the spelling, or give the full path'}"
    )
