"""Prepared data, fuzzed: tokens of the vocabulary, or one clear message."""

import contextlib
import hashlib
import json
import shutil
import stat
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from sharpgpt.commands.main import main
from sharpgpt.data.blocks import validation_blocks
from sharpgpt.data.inspect import inspect_data
from sharpgpt.data.load import load_data
from sharpgpt.data.manifest import verify
from sharpgpt.data.prepared import open_prepared
from tests.faults.broken_folders import Data, Files, Plan, changed_json, plans, write_folder
from tests.faults.fuzz import fuzz, message_of, require_clear, watched
from tests.faults.harness import command_here, write_text_file
from tests.faults.hostile import mutated

MANIFEST = "manifest.json"
NEW_NAMES = [
    "meta.pkl", "journal.json", ".prepare.lock", "val.bin", "train.bin", "README.md",
    "extra_train_1.bin", "corpus_train_000009.bin", "x" * 200, "\x1b[2J.bin", "é_val.bin",
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, text_cache: Path) -> dict[str, Files]:
    """The files that `sharpgpt prepare` writes, in every form, and those of other programs."""
    base = tmp_path_factory.mktemp("prepared")
    text = write_text_file(base / "text.txt")
    made = {}
    for name, options in {
        "char": ["--tokenizer=char", "--shard_tokens=5000"],
        "gpt2": ["--shard_tokens=2000"],
        "llm.c": ["--form=llm.c", "--shard_tokens=2000"],
        "nanogpt": ["--form=nanogpt"],
    }.items():
        out = base / name
        given = [f"--dataset={text}", f"--output={out}", "--num_workers=0", *options]
        code, printed = command_here(main, ["prepare", *given])
        assert code == 0, printed
        made[name] = Files.of(out)
        if name in ("llm.c", "nanogpt"):  # as the program that the form is from writes it
            made[f"{name} alone"] = Files(
                (file, data) for file, data in made[name].items() if file != MANIFEST
            )
    return made


@st.composite
def changed_tokens(draw: st.DrawFn, data: Data) -> bytes:
    """A shard with ids out of the vocabulary, another length, or another header."""
    what = draw(st.sampled_from(["ids", "header", "length", "bytes"]))
    if what == "ids":
        ids = np.frombuffer(data[: len(data) // 2 * 2], dtype="<u2").copy()
        first = draw(st.integers(0, max(0, len(ids) - 1)))
        ids[first : first + draw(st.sampled_from([1, 100, 10**6]))] = draw(
            st.sampled_from([0, 64, 50256, 50257, 65535])
        )
        return ids.tobytes()
    if what == "header":
        words = list(struct.unpack("<4i", data[:16]))
        words[draw(st.integers(0, 3))] = draw(
            st.sampled_from([0, 1, 2, -1, 20240520, 2**31 - 1, -(2**31), len(data) // 2])
        )
        return struct.pack("<4i", *words) + data[16:]
    if what == "length":
        return draw(
            st.sampled_from([data[:-1], data[:-2], data + b"\0\0", data[:1024], data[:7], data * 2])
        )
    return draw(mutated(st.just(data)))


def data_plans(files: Files) -> SearchStrategy[Plan]:
    """What may happen to a folder of prepared data."""

    def contents(name: str, data: Data) -> SearchStrategy[bytes]:
        return changed_json(data) if name == MANIFEST else changed_tokens(data)

    often = [name for name in files if name == MANIFEST] * 3
    return plans(files, contents, often=often, new=NEW_NAMES)


def seal(folder: Path) -> None:
    """Make sizes, counts and hashes in manifest.json fit the shards, as far as that can be."""
    path = folder / MANIFEST
    with contextlib.suppress(
        OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError
    ):
        if not stat.S_ISREG(path.lstat().st_mode):
            return
        manifest = json.loads(path.read_bytes())
        offset = 1024 if manifest["form"] == "llm.c" else 0
        for split in manifest["splits"].values():
            for shard in split["shards"]:
                file = folder / shard["file"]
                if stat.S_ISREG(file.lstat().st_mode) and file.parent == folder:
                    shard["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
                    shard["num_tokens"] = (file.stat().st_size - offset) // 2
            split["num_tokens"] = sum(shard["num_tokens"] for shard in split["shards"])
        path.write_text(json.dumps(manifest), encoding="utf-8")


def read_all(path: Path) -> None:
    """Open data and read every token of it in blocks."""
    data = open_prepared(path)
    if data is None:
        return
    for tokens in (data.train, data.val):
        for first in range(0, len(tokens) - 16, 997):
            blocks_BT = tokens.rows(np.array([first]), 16)
            assert int(blocks_BT.min()) >= 0
            assert int(blocks_BT.max()) < data.vocab_size
        assert len(tokens[0 : 10**9]) == len(tokens)


def load_all(path: Path) -> None:
    """What a training run does with the data."""
    data = load_data(dataset=str(path), tokenizer="char", max_seq_length=16)
    for blocks in (validation_blocks(data.val_tokens, 16, None), data.train_tokens):
        assert len(blocks) > 0
    data.tokenizer.decode(data.train_tokens[0:50])


def shards_differ(folder: Path, files: Files) -> bool:
    return any(
        not (folder / name).is_file() or (folder / name).read_bytes() != data
        for name, data in files.items()
        if name.endswith(".bin")
    )


@pytest.mark.parametrize(("kind", "form"), [("manifests", "char"), ("shards", "gpt2")])
def test_prepared_data(
    folders: dict[str, Files], sandbox: Path, is_long: bool, kind: str, form: str
) -> None:
    files, folder = folders[form], sandbox / "data"

    def case(plan: Plan) -> str:
        shutil.rmtree(folder, ignore_errors=True)
        write_folder(folder, files, plan, seal)
        with watched(sandbox):
            found = [message_of(lambda: read_all(folder)), message_of(lambda: verify(folder))]
            if form == "char":
                found.append(message_of(lambda: load_all(folder)))
                found.append(message_of(lambda: require_clear(inspect_data(folder))))
        if not plan.is_sealed and shards_differ(folder, files):
            assert found[1] is not None, "a shard that has changed passes for what was written"
        return "refused" if any(found) else "accepted"

    fuzz(kind, data_plans(files), case, is_long=is_long)


@pytest.mark.parametrize("form", ["llm.c", "llm.c alone", "nanogpt", "nanogpt alone"])
def test_other_forms(folders: dict[str, Files], sandbox: Path, is_long: bool, form: str) -> None:
    files, folder = folders[form], sandbox / "data"

    def case(plan: Plan) -> str:
        shutil.rmtree(folder, ignore_errors=True)
        write_folder(folder, files, plan, seal)
        with watched(sandbox):
            return "accepted" if message_of(lambda: read_all(folder)) is None else "refused"

    fuzz("other forms", data_plans(files), case, is_long=is_long)
