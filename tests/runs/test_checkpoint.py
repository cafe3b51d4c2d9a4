"""Checkpoints: any damage is found, the one before is taken, and a stranger's can do no harm."""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.model.build import create_gpt2_model
from sharpgpt.runs import checkpoint, checkpoint_files
from sharpgpt.runs.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    DamagedCheckpointError,
)
from sharpgpt.runs.checkpoint_files import HostCopies, load_tensors
from sharpgpt.runs.manifest import MANIFEST, Manifest, read_manifest
from sharpgpt.runs.resolve import resolve_model
from sharpgpt.runs.state import SUMS_OF_VERSION_1, IncompatibleCheckpointError, RowSums
from sharpgpt.training.optimizer import create_optimizers
from sharpgpt.training.train import train
from tests.compatibility.make_fixtures import FIXTURES
from tests.run_reading import records
from tests.runs.resealed import reseal, write_as_newer_version

pytestmark = pytest.mark.usefixtures("quick_runs")
MakeConfig = Callable[..., TrainingConfig]
FILES = (
    "checkpoint.json", "config.json", "generation_config.json", "model.safetensors",
    "tokenizer.json", "tokenizer_config.json", "training_state.json", "training_state.safetensors",
)  # fmt: skip
SETTINGS: dict[str, Any] = {
    "max_steps": 6, "save_interval": 2, "keep_checkpoints": 9, "eval_interval": 2, "n_layer": 1,
}  # fmt: skip
_made: list[Path] = []


@pytest.fixture
def checkpoints(tiny_config: MakeConfig, tmp_path: Path) -> Path:
    """Checkpoints of steps 2, 4 and 6 of the run `tiny`; trained once, then copied."""
    if not _made:
        _made.append(train(tiny_config(run_name="made", **SETTINGS)).run_folder)
    run_folder = tmp_path / "outputs" / "tiny"
    shutil.copytree(_made[0], run_folder)
    return run_folder / "checkpoints"


def newest(checkpoints: Path) -> Path:
    return checkpoints / "step_00000006"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip(place: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(place * (len(data) - 1))] ^= 1
        path.write_bytes(data)

    return damage


def grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"\n")


DAMAGES = {
    "truncated": truncate, "emptied": empty, "deleted": Path.unlink, "grown": grow,
    "flipped at the start": flip(0), "flipped inside": flip(0.4), "flipped at the end": flip(1),
}  # fmt: skip


