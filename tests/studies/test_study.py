"""A study from its file to its page, with real runs; killed, and continued."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sharpgpt.commands.main import main
from sharpgpt.core.errors import UserError
from sharpgpt.studies import local
from sharpgpt.studies.launcher import RUNNING, Work
from sharpgpt.studies.progress import Progress
from sharpgpt.studies.study import study
from tests.conftest import REPOSITORY
from tests.forked_python import ForkedPython

FILE = """
question: Does it learn <anything>?
settings:
  dataset: TEXT
  tokenizer: char
  n_layer: 1
  n_head: 1
  n_embd: 16
  max_seq_length: 16
  batch_size: 4
  gradient_accumulation_steps: 1
  max_steps: STEPS
  warmup_steps: 2
  device: cpu
  dtype: float32
  log_interval: 2
  eval_interval: 4
  save_interval: 2
  num_generate_samples: 0
  num_workers: 0
  use_wandb: false
arms:
  baseline: {penalty_weight: 0.0}
  neg_entropy 0.5: {penalty_type: neg_entropy, penalty_weight: 0.5}
seeds: [1, 2]
rule: {num_texts: 0, max_blocks: 20}
"""


def write_study(folder: Path) -> Path:
    text = folder / "text.txt"
    text.write_text("To be, or not to be, that is the question.\n" * 200, encoding="utf-8")
    path = folder / "small.yaml"
    path.write_text(FILE.replace("TEXT", str(text)).replace("STEPS", "8"), encoding="utf-8")
    return path


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    return write_study(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `small.yaml` ran to its end, in `out`; the first test does that."""
    folder = tmp_path_factory.mktemp("finished")
    write_study(folder)
    return folder


@pytest.fixture(autouse=True)
def _forked_runs(
    monkeypatch: pytest.MonkeyPatch,
    command_environment: dict[str, str],
    no_picture_files: None,
    blank_pictures: None,
) -> None:
    """The processes of the runs are forks of one that has imported torch."""

    def popen(command: Sequence[str], **how: Any) -> ForkedPython:
        del how["preexec_fn"]
        changed = {"PYTHONPATH": how.pop("env")["PYTHONPATH"]}
        return ForkedPython(command[1:], env=command_environment | changed, **how)

    monkeypatch.setattr(local, "Popen", popen)
    monkeypatch.setattr(local.LocalLauncher, "poll_s", 0.05)


