"""A full disk: each command names the file, what is needed, if that is known, and what is free."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sharpgpt.commands.main import main
from tests.faults.harness import Scenario
from tests.faults.mounts import Mounts, fill

FREE = r"\([\d,]+ bytes free there\)"
NEEDED_AND_FREE = r"\([\d,]+ bytes needed, [\d,]+ bytes free there\)"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without penalty, and beside it a text."""
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "text.txt"
    text.write_text("to be or not to be\n" * 2000)
    settings = (
        "--tokenizer char --n_layer 1 --n_head 1 --n_embd 16 --max_seq_length 16 --max_steps 2 "
        "--no_wandb --num_workers 0 --warmup_steps 1 --num_generate_samples 0 --device cpu "
        "--eval_max_blocks 4 --batch_size 2 --penalty_weight 0 --run_name run"
    )
    words = [*settings.split(), "--dataset", str(text), "--output_dir", str(folder)]
    assert main(["train", *words]) == 0
    return folder / "run"


@pytest.mark.parametrize(
    ("command", "file", "numbers"),
    [
        ("train --config RUN/config.yaml --run_name new --output_dir FULL",
         "FULL/new", NEEDED_AND_FREE),
        ("train --config RUN/config.yaml --run_name new --output_dir OTHER --checkpoint_dir FULL",
         "FULL/new", NEEDED_AND_FREE),
        ("evaluate RUN --num_texts 0 --output FULL/e", "FULL/e/evaluation.json", NEEDED_AND_FREE),
        ("report RUN RUN --output FULL/runs.html", "FULL/runs.html", NEEDED_AND_FREE),
        ("report FULL/run", "FULL/run/report.html", NEEDED_AND_FREE),
        ("view to --runs RUN --output FULL/view.html", "FULL/view.html", NEEDED_AND_FREE),
        ("push RUN me/model --dry_run FULL/out", "config.json", FREE),
        ("prepare --dataset RUN/../text.txt --tokenizer char --num_workers 0 --output FULL/shards",
         "FULL/shards", r"take about [\d,]+ bytes and the disk has 0 bytes left|" + FREE),
    ],
)  # fmt: skip
def test_every_command_says_which_file_and_how_much(
    run: Path, tmp_path: Path, mounts: Mounts, capsys: pytest.CaptureFixture[str], *,
    command: str, file: str, numbers: str,
) -> None:  # fmt: skip
    """It was `error: No space left on device`."""
    full = tmp_path / "full"
    mounts.small(full, 64 << 10)
    (full / "run").mkdir()
    for name in ("metrics.jsonl", "environment.json"):
        shutil.copy(run / name, full / "run")
    fill(full, leaving=0)
    places = {"RUN": run, "FULL": full, "OTHER": tmp_path / "other"}

    def placed(text: str) -> str:
        return re.sub("|".join(places), lambda found: str(places[found[0]]), text)

    assert main(placed(command).split()) == 1
    printed = capsys.readouterr().err.splitlines()[-1]
    assert placed(file) in printed
    assert re.search(numbers, printed), printed


def test_a_checkpoint_that_does_not_fit(
    scenario: Callable[..., Scenario],
    mounts: Mounts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk fills after the run began, which looks for room for one checkpoint."""
    monkeypatch.setattr("sharpgpt.runs.folder._require_room", lambda *_: None)
    small = scenario("small", max_steps=2, checkpoint_dir=str(tmp_path / "disk"))
    mounts.small(tmp_path / "disk", 64 << 10)
    code, printed = small.run_here()
    assert code == 1
    pattern = (
        r"error: The checkpoint of step 2 could not be written: \S+/disk/\S+/step_00000002: No "
        rf"space left on device {NEEDED_AND_FREE}\. Earlier checkpoints are whole; make room there"
    )
    assert re.match(pattern, printed.splitlines()[-1]), printed
    assert list((tmp_path / "disk").rglob("*step*")) == []


def test_a_profile_that_does_not_fit_costs_the_profile_alone(
    scenario: Callable[..., Scenario], mounts: Mounts, tmp_path: Path
) -> None:
    """The other files of the run folder fit, its trace does not."""
    disk = tmp_path / "disk"
    mounts.small(disk, 80 << 10)
    small = scenario(
        "small", max_steps=5, profile=2, output_dir=str(disk), checkpoint_dir=str(tmp_path / "c")
    )
    code, printed = small.run_here()
    assert code == 0, printed
    assert re.search(
        r"NOTE: the profile could not be written: \S+/disk/run/profile/trace\.json\.gz: No space "
        rf"left on device {FREE}; make room, .*\. Training continues\n",
        printed,
    ), printed
    assert "Finished 5 steps" in printed
    assert list(disk.glob("run/profile/*")) == []
