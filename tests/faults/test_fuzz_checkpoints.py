"""Checkpoint folders, fuzzed: taken as they were written, or refused in one clear message."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sharpgpt.commands.main import train_command
from sharpgpt.config import TrainingConfig
from sharpgpt.data.load import load_data
from sharpgpt.model.build import create_model
from sharpgpt.runs.checkpoint_files import load_tensors
from sharpgpt.runs.resolve import resolve_checkpoint
from sharpgpt.runtime.device import choose_device
from sharpgpt.runtime.distributed import Processes
from sharpgpt.training.optimizer import create_optimizers
from sharpgpt.training.setup import Setup
from tests.faults.broken_checkpoints import checkpoint_plans, sealer
from tests.faults.broken_folders import Files, Plan, write_folder
from tests.faults.fuzz import fuzz, message_of, require_clear, watched
from tests.faults.harness import Scenario, command_here, flags


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, command_environment: Mapping[str, str]
) -> Scenario:
    """A finished run of ten steps."""
    scenario = Scenario(
        tmp_path_factory.mktemp("whole") / "run", command_environment, {"max_steps": 10}
    )
    scenario.finish(here=True)
    return scenario


@pytest.fixture(scope="module")
def files(whole: Scenario) -> Files:
    """The files of its last checkpoint."""
    return Files.of(whole.checkpoints / "step_00000010")


def is_untouched(folder: Path, files: Files) -> bool:
    """Whether every file that was written has the bytes that were written."""
    return all(
        (folder / name).is_file()
        and not (folder / name).is_symlink()
        and (folder / name).read_bytes() == data
        for name, data in files.items()
    )


def loader(whole: Scenario) -> Callable[[Path], None]:
    """A function that puts a checkpoint into a run's model and optimizers, as resuming does."""
    config = TrainingConfig.from_dict(whole.settings | {"resume": None})
    device = choose_device(config)
    data = load_data(
        dataset=config.dataset, tokenizer=config.tokenizer, max_seq_length=config.max_seq_length
    )
    causal_lm = create_model(config, data.tokenizer.vocab_size, data.tokenizer.end_of_text_id)
    setup = Setup(config, device, Processes(), data=data, causal_lm=causal_lm)
    optimizers = create_optimizers(causal_lm, config)

    def load(folder: Path) -> None:
        checkpoint = resolve_checkpoint(folder, setting="resume")
        setup.accepted_changes(checkpoint.state)
        load_tensors(checkpoint.path, causal_lm, optimizers, torch.device("cpu"))

    return load


def test_checkpoints(whole: Scenario, files: Files, sandbox: Path, is_long: bool) -> None:
    load, seal = loader(whole), sealer(files)
    load(whole.checkpoints / "step_00000010")

    def case(plan: Plan) -> str:
        folder = sandbox / "checkpoint"
        shutil.rmtree(folder, ignore_errors=True)
        write_folder(folder, files, plan, seal)
        with watched(sandbox):
            is_accepted = message_of(lambda: load(folder)) is None
        if is_accepted and not plan.is_sealed:
            assert is_untouched(folder, files), "another model than was saved"
        return "accepted" if is_accepted else "refused"

    fuzz("checkpoints", checkpoint_plans(files), case, is_long=is_long)


def test_resumed_runs(whole: Scenario, files: Files, sandbox: Path, is_long: bool) -> None:
    """The whole command, which forks a checkpoint and trains a step."""
    changes = {"output_dir": str(sandbox / "out"), "run_name": "fork", "max_steps": 11}
    settings: dict[str, Any] = whole.settings | changes | {"resume": str(sandbox / "checkpoint")}
    argv, seal = [*flags(settings), "--allow_config_change"], sealer(files)

    def case(plan: Plan) -> str:
        for name in ("checkpoint", "out"):
            shutil.rmtree(sandbox / name, ignore_errors=True)
        write_folder(sandbox / "checkpoint", files, plan, seal)
        with watched(sandbox):
            code, printed = command_here(train_command, argv)
        assert code in (0, 1), printed
        assert "Traceback" not in printed
        require_clear(printed)
        if code:
            assert "error: " in printed
        else:
            (made,) = (sandbox / "out" / "fork" / "checkpoints").glob("step_*")
            assert load_file(made / "model.safetensors")
        return "trained" if code == 0 else "refused"

    fuzz("resumed runs", checkpoint_plans(files), case, is_long=is_long)