def test_a_checkpoint_holds_what_the_tests_damage(
    checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert {path.name for path in newest(checkpoints).iterdir()} == set(FILES)
    assert {path.stat().st_mode & 0o777 for path in newest(checkpoints).iterdir()} == {0o644}
    found = CheckpointFolder(checkpoints).newest()
    assert found is not None
    assert (found.path, found.state.step, caplog.messages) == (newest(checkpoints), 6, [])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_any_damage_is_found_and_the_one_before_is_taken(
    checkpoints: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(newest(checkpoints) / name)
    found = CheckpointFolder(checkpoints).newest(set_aside=True)
    assert found is not None
    assert found.path.name == "step_00000004"
    assert name in caplog.messages[0]
    assert "it is now damaged_step_00000006" in caplog.messages[0]
    assert (checkpoints / "damaged_step_00000006").is_dir()


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.json"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    tiny_config: MakeConfig, checkpoints: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = (newest(checkpoints) / "model.safetensors").read_bytes()
    flip(0.5)(newest(checkpoints) / name)
    result = train(tiny_config(resume="auto", **SETTINGS))
    assert f"step_00000006 is damaged ({name}" in capsys.readouterr().out
    assert result.checkpoint == newest(checkpoints)
    assert (newest(checkpoints) / "model.safetensors").read_bytes() == weights
    assert (checkpoints / "damaged_step_00000006" / name).exists()


def test_all_damaged_is_one_message_and_never_a_fresh_start(
    tiny_config: MakeConfig, checkpoints: Path
) -> None:
    for path in checkpoints.iterdir():
        truncate(path / "model.safetensors")
    before = sorted(path for path in checkpoints.parent.rglob("*"))
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged: step_00000006 \(mod"):
        train(tiny_config(resume="auto", **SETTINGS))
    assert sorted(path for path in checkpoints.parent.rglob("*")) == before
    for path in list(checkpoints.iterdir()):
        path.rename(path.with_name(f"damaged_{path.name}"))
    with pytest.raises(UserError, match="every checkpoint in"):
        train(tiny_config(resume="auto", **SETTINGS))


def test_a_path_to_a_damaged_checkpoint_is_refused_and_to_a_folder_takes_another(
    tiny_config: MakeConfig, checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(0.5)(newest(checkpoints) / "config.json")
    with pytest.raises(UserError, match=r"step_00000006 cannot be used: config.json has another"):
        train(tiny_config(resume=str(newest(checkpoints)), run_name="fork", **SETTINGS))
    train(tiny_config(resume=str(checkpoints.parent), run_name="fork", **SETTINGS))
    printed = capsys.readouterr().out
    assert f"NOTE: the one before is taken, {checkpoints / 'step_00000004'}" in printed
    assert newest(checkpoints).exists()  # another run's folder is left as it is


def test_the_earlier_one_may_be_named_when_the_later_is_damaged(
    tiny_config: MakeConfig, checkpoints: Path
) -> None:
    earlier = str(checkpoints / "step_00000004")
    with pytest.raises(UserError, match="is not the newest checkpoint of its run"):
        train(tiny_config(resume=earlier, **SETTINGS))
    truncate(newest(checkpoints) / "model.safetensors")
    assert train(tiny_config(resume=earlier, **SETTINGS)).step == 6


def link(path: Path) -> None:
    shutil.copy(path, path.parent.parent / "elsewhere")
    path.unlink()
    path.symlink_to(path.parent.parent / "elsewhere")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["checkpoint.json", "model.safetensors"])
@pytest.mark.parametrize("replace", [link, pipe])
def test_links_and_pipes_are_refused(
    checkpoints: Path, name: str, replace: Callable[[Path], None]
) -> None:
    replace(newest(checkpoints) / name)
    with pytest.raises(DamagedCheckpointError, match=f"{name} is no plain file"):
        Checkpoint.verified(newest(checkpoints))


def test_files_that_the_manifest_does_not_name_are_refused(checkpoints: Path) -> None:
    checkpoint = newest(checkpoints)
    (checkpoint / ".DS_Store").write_text("of a file system", encoding="utf-8")
    (checkpoint / "README.md").write_text("a model card", encoding="utf-8")
    Checkpoint.verified(checkpoint)
    for name in ("pytorch_model.bin", "modeling.py", "adapter_config.json", "a folder"):
        (checkpoint / name).mkdir() if "folder" in name else (checkpoint / name).touch()
        with pytest.raises(DamagedCheckpointError, match=f"{name}' is not in checkpoint.json"):
            Checkpoint.verified(checkpoint)
        (checkpoint / name).rmdir() if "folder" in name else (checkpoint / name).unlink()


@pytest.mark.parametrize("name", ["../../config.yaml", "/etc/hostname", "..", "", "a/b", "a\\b"])
def test_names_that_lead_out_of_the_folder_are_refused(checkpoints: Path, name: str) -> None:
    checkpoint = newest(checkpoints)
    files = read_manifest(checkpoint).files
    manifest = read_manifest(checkpoint).model_copy(
        update={"files": files | {name: files["config.json"]}}
    )
    (checkpoint / MANIFEST).write_text(manifest.sealed_text(), encoding="utf-8")
    with pytest.raises(DamagedCheckpointError, match=r"checkpoint.json: files"):
        Checkpoint.verified(checkpoint)


@pytest.mark.parametrize("name", ["checkpoint.json", "training_state.json"])
def test_a_checkpoint_of_a_newer_version_is_not_called_damaged_and_never_touched(
    tiny_config: MakeConfig, checkpoints: Path, name: str
) -> None:
    write_as_newer_version(newest(checkpoints), name)
    before = {path: path.read_bytes() for path in newest(checkpoints).iterdir()}
    message = "step_00000006 was written by a newer version .* 99; this one reads up to .* upgrade"
    with pytest.raises(IncompatibleCheckpointError, match=message):
        Checkpoint.verified(newest(checkpoints))
    for resume in ("auto", str(checkpoints.parent), str(newest(checkpoints))):
        with pytest.raises(IncompatibleCheckpointError, match=message):
            train(tiny_config(resume=resume, **SETTINGS))
    (newest(checkpoints) / "model.safetensors").rename(checkpoints / "elsewhere")
    folder = CheckpointFolder(checkpoints, keep=1)
    folder.sweep()
    folder.prune()
    (checkpoints / "elsewhere").rename(newest(checkpoints) / "model.safetensors")
    assert {path: path.read_bytes() for path in newest(checkpoints).iterdir()} == before
    assert newest(checkpoints) in folder.all()


def test_a_version_in_a_damaged_manifest_counts_for_nothing(checkpoints: Path) -> None:
    path = newest(checkpoints) / MANIFEST
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"format_version": 2', '"format_version": 3'), encoding="utf-8")
    with pytest.raises(DamagedCheckpointError, match="was changed after it was written"):
        Checkpoint.verified(newest(checkpoints))


def test_the_state_of_version_1_has_the_same_sums_by_name() -> None:
    path = FIXTURES / "runs" / "muon" / "checkpoints" / "step_00000008"
    state = Checkpoint.verified(path).state
    rows = json.loads((path / "training_state.json").read_text(encoding="utf-8"))["window"]["rows"]
    (num_rows,) = rows["num_rows"]
    named = zip(SUMS_OF_VERSION_1, rows["sums"], strict=True)
    assert state.window.rows.pairs() == {name: (total, num_rows) for name, total in named}
    assert state.window.rows.histogram == rows["histogram"]


def test_a_sum_that_is_not_finite_stays_so() -> None:
    rows = RowSums.of({"loss": (math.nan, 8.0), "entropy": (2.5, 4.0)}, [0] * 20)
    again = RowSums.model_validate_json(rows.model_dump_json()).pairs()
    assert math.isnan(again["loss"][0])
    assert again["entropy"] == (2.5, 4.0)


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{}", '{"format": 1}', "\ufeff{}", "[" * 100_000, '{"a":' * 50_000,
        '{"step": ' + "9" * 5_000 + "}", "\x00" * 10, "{" + "x" * (1 << 21),
    ],
)  # fmt: skip
def test_no_text_is_too_strange_for_the_manifest(checkpoints: Path, text: str) -> None:
    for name in (MANIFEST, "training_state.json"):
        (newest(checkpoints) / name).write_text(text, encoding="utf-8")
        if name != MANIFEST:
            reseal(newest(checkpoints))
        with pytest.raises(DamagedCheckpointError, match=rf"cannot be used: {name}"):
            Checkpoint.verified(newest(checkpoints))
        shutil.rmtree(newest(checkpoints))
        shutil.copytree(_made[0] / "checkpoints" / "step_00000006", newest(checkpoints))


NESTED: list[Any] = []
for _ in range(200):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("step",), -1), (("step",), 1.5), (("step",), "6"), (("step",), True), (("step",), 7),
        (("step",), 10**30), (("step",), None), (("next_block",), 10**400), (("next_block",), -8),
        (("config",), 3), (("config",), {"seed": {"a": 1}}), (("config",), {"seed": NESTED}),
        (("config", "seed"), float("nan")), (("text",), 5), (("text",), None),
        (("window", "seconds"), float("inf")), (("window", "seconds"), -1.0),
        (("window", "rows"), {}), (("window", "rows", "sums"), [0.0]),
        (("window", "rows", "sums"), NESTED), (("window", "rows", "num_rows"), ["8"]),
        (("window", "rows"), {"sums": [0.0] * 7, "num_rows": ["8"], "histogram": [0.0] * 20}),
        (("window", "rows"), {"sums": ["0"] * 7, "num_rows": [8.0], "histogram": [0.0] * 20}),
        (("window", "rows"), {"sums": [0.0] * 7, "num_rows": [8.0], "histogram": [0.0] * 9}),
        (("window", "rows", "sums", "loss"), 1.0), (("window", "rows", "histogram"), [-1.0] * 20),
        (("window", "rows", "sums", "loss"), {"sum": 1.0, "num_rows": -1.0}),
        (("format_version",), 0), (("format_version",), "2"),
        (("window", "num_steps"), 1e300), (("watch", "losses"), [0.0] * 1000),
        (("watch", "losses"), [float("nan")]), (("watch", "in_spike"), "yes"),
        (("unheard_of",), 1), (("watch", "unheard_of"), 1),
    ],
)  # fmt: skip
def test_a_state_of_hostile_content_is_refused(
    checkpoints: Path, place: tuple[str, ...], value: Any
) -> None:
    path = newest(checkpoints) / "training_state.json"
    state = inner = json.loads(path.read_text(encoding="utf-8"))
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    path.write_text(json.dumps(state), encoding="utf-8")
    reseal(newest(checkpoints))
    with pytest.raises(DamagedCheckpointError, match=r"cannot be used: training_state.json: "):
        Checkpoint.verified(newest(checkpoints))


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., None]:
    def apply(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = change(tensors[name])

    return apply


WEIGHT, MOMENT = "transformer.h.0.mlp.c_fc.weight", "optimizer/transformer.wte.weight/exp_avg"
HOSTILE_TENSORS: list[tuple[str, Callable[..., Any], str]] = [
    ("model", changed(WEIGHT, lambda t: t.T.contiguous()), "mismatched|size"),
    ("model", changed(WEIGHT, lambda t: t[:1].contiguous()), "mismatched|size"),
    ("model", changed(WEIGHT, torch.Tensor.half), "type F16"),
    ("model", changed(WEIGHT, torch.Tensor.long), "type I64"),
    ("model", lambda t: t.pop(WEIGHT), "missing_keys"),
    ("model", lambda t: t.update(extra=torch.zeros(3)), "unexpected_keys"),
    ("model", lambda t: t.clear(), "missing_keys|metadata"),
    ("training_state", changed(MOMENT, lambda t: t[:1].contiguous()), "is not its own"),
    ("training_state", changed(MOMENT, lambda t: t[None].contiguous()), "is not its own"),
    ("training_state", changed(MOMENT, torch.Tensor.double), "is not its own"),
    ("training_state", lambda t: t.pop(MOMENT), "exp_avg is missing"),
    ("training_state", lambda t: t.update({"optimizer/no/exp_avg": torch.zeros(3)}), "its own"),
    ("training_state", lambda t: t.update({MOMENT + "/x": torch.zeros(3)}), "is not its own"),
    ("training_state", lambda t: t.pop("random/cpu"), "random/cpu is missing"),
    ("training_state", changed("random/cpu", lambda t: t[:9].clone()), "RNG state"),
    ("training_state", changed("random/cpu", lambda t: t.float()), "is not its own"),
]


@pytest.mark.parametrize(("name", "change", "message"), HOSTILE_TENSORS)
def test_tensors_of_another_kind_are_refused_before_any_is_used(
    checkpoints: Path, name: str, change: Callable[..., Any], message: str
) -> None:
    from safetensors.torch import load_file, save_file

    path = newest(checkpoints) / f"{name}.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    reseal(newest(checkpoints))
    Checkpoint.verified(newest(checkpoints))
    causal_lm = create_gpt2_model(
        n_layer=1, n_head=2, n_embd=32, vocab_size=64, max_seq_length=32, end_of_text_id=None
    )
    optimizers = create_optimizers(causal_lm, TrainingConfig())
    before = {key: value.clone() for key, value in causal_lm.state_dict().items()}
    with pytest.raises(UserError, match=r"cannot be continued with these settings") as caught:
        load_tensors(newest(checkpoints), causal_lm, optimizers, torch.device("cpu"))
    assert any(part in str(caught.value) for part in message.split("|")), str(caught.value)
    after = causal_lm.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not optimizers[0].state


def test_a_config_json_of_any_size_asks_for_nothing(checkpoints: Path) -> None:
    """The architecture is the run's own; a stranger's config.json could ask for a terabyte."""
    path = newest(checkpoints) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"n_embd": 10**9, "n_layer": 10**9, "auto_map": {"AutoModel": "evil.py--Model"}}
    path.write_text(json.dumps(config), encoding="utf-8")
    causal_lm = create_gpt2_model(
        n_layer=1, n_head=2, n_embd=32, vocab_size=64, max_seq_length=32, end_of_text_id=None
    )
    load_tensors(
        newest(checkpoints), causal_lm, create_optimizers(causal_lm, TrainingConfig()),
        torch.device("cpu"),
    )  # fmt: skip


