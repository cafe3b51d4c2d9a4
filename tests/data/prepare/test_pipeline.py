"""Whole preparations, mostly in this process; tests/faults/test_prepare.py kills the command."""

import errno
import gzip
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data.manifest import read_manifest, verify
from sharpgpt.data.prepare import coders, disk, encoding, pipeline, workers
from sharpgpt.data.prepare.options import PrepareOptions
from sharpgpt.data.prepare.pipeline import prepare
from sharpgpt.data.prepare.progress import Progress
from sharpgpt.data.prepare.state import Journal
from sharpgpt.data.prepare.stopping import Stopped
from sharpgpt.data.prepare.waiting import prepare_lock
from sharpgpt.data.prepared import open_prepared
from sharpgpt.data.shard_writer import ShardWriter
from sharpgpt.data.sources import file_sources, readers
from sharpgpt.data.sources.split import hash_split
from sharpgpt.data.tokenizer import CharTokenizer, Gpt2Tokenizer

END = 50256
DOCUMENTS = [f"Document {i}: {'to be or not to be, ' * (i % 29)}é漢\n" for i in range(150)] + [""]
TOKENIZER = Gpt2Tokenizer()


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch every few documents, so that little text has many moments to stop at."""
    monkeypatch.setattr(file_sources, "BATCH_CHARACTERS", 4000)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus.jsonl", DOCUMENTS)


def write_corpus(path: Path, documents: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


def options(dataset: Path | str, output: Path, **changes: Any) -> PrepareOptions:
    settings = {"num_workers": 0, "val_fraction": 0.1, "shard_tokens": 3000} | changes
    return PrepareOptions(dataset=str(dataset), output=str(output), **settings)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def tokens_of(folder: Path) -> tuple[list[int], list[int]]:
    data = open_prepared(folder)
    assert data is not None
    return data.train[:].tolist(), data.val[:].tolist()


def in_splits(documents: list[str]) -> tuple[list[str], list[str]]:
    """Training and validation documents, by the rule itself."""
    import hashlib

    split = hash_split(0.1)
    is_validation = [
        split.is_validation(i, hashlib.sha256(text.encode()).digest)
        for i, text in enumerate(documents)
    ]
    train = [text for text, is_val in zip(documents, is_validation, strict=True) if not is_val]
    return train, [text for text, is_val in zip(documents, is_validation, strict=True) if is_val]


def test_documents_are_joined_by_the_end_of_text_token(corpus: Path, tmp_path: Path) -> None:
    folder = prepare(options(corpus, tmp_path / "out"))
    for ids, documents in zip(tokens_of(folder), in_splits(DOCUMENTS), strict=True):
        assert len(documents) > 5
        expected = [[*TOKENIZER.encode(text).tolist(), END] for text in documents]
        assert ids == [token for document in expected for token in document]


def test_the_manifest_says_what_was_made(corpus: Path, tmp_path: Path) -> None:
    folder = prepare(options(corpus, tmp_path / "out"))
    manifest = verify(folder)
    train, val = in_splits(DOCUMENTS)
    assert manifest.name == "corpus.jsonl"
    assert manifest.tokenizer.name == "gpt2"
    assert manifest.tokenizer.fingerprint == TOKENIZER.fingerprint
    assert manifest.end_of_text_id == END
    assert manifest.splits["train"].num_documents == len(train)
    assert manifest.splits["val"].num_documents == len(val)
    assert manifest.splits["train"].num_bytes == sum(len(text.encode()) for text in train)
    assert manifest.splits["val"].num_bytes == sum(len(text.encode()) for text in val)
    assert [shard.num_tokens for shard in manifest.splits["train"].shards][:-1] == [3000] * (
        manifest.splits["train"].num_tokens // 3000
    )
    assert manifest.source["origin"] == str(corpus)
    assert manifest.recipe["shard_tokens"] == 3000
    assert sorted(files_of(folder)) == sorted(
        ["manifest.json"] + [s.file for split in manifest.splits.values() for s in split.shards]
    )


def test_the_bytes_depend_neither_on_the_processes_nor_on_the_encoder(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = files_of(prepare(options(corpus, tmp_path / "0")))
    for num_workers in (1, 2):
        folder = prepare(options(corpus, tmp_path / f"{num_workers}", num_workers=num_workers))
        assert files_of(folder) == expected
    monkeypatch.setattr(encoding, "fast_encoder_is_exact", lambda _: False)
    capsys.readouterr()
    for num_workers in (0, 1):
        folder = tmp_path / f"exact{num_workers}"
        prepare(options(corpus, folder, num_workers=num_workers))
        assert files_of(folder) == expected
    assert capsys.readouterr().out.count("tokenizing with tiktoken;") == 2


def test_finished_data_is_returned_at_once(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = prepare(options(corpus, tmp_path / "out"))
    before = files_of(folder)
    # Left by a process that was killed at the very end.
    Journal(recipe={}, source={}, counts={}).write(folder)
    (folder / ".partial_manifest.json").write_text("{")
    monkeypatch.setattr(pipeline, "Preparation", None)
    capsys.readouterr()
    # Neither the spelling of the path nor what the bytes do not depend on makes it another recipe.
    monkeypatch.chdir(tmp_path)
    assert prepare(options("corpus.jsonl", folder, num_workers=2)) == folder
    assert capsys.readouterr().out == f"{folder}: already prepared\n"
    assert files_of(folder) == before


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"shard_tokens": 4000}, "shard_tokens is 3000 there and 4000 here"),
        ({"tokenizer": "char"}, "tokenizer is 'gpt2' there and 'char' here"),
        ({"val_fraction": 0.2}, "val_fraction is 0.1 there and 0.2 here"),
        ({"max_documents": 7}, "max_documents is null there and 7 here"),
        ({"form": "llm.c"}, "form is 'sharpgpt' there and 'llm.c' here"),
    ],
)
def test_another_recipe_in_the_folder_is_refused(
    corpus: Path, tmp_path: Path, changes: dict[str, Any], difference: str
) -> None:
    folder = prepare(options(corpus, tmp_path / "out"))
    before = files_of(folder)
    with pytest.raises(UserError) as caught:
        prepare(options(corpus, folder, **changes))
    assert f"holds finished data of another recipe: {difference}. To" in str(caught.value)
    assert files_of(folder) == before


def test_a_dataset_that_has_changed_is_another_recipe(corpus: Path, tmp_path: Path) -> None:
    folder = prepare(options(corpus, tmp_path / "out"))
    write_corpus(corpus, [*DOCUMENTS, "one more"])
    with pytest.raises(UserError, match="the dataset itself has changed since"):
        prepare(options(corpus, folder))


def test_files_of_others_are_not_written_into(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.bin").write_bytes(b"1234")
    with pytest.raises(UserError, match=r"holds train\.bin and no manifest"):
        prepare(options(corpus, tmp_path / "out"))
    assert files_of(tmp_path / "out") == {"train.bin": b"1234"}
    with pytest.raises(UserError, match="is a file; allowed is a folder"):
        prepare(options(corpus, corpus))


MINE = [
    ".journal.json.bak",
    ".journal.json.swp",
    ".journal.json.abcd1234",
    ".manifest.json.bak",
    ".partial_notes.bin.txt",
    "journal.json~",
    "journal.txt",
    "train_00000.bin.gz",
    "train.txt",
]
"""Names like those of prepare, of the user's own files."""


