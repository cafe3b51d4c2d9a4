"""Every form in which a run, a checkpoint or a model can be given, for every command."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sharpgpt.commands.main import main
from sharpgpt.core.errors import UserError
from sharpgpt.evaluation.saved_model import load_model
from sharpgpt.runs.manifest import MANIFEST, read_manifest
from sharpgpt.runs.resolve import (
    MODEL_FILES,
    model_name,
    resolve_checkpoint,
    resolve_model,
    resolve_run,
)
from tests.runs.broken_checkpoints import write_as_newer_version

FIXTURE = Path(__file__).parents[1] / "compatibility/fixtures"
RUN = "outputs/adamw"
STEPS = f"{RUN}/checkpoints"
NEWEST, BEFORE = "step_00000008", "step_00000004"
HUB_NAME = "someone/model"
COMMIT = hashlib.sha1(b"main").hexdigest()


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: the run outputs/adamw, whose best checkpoint is the one before the
    newest, and the HuggingFace model folder foreign."""
    monkeypatch.setenv("SHARPGPT_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FIXTURE / "runs/adamw", RUN)
    shutil.copy(FIXTURE / "text.txt", "text.txt")
    for step, loss in ((BEFORE, 1.0), (NEWEST, 2.0)):
        set_loss(Path(STEPS, step), loss)
    as_model(Path(STEPS, NEWEST), Path("foreign"))
    return tmp_path


def set_loss(checkpoint: Path, loss: float) -> None:
    manifest = read_manifest(checkpoint)
    after_step = manifest.after_step.model_copy(update={"val_ce_loss": loss})
    changed = manifest.model_copy(update={"after_step": after_step})
    (checkpoint / MANIFEST).write_text(changed.sealed_text(), encoding="utf-8")


def files_of(folder: Path) -> dict[Path, bytes]:
    """Every file but the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock")
    return {path: path.read_bytes() for path in files}


def as_model(checkpoint: Path, folder: Path) -> None:
    """Only what makes a HuggingFace model."""
    training = shutil.ignore_patterns("training_state*", MANIFEST)
    shutil.copytree(checkpoint, folder, ignore=training)


def damage(checkpoint: Path) -> None:
    weights = bytearray((checkpoint / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (checkpoint / "model.safetensors").write_bytes(weights)


def cached_model(cache: Path) -> Path:
    """HUB_NAME in HuggingFace's cache."""
    folder = cache / "models--someone--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(COMMIT)
    as_model(Path("foreign"), folder / "snapshots" / COMMIT)
    return folder / "snapshots" / COMMIT


FORMS = {
    RUN: NEWEST,
    f"{RUN}/": NEWEST,
    f"{RUN}/latest": NEWEST,
    f"{RUN}/best": BEFORE,
    STEPS: NEWEST,
    f"{STEPS}/best": BEFORE,
    f"{STEPS}/{BEFORE}": BEFORE,
    f"{STEPS}/{NEWEST}": NEWEST,
}
RESOLVERS: dict[str, Callable[[str], Path]] = {
    "a model": resolve_model,
    "a checkpoint": lambda given: resolve_checkpoint(given, setting="resume").path,
}


@pytest.mark.parametrize("what", RESOLVERS)
@pytest.mark.parametrize("given", FORMS)
def test_every_form_of_a_checkpoint(given: str, what: str) -> None:
    assert RESOLVERS[what](given) == Path(STEPS, FORMS[given])
    assert resolve_run(given) == Path(RUN)


@pytest.mark.parametrize("given", [f"{RUN}/best", f"{RUN}/latest", f"{STEPS}/step_00000009"])
def test_a_link_in_a_run_folder_is_no_checkpoint(given: str) -> None:
    """RUN/best of a downloaded run led to a private model, which push would have published."""
    Path(given).symlink_to(Path("foreign").absolute())
    for resolve in RESOLVERS.values():
        with pytest.raises(UserError, match=f"{given}: is a link"):
            resolve(given)
    Path("mine").symlink_to(Path(STEPS, NEWEST))  # one that the user made elsewhere
    assert resolve_model("mine") == Path("mine")


def test_a_model_folder_and_a_name_on_the_hub_are_models_and_no_checkpoints(work: Path) -> None:
    assert resolve_model("foreign") == Path("foreign")
    assert resolve_model(cached_model(work / "cache")).name == COMMIT
    assert model_name(resolve_model(HUB_NAME)) == HUB_NAME
    for given in ("foreign", HUB_NAME):
        with pytest.raises(UserError, match=f"given '{given}', a HuggingFace model and not a"):
            resolve_checkpoint(given, setting="resume")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("none", "no such folder"),
        ("outputs/typo", "no such folder; allowed is"),  # and the hub is not asked
        ("outputs", "holds no model"),
        (f"{STEPS}/step_00000099", "no such folder"),
        (HUB_NAME, r"no such model can be had .* \(SHARPGPT_OFFLINE is set\)"),
        ("outputs/typo/best", "was validated at its step"),
    ],
)
def test_what_is_not_there_is_one_message_that_names_what_is_allowed(
    given: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        resolve_model(given)
    assert "allowed is" in str(refused.value)
    assert given in str(refused.value)
    with pytest.raises(UserError, match=r"allowed is|was validated"):
        resolve_checkpoint(given, setting="resume")
    if not given.startswith(RUN):
        with pytest.raises(UserError, match=r"no such run|holds no run"):
            resolve_run(given)


@pytest.mark.parametrize("what", RESOLVERS)
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(Path(STEPS, NEWEST))
    for given in (RUN, f"{RUN}/latest", STEPS):
        caplog.clear()
        assert RESOLVERS[what](given) == Path(STEPS, BEFORE)
        assert f"{STEPS}/{NEWEST} is damaged (model.safetensors" in caplog.messages[0]
    assert Path(STEPS, NEWEST).is_dir()
    damage(Path(STEPS, BEFORE))
    with pytest.raises(UserError, match=f"every checkpoint in {STEPS} is damaged: {NEWEST}"):
        RESOLVERS[what](RUN)


def test_a_damaged_checkpoint_that_was_given_or_is_the_best_is_refused() -> None:
    damage(Path(STEPS, BEFORE))
    for given in (f"{RUN}/best", f"{STEPS}/{BEFORE}"):
        with pytest.raises(UserError, match=f"{BEFORE} cannot be used: model.safetensors"):
            resolve_checkpoint(given, setting="resume")
        with pytest.raises(UserError, match=f"{BEFORE} cannot be used: model.safetensors"):
            load_model(given, torch.device("cpu"))


def test_a_model_is_downloaded_without_code_and_without_other_files(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def download(name: str, **how: object) -> str:
        asked.update(how, name=name)
        return str(work / "foreign")

    monkeypatch.delenv("SHARPGPT_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert resolve_model(HUB_NAME) == work / "foreign"
    assert asked == {
        "name": HUB_NAME,
        "allow_patterns": list(MODEL_FILES),
        "ignore_patterns": ["*/*"],
        "local_files_only": False,
    }
    assert not any(Path(name).match(pattern) for pattern in MODEL_FILES for name in CODE)


CODE = ("modeling.py", "pytorch_model.bin", "model.pt", "tokenizer.pkl", "training_state.json")

EVALUATED = "--dataset text.txt --max_blocks 4 --num_texts 0"
TRAINED = "--max_steps 13 --run_name fork --output_dir outputs --dataset text.txt --num_workers 0"
COMMANDS = {
    "sample": "sample {} --max_new_tokens 3",
    "view": "view ab_and_ab --runs {} --output view.html",
    "evaluate": f"evaluate {{}} --output evaluation {EVALUATED}",
    "compare": f"compare {{}} --baseline foreign --output comparison {EVALUATED}",
    "push": "push {} me/model --dry_run pushed",
    "train": f"train --config {RUN}/config.yaml --resume {{}} {TRAINED} --allow_config_change",
}
RESULTS = {
    "view": ("view.html", "adamw, step 4"),
    "evaluate": ("evaluation/evaluation.json", f"{STEPS}/{BEFORE}"),
    "compare": ("comparison/comparison.json", f"{STEPS}/{BEFORE}"),
    "push": ("pushed/README.md", "step 4"),
    "train": ("outputs/fork/environment.json", f"{STEPS}/{BEFORE}"),
}
"""A file that tells which checkpoint a command used, and how."""
Run = Callable[[str, str], tuple[int, str]]


@pytest.fixture
def run_command(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    quick_runs: None,
    blank_pictures: None,
) -> Iterator[Run]:
    """A command of COMMANDS with this RUN: its exit code and what it printed."""

    def run(command: str, given: str) -> tuple[int, str]:
        capsys.readouterr()
        words = [word.replace("_and_", " ") for word in COMMANDS[command].format(given).split()]
        code = main(words)
        return code, "".join(capsys.readouterr())

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_takes_the_best_and_passes_over_a_damaged_newest(
    run_command: Run, command: str
) -> None:
    code, printed = run_command(command, f"{RUN}/best")
    assert code == 0, printed
    assert "damaged" not in printed
    for made in ("outputs/fork", "pushed"):
        shutil.rmtree(made, ignore_errors=True)
    damage(Path(STEPS, NEWEST))
    code, printed = run_command(command, RUN)
    assert code == 0, printed
    assert printed.count(f"NOTE: the checkpoint {STEPS}/{NEWEST} is damaged (model") == 1
    assert Path(STEPS, NEWEST).is_dir()
    assert f"NOTE: the one before is taken, {STEPS}/{BEFORE}" in printed
    if command in RESULTS:
        name, text = RESULTS[command]
        assert text in Path(name).read_text(encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_takes_or_refuses_a_name_on_the_hub(
    run_command: Run, work: Path, command: str
) -> None:
    """Offline, from HuggingFace's cache."""
    if command != "compare":
        cached_model(work / "cache")
    code, printed = run_command(command, HUB_NAME)
    if command in ("push", "train"):
        assert code == 1
        assert "a HuggingFace model and not a checkpoint" in printed
    elif command == "compare":  # not in the cache
        assert code == 1
        assert "SHARPGPT_OFFLINE is set" in printed
    else:
        assert code == 0, printed


def test_a_checkpoint_whose_loss_cannot_be_read_is_passed_over_as_the_best_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Path(STEPS, BEFORE, MANIFEST).write_text("{", encoding="utf-8")
    assert resolve_model(f"{RUN}/best") == Path(STEPS, NEWEST)
    assert f"{BEFORE} cannot be used: checkpoint.json" in caplog.text


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_calls_a_checkpoint_of_a_newer_version_damaged_or_passes_over_it(
    run_command: Run, command: str
) -> None:
    write_as_newer_version(Path(STEPS, NEWEST), MANIFEST)
    before = files_of(Path(RUN))
    for given in (RUN, f"{RUN}/best", f"{STEPS}/{NEWEST}"):
        code, printed = run_command(command, given)
        assert code == 1, printed
        assert f"{NEWEST} was written by a newer version of SharpGPT (format 99; this" in printed
        assert "damaged" not in printed
    assert files_of(Path(RUN)) == before


def test_resume_auto_stops_at_a_checkpoint_of_a_newer_version_and_touches_nothing(
    run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the one before could be continued."""
    write_as_newer_version(Path(STEPS, NEWEST), MANIFEST)
    before = files_of(Path(RUN))
    monkeypatch.setitem(COMMANDS, "train", COMMANDS["train"].replace("fork", "adamw"))
    code, printed = run_command("train", "auto")
    assert code == 1
    assert f"{NEWEST} was written by a newer version of SharpGPT (format 99; this" in printed
    assert files_of(Path(RUN)) == before