def test_the_newest_the_best_and_every_kth_are_kept(
    tiny_config: MakeConfig, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {"step_00000002": 1.5, "step_00000004": 1.25, "step_00000006": 1.75}
    for name, figure in figures.items():
        after = read_manifest(checkpoints / name).after_step
        reseal(checkpoints / name, after_step=after.model_copy(update={"val_ce_loss": figure}))
    folder = CheckpointFolder(checkpoints, keep=1)
    assert folder.best() == checkpoints / "step_00000004"
    with pytest.raises(UserError, match="is not the newest checkpoint of its run"):
        train(tiny_config(resume=str(checkpoints.parent / "best"), **SETTINGS))
    fork = {"resume": str(checkpoints.parent / "best"), "run_name": "fork"}
    assert train(tiny_config(**SETTINGS | fork)).step == 6

    def unreadable(path: Path) -> Manifest:
        if path.name == "step_00000004":
            raise DamagedCheckpointError(path, "Too many open files")
        return read_manifest(path)

    with monkeypatch.context() as moment:
        moment.setattr(checkpoint, "read_manifest", unreadable)
        folder.prune()
    assert checkpoints / "step_00000004" in folder.all()
    folder.prune()
    assert [path.name for path in folder.all()] == ["step_00000004", "step_00000006"]

    settings = {"max_steps": 9, "save_interval": 1, "keep_checkpoints": 2, "keep_every_steps": 3}
    # Validated at the end alone, the best is the last one.
    result = train(tiny_config(run_name="kth", eval_interval=0, n_layer=1, **settings))
    kept = sorted(path.name for path in (result.run_folder / "checkpoints").iterdir())
    assert kept == [f"step_{step:08d}" for step in (3, 6, 8, 9)]


def test_the_best_checkpoint_is_the_one_with_the_lowest_validation_loss(
    tiny_config: MakeConfig,
) -> None:
    """A learning rate that grows past all reason: an early checkpoint outlives later ones."""
    settings = {"save_interval": 5, "eval_interval": 5, "keep_checkpoints": 1, "n_layer": 1}
    result = train(
        tiny_config(**settings, max_steps=20, learning_rate=2.0, warmup_steps=20, max_grad_norm=0)
    )
    figures = {
        event["step"]: event["val/ce_loss"]
        for event in records(result.run_folder)
        if "val/ce_loss" in event
    }
    best = min(figures, key=figures.__getitem__)
    assert best < 20, "the run was meant to get worse"
    folder = CheckpointFolder(result.run_folder / "checkpoints")
    assert folder.best() == folder.path / f"step_{best:08d}"
    assert len(folder.all()) == 2


def test_a_checkpoint_that_its_run_removes_while_it_is_read_is_not_called_damaged(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As `sharpgpt sample RUN` may come upon it while the run goes on, with keep_checkpoints 1."""
    (checkpoints / "step_00000006").rename(checkpoints / "later")
    original = checkpoint.verify_files

    def slow(path: Path) -> Any:
        if (checkpoints / "later").exists():  # the run writes another one, and removes the others
            (checkpoints / "later").rename(checkpoints / "step_00000006")
            for step in (2, 4):
                shutil.rmtree(checkpoints / f"step_{step:08d}")
        return original(path)

    monkeypatch.setattr(checkpoint, "verify_files", slow)
    assert resolve_model(checkpoints.parent) == newest(checkpoints)
    assert caplog.messages == []


def test_files_and_folders_are_flushed_before_and_after_the_rename(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    original = Path.rename
    monkeypatch.setattr(checkpoint_files, "sync", lambda path: done.append(path.name))
    monkeypatch.setattr(
        Path, "rename", lambda self, to: (done.append(f"to {to.name}"), original(self, to))[1]
    )
    train(tiny_config(max_steps=1, n_layer=1))
    folder, record = ".unfinished_step_00000001", ["metrics.jsonl", "samples.jsonl"]
    assert sorted(done[: len(FILES)]) == sorted(FILES)
    assert done[len(FILES) :] == [folder, *record, "to step_00000001", "checkpoints"]


def test_copies_in_host_memory_use_the_same_buffers_and_share_what_was_shared() -> None:
    copies = HostCopies()
    weight = torch.arange(6.0).reshape(2, 3)
    first = copies.of({"a": weight, "tied": weight, "t": weight.T})
    assert first["a"] is first["tied"]
    assert torch.equal(first["t"], weight.T)
    weight += 1
    assert not torch.equal(first["a"], weight)
    second = copies.of({"a": weight, "tied": weight, "t": weight.T})
    assert torch.equal(second["a"], weight)
    assert second["a"].data_ptr() == first["a"].data_ptr()


def test_without_memory_for_a_copy_training_waits_and_says_so(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_memory(self: HostCopies, tensors: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 TB")

    monkeypatch.setattr(HostCopies, "of", no_memory)
    result = train(tiny_config(**SETTINGS))
    assert len(list((result.run_folder / "checkpoints").iterdir())) == 3
    assert capsys.readouterr().out.count("NOTE: no memory for a copy") == 1


def test_old_damage_does_not_keep_a_new_run_from_the_folder_of_another(
    tiny_config: MakeConfig, checkpoints: Path
) -> None:
    (checkpoints.parent / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="already holds a run"):
        train(tiny_config(**SETTINGS))
