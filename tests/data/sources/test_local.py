import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data.sources import local as local_files
from sharpgpt.data.sources.aliases import DATASET_NAMES
from sharpgpt.data.sources.documents import DocumentSource
from sharpgpt.data.sources.open import open_source
from sharpgpt.data.sources.split import nanogpt_validation_documents


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def parquet(path: Path, documents: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": documents}), path)


def texts_of(source: DocumentSource) -> list[str]:
    return [piece.text for batch in source.batches() for piece in batch.pieces]


def names_of(source: DocumentSource) -> list[str]:
    return [file["name"] for file in source.facts["files"]]


def test_a_folder_is_all_its_files_in_order_but_the_hidden(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "corpus",
        {
            "b.txt": "second",
            "a.TXT": "first",
            "c/a.txt": "third",
            "README.md": "no text of the corpus",
            ".hidden.txt": "hidden",
            ".git/d.txt": "hidden",
            "d.txt": "",
            "e.txt/f.txt": "in a folder called e.txt",
        },
    )
    source = open_source(str(folder))
    assert texts_of(source) == ["first", "second", "third", "", "in a folder called e.txt"]
    assert names_of(source) == ["a.TXT", "b.txt", "c/a.txt", "d.txt", "e.txt/f.txt"]
    assert source.name == "corpus"
    assert source.facts["origin"] == str(folder)
    assert source.facts["num_files"] == 5
    assert source.num_bytes == 5 + 6 + 5 + 24
    assert open_source(str(folder / "*.txt")).facts["num_files"] == 2


def test_json_beside_json_lines_is_settings(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": '{"text": "a"}', "config.json": "{}", "b.ndjson": '{"text": "b"}'})
    assert texts_of(open_source(str(tmp_path))) == ["a", "b"]
    (tmp_path / "c.json").write_text('{"text": "c"}')
    assert texts_of(open_source(str(tmp_path / "c.json"))) == ["c"]


def test_a_glob_is_its_matches_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path / "x",
        {
            "b/1.jsonl": '{"text": "b1"}',
            "a/2.jsonl": '{"text": "a2"}',
            "a/1.jsonl": '{"text": "a1"}',
            "a/.3.jsonl": '{"text": "hidden"}',
            "notes.txt": "n",
        },
    )
    source = open_source(f"{tmp_path}/**/*.jsonl")
    assert texts_of(source) == ["a1", "a2", "b1"]
    assert names_of(source) == ["a/1.jsonl", "a/2.jsonl", "b/1.jsonl"]
    assert source.name == "x"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert texts_of(open_source("~/x/a/*.jsonl")) == ["a1", "a2"]
    monkeypatch.chdir(tmp_path)
    assert texts_of(open_source("x/*/1.jsonl")) == ["a1", "b1"]
    with pytest.raises(UserError, match=r"matches no file; check the pattern \(\*\* stands for"):
        open_source("x/*.parquet")


def test_a_path_with_the_signs_of_a_glob_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("text of the file")
    assert "".join(texts_of(open_source(str(tmp_path / "a[1].txt")))) == "text of the file"


def test_one_text_is_a_single_text_wherever_it_is_found(tmp_path: Path) -> None:
    write(tmp_path / "folder", {"only.txt": "one text " * 10})
    for dataset in ["folder", "folder/only.txt", "folder/*.txt"]:
        source = open_source(str(tmp_path / dataset))
        assert not source.joins_documents
        assert source.facts["split"] == {"rule": "end", "val_fraction": 0.1}


@pytest.mark.parametrize("name", [*DATASET_NAMES, "shakespeare-standin"])
def test_other_data_never_go_under_a_known_name(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, {"a.txt": "mine", "b.txt": "too"})
    assert open_source(str(tmp_path / name)).name == f"{name}-own"


def test_files_of_several_formats_need_a_choice(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": "{}", "b.jsonl": "{}", "notes.txt": "n"})
    with pytest.raises(UserError) as caught:
        open_source(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path}: files of several formats (2 of json, 1 of text); allowed is one. Choose by a "
        "glob, such as '**/*.jsonl'"
    )


def test_a_folder_without_data_says_what_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": "a", ".b.txt": "b"})
    with pytest.raises(UserError, match=r"a folder without files of \.txt, \.jsonl \(both also"):
        open_source(str(tmp_path))


def test_what_cannot_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        UserError, match="pipe: neither a file nor a folder; allowed are text files, and files of"
    ):
        open_source(str(tmp_path / "pipe"))
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        open_source("x" * 5000)
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    with pytest.raises(UserError, match=r"picture\.txt: a binary file \(a NUL at byte offset 8\)"):
        open_source(str(tmp_path / "picture.txt"))
    write(tmp_path / "folder", {"a.jsonl": "{}", "sub/b.jsonl": "{}"})
    scandir = os.scandir

    def denied(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(
        UserError, match=r"sub: cannot be read: Permission denied; change its permissions"
    ):
        open_source(str(tmp_path / "folder"))


def test_every_parquet_file_is_looked_at_before_the_first_is_read(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", ["a"])
    pq.write_table(pa.table({"body": ["b"]}), tmp_path / "b.parquet")
    with pytest.raises(
        UserError, match=r"b\.parquet: the column 'text' is missing; those with strings are"
    ):
        open_source(str(tmp_path))
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"b\.parquet: damaged, or not a parquet file"):
        open_source(str(tmp_path))


def test_the_identity_follows_what_is_read(tmp_path: Path) -> None:
    def identity(**options: object) -> str:
        return open_source(str(tmp_path / "x"), **options).identity  # type: ignore[arg-type]

    files = {"a.jsonl": '{"text": "a", "body": "b"}\n' * 9000, "b.jsonl": '{"text": "b"}\n'}
    write(tmp_path / "x", files)
    seen = {identity(), identity(text_column="body"), identity(val_fraction=0.1)}
    first = identity()
    write(tmp_path / "x", {"c.jsonl": '{"text": "c"}\n'})
    seen.add(identity())
    (tmp_path / "x" / "c.jsonl").unlink()
    for changed in [files["a.jsonl"].replace("a", "A", 1), files["a.jsonl"][:-3] + "B\n\n"]:
        write(tmp_path / "x", {"a.jsonl": changed})
        seen.add(identity())
    (tmp_path / "x" / "b.jsonl").rename(tmp_path / "x" / "B.jsonl")
    seen.add(identity())
    assert len(seen) == 7
    write(tmp_path / "x", files)
    (tmp_path / "x" / "B.jsonl").unlink()
    assert identity() == first
    (tmp_path / "x").rename(tmp_path / "y")
    assert open_source(str(tmp_path / "y")).identity == first


CARD = """---
license: cc0-1.0
configs:
- config_name: plain_text
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
- config_name: other
  data_files: other/*.parquet
---
# A dataset
"""


def hub_folder(folder: Path, num_shards: int = 3) -> Path:
    for i in range(num_shards):
        documents = [f"document {i} {j}" for j in range(100)]
        parquet(folder / f"data/train-{i:05}-of-{num_shards:05}.parquet", documents)
    parquet(folder / "data/test-00000-of-00001.parquet", ["test"])
    parquet(folder / "other/a.parquet", ["other"])
    return folder


def test_a_copy_of_a_dataset_of_the_hub_is_read_as_datasets_reads_it(tmp_path: Path) -> None:
    import datasets

    folder = hub_folder(tmp_path / "copy")
    (folder / "README.md").write_text(CARD)
    source = open_source(str(folder), config_name="plain_text")
    assert source.facts["config"] == "plain_text"
    assert names_of(source) == [f"data/train-{i:05}-of-00003.parquet" for i in range(3)]
    by_datasets = datasets.load_dataset(
        str(folder), "plain_text", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert texts_of(source) == by_datasets["text"][:]
    assert texts_of(open_source(str(folder), config_name="other")) == ["other"]
    for given, said in [(None, "it has several, and none was given"), ("x", "given 'x'")]:
        with pytest.raises(UserError) as caught:
            open_source(str(folder), config_name=given)
        assert str(caught.value) == (
            f"config_name: {folder}: {said}; allowed is one of plain_text, other"
        )


def test_shards_without_a_card_are_the_layout_of_the_hub_too(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path / "copy")
    source = open_source(str(folder))
    assert names_of(source) == [f"data/train-{i:05}-of-00003.parquet" for i in range(3)]
    (folder / "data/train-00001-of-00003.parquet").unlink()
    with pytest.raises(UserError) as caught:
        open_source(str(folder))
    assert str(caught.value) == (
        f"{folder / 'data'}: 1 of 3 files missing, first "
        "train-00001-of-00003.parquet; complete the download, or give a glob of the files to do "
        "without"
    )
    assert open_source(f"{folder}/data/train-*").facts["num_files"] == 2


def test_a_card_that_leads_nowhere_or_outside_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    (tmp_path / "secret.jsonl").write_text('{"text": "secret"}')
    write(
        folder, {"README.md": "---\nconfigs:\n- {config_name: a, data_files: ../s*.jsonl}\n---\n"}
    )
    with pytest.raises(UserError, match="names files outside the folder"):
        open_source(str(folder))
    (folder / "README.md").write_text(CARD)
    with pytest.raises(UserError, match="no data files were found"):
        open_source(str(folder), config_name="plain_text")
    only_test = CARD.replace("split: train", "split: dev")
    write(folder, {"README.md": only_test, "data/train-1.jsonl": "{}", "data/test-1.jsonl": "{}"})
    with pytest.raises(UserError, match=r"has no split train, .* \(it has: dev, test\)"):
        open_source(str(folder), config_name="plain_text")


@pytest.mark.parametrize("card", ["---\n[broken", "---", "no header"])
def test_a_card_that_is_none_makes_a_folder_no_copy(tmp_path: Path, card: str) -> None:
    write(tmp_path, {"README.md": card, "a.jsonl": '{"text": "a"}', "sub/b.jsonl": '{"text": "b"}'})
    assert texts_of(open_source(str(tmp_path))) == ["a", "b"]


def test_openwebtext_is_known_by_its_number_of_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that was made elsewhere gets nanoGPT's split."""
    folder = hub_folder(tmp_path / "copy")
    (folder / "other/a.parquet").unlink()
    assert open_source(str(folder)).facts["split"]["rule"] == "sha256"
    monkeypatch.setattr(local_files, "OPENWEBTEXT_NUM_DOCUMENTS", 300)
    source = open_source(str(folder))
    assert source.name == "openwebtext"
    assert source.facts["split"] == {"rule": "nanogpt", "test_size": 0.0005, "seed": 2357}
    pieces = [piece for batch in source.batches() for piece in batch.pieces]
    chosen = [i for i, piece in enumerate(pieces) if piece.is_validation]
    assert chosen == nanogpt_validation_documents(300)
    assert open_source(str(folder), val_fraction=0.1).facts["split"]["rule"] == "sha256"


def test_the_facts_list_only_so_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sharpgpt.data.sources import file_sources

    monkeypatch.setattr(file_sources, "LISTED_FILES", 3)
    write(tmp_path, {f"{i}.txt": f"text {i}" for i in range(9)})
    source = open_source(str(tmp_path))
    assert (source.facts["num_files"], len(source.facts["files"])) == (9, 3)
    assert len(texts_of(source)) == 9
    assert json.loads(json.dumps(source.facts)) == source.facts
