"""What refuses a run before its first step refuses it in a dry run too, in the same words."""

import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sharpgpt.config import ConfigError, TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.runs import folder as run_folders
from sharpgpt.runs.folder import run_lock
from sharpgpt.runtime.device import Device
from sharpgpt.training import checks
from sharpgpt.training.checks import CHECKS
from sharpgpt.training.dry_run import describe
from sharpgpt.training.train import train

Prepare = Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]
TEXT = "To be, or not to be: that is the question.\n" * 60


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run `made`, whose model has a config.json of its own."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "text.txt").write_text(TEXT, "utf-8")
    (folder / "model").mkdir()
    shape = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 16, "n_inner": 32}
    (folder / "model" / "config.json").write_text(json.dumps(shape), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        quicken(patch)
        train(settings(run_name="made"))
    return folder


def quicken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("sharpgpt.training.result.write_report", lambda _: None)
    patch.setattr("sharpgpt.training.build.peak_flops", lambda _: (1e12, "none"))


def settings(**changes: Any) -> TrainingConfig:
    return TrainingConfig.from_dict(
        {
            "model_name": "model", "tokenizer": "char", "dataset": "text.txt",
            "max_seq_length": 16, "batch_size": 2, "gradient_accumulation_steps": 1,
            "max_steps": 2, "warmup_steps": 1, "num_generate_samples": 0, "eval_max_blocks": 2,
            "save_interval": 1, "use_wandb": False, "device": "cpu", "num_workers": 0,
            "output_dir": "outputs", "run_name": "new",
        } | changes
    )  # fmt: skip


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    (tmp_path / "outputs/made").rename(tmp_path / "outputs/run")
    monkeypatch.chdir(tmp_path)
    quicken(monkeypatch)
    return tmp_path


def listing(folder: Path) -> list[tuple[str, float, int]]:
    facts = [(path, path.lstat()) for path in sorted(folder.rglob("*"))]
    return [(str(path), found.st_mtime, found.st_size) for path, found in facts]


def held(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Lock a folder until the end of the test."""
    lock = run_lock(folder)
    lock.acquire()
    patch.setattr(run_folders, "_held_in_the_test", lock, raising=False)


def _short(here: Path, _: pytest.MonkeyPatch) -> dict[str, Any]:
    (here / "short.txt").write_text("To be.", "utf-8")
    return {"dataset": "short.txt"}


def _in_use(here: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    held(here / "outputs" / "run", patch)
    return {"run_name": "run", "resume": "auto"}


def _checkpoints_in_use(here: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    (here / "elsewhere" / "new").mkdir(parents=True)
    held(here / "elsewhere" / "new", patch)
    return {"checkpoint_dir": "elsewhere"}


def _damaged(here: Path, _: pytest.MonkeyPatch) -> dict[str, Any]:
    for weights in (here / "outputs" / "run").glob("checkpoints/*/model.safetensors"):
        weights.write_bytes(b"123")
    return {"run_name": "run", "resume": "auto"}


def _other_shape(here: Path, _: pytest.MonkeyPatch) -> dict[str, Any]:
    path = here / "model" / "config.json"
    shape = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(shape | {"n_inner": 48}), "utf-8")
    return {"run_name": "run", "resume": "auto"}


def _link(here: Path, _: pytest.MonkeyPatch) -> dict[str, Any]:
    (here / "outputs" / "new").mkdir()
    (here / "outputs" / "new" / "checkpoints").symlink_to(here / "outputs/run/checkpoints")
    return {}


def _pipe(here: Path, _: pytest.MonkeyPatch) -> dict[str, Any]:
    (here / "outputs" / "new" / "metrics.jsonl").mkdir(parents=True)
    return {}


def _full(free: int) -> Prepare:
    def prepare(_: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
        class Usage:
            def __init__(self, *_: object) -> None:
                self.free = free

        patch.setattr(run_folders.shutil, "disk_usage", Usage)
        return {}

    return prepare


def _read_only(_: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    patch.setattr(run_folders.tempfile, "TemporaryFile", refuse)
    return {}


def _environment(**values: str) -> Prepare:
    def prepare(_: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
        for name, value in values.items():
            patch.setenv(name, value)
        return {}

    return prepare


RESUMED = {"run_name": "run", "resume": "auto"}
REFUSALS: list[tuple[str, dict[str, Any] | Prepare, int, str]] = [
    ("check_device", {"device": "cuda:7"}, 2, "device: given 'cuda:7'"),
    ("check_device", _environment(RANK="5", WORLD_SIZE="2"), 1, "RANK and WORLD_SIZE"),
    ("check_data", {"penalty_type": "no_such_module:IT"}, 1, "penalty_type: .*no_such_module"),
    ("check_data", {"penalty_type": "os:nothing"}, 1, "penalty_type: "),
    ("check_data", {"dataset": "nowhere.txt"}, 1, "nowhere.txt"),
    ("check_data", {"dataset": "outputs/run"}, 1, "outputs/run"),
    ("check_data", _short, 1, "too short for blocks"),
    ("check_data", {"top_k": 500}, 1, "top_k: given 500"),
    ("check_data", {"num_generate_samples": 1, "generate_prompt": "é"}, 1, "generate_prompt: "),
    ("check_data", {"val_fraction": 0.001}, 1, "too short for blocks"),
    ("check_model", {"model_name": "nowhere/model"}, 1, "model_name: given"),
    ("check_model", {"n_head": 3}, 1, "cannot be built as a causal LM"),
    ("check_memory", {"batch_size": 10**11}, 1, "Out of memory with batch_size 100000000000"),
    ("check_memory", {"gradient_accumulation_steps": 10**12}, 1, "Out of memory"),
    ("check_folder", {"run_name": "run"}, 1, "already holds a run"),
    ("check_folder", {"resume": "nowhere"}, 1, "resume: given 'nowhere'"),
    ("check_folder", {"resume": "outputs/run", "n_layer": 2}, 1, "cannot be continued with"),
    ("check_folder", RESUMED | {"learning_rate": 1e-2}, 1, "would change the mathematics"),
    ("check_folder", RESUMED | {"tokenizer": "gpt2"}, 1, "cannot be continued with"),
    ("check_folder", {"run_name": "run", "resume": "outputs/run/checkpoints/step_00000001"}, 1,
     "is not the newest checkpoint"),
    ("check_folder", _in_use, 1, "is in use by process"),
    ("check_folder", _checkpoints_in_use, 1, "is in use by process"),
    ("check_folder", _damaged, 1, "every checkpoint in .* is damaged"),
    ("check_folder", _other_shape, 1, "is of another model: .*mlp.* has shape"),
    ("check_folder", _link, 1, "is a link"),
    ("check_folder", _pipe, 1, "is a link, a folder or a pipe"),
    ("check_folder", {"output_dir": "text.txt"}, 1, "cannot be written"),
    ("check_folder", {"output_dir": "text.txt/inside"}, 1, "cannot be written: .*Not a directory"),
    ("check_folder", {"checkpoint_dir": "text.txt"}, 1, "cannot be written"),
    ("check_folder", _full(0), 1, "files of a run: .*65,536 bytes needed, 0 bytes free"),
    ("check_folder", _full(70_000), 1, "no room for one checkpoint: .* needed, 70,000 bytes free"),
    ("check_folder", _read_only, 1, "cannot be written: .*Read-only file system"),
]  # fmt: skip
"""The check that refuses, what is asked for, the exit code, and words of the message."""


def test_every_check_that_can_refuse_one_process_is_tried() -> None:
    tried = {name for name, *_ in REFUSALS}
    others = {"check_processes", "build_the_model", "note_what_is_unusual"}
    assert tried | others == {check.__name__ for check in CHECKS}


@pytest.mark.parametrize(("check", "asked", "code", "words"), REFUSALS)
def test_a_dry_run_refuses_what_the_run_refuses(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    check: str,
    asked: dict[str, Any] | Prepare,
    code: int,
    words: str,
) -> None:
    """It said that a run was fine which then could not begin."""
    config = settings(**asked(here, monkeypatch) if callable(asked) else asked)
    reached = list[str]()

    def traced(each: Callable[[checks.Prospect], None]) -> Callable[[checks.Prospect], None]:
        def run(prospect: checks.Prospect) -> None:
            reached.append(each.__name__)
            each(prospect)

        return run

    monkeypatch.setattr(checks, "CHECKS", tuple(map(traced, CHECKS)))
    before, messages = listing(here), list[str]()
    for command in (describe, train):
        reached.clear()
        with pytest.raises(UserError, match=words) as refused:
            command(config)
        assert refused.value.exit_code == code
        assert (reached or ["check_device"])[-1] == check  # the ranks are read before the list
        messages.append(re.sub(r"[\d.]+ GiB are|of [\d,]+, and", "", str(refused.value)))
        if command is describe:
            assert listing(here) == before, "a dry run has written"
    assert messages[0] == messages[1]


def test_the_shares_of_several_processes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _environment(RANK="0", WORLD_SIZE="2")(here, monkeypatch)
    with pytest.raises(ConfigError, match="allowed with 2 processes"):
        describe(settings())


def test_a_dry_run_says_what_the_run_says(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A warm-up longer than the run, and what differs from the checkpoint, were not said."""
    from sharpgpt.runtime.console import console_logging

    config = settings(**RESUMED, warmup_steps=9, allow_config_change=True, max_steps=3)
    notes = []
    for command in (describe, train):
        with console_logging():
            command(config)
        printed = capsys.readouterr().out.splitlines()
        notes.append([line for line in printed if line.startswith("NOTE: ")])
    assert notes[0] == notes[1]
    assert "warmup_steps 9 is more than the run's 3 steps" in notes[0][-1]
    assert "warmup_steps 1 -> 9" in notes[0][0]


def test_settings_that_do_less_than_they_say_are_noted(caplog: pytest.LogCaptureFixture) -> None:
    config = settings(
        optimizer="muon", muon_split_qkv=True, batch_warmup_steps=9, lr_schedule="wsd",
        lr_decay_steps=5, penalty_warmup_steps=1, lr_decay_fraction=0.5,
    )  # fmt: skip
    run: Any = SimpleNamespace(
        config=config, num_steps=4, causal_lm=nn.Linear(2, 2),
        folder=SimpleNamespace(resume_from=None), device=Device(torch.device("cpu"), torch.float32),
    )  # fmt: skip
    checks.note_what_is_unusual(run)
    config.optimizer = "adamw"
    run.num_steps = 9
    checks.note_what_is_unusual(run)
    assert [record.getMessage() for record in caplog.records] == [
        "lr_decay_steps 5 is more than the 3 steps after the warm-up, so there is no stable phase",
        "batch_warmup_steps 9 is more than the run's 4 steps, so no step has the whole batch",
        "muon_split_qkv true has no effect: Linear has no c_attn of queries, keys and values",
        "muon_split_qkv true has no effect without optimizer muon",
    ]


def test_a_dry_run_of_a_run_that_goes_on_and_of_a_new_one(here: Path) -> None:
    before = listing(here)
    for changes in ({}, {"run_name": None}, RESUMED, {"resume": "outputs/run"}):
        assert "Nothing was trained." in describe(settings(**changes))
    assert listing(here) == before
