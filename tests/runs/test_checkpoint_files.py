"""The files of a checkpoint: what is saved is what is loaded, and nothing foreign is used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.model.build import create_gpt2_model
from sharpgpt.runs import checkpoint_files
from sharpgpt.runs.checkpoint import Checkpoint, CheckpointFolder
from sharpgpt.runs.checkpoint_files import (
    STATE_TENSORS,
    HostCopies,
    check_shapes,
    load_tensors,
    training_tensors,
)
from sharpgpt.runs.manifest import DamagedCheckpointError
from sharpgpt.runs.state import AfterStep
from sharpgpt.training.optimizer import create_optimizers
from sharpgpt.training.train import train
from tests.runs.broken_checkpoints import (
    FILES,
    newest,
    reseal,
)
from tests.system_calls import SystemCalls

pytestmark = pytest.mark.usefixtures("quick_runs")
MakeConfig = Callable[..., TrainingConfig]
CPU = torch.device("cpu")
UNUSED = "transformer.h.0.mlp.c_fc.weight"


def model_and_optimizers() -> tuple[nn.Module, list[Optimizer]]:
    causal_lm = create_gpt2_model(
        n_layer=1, n_head=2, n_embd=32, vocab_size=64, max_seq_length=32, end_of_text_id=None
    )
    return causal_lm, create_optimizers(causal_lm, TrainingConfig(optimizer="muon"))


@pytest.mark.parametrize("steps", [0, 2])
def test_state_is_saved_and_loaded_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Two optimizers, tied weights, a parameter that never had a gradient; before the first step
    there is no state, and saving makes none."""
    causal_lm, optimizers = model_and_optimizers()
    for _ in range(steps):
        for name, parameter in causal_lm.named_parameters():
            parameter.grad = None if name == UNUSED else torch.randn_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
    weights = {name: value.clone() for name, value in causal_lm.state_dict().items()}
    saved = training_tensors(causal_lm, optimizers, CPU)
    assert all(torch.equal(weights[name], value) for name, value in causal_lm.state_dict().items())
    stateful = {name.split("/")[1] for name in saved if name.startswith("optimizer/")}
    names = {name for name, _ in causal_lm.named_parameters()} - {UNUSED}
    assert stateful == (names if steps else set())

    save_file(saved, tmp_path / STATE_TENSORS)
    other, others = model_and_optimizers()
    monkeypatch.setattr(checkpoint_files, "_read_weights", lambda *_: weights)
    load_tensors(tmp_path, other, others, CPU)
    loaded = training_tensors(other, others, CPU)
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], value) for name, value in saved.items())
    assert all(torch.equal(weights[name], value) for name, value in other.state_dict().items())
    for group in others[1].param_groups:
        assert group["lr"] == TrainingConfig().learning_rate


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., None]:
    def apply(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = change(tensors[name])

    return apply


WEIGHT, MOMENT = "transformer.h.0.mlp.c_fc.weight", "optimizer/transformer.wte.weight/exp_avg"

HOSTILE_TENSORS: list[tuple[str, Callable[..., Any], str]] = [
    ("model", changed(WEIGHT, lambda t: t.T.contiguous()), "mismatched|size"),
    ("model", changed(WEIGHT, lambda t: t[:1].contiguous()), "mismatched|size"),
    ("model", changed(WEIGHT, torch.Tensor.half), "type F16"),
    ("model", changed(WEIGHT, torch.Tensor.long), "type I64"),
    ("model", lambda t: t.pop(WEIGHT), "missing_keys"),
    ("model", lambda t: t.update(extra=torch.zeros(3)), "unexpected_keys"),
    ("model", lambda t: t.clear(), "missing_keys|metadata"),
    ("training_state", changed(MOMENT, lambda t: t[:1].contiguous()), "is not its own"),
    ("training_state", changed(MOMENT, lambda t: t[None].contiguous()), "is not its own"),
    ("training_state", changed(MOMENT, torch.Tensor.double), "is not its own"),
    ("training_state", lambda t: t.pop(MOMENT), "exp_avg is missing"),
    ("training_state", lambda t: t.update({"optimizer/no/exp_avg": torch.zeros(3)}), "its own"),
    ("training_state", lambda t: t.update({MOMENT + "/x": torch.zeros(3)}), "is not its own"),
    ("training_state", lambda t: t.pop("random/cpu"), "random/cpu is missing"),
    ("training_state", changed("random/cpu", lambda t: t[:9].clone()), "RNG state"),
    ("training_state", changed("random/cpu", lambda t: t.float()), "is not its own"),
]


@pytest.mark.parametrize(("name", "change", "message"), HOSTILE_TENSORS)
def test_tensors_of_another_kind_are_refused_before_any_is_used(
    checkpoints: Path, name: str, change: Callable[..., Any], message: str
) -> None:
    from safetensors.torch import load_file, save_file

    path = newest(checkpoints) / f"{name}.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    reseal(newest(checkpoints))
    Checkpoint.verified(newest(checkpoints))
    causal_lm = create_gpt2_model(
        n_layer=1, n_head=2, n_embd=32, vocab_size=64, max_seq_length=32, end_of_text_id=None
    )
    optimizers = create_optimizers(causal_lm, TrainingConfig())
    before = {key: value.clone() for key, value in causal_lm.state_dict().items()}
    with pytest.raises(UserError, match=r"cannot be continued with these settings") as caught:
        load_tensors(newest(checkpoints), causal_lm, optimizers, torch.device("cpu"))
    assert any(part in str(caught.value) for part in message.split("|")), str(caught.value)
    after = causal_lm.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not optimizers[0].state


def test_a_config_json_of_any_size_asks_for_nothing(checkpoints: Path) -> None:
    """The architecture is the run's own; a stranger's config.json could ask for a terabyte."""
    path = newest(checkpoints) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"n_embd": 10**9, "n_layer": 10**9, "auto_map": {"AutoModel": "evil.py--Model"}}
    path.write_text(json.dumps(config), encoding="utf-8")
    causal_lm = create_gpt2_model(
        n_layer=1, n_head=2, n_embd=32, vocab_size=64, max_seq_length=32, end_of_text_id=None
    )
    load_tensors(
        newest(checkpoints), causal_lm, create_optimizers(causal_lm, TrainingConfig()),
        torch.device("cpu"),
    )  # fmt: skip