def write_mine(folder: Path) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    for name in MINE:
        (folder / name).write_bytes(b"mine")
    return dict.fromkeys(MINE, b"mine")


def test_files_of_the_user_stay_where_a_preparation_is_refused(
    corpus: Path, tmp_path: Path
) -> None:
    """`.manifest.json.bak` and `.journal.json.swp` vanished before the folder was refused."""
    for name in ("train.bin", "other.bin", ".partial_x.bin", "journal.json", "manifest.json"):
        folder = tmp_path / name
        mine = write_mine(folder) | {name: b"{}"}
        (folder / name).write_bytes(b"{}")
        with pytest.raises(UserError):
            prepare(options(corpus, folder))
        assert files_of(folder) == mine
        mine_too = prepare(options(corpus, tmp_path / f"whole {name}"))
        (mine_too / "more.bin").write_bytes(b"mine")
        with pytest.raises(UserError, match=r"val_fraction is 0\.1 there"):
            prepare(options(corpus, mine_too, val_fraction=0.5))
        assert (mine_too / "more.bin").exists()


@pytest.mark.parametrize("form", ["sharpgpt", "nanogpt", "llm.c"])
def test_files_of_the_user_stay_through_a_preparation(
    corpus: Path, tmp_path: Path, form: str
) -> None:
    """Killed and continued, failed without a commit, and finished; a link is not followed."""
    folder = tmp_path / "out"
    mine = write_mine(folder)
    (tmp_path / "precious").write_bytes(b"precious")
    (folder / ".partial_journal.json").symlink_to(tmp_path / "precious")
    asked = options(corpus, folder, form=form, commit_seconds=0)
    with pytest.raises(KilledError):
        prepare(asked, show_progress=killed_at(4))
    whole = files_of(prepare(options(corpus, tmp_path / "whole", form=form)))
    assert files_of(prepare(asked)) == whole | mine

    folder = tmp_path / "failed"
    mine = write_mine(folder)
    asked = options(corpus, folder, form=form, commit_seconds=60)
    with pytest.raises(KilledError):
        prepare(asked, show_progress=killed_at(4))
    corpus.write_bytes(corpus.read_bytes()[:-40] + b"\n" * 40)  # cut, the ends as they were
    with pytest.raises(UserError):
        prepare(asked)
    for path in folder.glob("*.bin"):
        assert path.name not in mine
    assert {name: (folder / name).read_bytes() for name in MINE} == mine
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_damaged_journal_names_what_may_be_deleted(corpus: Path, tmp_path: Path) -> None:
    """It advised to delete the folder, which may hold the user's own files."""
    folder = tmp_path / "out"
    write_mine(folder)
    with pytest.raises(KilledError):
        prepare(options(corpus, folder, commit_seconds=0), show_progress=killed_at(4))
    shards = sorted(path.name for path in folder.glob("*.bin"))
    assert shards
    journal = folder / "journal.json"
    journal.write_bytes(journal.read_bytes()[:-9])
    with pytest.raises(UserError) as caught:
        prepare(options(corpus, folder))
    listed = ", ".join([*[name for name in shards if name[0] == "."], "journal.json"])
    listed = ", ".join([listed, *[name for name in shards if name[0] != "."]])
    assert f"delete only what prepare wrote, by their names {listed} (keep" in str(caught.value)
    for name in [*shards, "journal.json"]:
        (folder / name).unlink()
    prepare(options(corpus, folder))
    assert {name: (folder / name).read_bytes() for name in MINE} == dict.fromkeys(MINE, b"mine")


