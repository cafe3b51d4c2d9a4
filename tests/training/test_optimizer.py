"""Who optimises what, and with which weight decay."""

import pytest

from sharpgpt.config import TrainingConfig
from sharpgpt.model.build import create_gpt2_model
from sharpgpt.training.optimizer import create_optimizers, set_learning_rate


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
    set_learning_rate(optimizers, 0.125)
    assert {group["lr"] for group in groups} == {0.125}


def test_muon_leaves_embeddings_and_output_layer_to_adamw() -> None:
    model = create_gpt2_model(n_layer=2, n_head=2, n_embd=32, vocab_size=65, max_seq_length=16)
    muon, adamw = create_optimizers(model, TrainingConfig(optimizer="muon"))
    names = {id(p): name for name, p in model.named_parameters()}
    by_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    by_adamw = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert len(by_muon) == 2 * 4
    assert all(".h." in name and name.endswith("weight") for name in by_muon)
    assert {"transformer.wte.weight", "transformer.wpe.weight"} <= by_adamw
