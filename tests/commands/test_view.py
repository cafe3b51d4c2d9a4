"""`sharpgpt view` as a command: what it accepts as a text, and its messages."""

from pathlib import Path
from typing import Any

import pytest

from sharpgpt.commands.main import main
from sharpgpt.data.tokenizer import CharTokenizer
from tests.bigram_models import CHARACTERS, save_model, wte_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    for name, scale in (("first", 1.0), ("second", 0.5), ("other", 1.0)):
        save_model(path / name, wte_of(), scale)
    reversed_ids = CharTokenizer(CHARACTERS[::-1]).to_huggingface(32)
    reversed_ids.save_pretrained(path / "other")
    (path / "text.txt").write_text("abcdefgh" * 10)
    return path


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_two_models_on_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder as --output means view.html in it; past the window of 32 the contexts overlap."""
    words = "view text.txt --runs first second --max_tokens 60 --num_candidates 3 --output ."
    assert main(words.split()) == 0
    assert capsys.readouterr().out == "view.html\n"
    page = (folder / "view.html").read_text(encoding="utf-8")
    for part in (
        "<h1>text.txt</h1>",
        "60 tokens as 2 models predict them",
        "these are its first 60 tokens. --max_tokens shows more.",
        "every token is predicted from the 16 to 31 tokens before it.",
        "B − A",
    ):
        assert part in page, part


def test_a_text_itself_and_models_of_one_name(folder: Path) -> None:
    assert main(["view", "abba", "--runs", "first", "first"]) == 0
    page = (folder / "view.html").read_text(encoding="utf-8")
    assert "<h1>“abba”</h1>" in page
    assert "in their order they are first, first." in page


@pytest.mark.parametrize(
    ("text", "flags", "code", "message"),
    [
        ("abba", "--max_tokens 1 --num_candidates 0", 2, "2 problems"),
        (
            "abba",
            "--device cuda:99",
            2,
            "device: given 'cuda:99', which this machine does not have",
        ),
        ("abba", "--runs first none", 1, "none: no such folder"),
        ("", "", 2, "text: given '', allowed is a file, or a text itself"),
        ("a", "", 1, "gives 1 token, allowed is at least 2"),
        (".", "", 2, "text: given '.', which is a folder"),
        ("texts.txt", "", 1, "looks like a file"),
        ("abzx!", "", 1, "has no token for '!' (U+0021), 'x' (U+0078), 'z' (U+007A)"),
        ("ab\udcff", "", 1, "is not valid UTF-8"),
    ],
)
def test_messages(
    capsys: pytest.CaptureFixture[str], text: str, flags: str, code: int, message: str
) -> None:
    words: list[Any] = ["view", text, "--runs", "first", *flags.split()]
    assert main(words) == code
    assert message in capsys.readouterr().err


def test_the_same_characters_under_other_ids_are_the_same_tokens(folder: Path) -> None:
    assert main(["view", "abba", "--runs", "first", "other"]) == 0


def test_a_file_that_is_not_utf8(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "latin.txt").write_bytes("é".encode("latin-1"))
    assert main(["view", "latin.txt", "--runs", "first"]) == 1
    assert "latin.txt: is not UTF-8 text" in capsys.readouterr().err
