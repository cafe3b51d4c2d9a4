import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.data.prepare.automatic import ready_dataset
from sharpgpt.data.prepared import open_prepared

MakeConfig = Callable[..., TrainingConfig]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    path = tmp_path / "documents.jsonl"
    texts = (f"Document {i} has a text of its own.\n" * 3 for i in range(2000))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_documents_are_prepared_once_and_anew_when_they_change(
    documents: Path,
    tmp_path: Path,
    tiny_config: MakeConfig,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = tiny_config(dataset=str(documents), cache_dir=str(tmp_path / "cache"))
    caplog.set_level("INFO")
    first = ready_dataset(config)
    assert "is not prepared yet: writing token shards" in caplog.messages[0]
    assert "training and" in capsys.readouterr().out
    data = open_prepared(first)
    assert data is not None
    assert data.tokenizer_name == "char"
    assert len(data.val) > 0
    caplog.clear()
    assert ready_dataset(config) == first
    assert caplog.messages == [
        f"{documents}: reusing {first}, made from the same content (SHA-256)"
    ]
    whole = documents.read_bytes()
    stamp = documents.stat()
    with open(documents, "a") as file:
        file.write(json.dumps({"text": "One more."}) + "\n")
    grown = ready_dataset(config)
    assert grown != first
    assert f"not that from which {first} was made" in caplog.text
    # In its middle, its size and time kept; a hash of the ends took it for the same.
    assert len(whole) > 1 << 17
    documents.write_bytes(whole.replace(b"Document 1000 has", b"Document 1000 HAS"))
    os.utime(documents, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    edited = ready_dataset(config)
    assert edited not in (first, grown)
    caplog.clear()
    documents.unlink()
    documents.write_bytes(whole)  # a copy: another inode, the same content
    assert ready_dataset(config) == first


def test_a_dry_run_prepares_nothing(
    documents: Path, tmp_path: Path, tiny_config: MakeConfig
) -> None:
    config = tiny_config(dataset=str(documents), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(UserError, match="run sharpgpt prepare --dataset"):
        ready_dataset(config, may_prepare=False)
    assert not (tmp_path / "cache").exists()


def test_what_is_ready_stays_what_it_is(tmp_path: Path, tiny_config: MakeConfig) -> None:
    text = tmp_path / "poem.txt"
    text.write_text("a text\n" * 100)
    for dataset in ("tinyshakespeare", str(text)):
        assert ready_dataset(tiny_config(dataset=dataset)) == dataset
    for name in ("train.bin", "val.bin"):
        (tmp_path / name).write_bytes(bytes(200))
    assert ready_dataset(tiny_config(dataset=str(tmp_path))) == str(tmp_path)


def test_what_does_not_exist_is_named(tiny_config: MakeConfig) -> None:
    with pytest.raises(UserError, match="neither a known name nor an existing file or folder"):
        ready_dataset(tiny_config(dataset="nope"))


@pytest.fixture
def columns(tmp_path: Path) -> Path:
    path = tmp_path / "columns.jsonl"
    rows = (json.dumps({"id": f"{i}", "content": f"row {i} of them"}) for i in range(300))
    path.write_text("\n".join(rows))
    return path


def test_training_takes_what_a_preparation_takes(
    columns: Path, tmp_path: Path, tiny_config: MakeConfig
) -> None:
    """train.py advised --text_column and --val_fraction, and had neither."""
    how = {"dataset": str(columns), "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(UserError, match=r"no field 'text'.* id, content. .* as text_column"):
        ready_dataset(tiny_config(**how))
    how["text_column"] = "content"
    with pytest.raises(UserError, match=r"another val_fraction, such as 0\.1"):
        ready_dataset(tiny_config(**how))
    found = {}
    for fraction in (0.1, 0.3):
        config = tiny_config(**how, val_fraction=fraction)
        with pytest.raises(UserError, match=f"--text_column content --val_fraction {fraction} "):
            ready_dataset(config, may_prepare=False)
        found[fraction] = ready_dataset(config)
        assert ready_dataset(config) == found[fraction]
        data = open_prepared(found[fraction])
        assert data is not None
        assert data.source["split"]["val_fraction"] == fraction
    assert found[0.1] != found[0.3]
    ids = ready_dataset(tiny_config(**how | {"text_column": "id", "val_fraction": 0.1}))
    assert ids not in found.values()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"text_column": "x"}, "text_column: given 'x', which is for Parquet and JSON lines"),
        ({"config_name": "x"}, "config_name: given 'x', which is for datasets of the hub"),
        ({"revision": "x"}, "revision: given 'x', which is for datasets of the hub"),
        ({"streaming": True}, "streaming: given true, which is for datasets of the hub"),
    ],
)
def test_a_setting_that_does_not_apply_is_refused(
    tmp_path: Path, tiny_config: MakeConfig, setting: dict[str, object], message: str
) -> None:
    path = tmp_path / "text.txt"
    path.write_text("To be, or not to be.\n" * 100)
    for dataset in (str(path), "tinyshakespeare"):
        with pytest.raises(UserError, match=message):
            ready_dataset(tiny_config(dataset=dataset, **setting))


def test_prepared_data_is_split_already(
    columns: Path, tmp_path: Path, tiny_config: MakeConfig
) -> None:
    how = {"text_column": "content", "val_fraction": 0.1, "cache_dir": str(tmp_path / "cache")}
    folder = ready_dataset(tiny_config(dataset=str(columns), **how))
    with pytest.raises(UserError, match=r"text_column, val_fraction: given for .* leave them out"):
        ready_dataset(tiny_config(dataset=folder, **how))
