"""Folders from anyone, in every command: nothing in them is run, nothing controls the terminal."""

import json
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sharpgpt.commands.main import COMMANDS, main
from sharpgpt.config import TrainingConfig
from tests.conftest import blank_picture
from tests.evaluation.test_pilot import pilot_content
from tests.faults.harness import REPOSITORY, SETTINGS, command_here, flags
from tests.runs.broken_checkpoints import reseal

HOSTILE = "\x1b]8;;http:evil\x07link\x1b[2J\x9b31m\x85\u202eabc\u2066\u200b\r\b[bold]\nNOTE: forged"
"""A link, a cleared screen, C1 controls, other directions of reading, markup, a second line."""
RUN_SETTINGS = SETTINGS | {
    "max_steps": 2, "eval_interval": 2, "generate_interval": 2, "num_workers": 0,
    "warmup_steps": 0, "penalty_warmup_steps": 0, "n_head": 1,
}  # fmt: skip


def require_visible(printed: str) -> None:
    """No character that a terminal obeys, and no line that only the file has written."""
    obeyed = {c for c in printed if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert obeyed <= {"\n", "\t"}, f"{obeyed!a} in {printed!a}"
    assert "\nNOTE: forged" not in printed, printed
    assert "Traceback" not in printed, printed


def printed_by(*argv: Any, code: int = 0) -> str:
    """What a command prints, all of it visible."""
    found, printed = command_here(main, [str(word) for word in argv])
    require_visible(printed)
    assert found == code, printed
    return printed


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A text of a stranger's, and two runs on it in whose records every text is changed."""
    folder = tmp_path_factory.mktemp("hostile")
    text = folder / f"{HOSTILE}.txt"
    text.write_text(HOSTILE * 400, encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARPGPT_OFFLINE", "1")
        patch.setenv("SHARPGPT_CACHE", str(folder / "cache"))
        patch.setattr("sharpgpt.training.result.write_report", lambda _: None)
        patch.setattr("sharpgpt.training.build.peak_flops", lambda _: (1e12, "none"))
        for name, weight in (("run", 0.1), ("baseline", 0.0)):
            places = {"dataset": str(text), "output_dir": str(folder), "run_name": name}
            settings = RUN_SETTINGS | places | {"penalty_weight": weight}
            assert "\\x1b[2J" in printed_by("train", *flags(settings))
            log = (folder / name / "log.txt").read_text(encoding="utf-8")
            require_visible(log)
            assert "\\x1b[2J" in log
            for record in ("environment.json", "summary.json"):
                path = folder / name / record
                content = _hostile(json.loads(path.read_text(encoding="utf-8")))
                path.write_text(json.dumps(content), encoding="utf-8")
            (folder / name).rename(folder / f"{HOSTILE}{name}")
        yield folder


def _hostile(content: Any) -> Any:
    """The same, every text a stranger's."""
    if isinstance(content, dict):
        return {name: _hostile(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_hostile(value) for value in content]
    return HOSTILE if isinstance(content, str) else content


def test_every_command_shows_a_foreign_folder_visibly(
    hostile: Path, tmp_path: Path, quick_runs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name cleared the screen, forged a NOTE and turned the reading direction around."""
    monkeypatch.setattr("sharpgpt.report.drawing._save", blank_picture)
    run, baseline = hostile / f"{HOSTILE}run", hostile / f"{HOSTILE}baseline"
    text = hostile / f"{HOSTILE}.txt"
    quick = ("--num_texts=0", "--max_blocks=4", "--device=cpu", "--output", tmp_path / "found")
    places = {"dataset": str(text), "output_dir": str(tmp_path), "run_name": "fork"}
    changes = {"resume": str(run), "max_steps": 3, "allow_config_change": True}
    fork = flags(RUN_SETTINGS | places | changes)
    commands: dict[str, list[tuple[Any, ...]]] = {
        "train": [(*fork, "--dry_run"), fork],
        "prepare": [("--dataset", text, "--output", tmp_path / "data", "--tokenizer=char")],
        "inspect": [(tmp_path / f"{HOSTILE}data",)],
        "sample": [(run, "--max_new_tokens=200", "--device=cpu", "--prompt=link")],
        "view": [("link", "--runs", run, baseline, "--output", tmp_path / "view.html")],
        "evaluate": [(run, *quick)],
        "compare": [("--baseline", baseline, run, *quick)],
        "power": [("--pilot", tmp_path / "pilot.json", "--detect=0.01")],
        "study": [("--from_runs", run, "--baseline", baseline, *quick)],
        "report": [(run,), (run, baseline, "--output", tmp_path / "runs.html")],
        "push": [(run, "a/b", "--dry_run", tmp_path / "push")],
    }
    assert commands.keys() == COMMANDS.keys()
    pilot = pilot_content()
    for number, arm in enumerate(pilot["models"]):
        arm["name"] = f"{HOSTILE}{number}"
    (tmp_path / "pilot.json").write_text(json.dumps(pilot), encoding="utf-8")
    for command, calls in commands.items():
        if command == "inspect":
            (tmp_path / "data").rename(tmp_path / f"{HOSTILE}data")
        printed = "".join(printed_by(command, *call) for call in calls)
        assert "\\x1b" in printed or command in ("prepare", "view", "push"), printed


@pytest.mark.parametrize("command", COMMANDS)
def test_names_in_the_errors_of_every_command_are_visible(command: str, hostile: Path) -> None:
    missing = hostile / f"missing{HOSTILE}"
    call = {
        "train": (f"--dataset={missing}", "--device=cpu"),
        "prepare": (f"--dataset={missing}", "--output", hostile / "out"),
        "compare": ("--baseline", missing, missing),
        "view": ("link", "--runs", missing),
        "push": (missing, "a/b", "--dry_run", hostile / "push"),
        "power": ("--pilot", missing / "comparison.json", "--detect=1"),
    }.get(command, (missing,))
    for more in ((), (f"--{HOSTILE}", HOSTILE)):
        code, printed = command_here(main, [command, *map(str, (*call, *more))])
        require_visible(printed)
        assert "\\x1b" in printed
        assert code in (1, 2), printed


def test_what_a_checkpoint_says_is_visible_in_the_error(hostile: Path, tmp_path: Path) -> None:
    """Names of files, of models, of settings and of tensors, as transformers repeats them."""
    (found,) = (hostile / f"{HOSTILE}run" / "checkpoints").iterdir()
    for name, changes in {
        "config.json": {"model_type": HOSTILE},
        "tokenizer_config.json": {"tokenizer_class": HOSTILE},
        "training_state.json": {HOSTILE: 1},
    }.items():
        copy = tmp_path / name / found.name
        shutil.copytree(found, copy)
        content = json.loads((copy / name).read_text(encoding="utf-8"))
        (copy / name).write_text(json.dumps(content | changes), encoding="utf-8")
        reseal(copy)
        for command in (["sample", copy], ["view", "link", "--runs", copy], ["push", copy, "a/b"]):
            _, printed = command_here(main, [*map(str, command)])
            require_visible(printed)
    (copy / HOSTILE).touch()
    assert "\\x1b" in printed_by("sample", copy, code=1)


EVIL = """
import sys
from importlib.machinery import PathFinder
from pathlib import Path
Path({canary!r}).touch()
"""


def test_nothing_of_the_working_folder_is_imported(
    made_up_run: Path, tmp_path: Path, command_environment: dict[str, str]
) -> None:
    """yaml.py, numpy.py and jinja2.py of a downloaded folder ran; its matplotlibrc ran LaTeX."""
    canary, folder = tmp_path / "canary", tmp_path / "downloaded"
    shutil.copytree(made_up_run, folder)
    names = ("yaml", "numpy", "jinja2", "typing", "tempfile", "argparse", "rich", "penalty", "json")
    for name in names:
        (folder / f"{name}.py").write_text(EVIL.format(canary=str(canary)), encoding="utf-8")
    (folder / "matplotlibrc").write_text("text.usetex: True\nfont.size: 99\n", encoding="utf-8")
    environment = command_environment | {"PYTHONPATH": str(REPOSITORY)}

    def command(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sharpgpt", *argv],
            cwd=folder, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = command("report", ".")
    assert done.returncode == 0, done.stderr
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "font-size: 99" not in page
    assert not canary.exists()
    (folder / "own.yaml").write_text("penalty_type: penalty:PENALTY\n", encoding="utf-8")
    done = command("train", "--config", "own.yaml", "--dry_run")
    assert done.returncode == 2, done.stderr
    assert not canary.exists()


def test_no_command_imports_what_a_run_folder_names(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_runs: None
) -> None:
    """The penalty of a checkpoint's settings and of RUN/config.yaml, as an import path."""
    monkeypatch.setattr("sharpgpt.report.drawing._save", blank_picture)
    canary = tmp_path / "canary"
    (tmp_path / "evil_penalty.py").write_text(EVIL.format(canary=str(canary)), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    run, baseline = tmp_path / "outputs" / "run", tmp_path / "outputs" / "baseline"
    for copy in (run, baseline):
        shutil.copytree(hostile / f"{HOSTILE}{copy.name}", copy)
    (checkpoint,) = (run / "checkpoints").iterdir()
    state = json.loads((checkpoint / "training_state.json").read_text(encoding="utf-8"))
    state["config"]["penalty_type"] = "evil_penalty:PENALTY"
    (checkpoint / "training_state.json").write_text(json.dumps(state), encoding="utf-8")
    reseal(checkpoint)
    TrainingConfig.from_dict(state["config"]).to_yaml(run / "config.yaml")
    printed_by("train", "--config", run / "config.yaml", "--dry_run", code=2)
    places = {"dataset": str(hostile / f"{HOSTILE}.txt"), "output_dir": str(run.parent)}
    resumed = RUN_SETTINGS | places | {"resume": "auto", "run_name": "run", "max_steps": 3}
    quick = ("--num_texts=0", "--max_blocks=4", "--device=cpu", "--output", tmp_path / "found")
    for argv in (
        ("sample", run, "--max_new_tokens=9", "--device=cpu", "--prompt=link"),
        ("view", "link", "--runs", run, "--output", tmp_path / "view.html"),
        ("evaluate", run, *quick),
        ("compare", "--baseline", baseline, run, *quick),
        ("report", run),
        ("report", run, baseline, "--output", tmp_path / "runs.html"),
        ("push", run, "a/b", "--dry_run", tmp_path / "push"),
        ("train", *flags(resumed), "--allow_config_change"),
    ):
        printed_by(*argv)
        assert not canary.exists(), argv
    monkeypatch.setattr("sys.path", [*sys.path])
    printed = printed_by(
        "train", *flags(resumed | {"penalty_type": "evil_penalty:PENALTY"}), "--dry_run", code=1
    )
    assert "evil_penalty:PENALTY" in printed  # which has no Penalty, but it was imported
    assert canary.exists()
