import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data.manifest import MANIFEST, read_manifest, verify, write_manifest
from sharpgpt.data.prepared import open_prepared
from sharpgpt.data.tokenizer import CharTokenizer
from tests.data.prepared_folder import prepared


def set_to(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = to

    return change


def first_shard(key: str, to: Any) -> Callable[[dict[str, Any]], None]:
    return set_to("splits", "train", "shards", 0, key, to=to)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_the_manifest_round_trips(tmp_path: Path) -> None:
    manifest = read_manifest(prepared(tmp_path))
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert manifest.splits["train"].num_tokens == 2500
    assert [shard.num_tokens for shard in manifest.splits["train"].shards] == [1000, 1000, 500]


def test_the_identity_is_that_of_the_tokens(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = read_manifest(prepared(tmp_path / "a"))
    assert read_manifest(prepared(tmp_path / "b")).identity() == first.identity()
    assert first.model_copy(update={"name": "other"}).identity() == first.identity()
    assert read_manifest(prepared(tmp_path / "b", dtype="uint32")).identity() != first.identity()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_to("version", to=2), "of version 2, and this SharpGPT reads version 1"),
        (set_to("version", to=True), "of version True"),
        (set_to("version", to=nested(500)), "nested too deeply"),
        (set_to("dtype", to="float32"), "damaged"),
        (set_to("splits", "train", "num_tokens", to=-1), "damaged"),
        (set_to("splits", "train", "num_tokens", to=2501), "do not add up"),
        (set_to("splits", "train", "num_tokens", to="2500"), "damaged"),
        (set_to("splits", "train", "num_tokens", to=2500.0), "damaged"),
        (first_shard("file", "../train_00000.bin"), "damaged"),
        (first_shard("file", "..\\train_00000.bin"), "damaged"),
        (first_shard("file", "/etc/passwd"), "damaged"),
        (first_shard("file", ".hidden"), "damaged"),
        (first_shard("file", ".."), "damaged"),
        (first_shard("file", "a\0b"), "damaged"),
        (first_shard("file", "train_00000.bin\n"), "damaged"),
        (first_shard("file", "train_00001.bin"), "listed twice"),
        (first_shard("sha256", "xyz"), "damaged"),
        (first_shard("num_tokens", 2**80), "damaged"),
        (first_shard("num_tokens", -1000), "damaged"),
        (set_to("splits", to={}), "splits are"),
        (set_to("splits", to=[]), "damaged"),
        (set_to("tokenizer", "vocab_size", to=0), "damaged"),
        (set_to("tokenizer", "vocab_size", to=70000), "cannot hold the ids"),
        (set_to("tokenizer", "characters", to=["a", "b"]), "characters"),
        (set_to("end_of_text_id", to=60000), "outside the vocabulary"),
        (set_to("name", to="\ud800"), "damaged"),
        (set_to("source", to={"deep": nested(400)}), "damaged"),
        (set_to("unknown", to=1), "damaged"),
        (lambda content: content.pop("recipe"), "damaged"),
    ],
)
def test_a_hostile_manifest_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = prepared(tmp_path) / MANIFEST
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    for action in (open_prepared, verify):
        with pytest.raises(UserError, match=message):
            action(tmp_path)


@pytest.mark.parametrize(
    ("characters", "message"),
    [
        (["a", "a", "b"], "do not fit vocab_size"),
        (["a", "a"], "appears twice"),
        (["a", "bc"], "damaged"),
        (["a", ""], "damaged"),
        (None, "belong to the char tokenizer alone"),
    ],
)
def test_characters_that_are_no_vocabulary(tmp_path: Path, characters: Any, message: str) -> None:
    ids = CharTokenizer(["a", "b"]).encode("abba" * 100)
    path = prepared(tmp_path, ids=ids, tokenizer=CharTokenizer(["a", "b"])) / MANIFEST
    content = json.loads(path.read_text())
    content["tokenizer"]["characters"] = characters
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        open_prepared(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", '"x"', "[" * 100_000, "\x80", "NaN", "9" * 10_000]
)
def test_a_manifest_that_is_no_manifest(tmp_path: Path, text: str) -> None:
    (prepared(tmp_path) / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"manifest\.json: "):
        open_prepared(tmp_path)


def test_a_fuzzed_manifest_opens_or_is_one_message(tmp_path: Path) -> None:
    path = prepared(tmp_path) / MANIFEST
    whole = path.read_bytes()
    draw = random.Random(0)
    inserted = (b"-", b"9" * 30, b"null", b"{}", b"[", b"1e999", b"NaN", b'"../"', b"\\ud800")
    messages = []
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 2, 5, 30))):
            place = draw.randrange(len(content))
            kind = draw.randrange(3)
            if kind == 0:
                content[place] = draw.randrange(256)
            elif kind == 1:
                del content[place : place + draw.randrange(1, 40)]
            else:
                content[place:place] = draw.choice(inserted)
        path.write_bytes(content)
        try:
            open_prepared(tmp_path)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 200
    assert all(str(tmp_path) in message for message in messages)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("file", [MANIFEST, "train_00001.bin"])
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str, file: str) -> None:
    """A pipe of no writer and /dev/zero never end; by their sizes they are empty files."""
    path = prepared(tmp_path) / file
    if file != MANIFEST:
        content = json.loads((tmp_path / MANIFEST).read_text())
        content["splits"]["train"]["shards"][1]["num_tokens"] = 0
        content["splits"]["train"]["num_tokens"] = 1500
        (tmp_path / MANIFEST).write_text(json.dumps(content))
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    for action in (open_prepared, verify):
        reason = {MANIFEST: rf"\({MANIFEST} is no plain file"}.get(file, "it is not a regular file")
        with pytest.raises(UserError, match=rf"{file}: cannot be read.{{1,2}}{reason}"):
            action(tmp_path)


def test_links_to_shards_are_followed(tmp_path: Path) -> None:
    """A cache of the hub is made of links."""
    folder = tmp_path / "data"
    folder.mkdir()
    path = prepared(folder) / "train_00001.bin"
    path.rename(tmp_path / "blob")
    path.symlink_to(tmp_path / "blob")
    assert open_prepared(folder) is not None
    verify(folder)
    (tmp_path / "blob").unlink()
    for action in (open_prepared, verify):
        with pytest.raises(UserError, match=r"train_00001\.bin: cannot be read: No such file"):
            action(folder)


@pytest.mark.parametrize("form", ["sharpgpt", "llm.c"])
@pytest.mark.parametrize("change", ["flipped", "truncated", "longer", "missing"])
def test_a_changed_shard_is_named(tmp_path: Path, form: str, change: str) -> None:
    prepared(tmp_path, form=form)
    path = sorted(tmp_path.glob("*train*.bin"))[1]
    content = bytearray(path.read_bytes())
    if change == "flipped":
        content[-700] ^= 1
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{path.name}: has changed since it was written"):
            verify(tmp_path)
        assert open_prepared(tmp_path) is not None  # sizes alone do not show it
        return
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-2] if change == "truncated" else content + b"12")
    for action in (open_prepared, verify):
        with pytest.raises(UserError, match=rf"{path.name}: (has [\d,]+ bytes|cannot be read)"):
            action(tmp_path)


def test_verification_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[int] = []
    manifest = verify(prepared(tmp_path), told.append)
    assert sum(told) == 2 * 2600
    assert manifest == read_manifest(tmp_path)


def test_a_missing_manifest_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json: missing, so the data is not finished"):
        verify(tmp_path)
