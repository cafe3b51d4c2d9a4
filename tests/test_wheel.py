"""A wheel built from the tree is the whole program: it trains from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import REPOSITORY


def run(*command: str, folder: Path, **variables: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", *command],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wheel_trains_and_reports_from_an_empty_folder(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(
        REPOSITORY / "sharpgpt", source / "sharpgpt", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    run(
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path / "dist"),
        folder=source,
    )
    (wheel,) = (tmp_path / "dist").glob("sharpgpt-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (empty := tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("All the world's a stage.\n" * 400, encoding="utf-8")
    run(
        "-m", "sharpgpt", "train", "--dataset", str(tmp_path / "text.txt"), "--tokenizer", "char",
        "--n_layer", "1", "--n_head", "2", "--n_embd", "16", "--max_seq_length", "16",
        "--batch_size", "2", "--gradient_accumulation_steps", "1", "--max_steps", "2",
        "--warmup_steps", "0", "--generate_max_length", "8", "--run_name", "wheel", "--no_wandb",
        "--device", "cpu", folder=empty, PYTHONPATH=str(tmp_path / "site"),
    )  # fmt: skip
    folder = empty / "outputs" / "wheel"
    assert "</html>" in (folder / "report.html").read_text(encoding="utf-8")
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    assert environment["command"], "environment.json names the command"
