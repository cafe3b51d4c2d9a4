"""`sharpgpt prepare` on fuzzed texts, and on fuzzed remains of a preparation that was stopped."""

import contextlib
import gzip
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from sharpgpt.commands.main import main
from sharpgpt.data.prepare.options import PrepareOptions
from sharpgpt.data.prepare.pipeline import prepare
from tests.faults.broken_folders import Data, Files, Plan, changed_json, plans, write_folder
from tests.faults.fuzz import fuzz, require_clear, watched
from tests.faults.harness import command_here, write_text_file
from tests.faults.hostile import mutated


def documents(path: Path) -> list[str]:
    return write_text_file(path).read_text(encoding="utf-8").split("\n")[:-1]


def text_files(folder: Path) -> dict[str, Data]:
    """The same documents in every form that can be prepared."""
    import pyarrow
    import pyarrow.parquet

    lines = documents(folder / "text.txt")[:60]
    json_lines = "".join(json.dumps({"text": line}) + "\n" for line in lines).encode()
    table = pyarrow.table({"text": lines, "id": list(range(len(lines)))})
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=20)
    (folder / "a.jsonl").write_bytes(json_lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(json_lines, mtime=0))
    with pyarrow.CompressedOutputStream(str(folder / "a.jsonl.zst"), "zstd") as stream:
        stream.write(json_lines)
    (folder / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    return {path.name: Data(path.read_bytes()) for path in sorted(folder.glob("a.*"))}


@st.composite
def _hostile_text(draw: st.DrawFn, files: dict[str, Data]) -> tuple[str, bytes]:
    name = draw(st.sampled_from(sorted(files)))
    data = files[name]
    what = draw(st.sampled_from(["bytes", "bytes", "other", "random"]))
    if what == "other":
        return name, files[draw(st.sampled_from(sorted(files)))]
    if what == "random":
        return name, draw(st.binary(max_size=80))
    if name == "a.jsonl" and draw(st.booleans()):
        first, *rest = data.split(b"\n")
        return name, b"\n".join([draw(changed_json(Data(first))), *rest])
    return name, draw(mutated(st.just(data)))


def prepare_here(*arguments: str) -> tuple[int, str]:
    code, printed = command_here(main, ["prepare", "--num_workers=0", *arguments])
    assert code in (0, 1, 2), printed
    assert "Traceback" not in printed
    if code:
        require_clear(printed[printed.index("error: ") :])
    return code, printed


def test_texts(sandbox: Path, tmp_path: Path, is_long: bool) -> None:
    files = text_files(tmp_path)
    out = sandbox / "out"
    for name in files:  # imports what reads it
        prepare_here(f"--dataset={tmp_path / name}", f"--output={tmp_path / 'sound'}/{name}")

    def case(text: tuple[str, bytes]) -> str:
        name, data = text
        for path in sandbox.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (sandbox / name).write_bytes(data)
        tokenizer = "char" if len(data) % 2 else "gpt2"
        with watched(sandbox):
            code, _ = prepare_here(f"--dataset={name}", "--output=out", f"--tokenizer={tokenizer}")
        assert (out / "manifest.json").exists() == (code == 0)
        return f"exit code {code}"

    fuzz("texts", _hostile_text(files), case, is_long=is_long)


class StopError(BaseException):
    """Ends a preparation in the middle, as a kill does: nothing of ours catches it."""


def stopped(folder: Path, options: PrepareOptions) -> Files:
    """The files of a preparation that was stopped after its first commit."""
    num_shown = 0

    def show(_: object) -> None:
        nonlocal num_shown
        num_shown += 1
        if num_shown > 2:
            raise StopError

    with contextlib.suppress(StopError):
        prepare(options, show_progress=show)
    files = Files.of(folder)
    assert "journal.json" in files, "the preparation was over before it could be stopped"
    return files


def remains_plans(files: Files) -> SearchStrategy[Plan]:
    def contents(name: str, data: Data) -> SearchStrategy[bytes]:
        return changed_json(data) if name == "journal.json" else mutated(st.just(data))

    new = ["manifest.json", ".prepare.lock", "x", "text_train_000009.bin"]
    return plans(files, contents, often=["journal.json"] * 4, new=new)


@pytest.mark.parametrize("tokenizer", ["char", "gpt2"])
def test_remains_of_a_preparation(
    sandbox: Path,
    tmp_path: Path,
    is_long: bool,
    tokenizer: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is left is taken up where it was stopped, or refused."""
    monkeypatch.setattr("sharpgpt.data.sources.file_sources.BATCH_CHARACTERS", 4000)
    lines = documents(tmp_path / "text.txt")
    source = sandbox / "a.jsonl"
    source.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), "utf-8")
    settings = {"dataset": str(source), "tokenizer": tokenizer, "shard_tokens": 3000}
    options = PrepareOptions(
        **settings, output=str(tmp_path / "o"), num_workers=0, commit_seconds=0
    )
    files = stopped(tmp_path / "o", options)
    folder = sandbox / "out"
    arguments = [f"--{name}={value}" for name, value in settings.items()]

    def case(plan: Plan) -> str:
        shutil.rmtree(folder, ignore_errors=True)
        write_folder(folder, files, plan, lambda _: None)
        with watched(sandbox):
            code, _ = prepare_here(*arguments, f"--output={folder}")
        return f"exit code {code}"

    fuzz("remains of a preparation", remains_plans(files), case, is_long=is_long)
