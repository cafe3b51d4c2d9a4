"""Every command expands `~`, $NAME and ${NAME} in every path, typed or in a file."""

from pathlib import Path

import pytest

from sharpgpt.commands.main import main
from sharpgpt.config import TrainingConfig
from tests.conftest import make_runs_quick

TINY = {
    "dataset": "~/text.txt", "tokenizer": "char", "n_layer": 1, "n_head": 1, "n_embd": 16,
    "max_seq_length": 16, "max_steps": 2, "use_wandb": False, "device": "cpu", "num_workers": 0,
    "warmup_steps": 1, "num_generate_samples": 0, "output_dir": "$PLACE/runs", "run_name": "a",
    "eval_max_blocks": 2, "batch_size": 2, "penalty_weight": 0,
    "checkpoint_dir": "${PLACE}/checkpoints",
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a text, its prepared data, the settings of a run and the run."""
    home = tmp_path_factory.mktemp("home")
    (home / "text.txt").write_text("to be or not to be\n" * 50)
    with pytest.MonkeyPatch.context() as patch:
        _in_home(home, patch)
        make_runs_quick(patch)
        TrainingConfig.from_dict(TINY).to_yaml("~/run.yaml")
        assert main(["train", "--config", "~/run.yaml"]) == 0
        prepare = "prepare --dataset ~/text.txt --tokenizer char --num_workers 0"
        assert main([*prepare.split(), "--output", "$PLACE/shards"]) == 0
    return home


def _in_home(home: Path, patch: pytest.MonkeyPatch) -> None:
    (home / "elsewhere").mkdir(exist_ok=True)
    patch.chdir(home / "elsewhere")
    patch.setenv("HOME", str(home))
    patch.setenv("PLACE", str(home / "place"))
    patch.setenv("SHARPGPT_OFFLINE", "1")
    patch.setenv("SHARPGPT_CACHE", "$PLACE/cache")


@pytest.fixture(autouse=True)
def _home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _in_home(home, monkeypatch)


def test_settings(home: Path) -> None:
    """Nothing lies in a folder that is called ~ or $PLACE."""
    assert (home / "place/runs/a/config.yaml").is_file()
    assert (home / "place/checkpoints/a/step_00000002").is_dir()
    assert (home / "place/cache").is_dir()
    assert not any((home / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("command", "made"),
    [
        ("train --config ~/run.yaml --penalty_weight 0.1 --run_name b", "place/runs/b/report.html"),
        ("train --config ~/run.yaml --resume ~/place/runs/a --run_name d", None),
        ("train --config $PLACE/runs/a/config.yaml --resume auto", None),
        ("train --config ~/run.yaml --dataset $PLACE/shards --run_name c --dry_run", None),
        ("sample ~/place/runs/a --max_new_tokens 2", None),
        ("sample $PLACE/checkpoints/a/step_00000002 --max_new_tokens 2", None),
        ("view ~/text.txt --runs $PLACE/runs/a --output ~/seen.html", "seen.html"),
        ("view $PLACE/../text.txt --runs ~/place/runs/a/best --output $PLACE/v.html",
         "place/v.html"),
        ("evaluate ~/place/runs/a --data $PLACE/../text.txt --output ~/e --max_blocks 4 "
         "--num_texts 2 --num_tokens 8", "e/evaluation.json"),
        ("compare --baseline $PLACE/runs/a ~/place/runs/b --output ~/f "
         "--num_texts 2 --num_tokens 8",
         "f/comparison.html"),
        ("report ~/place/runs/a $PLACE/runs/a --output ~/runs.html", "runs.html"),
        ("report $PLACE/runs/a", "place/runs/a/report.html"),
        ("inspect ~/place/shards", None),
        ("push $PLACE/runs/a me/model --dry_run ~/published --evaluation ~/e/evaluation.json",
         "published/README.md"),
    ],
)  # fmt: skip
def test_arguments(
    home: Path, command: str, made: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.split()) == 0, capsys.readouterr().err
    assert made is None or (home / made).is_file()
    assert not any((home / "elsewhere").iterdir())


def test_what_does_not_exist_stays_as_it_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "$NOT_SET/run"]) == 1
    assert "$NOT_SET/run: no such folder" in capsys.readouterr().err