@pytest.mark.parametrize("tokenizer", ["gpt2", "char"])
@pytest.mark.parametrize("how", ["grows", "is edited", "is replaced", "is removed"])
def test_a_dataset_that_changes_while_it_is_prepared_leaves_nothing(
    corpus: Path, tmp_path: Path, tokenizer: str, how: str
) -> None:
    """The shards would be of no one state of the file, under the name of the first."""
    num_shown = 0

    def change(progress: Progress) -> None:
        nonlocal num_shown
        num_shown += 1
        if num_shown != 3:
            return
        text = corpus.read_text()
        if how == "grows":
            with open(corpus, "a") as file:
                file.write('{"text": "cut of')
        elif how == "is edited":
            before = corpus.stat()
            corpus.write_text(text.replace("Document 90", "DOCUMENT 90"))
            os.utime(corpus, ns=(before.st_atime_ns, before.st_mtime_ns))
        else:
            corpus.unlink()
            if how == "is replaced":
                corpus.write_text(text)

    asked = options(corpus, tmp_path / "out", tokenizer=tokenizer, commit_seconds=0)
    with pytest.raises(UserError, match=r"corpus\.jsonl: written to, replaced or removed while"):
        prepare(asked, show_progress=change)
    assert not (tmp_path / "out").exists()


class KilledError(BaseException):
    """As a SIGKILL would: nothing of ours catches it."""


def killed_at(number: int) -> Callable[[Progress], None]:
    """A `show_progress` that ends the preparation at batch `number`, not in the first pass."""
    batches = iter(range(number))

    def show(progress: Progress) -> None:
        if progress.what == "tokens" and next(batches, None) is None:
            raise KilledError

    return show


@pytest.mark.parametrize(
    ("form", "commit_seconds"), [("sharpgpt", 0), ("sharpgpt", 60), ("nanogpt", 0), ("llm.c", 0)]
)
def test_stopped_at_every_batch_it_ends_with_the_same_bytes(
    corpus: Path, tmp_path: Path, form: str, commit_seconds: float
) -> None:
    wanted = options(corpus, tmp_path / "whole", form=form, tokenizer="char")
    expected = files_of(prepare(wanted))
    folder = tmp_path / "stopped"
    num_stops = 0
    while not (folder / "manifest.json").exists():
        # With no commit between the stops, each try must come further than the one before.
        stop = num_stops if commit_seconds else 1 + num_stops % 2
        asked = options(corpus, folder, form=form, tokenizer="char", commit_seconds=commit_seconds)
        try:
            prepare(asked, show_progress=killed_at(stop))
        except KilledError:
            num_stops += 1
            with pytest.raises(UserError, match="has not finished"):
                open_prepared(folder)
    assert num_stops > 5
    assert files_of(folder) == expected


