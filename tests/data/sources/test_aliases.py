"""A dataset alias is one line in aliases.py: everything else is derived from it."""

from typing import Any

import pytest

from sharpgpt.data.prepare.options import prepare_parser
from sharpgpt.data.sources import open as opening
from sharpgpt.data.sources.aliases import ALIASES, ALLOWED, DATASET_NAMES, Alias, alias_of_repo


def test_the_short_names_are_in_the_help_and_the_message() -> None:
    assert ("tinyshakespeare", "shakespeare-plays", *ALIASES) == DATASET_NAMES
    names = ", ".join(DATASET_NAMES)
    assert ALLOWED.startswith(names)
    assert f"Short names of datasets: {names}." in prepare_parser("sharpgpt prepare").format_help()


@pytest.mark.parametrize("given", ["wiki-text", "Wiki_Text", "org/wiki"])
def test_a_new_alias_opens_its_repository(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setitem(ALIASES, "wiki-text", Alias(repo="org/wiki", text_column="page"))
    opened: list[Any] = []
    monkeypatch.setattr(opening, "open_hub", lambda repo, _: opened.append(repo))
    opening.open_source(given)
    assert opened == ["org/wiki"]
    assert alias_of_repo("org/wiki") == ("wiki-text", ALIASES["wiki-text"])


def test_a_repository_without_an_alias_has_the_plain_defaults() -> None:
    name, alias = alias_of_repo("org/other")
    assert (name, alias.config_name, alias.text_column, alias.split) == (
        None, None, "text", "sha256",
    )  # fmt: skip
