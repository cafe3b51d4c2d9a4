"""Who optimises what, and with which weight decay."""

import pytest
import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.model.build import create_gpt2_model
from sharpgpt.training.optimizer import create_optimizers, set_step_values, state_bytes
from sharpgpt.training.schedule import step_values


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_once_and_decay_on_matrices_only(optimizer: str) -> None:
    model = create_gpt2_model(n_layer=2, n_head=2, n_embd=32, vocab_size=65, max_seq_length=16)
    config = TrainingConfig.from_dict({"optimizer": optimizer, "weight_decay": 0.3})
    optimizers = create_optimizers(model, config)
    groups = [group for each in optimizers for group in each.param_groups]
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    for group in groups:
        assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] == 0.3}
    set_step_values(optimizers, step_values(0, 10, config))
    assert {group["lr"] for group in groups} == {config.learning_rate / config.warmup_steps}


def test_muon_leaves_embeddings_and_output_layer_to_adamw() -> None:
    model = create_gpt2_model(n_layer=2, n_head=2, n_embd=32, vocab_size=65, max_seq_length=16)
    muon, adamw = create_optimizers(model, TrainingConfig(optimizer="muon"))
    names = {id(p): name for name, p in model.named_parameters()}
    by_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    by_adamw = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert len(by_muon) == 2 * 4
    assert all(".h." in name and name.endswith("weight") for name in by_muon)
    assert {"transformer.wte.weight", "transformer.wpe.weight"} <= by_adamw


def test_the_settings_of_muon_reach_it_and_not_adamw() -> None:
    model = create_gpt2_model(n_layer=2, n_head=2, n_embd=32, vocab_size=65, max_seq_length=16)
    config = TrainingConfig(
        optimizer="muon", learning_rate=1e-3, muon_learning_rate=8e-3, muon_momentum=0.9,
        muon_momentum_warmup_steps=10, muon_nesterov=False, weight_decay=0.3,
        muon_weight_decay=0.0, warmup_steps=4, lr_schedule="linear", min_lr_ratio=0.0,
    )  # fmt: skip
    muon, adamw = create_optimizers(model, config)
    assert type(muon) is torch.optim.Muon, "PyTorch's own, where it has all that is asked for"
    (group,) = muon.param_groups
    assert (group["nesterov"], group["weight_decay"], group["momentum"]) == (False, 0.0, 0.9)
    assert group["lr"] == 8e-3
    assert {one["weight_decay"] for one in adamw.param_groups} == {0.3, 0.0}
    for step, rate, momentum in ((0, 0.25, 0.85), (5, 54 / 55, 0.875), (59, 0.0, 0.9)):
        set_step_values([muon, adamw], step_values(step, 60, config))
        assert group["lr"] == pytest.approx(8e-3 * rate)
        assert group["momentum"] == pytest.approx(momentum)
        assert [one["lr"] for one in adamw.param_groups] == pytest.approx([1e-3 * rate] * 2)


@pytest.mark.parametrize("normalization", ["none", "neuron"])
def test_the_bytes_of_the_state_are_those_that_a_checkpoint_has(normalization: str) -> None:
    model = create_gpt2_model(n_layer=2, n_head=2, n_embd=32, vocab_size=65, max_seq_length=16)
    config = TrainingConfig.from_dict({"optimizer": "muon", "muon_normalization": normalization})
    optimizers = create_optimizers(model, config)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    tensors = [
        tensor
        for optimizer in optimizers
        for state in optimizer.state.values()
        for name, tensor in state.items()
        if name != "step"
    ]
    assert state_bytes(model, config) == sum(tensor.nbytes for tensor in tensors)