@pytest.mark.parametrize("operation", ["replace", "fsync", "unlink", "truncate"])
def test_killed_before_or_after_any_operation_on_files_it_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """Each call in turn is the last one of a process, once not made and once made."""
    corpus = write_corpus(tmp_path / "corpus.jsonl", DOCUMENTS[:40])
    expected = files_of(prepare(options(corpus, tmp_path / "whole", tokenizer="char")))
    original = getattr(os, operation)
    left = 0

    def counted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and is_before:
            raise KilledError
        try:
            return original(*arguments, **keywords)
        finally:
            if left == 0:
                raise KilledError

    monkeypatch.setattr(os, operation, counted)
    for is_before in (True, False):
        for number in range(1, 1000):
            folder = tmp_path / f"{is_before}{number}"
            left = 0
            with pytest.raises(KilledError):  # so that there is something to restore
                prepare(
                    options(corpus, folder, tokenizer="char", commit_seconds=0),
                    show_progress=killed_at(2),
                )
            left = number
            try:
                prepare(options(corpus, folder, tokenizer="char", commit_seconds=0))
            except KilledError:
                left = 0
                prepare(options(corpus, folder, tokenizer="char"))
                assert files_of(folder) == expected, number
            else:
                assert files_of(folder) == expected
                break
        assert number > 1, "the operation is not used, so this has shown nothing"


def test_a_limit_of_documents_is_exact(corpus: Path, tmp_path: Path) -> None:
    everything = prepare(options(corpus, tmp_path / "all"))
    folder = prepare(options(corpus, tmp_path / "some", max_documents=77))
    manifest = read_manifest(folder)
    assert sum(split.num_documents for split in manifest.splits.values()) == 77
    for ids, all_ids in zip(tokens_of(folder), tokens_of(everything), strict=True):
        assert ids == all_ids[: len(ids)]
    assert sum(map(len, tokens_of(folder))) == sum(
        len(TOKENIZER.encode(text)) + 1 for text in DOCUMENTS[:77]
    )


@pytest.mark.parametrize("max_tokens", [3000, 5000])
def test_a_limit_of_tokens_ends_with_the_document_that_reaches_it(
    corpus: Path, tmp_path: Path, max_tokens: int
) -> None:
    folder = prepare(options(corpus, tmp_path / "some", max_tokens=max_tokens))
    total, number = 0, 0
    while total < max_tokens:
        total += len(TOKENIZER.encode(DOCUMENTS[number])) + 1
        number += 1
    manifest = read_manifest(folder)
    assert sum(split.num_documents for split in manifest.splits.values()) == number
    assert sum(split.num_tokens for split in manifest.splits.values()) == total


def test_a_limit_is_the_same_after_a_stop_and_inside_a_document_of_many_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_sources, "PIECE_CHARACTERS", 1000)
    documents = [*DOCUMENTS[:60], "a long document " * 5000, *DOCUMENTS[60:]]
    corpus = write_corpus(tmp_path / "corpus.jsonl", documents)
    changes = {"max_tokens": 10_000}
    expected = files_of(prepare(options(corpus, tmp_path / "whole", **changes)))
    manifest = read_manifest(tmp_path / "whole")
    assert sum(split.num_documents for split in manifest.splits.values()) == 61
    folder = tmp_path / "stopped"
    with pytest.raises(KilledError):
        prepare(options(corpus, folder, commit_seconds=0, **changes), show_progress=killed_at(2))
    prepare(options(corpus, folder, commit_seconds=0, **changes))
    assert files_of(folder) == expected


def test_a_single_text_has_no_limits(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 1000)
    with pytest.raises(UserError, match=r"max_tokens: .* is a single text"):
        prepare(options(tmp_path / "text.txt", tmp_path / "out", max_tokens=5))
    assert not (tmp_path / "out").exists()


