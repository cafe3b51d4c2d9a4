"""Run folders, fuzzed, in every command: shown, used or refused, and never a traceback."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from sharpgpt.commands.main import main
from tests.conftest import blank_picture
from tests.faults.broken_folders import Data, Files, Plan, changed_json, plans, write_folder
from tests.faults.fuzz import fuzz, require_clear, watched
from tests.faults.harness import Scenario, command_here, flags
from tests.faults.hostile import mutated

OFTEN = ("environment.json", "summary.json", "evaluation.json", "comparison.json", "metrics.jsonl")
QUICK = ("--num_texts=0", "--max_blocks=4", "--device=cpu", "--output=evaluation")
COMMANDS: dict[str, tuple[str, ...]] = {
    "report": ("report", "run"),
    "report over runs": ("report", "run", "baseline", "--output=runs.html"),
    "sample": ("sample", "run", "--max_new_tokens=3", "--device=cpu", "--prompt=a"),
    "sample best": ("sample", "run/best", "--max_new_tokens=3", "--device=cpu", "--prompt=a"),
    "view": ("view", "a b a", "--runs", "run", "--output=view.html", "--device=cpu"),
    "evaluate": ("evaluate", "run", *QUICK),
    "compare": ("compare", "run", "--baseline", "baseline", *QUICK),
    "push": ("push", "run", "a/b", "--dry_run=push", "--comparison=run/comparison.json"),
    "push evaluation": ("push", "run", "a/b", "--dry_run=push", "--evaluation=run/evaluation.json"),
}


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, command_environment: Mapping[str, str]
) -> dict[str, Scenario]:
    """Two finished runs; the first has an evaluation and a comparison in its folder too."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharpgpt.report.drawing._save", blank_picture)
        scenarios = {}
        for name, weight in (("run", 0.1), ("baseline", 0.0)):
            changes = {"max_steps": 10, "penalty_weight": weight, "run_name": name}
            scenarios[name] = Scenario(folder / name, command_environment, changes)
            scenarios[name].finish(here=True)
        run, baseline = (str(scenarios[name].run_folder) for name in ("run", "baseline"))
        quick = ("--num_texts=2", "--num_tokens=8", *QUICK[1:3], f"--output={run}")
        for argv in (["evaluate", run, *quick], ["compare", run, "--baseline", baseline, *quick]):
            code, printed = command_here(main, argv)
            assert code == 0, printed
    return scenarios


def contents(name: str, data: Data) -> SearchStrategy[bytes]:
    """Other bytes of nearly the right form."""
    if name.endswith(".json"):
        return changed_json(data)
    if name.endswith(".jsonl"):
        return st.integers(0, data.count(b"\n") - 1).flatmap(lambda line: _changed_line(data, line))
    return mutated(st.just(bytes(data)))


def _changed_line(data: bytes, number: int) -> SearchStrategy[bytes]:
    lines = data.splitlines()
    return changed_json(Data(lines[number])).map(
        lambda line: b"\n".join([*lines[:number], line, *lines[number + 1 :], b""])
    )


@pytest.mark.long  # test_foreign_folders.py has a folder for every command in the quick form
def test_run_folders(
    made: dict[str, Scenario], sandbox: Path, is_long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharpgpt.report.drawing._save", blank_picture)
    monkeypatch.setattr("tempfile.tempdir", str(sandbox))
    run = made["run"]
    folders = [path for path in run.run_folder.iterdir() if path.is_file()]
    files = Files({path.name: Data(path.read_bytes()) for path in sorted(folders)})
    shutil.copytree(made["baseline"].run_folder, sandbox / "baseline")
    resumed = run.settings | {"output_dir": ".", "run_name": "run", "max_steps": 11}
    commands = COMMANDS | {"resume": ("train", *flags(resumed), "--allow_config_change")}
    plan = plans(files, contents, often=OFTEN, new=["log.txt.1", "best", "latest", "wandb"])

    def write(changes: Plan) -> None:
        for folder in ("run", "push"):
            shutil.rmtree(sandbox / folder, ignore_errors=True)
        write_folder(sandbox / "run", files, changes, lambda _: None)
        shutil.copytree(run.checkpoints, sandbox / "run" / "checkpoints")

    def ended(name: str) -> str:
        code, printed = command_here(main, list(commands[name]))
        assert code in (0, 1, 2), printed
        assert "Traceback" not in printed
        if code:
            require_clear(printed)
            assert "error: " in printed
        return f"{name} {'refused' if code else 'done'}"

    def case(example: tuple[Plan, str]) -> str:
        changes, name = example
        write(changes)
        with watched(sandbox):
            return ended(name)

    for name in commands:
        write(Plan([], False))
        assert ended(name) == f"{name} done"
    names = st.sampled_from(sorted(commands))
    fuzz("run folders", st.tuples(plan, names), case, is_long=is_long)
