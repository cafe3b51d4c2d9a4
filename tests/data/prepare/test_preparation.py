"""The order of system calls of a preparation, without which a power cut would lose or mix data."""

import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sharpgpt.data.manifest import read_manifest
from sharpgpt.data.prepare.options import PrepareOptions
from sharpgpt.data.prepare.pipeline import prepare
from sharpgpt.data.sources import file_sources


@dataclass
class Disk:
    """What a power cut would leave of a folder: only what was flushed.

    `files` has the content of each file at its last fsync, by inode; `names` the inode behind each
    name at the last fsync of the folder.
    """

    folder: Path
    files: dict[int, bytes] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    num_replaced: dict[str, int] = field(default_factory=dict)

    def flush(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            if not os.path.samestat(status, self.folder.stat()):
                return
            self.names = {path.name: path.stat().st_ino for path in self.folder.iterdir()}
            return
        for path in self.folder.iterdir():
            if path.stat().st_ino == status.st_ino:
                self.files[status.st_ino] = path.read_bytes()

    def content(self, name: str) -> bytes:
        return self.files.get(self.names[name], b"")

    def replaced(self, source: Path, target: Path) -> None:
        """A file gets its name only when the disk has all of it, and what it speaks of."""
        self.num_replaced[target.name] = self.num_replaced.get(target.name, 0) + 1
        written = source.read_bytes()
        flushed = self.files.get(source.stat().st_ino)
        assert flushed == written, f"{target.name}: renamed before all of it was flushed"
        if target.name == "journal.json":
            for split, state in json.loads(written)["writers"].items():
                entries = state["entries"]
                for entry in entries:
                    assert len(self.content(entry["file"])) == 2 * entry["num_tokens"]
                if state["partial_tokens"]:
                    partial = f".partial_{split}_{len(entries):05d}.bin"
                    assert len(self.content(partial)) >= 2 * state["partial_tokens"]
        if target.name == "manifest.json":
            for split in json.loads(written)["splits"].values():
                for shard in split["shards"]:
                    assert len(self.content(shard["file"])) == 2 * shard["num_tokens"]

    def removed(self, path: Path) -> None:
        if path.name == "journal.json" and path.exists():
            assert self.content("manifest.json"), "the journal went before the manifest was safe"


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Watches the output folder."""
    watched = Disk(tmp_path / "out")
    replace, unlink = os.replace, os.unlink

    def watched_replace(source: Any, target: Any) -> None:
        if Path(target).parent == watched.folder:
            watched.replaced(Path(source), Path(target))
        replace(source, target)

    def watched_unlink(path: Any, **keywords: Any) -> None:
        watched.removed(Path(path))
        unlink(path, **keywords)

    monkeypatch.setattr(os, "fsync", watched.flush)
    monkeypatch.setattr(os, "replace", watched_replace)
    monkeypatch.setattr(os, "unlink", watched_unlink)
    return watched


def test_what_a_journal_or_a_manifest_names_is_on_the_disk_before_it(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the fsync of a shard, at a commit or at its end, or of the folder, nothing was said.

    For every rename: the file was written, flushed, renamed, and the folder flushed before the next
    file refers to it.
    """
    monkeypatch.setattr(file_sources, "BATCH_CHARACTERS", 2000)
    corpus = tmp_path / "corpus.jsonl"
    texts = [f"Document {i}: {'to be or not to be, ' * (i % 29)}" for i in range(60)]
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = {"num_workers": 0, "val_fraction": 0.2, "shard_tokens": 900, "commit_seconds": 0}
    folder = prepare(PrepareOptions(dataset=str(corpus), output=str(disk.folder), **settings))
    shards = [s.file for split in read_manifest(folder).splits.values() for s in split.shards]
    assert len(shards) > 4
    assert disk.num_replaced.keys() == {"journal.json", "manifest.json", *shards}
    assert disk.num_replaced["journal.json"] > 5
    for name in ("manifest.json", *shards):
        assert disk.content(name) == (folder / name).read_bytes(), "the folder was not flushed"
