"""Datasets of the hub, end to end through `datasets`, against a server that stands in for it.

Which hub is asked, and whether any, is fixed when `huggingface_hub` is imported, so each group of
questions is asked by a process of its own.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data.sources.open import open_source
from sharpgpt.data.sources.split import nanogpt_validation_documents
from tests.data.sources.hub_server import HubServer, Repository, running

WORKER = """
import json, logging, os, sys
from sharpgpt.core.errors import UserError
from sharpgpt.data.sources.open import open_source

said = []

class Lines(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())

logging.getLogger("sharpgpt").addHandler(Lines())
logging.getLogger("sharpgpt").setLevel(logging.INFO)

def answer(question):
    start = question.pop("start", None)
    first_only = question.pop("first_only", False)
    source = open_source(**question)
    batches = source.batches(start)
    read = [next(batches)] if first_only else list(batches)
    batches.close()
    return {
        "name": source.name, "facts": source.facts, "identity": source.identity,
        "num_bytes": source.num_bytes, "said": [*said], "after": read[-1].after,
        "documents": [(p.text, p.is_validation) for batch in read for p in batch.pieces],
    }

for line in sys.stdin:
    question = json.loads(line)
    os.environ["SHARPGPT_OFFLINE"] = question.pop("offline", "")
    said.clear()
    try:
        result = answer(question)
    except UserError as error:
        result = {"error": str(error), "said": said}
    print(json.dumps(result), flush=True)