def test_characters_are_those_of_the_whole_corpus(corpus: Path, tmp_path: Path) -> None:
    folder = prepare(options(corpus, tmp_path / "out", tokenizer="char"))
    manifest = read_manifest(folder)
    assert manifest.tokenizer.characters == sorted(set("".join(DOCUMENTS)))
    assert manifest.end_of_text_id is None
    tokenizer = CharTokenizer(manifest.tokenizer.characters)
    assert manifest.tokenizer.fingerprint == tokenizer.fingerprint
    for ids, documents in zip(tokens_of(folder), in_splits(DOCUMENTS), strict=True):
        assert tokenizer.decode(ids) == "".join(text + "\n\n" for text in documents)


def test_characters_beyond_a_limit_are_not_in_the_vocabulary(tmp_path: Path) -> None:
    documents = [f"abc {i}" for i in range(100)] + ["漢"]
    corpus = write_corpus(tmp_path / "corpus.jsonl", documents)
    folder = prepare(options(corpus, tmp_path / "out", tokenizer="char", max_documents=100))
    assert read_manifest(folder).tokenizer.characters == sorted(set("abc \n0123456789"))


def test_a_single_text_has_no_end_of_text(tmp_path: Path) -> None:
    text = "First Citizen:\nBefore we proceed any further, hear me speak.\n" * 2000
    (tmp_path / "text.txt").write_text(text)
    folder = prepare(options(tmp_path / "text.txt", tmp_path / "out"))
    cut = int(len(text) * 0.9)
    for ids, part in zip(tokens_of(folder), (text[:cut], text[cut:]), strict=True):
        assert ids == TOKENIZER.encode(part).tolist()
    assert read_manifest(folder).end_of_text_id is None


def test_tinyshakespeare_has_the_tokens_that_everybody_counts(tmp_path: Path) -> None:
    path = Path(__file__).parents[3] / "../shared/data/tinyshakespeare.txt"
    if not path.is_file():
        pytest.skip("there is no copy of TinyShakespeare beside the repository")
    folder = prepare(PrepareOptions(dataset=str(path), output=str(tmp_path / "out")))
    splits = read_manifest(folder).splits
    assert (splits["train"].num_tokens, splits["val"].num_tokens) == (301_966, 36_059)
    assert read_manifest(folder).name == "tinyshakespeare"


@pytest.mark.parametrize("tokenizer", ["gpt2", "char"])
@pytest.mark.parametrize("documents", [[], ["", " \n"]])
def test_an_empty_corpus_is_one_message_and_leaves_nothing(
    tmp_path: Path, documents: list[str], tokenizer: str
) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", documents)
    with pytest.raises(UserError, match="holds no text"):
        prepare(options(corpus, tmp_path / "out", tokenizer=tokenizer))
    assert not (tmp_path / "out").exists()


