"""What the tests share: a small run on the stand-in text, without a network."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpgpt.config import TrainingConfig
from tests.forked_python import ENVIRONMENT

pytest_plugins = ["tests.made_up_run"]

REPOSITORY = Path(__file__).resolve().parents[1]


def committed_configurations() -> list[Path]:
    """The settings files of configs/, without the sweep, which is W&B's."""
    return sorted(
        set((REPOSITORY / "configs").glob("*.yaml")) - {REPOSITORY / "configs/sweep.yaml"}
    )


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two test processes share two cores; sums are also the same in every test."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def text_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, text_cache: Path) -> None:
    monkeypatch.setenv("SHARPGPT_OFFLINE", "1")
    monkeypatch.setenv("SHARPGPT_CACHE", str(text_cache))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def tiny_config(tmp_path: Path) -> Callable[..., TrainingConfig]:
    """A configuration of a model that trains in a second; keyword arguments change settings."""

    def make(**changes: Any) -> TrainingConfig:
        settings = {
            "tokenizer": "char",
            "n_layer": 2,
            "n_head": 2,
            "n_embd": 32,
            "max_seq_length": 32,
            "batch_size": 8,
            "gradient_accumulation_steps": 1,
            "max_steps": 20,
            "learning_rate": 3e-3,
            "warmup_steps": 2,
            "log_interval": 5,
            "eval_interval": 10,
            "eval_max_blocks": 16,
            "generate_interval": 0,
            "num_generate_samples": 1,
            "generate_max_length": 12,
            "save_interval": 0,
            "num_workers": 0,
            "use_wandb": False,
            "device": "cpu",
            "output_dir": str(tmp_path / "outputs"),
            "run_name": "tiny",
        }
        return TrainingConfig.from_dict(settings | changes)

    return make


def pytest_configure() -> None:
    """Ctrl-C as in a terminal; a shell starts its background jobs with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def command_environment(text_cache: Path) -> dict[str, str]:
    """The environment of a subprocess that runs one of the project's commands.

    Without what imports have put into this process's since it started, as torch's compiler does.
    """
    return {
        **ENVIRONMENT,
        "SHARPGPT_OFFLINE": "1",
        "SHARPGPT_CACHE": str(text_cache),
        "WANDB_MODE": "offline",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def make_runs_quick(patch: pytest.MonkeyPatch) -> None:
    """Plots, and measuring the machine, are most of a tiny run's time; no run fails by them."""

    def blank_page(run_folder: Path) -> Path:
        page = run_folder / "report.html"
        page.write_text("", encoding="utf-8")
        return page

    patch.setattr("sharpgpt.training.result.write_report", blank_page)
    patch.setattr("sharpgpt.training.build.peak_flops", lambda _: (1e12, "none"))


@pytest.fixture
def quick_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    make_runs_quick(monkeypatch)


def blank_picture(figure: object, target: Any, name: str, **_: object) -> None:
    """In place of `sharpgpt.report.drawing._save`, which is most of the time of a page."""
    if isinstance(target, Path):
        target.touch()
    else:
        target.write('<svg viewBox="0 0 1 1"></svg>')


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpgpt.report.drawing._save", blank_picture)


@pytest.fixture
def no_picture_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures as files, beside those on the page, are most of the time of a page over models."""
    for page in ("comparison", "evaluation"):
        monkeypatch.setattr(f"sharpgpt.report.{page}.save_all", lambda *_: None)
