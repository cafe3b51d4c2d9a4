"""A HuggingFace model folder from anyone cannot make transformers wait, or read without end."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.evaluation.saved_model import load_model
from sharpgpt.model.build import create_gpt2_model
from sharpgpt.model.folder import refuse_strange_files


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 3 << 30)


def _deep(path: Path) -> None:
    path.write_text('{"a":' * 100_000 + "1" + "}" * 100_000, encoding="utf-8")


STRANGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "is no plain file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is no plain file"),
    "sparse": (_sparse, "bytes"),
    "deep": (_deep, "nested too deeply"),
    "list": (lambda path: path.write_text("[1]"), "not a JSON object"),
    "huge": (lambda path: path.write_text('{"n_layer": ' + "9" * 400 + "}"), "more than 64 bits"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_strange_config_is_refused_before_it_is_read(kind: str, tmp_path: Path) -> None:
    """sample and train waited for a pipe in place of config.json for ever."""
    make, message = STRANGE[kind]
    make(tmp_path / "config.json")
    with pytest.raises(UserError, match=message):
        create_gpt2_model(str(tmp_path))
    if kind not in ("pipe", "device"):  # without a plain config.json there is no model
        with pytest.raises(UserError, match=message):
            load_model(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "merges.txt", "additional_chat_templates/x"])
@pytest.mark.parametrize("kind", ["pipe", "device", "sparse"])
def test_strange_files_beside_it_are_refused(name: str, kind: str, tmp_path: Path) -> None:
    make, message = STRANGE[kind]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    make(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        refuse_strange_files(tmp_path)


def test_what_is_no_architecture_is_one_message(tmp_path: Path) -> None:
    """A config.json of other types was a TypeError, and names in it reached the terminal."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": ["gpt2"], "n_layer": {"a": 1}}), encoding="utf-8")
    with pytest.raises(UserError, match="gives no architecture"):
        create_gpt2_model(str(tmp_path))
    path.write_text(json.dumps({"a": [{"b\x1b[2J": 1}]}), encoding="utf-8")
    with pytest.raises(UserError, match="a name with control characters"):
        load_model(tmp_path)


def test_links_of_a_cache_are_followed(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("{}", encoding="utf-8")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot/config.json").symlink_to("../blob")
    (tmp_path / "snapshot/vocab.json").symlink_to("../missing")
    refuse_strange_files(tmp_path / "snapshot")


def test_a_tokenizer_without_a_longest_text_is_read(tmp_path: Path) -> None:
    """transformers writes 10 ** 30 for it, as a float of that size is as a whole number."""
    content = {"model_max_length": int(1e30)}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(content), encoding="utf-8")
    refuse_strange_files(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1' + "0" * 30 + "}")
    with pytest.raises(ValueError, match="more than 64 bits"):
        refuse_strange_files(tmp_path)
