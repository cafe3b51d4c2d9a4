"""Saving in the background: a copy where memory allows one, else training waits."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sharpgpt.config import TrainingConfig
from sharpgpt.data.tokenizer import CharTokenizer
from sharpgpt.model.build import create_gpt2_model
from sharpgpt.runs import saver
from sharpgpt.runs.checkpoint import Checkpoint, CheckpointFolder, step_folder
from sharpgpt.runs.checkpoint_files import HostCopies
from sharpgpt.runs.saver import CheckpointSaver
from sharpgpt.runs.state import AfterStep, TrainingState
from sharpgpt.training.optimizer import create_optimizers
from sharpgpt.training.train import train
from tests.runs.broken_checkpoints import SETTINGS, newest

pytestmark = pytest.mark.usefixtures("quick_runs")
MakeConfig = Callable[..., TrainingConfig]


def test_without_memory_for_a_copy_training_waits_and_says_so(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_memory(self: HostCopies, tensors: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 TB")

    monkeypatch.setattr(HostCopies, "of", no_memory)
    result = train(tiny_config(**SETTINGS))
    assert len(list((result.run_folder / "checkpoints").iterdir())) == 3
    assert capsys.readouterr().out.count("NOTE: no memory for a copy") == 1


class Run:
    """A small model and its saver, without the training around them."""

    def __init__(self, checkpoints: Path, folder: Path) -> None:
        self.state: TrainingState = Checkpoint.verified(newest(checkpoints)).state
        self.after_step = AfterStep(val_ce_loss=None, best=None, due=[])
        self.model = create_gpt2_model(
            n_layer=1, n_head=2, n_embd=32, vocab_size=3, max_seq_length=8, end_of_text_id=None
        )
        self.optimizers = create_optimizers(self.model, TrainingConfig())
        self.train()
        self.folder = folder
        self.saver = CheckpointSaver(
            CheckpointFolder(folder, keep=9), causal_lm=self.model, optimizers=self.optimizers,
            tokenizer=CharTokenizer("abc"), max_seq_length=8, device=torch.device("cpu"),
            in_background=True, records=[],
        )  # fmt: skip

    def train(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = torch.randn_like(parameter)
        for optimizer in self.optimizers:
            optimizer.step()

    def save(self, step: int) -> None:
        self.saver.save(self.state.model_copy(update={"step": step}), self.after_step)

    def save_last(self, step: int) -> None:
        self.saver.save_last(self.state.model_copy(update={"step": step}), self.after_step)

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A weight and a moment of the optimizer, as they are now."""
        weight: Any = self.model.get_parameter("transformer.wte.weight")
        return weight.detach().clone(), self.optimizers[0].state[weight]["exp_avg"].clone()

    def saved(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        folder = step_folder(self.folder, step)
        name = "transformer.wte.weight"
        moments = load_file(folder / "training_state.safetensors")
        return load_file(folder / "model.safetensors")[name], moments[f"optimizer/{name}/exp_avg"]


@pytest.fixture
def run(checkpoints: Path, tmp_path: Path) -> Run:
    return Run(checkpoints, tmp_path / "saved")


def test_a_checkpoint_holds_the_tensors_of_its_step_while_training_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next saving waits for the one before, whose buffers it fills again."""
    may_write, original = threading.Event(), saver.write_checkpoint

    def slow(*arguments: Any, **keywords: Any) -> None:
        assert may_write.wait(30)
        original(*arguments, **keywords)

    monkeypatch.setattr(saver, "write_checkpoint", slow)
    first = run.tensors()
    run.save(1)
    run.train()
    second = run.tensors()
    next_one = threading.Thread(target=run.save, args=(2,))
    next_one.start()
    next_one.join(0.3)
    may_write.set()
    next_one.join()
    run.train()
    run.saver.close()
    for step, expected in ((1, first), (2, second)):
        pairs = zip(run.saved(step), expected, strict=True)
        assert all(torch.equal(found, true) for found, true in pairs)
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


def test_only_what_is_written_counts_as_saved(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one is written when the one of the same step has failed, and not a second time."""
    original, written = saver.write_checkpoint, list[str]()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saver, "write_checkpoint", full)
    run.save(3)
    run.saver.wait()
    assert not run.saver.has(3)
    monkeypatch.setattr(
        saver, "write_checkpoint",
        lambda path, *rest, **how: (written.append(path.name), original(path, *rest, **how)),
    )  # fmt: skip
    run.save_last(3)
    run.save_last(3)
    assert run.saver.has(3)
    assert not run.saver.has(4)
    run.save_last(4)
    assert written == ["step_00000003", "step_00000004"]
    run.saver.close()