def test_a_checkpoint_is_on_the_disk_before_the_one_before_it_is_removed(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of the system calls of two savings, of which the second prunes.

    The folder of the records was not flushed, so they could be gone where the checkpoint was not;
    nor that of the checkpoints between the renaming of an old one and the removal of its files.
    """
    (tmp_path / "outputs").mkdir()
    calls = SystemCalls(tmp_path / "outputs", monkeypatch)
    settings = {"save_interval": 1, "keep_checkpoints": 1, "background_saving": False}
    train(tiny_config(max_steps=2, n_layer=1, generate_interval=1, **settings))
    events = calls.events
    assert calls.unflushed == []
    assert events[:2] == ["flush .", "flush tiny"], "the folders of the run are safe first"
    renamed = 0
    for step in (1, 2):
        name = f"step_{step:08d}"
        unfinished = f"tiny/checkpoints/.unfinished_{name}"
        renamed = events.index(f"rename {unfinished} -> tiny/checkpoints/{name}")
        flushed = events[events.index(f"flush {unfinished}") - len(FILES) : renamed]
        assert sorted(flushed[: len(FILES)]) == sorted(f"flush {unfinished}/{f}" for f in FILES)
        records = ["flush tiny/metrics.jsonl", "flush tiny/samples.jsonl"]
        assert flushed[len(FILES) :] == [f"flush {unfinished}", *records, "flush tiny"]
        assert events[renamed + 1] == "flush tiny/checkpoints"
    old, going = "tiny/checkpoints/step_00000001", "tiny/checkpoints/.removed_step_00000001"
    place = events.index(f"rename {old} -> {going}")
    assert place > renamed + 1
    assert events[place + 1] == "flush tiny/checkpoints"
    removed = [i for i, event in enumerate(events) if event.startswith(f"remove {going}")]
    assert removed[0] == place + 2
    assert events[removed[-1]] == f"remove {going}"


def test_what_is_recorded_later_replaces_the_manifest_whole(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = SystemCalls(checkpoints, monkeypatch)
    CheckpointFolder(checkpoints).amend(6, AfterStep(val_ce_loss=0.5, best=None, due=[]))
    manifest = "step_00000006/checkpoint.json"
    temporary = "step_00000006/.checkpoint.json.tmp"
    assert calls.events == [
        f"flush {temporary}", f"rename {temporary} -> {manifest}", "flush step_00000006",
    ]  # fmt: skip
    assert calls.unflushed == []
    assert Checkpoint.verified(newest(checkpoints)).after_step.val_ce_loss == 0.5


def test_copies_in_host_memory_use_the_same_buffers_and_share_what_was_shared() -> None:
    copies = HostCopies()
    weight = torch.arange(6.0).reshape(2, 3)
    first = copies.of({"a": weight, "tied": weight, "t": weight.T})
    assert first["a"] is first["tied"]
    assert torch.equal(first["t"], weight.T)
    weight += 1
    assert not torch.equal(first["a"], weight)
    second = copies.of({"a": weight, "tied": weight, "t": weight.T})
    assert torch.equal(second["a"], weight)
    assert second["a"].data_ptr() == first["a"].data_ptr()


def test_weights_that_cannot_be_read_are_a_damaged_checkpoint(tmp_path: Path) -> None:
    """A header that is no JSON, in a checkpoint from anyone, was a SafetensorError."""
    (tmp_path / "model.safetensors").write_bytes(b"\x04\0\0\0\0\0\0\0null")
    with pytest.raises(DamagedCheckpointError, match=r"model\.safetensors: .*invalid JSON"):
        check_shapes(tmp_path, nn.Linear(1, 1))