def test_a_split_without_documents_is_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", ["one document", "and another"])
    asked = options(corpus, tmp_path / "out", val_fraction=1e-9, commit_seconds=0, shard_tokens=1)
    with pytest.raises(UserError, match="none of the 2 documents fell into the validation split"):
        prepare(asked)
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_keeps_what_was_committed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as by a disk that fails for a while."""
    corpus = write_corpus(tmp_path / "corpus.jsonl", DOCUMENTS)
    expected = files_of(prepare(options(corpus, tmp_path / "whole")))

    def failing(line: bytes, name: str, offset: int, num_lines: int | None) -> str:
        if num_lines == 100:
            raise UserError("cannot be read")
        return decoded(line, name, offset, num_lines)

    decoded = readers.decoded
    asked = options(corpus, tmp_path / "out", commit_seconds=0)
    with monkeypatch.context() as patch:
        patch.setattr(readers, "decoded", failing)
        with pytest.raises(UserError, match="cannot be read"):
            prepare(asked)
    assert (tmp_path / "out" / "journal.json").is_file()
    capsys.readouterr()
    assert files_of(prepare(asked)) == expected
    assert "continuing after" in capsys.readouterr().out.splitlines()[0]


def test_a_process_that_dies_is_one_message_and_the_command_goes_on(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = files_of(prepare(options(corpus, tmp_path / "whole")))
    pools: list[workers.WorkerPool] = []

    class Recorded(workers.WorkerPool):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            pools.append(self)

    batches = iter(range(100))

    def kill_at_third(_: Progress) -> None:
        if next(batches) == 2:
            os.kill(pools[0]._workers[0]._process.pid, signal.SIGKILL)

    monkeypatch.setattr(coders, "WorkerPool", Recorded)
    asked = options(corpus, tmp_path / "out", num_workers=1, commit_seconds=0)
    with pytest.raises(UserError, match="SIGKILL"):
        prepare(asked, show_progress=kill_at_third)
    assert pools[0]._workers[0]._process.returncode == -signal.SIGKILL
    assert files_of(prepare(asked)) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_commits_and_the_command_goes_on(
    corpus: Path, tmp_path: Path, number: signal.Signals
) -> None:
    expected = files_of(prepare(options(corpus, tmp_path / "whole")))
    batches = iter(range(4))

    def signal_at_fifth(_: Progress) -> None:
        if next(batches, None) is None:
            os.kill(os.getpid(), number)

    asked = options(corpus, tmp_path / "out", commit_seconds=1000, num_workers=1)
    handler = signal.getsignal(number)
    with pytest.raises(Stopped, match="tokens; the same command continues there") as caught:
        prepare(asked, show_progress=signal_at_fifth)
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) == handler
    journal = json.loads((tmp_path / "out" / "journal.json").read_text())
    assert journal["position"]["document"] > 0
    assert files_of(prepare(asked)) == expected


def test_two_preparations_do_not_share_a_folder(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with (
        prepare_lock(folder),
        pytest.raises(UserError, match=f"process {os.getpid()} on .* prepares data into this"),
    ):
        prepare(options(corpus, folder))
    assert list(folder.iterdir()) == []
    prepare(options(corpus, folder))


def test_a_pipe_in_place_of_the_journal_is_one_message(corpus: Path, tmp_path: Path) -> None:
    """Found by fuzzing: reading it waited for ever."""
    folder = tmp_path / "out"
    folder.mkdir()
    os.mkfifo(folder / "journal.json")
    with pytest.raises(UserError, match=r"journal\.json is no plain file.*; delete .*out"):
        prepare(options(corpus, folder))


def test_a_journal_of_another_kind_is_one_message(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for content in ("{", '"text"', '{"version": 2}', '{"version": 1, "what": 3}'):
        (folder / "journal.json").write_text(content)
        with pytest.raises(UserError, match=r"journal\.json: .*delete .*out and prepare again"):
            prepare(options(corpus, folder))


def test_shards_that_were_removed_meanwhile_are_one_message(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(KilledError):
        prepare(options(corpus, folder, commit_seconds=0), show_progress=killed_at(5))
    for path in folder.glob(".partial*"):
        path.unlink()
    with pytest.raises(UserError, match="the files are not those that were written"):
        prepare(options(corpus, folder))


def test_too_little_room_is_noticed_before_anything_is_written(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=11_000)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        UserError, match=r"take about 18,741 bytes and the disk has 11,000 bytes left"
    ) as error:
        prepare(options(corpus, tmp_path / "out"))
    assert "left; free some, give an output on another disk" in str(error.value)
    assert "--max_tokens 5000" in str(error.value)
    assert not (tmp_path / "out").exists()
    prepare(options(corpus, tmp_path / "out", max_tokens=5000))


def test_too_little_room_is_noticed_on_the_way(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Such as where another program fills the disk, or files hold more tokens than was thought."""
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(disk, "require_room", lambda *_: None)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage)
    capsys.readouterr()
    prepare(options(corpus, tmp_path / "out", commit_seconds=0))
    assert capsys.readouterr().out.count("are still to be written; free some space meanwhile") == 1