"""
NOWHERE = "http://127.0.0.1:9"
LONG = "a long document " * 70_000
DOCUMENTS = [LONG, *(f"document {i}" for i in range(1, 3000))]
SCRIPT = "raise SystemExit('a script must never run')"


def parquet(path: Path, documents: list[str], column: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({column: documents, "n": range(len(documents))})
    pq.write_table(table, path, row_group_size=100)


def card(**configs: str) -> str:
    lines = [f"- config_name: {name}\n  data_files: {path}\n" for name, path in configs.items()]
    return "---\nlicense: cc0-1.0\nconfigs:\n" + "".join(lines) + "---\n# A dataset\n"


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Repository]:
    root = tmp_path_factory.mktemp("repositories")
    for i in range(3):
        name = f"plain_text/train-{i:05}-of-00003.parquet"
        parquet(root / "openwebtext" / name, DOCUMENTS[i * 1000 : (i + 1) * 1000])
    (root / "openwebtext/README.md").write_text(card(plain_text="plain_text/train-*"))
    for name in ("default", "sample-10BT"):
        parquet(root / "fineweb" / name / "000_00000.parquet", [f"of {name}"])
    (root / "fineweb/README.md").write_text(
        card(**{"default": "default/*", "sample-10BT": "sample-10BT/*"})
    )
    (root / "script").mkdir()
    (root / "script/script.py").write_text(SCRIPT)
    parquet(root / "converted/conf/train/0000.parquet", ["one", "two"])
    parquet(root / "converted/conf/train/0001.parquet", ["three"])
    parquet(root / "converted/conf/test/0000.parquet", ["test"])
    parquet(root / "partial/conf/partial-train/0000.parquet", ["part"])
    (root / "csv").mkdir()
    (root / "csv/train.csv").write_text("text\none\n")
    (root / "jsonl").mkdir()
    lines = "".join(json.dumps({"body": f"line {i}"}) + "\n" for i in range(2000))
    (root / "jsonl/train.jsonl.zst").write_bytes(
        bytes(pa.Codec("zstd").compress(lines.encode(), asbytes=True))
    )
    (root / "text").mkdir()
    (root / "text/input.txt").write_text("a line of the only text\n" * 100)
    main = {name: {"main": root / name} for name in ("script", "csv", "jsonl", "text")}
    return {
        "Skylion007/openwebtext": Repository(
            {"main": root / "openwebtext"}, tags=["license:cc0-1.0", "language:en"]
        ),
        "HuggingFaceFW/fineweb-edu": Repository({"main": root / "fineweb"}),
        "org/script": Repository(main["script"] | {"refs/convert/parquet": root / "converted"}),
        "org/partial": Repository(main["script"] | {"refs/convert/parquet": root / "partial"}),
        "org/csv": Repository(main["csv"] | {"refs/convert/parquet": root / "converted"}),
        "org/unconverted": Repository(main["csv"]),
        "org/jsonl": Repository(main["jsonl"]),
        "org/text": Repository(main["text"]),
        "org/gated": Repository({"main": root / "fineweb"}, gated=True),
    }


# A script has the name of its repository; both repositories with one share the folder.
@pytest.fixture(scope="module", autouse=True)
def _script_names(repositories: dict[str, Repository]) -> None:
    folder = repositories["org/partial"].branches["main"]
    (folder / "partial.py").write_text(SCRIPT)


@pytest.fixture(scope="module")
def server(repositories: dict[str, Repository]) -> Iterator[HubServer]:
    with running(repositories) as server:
        yield server


@pytest.fixture
def hub(server: HubServer) -> HubServer:
    server.asked.clear()
    return server


class Worker:
    """A process for which the server at `endpoint` is the hub; it opens what it is asked for."""

    def __init__(self, endpoint: str, folder: Path, **environment: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        own = {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(folder / "hf"),
            "SHARPGPT_CACHE": str(folder / "cache"),
            # datasets counts its uses at another address, which is not for tests to ask.
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "NO_PROXY": "127.0.0.1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=kept | own | environment,
            cwd=Path(__file__).parents[3],
            text=True,
        )

    def ask(self, dataset: str, **question: Any) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps({"dataset": dataset, **question}), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate()


Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def ask(server: HubServer, folder: Path) -> Iterator[Ask]:
    worker = Worker(server.endpoint, folder)
    yield worker.ask
    worker.close()


@pytest.fixture(scope="module")
def ask_nowhere(folder: Path) -> Iterator[Ask]:
    """The same caches, and no hub."""
    worker = Worker(NOWHERE, folder)
    yield worker.ask
    worker.close()


@pytest.fixture(scope="module")
def ask_offline(folder: Path) -> Iterator[Ask]:
    worker = Worker(NOWHERE, folder, HF_HUB_OFFLINE="1")
    yield worker.ask
    worker.close()


def fetched(server: HubServer) -> list[str]:
    """The data files that were read, in order, by download or by ranges."""
    return [asked.split("/")[-1] for asked in server.asked if asked.endswith(".parquet")]


def test_openwebtext_is_downloaded_split_and_gone_on_with(
    hub: HubServer, ask: Ask, tmp_path: Path
) -> None:
    own = {"cache_dir": str(tmp_path)}
    whole = ask("openwebtext", **own)
    assert whole["name"] == "openwebtext"
    assert "".join(text for text, _ in whole["documents"]) == "".join(DOCUMENTS)
    chosen = [text for text, is_validation in whole["documents"] if is_validation]
    expected = [DOCUMENTS[i] for i in nanogpt_validation_documents(3000)]
    assert len(expected) == 2
    assert chosen == expected
    facts = whole["facts"]
    assert facts["config"] == "plain_text"
    assert facts["branch"] == "main"
    assert len(facts["revision"]) == 40
    assert facts["license"] == "cc0-1.0"
    assert facts["split"] == {"rule": "nanogpt", "test_size": 0.0005, "seed": 2357}
    assert facts["text_column"] == "text"
    assert [file["name"] for file in facts["files"]] == [
        f"plain_text/train-{i:05}-of-00003.parquet" for i in range(3)
    ]
    assert whole["num_bytes"] == sum(file["num_bytes"] for file in facts["files"]) > 10_000
    assert any("3,000 documents here and 8,013,769 in nanoGPT's" in line for line in whole["said"])
    assert any(line.startswith("downloading Skylion007/") for line in whole["said"])
    pinned = ask("openwebtext", revision=facts["revision"])
    assert pinned["identity"] == whole["identity"]
    first = ask("OpenWebText", first_only=True, **own)
    assert 0 < len(first["documents"]) < len(whole["documents"])
    for streaming in (False, True):
        rest = ask("Skylion007/openwebtext", start=first["after"], streaming=streaming, **own)
        assert rest["identity"] == whole["identity"]
        assert [*first["documents"], *rest["documents"]] == whole["documents"]
        assert not any(line.startswith("downloading") for line in rest["said"])


def test_the_next_file_is_fetched_while_the_first_is_read(
    hub: HubServer, ask: Ask, tmp_path: Path
) -> None:
    """Only one ahead; what is in the cache is not asked for again."""
    own = {"val_fraction": 0.1, "cache_dir": str(tmp_path)}
    ask("openwebtext", first_only=True, **own)
    assert "train-00000-of-00003.parquet" in fetched(hub)
    assert "train-00002-of-00003.parquet" not in fetched(hub)
    assert list((tmp_path / "hub").glob("datasets--Skylion007--openwebtext"))
    hub.asked.clear()
    ask("openwebtext", **own)
    assert "train-00000-of-00003.parquet" not in fetched(hub)
    assert "train-00002-of-00003.parquet" in fetched(hub)
    hub.asked.clear()
    ask("openwebtext", **own)
    assert fetched(hub) == []
    # Looking at the columns of the first file is no reason to fetch the second.
    for link in (tmp_path / "hub").rglob("train-00001-of-00003.parquet"):
        link.unlink()
    assert "error" in ask("openwebtext", text_column="body", **own)
    assert fetched(hub) == []


def test_what_was_downloaded_can_be_read_without_the_hub(
    hub: HubServer, ask: Ask, ask_nowhere: Ask, ask_offline: Ask
) -> None:
    whole = ask("openwebtext")
    for again in (
        ask_nowhere("openwebtext"),
        ask_nowhere("openwebtext", offline="1"),
        ask_offline("openwebtext"),
    ):
        assert again["documents"] == whole["documents"]
        assert again["identity"] == whole["identity"]
        assert "without the hub, the revision found earlier is used" in again["facts"]["note"]


def test_without_the_hub_the_user_is_told_soon_what_to_do(
    ask_nowhere: Ask, ask_offline: Ask
) -> None:
    refused = "[Errno 111] Connection refused); try again later (finished work is kept), or"
    start_s = time.monotonic()
    for answer, reason in [
        (ask_nowhere("org/data"), refused),
        (ask_nowhere("org/data", streaming=True), refused),
        (ask_nowhere("org/data", offline="1"), "SHARPGPT_OFFLINE is set); unset it, or"),
        (ask_offline("org/data"), "HF_HUB_OFFLINE is set); unset it, or"),
    ]:
        assert answer["error"] == (
            f"org/data: the HuggingFace hub cannot be reached ({reason} download the dataset on a "
            "machine with a network (hf download org/data --repo-type dataset --local-dir FOLDER), "
            "copy the folder here and give its path as dataset. As a path: there is no folder org "
            "here"
        )
    assert time.monotonic() - start_s < 10


def test_what_was_found_is_of_no_use_without_the_files(
    hub: HubServer, ask: Ask, ask_nowhere: Ask, tmp_path: Path
) -> None:
    ask("org/text", streaming=True, cache_dir=str(tmp_path))
    answer = ask_nowhere("org/text", offline="1", cache_dir=str(tmp_path))
    assert answer["error"].startswith("org/text: the HuggingFace hub cannot be reached (SHARPGPT_")


def test_fineweb_edu_is_its_sample_unless_another_is_named(hub: HubServer, ask: Ask) -> None:
    short = ask("fineweb_edu")
    full = ask("HuggingFaceFW/fineweb-edu", streaming=True)
    assert short["documents"] == full["documents"] == [["of sample-10BT", False]]
    assert (short["name"], short["facts"]["config"]) == ("fineweb-edu", "sample-10BT")
    assert short["facts"]["split"] == {"rule": "sha256", "val_fraction": 0.005}
    other = ask("fineweb-edu", config_name="default", val_fraction=0.5)
    assert short["identity"] == full["identity"] != other["identity"]
    assert [text for text, _ in other["documents"]] == ["of default"]
    assert other["name"] == "fineweb-edu-default"
    assert ask("fineweb-edu", config_name="sample-1T")["error"] == (
        "config_name: HuggingFaceFW/fineweb-edu: given 'sample-1T'; allowed is one of default, "
        "sample-10BT"
    )


def test_where_main_has_a_script_the_converted_files_are_taken(hub: HubServer, ask: Ask) -> None:
    script = ask("org/script")
    named = ask("org/script", config_name="conf", revision="refs/convert/parquet")
    pinned = ask("org/script", revision=script["facts"]["revision"])
    csv = ask("org/csv", streaming=True)
    for answer in (script, named, pinned, csv):
        assert [text for text, _ in answer["documents"]] == ["one", "two", "three"]
    assert script["facts"]["branch"] == csv["facts"]["branch"] == "refs/convert/parquet"
    assert script["identity"] == named["identity"] == pinned["identity"]
    assert script["name"] == "script-conf"
    assert ask("org/script", config_name="none")["error"] == (
        "config_name: org/script: given 'none'; allowed is one of conf"
    )
    partial = "has converted only the first part of it to Parquet"
    assert partial in ask("org/partial")["error"]
    part = ask("org/partial", revision="refs/convert/parquet")
    assert [text for text, _ in part["documents"]] == ["part"]
    unconverted = ask("org/unconverted")
    assert "and the hub has not converted them to Parquet" in unconverted["error"]


def test_other_formats_of_the_hub(hub: HubServer, ask: Ask) -> None:
    for streaming in (False, True):
        lines = ask("org/jsonl", text_column="body", streaming=streaming)
        assert [text for text, _ in lines["documents"]] == [f"line {i}" for i in range(2000)]
        assert ask("org/jsonl", streaming=streaming)["error"] == (
            "org/jsonl/train.jsonl.zst: line 1: it has no field 'text'; those with strings "
            "are: body. Give the one with the text as text_column"
        )
        text = ask("org/text", streaming=streaming)
        assert "".join(text for text, _ in text["documents"]) == "a line of the only text\n" * 100
        assert text["facts"]["split"] == {"rule": "end", "val_fraction": 0.1}


def test_what_the_hub_refuses_is_explained(hub: HubServer, ask: Ask) -> None:
    assert ask("org/gated")["error"].startswith(
        f"org/gated: a gated dataset; accept its terms on {hub.endpoint}/datasets/org/gated, then "
        "run hf auth login"
    )
    for name in ("org/none", "org/no--ne"):
        assert ask(name)["error"].startswith(
            f"dataset: given {name!r}, which is not a local file or folder, and the hub has no "
        )
    revision = ask("openwebtext", revision="no/such")
    assert "has no such revision; allowed is a branch, tag or commit of" in revision["error"]
    # Before anything is downloaded.
    column = ask("openwebtext", text_column="body")
    assert column["error"].endswith(
        "train-00000-of-00003.parquet: the column 'body' is missing; those with strings are: text. "
        "Give the one with the text as text_column"
    )
    assert column["said"] == []


def test_a_mistyped_path_is_not_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """data/openwebtext, which was not there, was looked up on the hub, and nothing was said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "openwebtexts").mkdir(parents=True)
    message = "there is a folder data, and it has no openwebtext; did you mean data/openwebtexts?"
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        open_source("data/openwebtext")
    assert "give hf://datasets/data/openwebtext" in str(caught.value)
    monkeypatch.setenv("SHARPGPT_OFFLINE", "1")
    for name in ("hf://datasets/data/openwebtext", "date/openwebtext"):
        with pytest.raises(UserError, match="SHARPGPT_OFFLINE is set") as caught:
            open_source(name)
        assert ("there is no folder date here" in str(caught.value)) == (name[0] == "d")