def without_times(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["times"]
    return content


def finish(folder: Path) -> dict[str, Any]:
    """study.json of the finished study."""
    path = folder / "out" / "study.json"
    if not path.exists():
        assert main(["study", str(folder / "small.yaml"), "--output", str(folder / "out")]) == 0
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_a_plan_starts_nothing(
    study_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(["study", str(study_file), "--output", str(output), "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "runs     2 arms x 2 seeds, 4 to train" in shown
    assert f"tokens   {4 * 8 * 4 * 16:,}" in shown
    assert not output.exists()


def test_a_study_ends_in_its_verdict_and_page(finished: Path) -> None:
    found = finish(finished)
    assert [(run["arm"], run["seed"], run["step"]) for run in found["runs"]] == [
        ("baseline", 1, 8), ("neg_entropy 0.5", 1, 8), ("baseline", 2, 8), ("neg_entropy 0.5", 2, 8)
    ]  # fmt: skip
    (arm,) = found["arms"]
    assert arm["name"] == "neg_entropy 0.5"
    assert arm["num_seeds"] == 2
    assert "The learning rate was not tuned for each arm: all have the same." in found["not_done"]
    assert "No text was generated." in found["not_done"]
    page = (finished / "out" / "study.html").read_text(encoding="utf-8")
    assert "Does it learn &lt;anything&gt;?" in page
    for part in ("What was declared", "What was not done", found["declaration"]["sha256"][:16]):
        assert part in page


def test_a_finished_study_trains_nothing_again(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, output = finish(finished), finished / "out"
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in (output / "runs").rglob("*.jsonl")}
    assert main(["study", str(finished / "small.yaml"), "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "neg_entropy 0.5: " in shown
    assert shown.rstrip().endswith("study.html")
    assert {path: path.stat().st_mtime_ns for path in (output / "runs").rglob("*.jsonl")} == before
    del found["times"]
    assert without_times(output / "study.json") == found


def test_runs_of_anyone_get_the_page_without_a_declaration(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    declared = finish(finished)
    runs = [run["folder"] for run in declared["runs"]]
    few = ["--num_texts=0", "--max_blocks=20", "--output", str(tmp_path / "found")]
    assert main(["study", *few, "--from_runs", *runs]) == 0
    found = json.loads((tmp_path / "found" / "study.json").read_text(encoding="utf-8"))
    assert found["declaration"] is None
    assert found["arms"][0]["verdict"] == declared["arms"][0]["verdict"]
    page = (tmp_path / "found" / "study.html").read_text(encoding="utf-8")
    assert "Nothing was declared before these runs" in page
    assert main(["study", "--from_runs", *(run for run in runs if "neg" in run)]) == 1
    assert "allowed are those of one arm" in capsys.readouterr().err


def test_a_study_whose_runs_are_killed_ends_with_the_same_answer(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finish(finished)
    (finished / "out").rename(finished / "kept")
    killed: list[str] = []
    show = Progress.show

    def kill_after_a_checkpoint(self: Progress, works: Sequence[Work]) -> None:
        for work in works:
            saved = any((work.run.folder / "checkpoints").glob("step_*"))
            if work.state == RUNNING and work.handle and saved and work.run.name not in killed:
                killed.append(work.run.name)
                os.kill(work.handle.process.pid, signal.SIGKILL)
        show(self, works)

    monkeypatch.setattr(Progress, "show", kill_after_a_checkpoint)
    where = {"output": finished / "out"}
    with pytest.raises(UserError, match=r"run.* of 4 failed: .* \(signal SIGKILL\)") as caught:
        study(finished / "small.yaml", **where)
    assert "start the study again" in str(caught.value)
    study(finished / "small.yaml", **where)
    assert killed
    del whole["times"]
    assert without_times(finished / "out" / "study.json") == whole


def test_a_run_that_is_refused_refuses_the_study_before_it_is_declared(
    study_file: Path, tmp_path: Path
) -> None:
    text = study_file.read_text(encoding="utf-8").replace(
        "max_seq_length: 16", "max_seq_length: 1000"
    )
    study_file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"arm 'baseline': .*too short for blocks"):
        study(study_file, output=tmp_path / "out")
    assert not (tmp_path / "out" / "declaration.json").exists()


def test_the_command_takes_a_file_or_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert main(["study"]) == 2
    assert "allowed is a study file, or --from_runs RUNS; not both" in capsys.readouterr().err
    assert main(["study", "pyproject.toml", "--max_blocks=9"]) == 2
    assert "max_blocks: allowed with from_runs; a study file has" in capsys.readouterr().err


def test_a_signal_stops_the_runs_which_save_and_a_restart_continues_them(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = study_file.read_text(encoding="utf-8").replace("max_steps: 8", "max_steps: 400")
    study_file.write_text(text.replace("save_interval: 2", "save_interval: 0"), encoding="utf-8")
    show, sent = Progress.show, []

    def interrupt(self: Progress, works: Sequence[Work]) -> None:
        if not sent and any(work.run.progress().get("step", 0) > 4 for work in works):
            sent.append(os.kill(os.getpid(), signal.SIGINT))
        show(self, works)

    monkeypatch.setattr(Progress, "show", interrupt)
    with pytest.raises(KeyboardInterrupt):
        study(study_file, output=tmp_path / "out", workers=1)
    assert [*(tmp_path / "out" / "runs").glob("*/checkpoints/step_*/training_state.json")]