def test_a_disk_that_becomes_full_keeps_what_was_committed(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = files_of(prepare(options(corpus, tmp_path / "whole")))
    original = ShardWriter.append
    appends = iter(range(12))

    def append(self: ShardWriter, ids: Any) -> None:
        if next(appends, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(self, ids)

    asked = options(corpus, tmp_path / "out", commit_seconds=0)
    with monkeypatch.context() as patched:
        patched.setattr(ShardWriter, "append", append)
        with pytest.raises(UserError, match=r"the disk is full\. .* what was committed is kept"):
            prepare(asked)
    assert files_of(prepare(asked)) == expected


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root")
    command = [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this system lets nobody mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("commit_seconds", [0, 0.01])
def test_a_real_disk_that_becomes_full(
    small_disk: Path, tmp_path: Path, commit_seconds: float, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.jsonl.gz"
    lines = "".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS * 8)
    corpus.write_bytes(gzip.compress(lines.encode()))
    changes = {"tokenizer": "char", "shard_tokens": 100_000, "commit_seconds": commit_seconds}
    expected = files_of(prepare(options(corpus, tmp_path / "whole", **changes)))
    assert sum(map(len, expected.values())) < 2_000_000
    in_the_way = small_disk / "in the way"
    in_the_way.write_bytes(bytes(500_000))
    output = small_disk / "out"
    for _ in range(2):
        with pytest.raises(UserError, match="the disk is full"):
            prepare(options(corpus, output, **changes))
    in_the_way.unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    capsys.readouterr()
    assert files_of(prepare(options(corpus, output, **changes))) == expected
    assert "continuing after" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("form", ["nanogpt", "llm.c"])
def test_the_forms_of_other_programs_hold_the_same_tokens(
    corpus: Path, tmp_path: Path, form: str
) -> None:
    expected = tokens_of(prepare(options(corpus, tmp_path / "own")))
    folder = prepare(options(corpus, tmp_path / "other", form=form))
    assert tokens_of(folder) == expected
    if form == "nanogpt":
        ids = np.fromfile(folder / "train.bin", dtype=np.uint16)
    else:
        files = sorted(folder.glob("corpus_jsonl_train_*.bin"))
        ids = np.concatenate([np.fromfile(file, dtype=np.uint16)[512:] for file in files])
    assert ids.tolist() == expected[0]


def test_progress_says_where_it_is(corpus: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    folder = prepare(options(corpus, tmp_path / "out", tokenizer="char"), show_progress=seen.append)
    first = [progress for progress in seen if progress.what == "characters"]
    second = [progress for progress in seen if progress.what == "tokens"]
    total = sum(map(len, tokens_of(folder)))
    assert len(first) == len(second) > 5
    assert first[-1].num_tokens == second[-1].num_tokens == total
    assert second[-1].bytes_read == second[-1].total_bytes == corpus.stat().st_size
    assert all(progress.text_bytes_per_s > 0 for progress in seen)
    assert second[-1].seconds_left == 0


def test_finished_data_of_the_hub_needs_no_hub(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A later revision there, or no network here, changes nothing in what is finished."""
    source = pipeline.open_source(str(corpus), val_fraction=0.1)
    source.facts["revision"] = "1234abcd"
    monkeypatch.setattr(pipeline, "open_source", lambda *_, **__: source)
    folder = prepare(options("ORG/NAME", tmp_path / "out"))

    def unreachable(*_: Any, **__: Any) -> None:
        raise UserError("the hub cannot be reached")

    monkeypatch.setattr(pipeline, "open_source", unreachable)
    capsys.readouterr()
    assert prepare(options("ORG/NAME", folder)) == folder
    assert capsys.readouterr().out == (
        f"{folder}: already prepared, from revision 1234abcd; the hub is not asked whether it has "
        "changed since\n"
    )
    with pytest.raises(UserError, match="cannot be reached"):
        prepare(options("ORG/NAME", folder, max_documents=3))


def test_an_unfinished_preparation_says_with_which_revision_it_goes_on(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pipeline.open_source(str(corpus), val_fraction=0.1)
    source.facts["revision"] = "1234abcd"
    monkeypatch.setattr(pipeline, "open_source", lambda *_, **__: source)
    with pytest.raises(KilledError):
        prepare(options("ORG/NAME", tmp_path / "out"), show_progress=killed_at(2))
    source.identity = "another"
    monkeypatch.setattr(source, "former_identity", lambda: None)  # which local files alone have
    source.facts = source.facts | {"revision": "5678abcd"}
    with pytest.raises(UserError, match="or continue with its revision: --revision 1234abcd"):
        prepare(options("ORG/NAME", tmp_path / "out"))


@pytest.mark.parametrize("form", ["nanogpt", "llm.c"])
def test_ids_of_32_bits_are_not_written_for_readers_of_16(tmp_path: Path, form: Any) -> None:
    """They read each id as two."""
    text = tmp_path / "characters.txt"
    text.write_text("".join(map(chr, range(0x10000, 0x20400))) * 2, encoding="utf-8")
    how = {"dataset": str(text), "tokenizer": "char", "num_workers": 0}
    with pytest.raises(UserError, match="66,560 tokens, more than 65,536; leave form out"):
        prepare(PrepareOptions(**how, form=form, output=str(tmp_path / "o")))
    assert not (tmp_path / "o").exists()
