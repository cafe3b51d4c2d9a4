"""The soft cap of a model's config, in models that apply it and in models that do not."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from sharpgpt.model.head import head_problem
from sharpgpt.model.huggingface import restore, use_sharpness_loss
from sharpgpt.model.lm import SharpnessLM
from sharpgpt.model.softcap import (
    apply_softcap,
    set_softcap,
    softcap_of,
    transformers_caps,
)
from tests.model.causal_lms import batch, dense_reference, gpt2, gradients, llama, relative

GEMMA = {"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 0.05}


def loud(model: Any) -> Any:
    """Logits far beyond the caps below."""
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    return model


def test_which_architectures_cap_themselves() -> None:
    assert [transformers_caps(name) for name in ("gpt2", "llama", "gemma2", "gemma3_text")] == [
        False, False, True, True,
    ]  # fmt: skip
    assert not transformers_caps("no such architecture")


def test_a_model_that_ignores_its_cap_gets_it_once() -> None:
    model, inputs = loud(gpt2()), batch()
    plain_BTV = model(**inputs).logits
    names = list(model.state_dict())
    set_softcap(model, 2.0)
    apply_softcap(model)  # again
    assert softcap_of(model) == model.config.to_dict()["final_logit_softcapping"] == 2.0
    assert head_problem(model) is None
    torch.testing.assert_close(model(**inputs).logits, 2 * (plain_BTV / 2).tanh())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(**inputs).logits, model(**inputs).logits)
    assert list(model.state_dict()) == names
    set_softcap(model, None)
    assert torch.equal(model(**inputs).logits, plain_BTV)
    assert softcap_of(model) is None
    assert type(model.lm_head) is nn.Linear


@pytest.mark.parametrize("value", ["30", 0, -1.0, float("nan"), True])
def test_a_config_of_anyone_is_checked(value: Any) -> None:
    model = gpt2()
    model.config.final_logit_softcapping = value
    with pytest.raises(ValueError, match="final_logit_softcapping of the model's config: given"):
        apply_softcap(model)


@pytest.mark.parametrize("loss", ["fused", "reference"])
@pytest.mark.parametrize("changes", [{}, GEMMA])
def test_the_loss_is_of_the_models_own_logits(changes: dict[str, Any], loss: str) -> None:
    model = loud(llama(**changes)).eval()
    if not changes:
        set_softcap(model, 0.05)
    inputs = {"input_ids": batch()["input_ids"]}
    inputs["labels"] = inputs["input_ids"]
    truth = dense_reference(model, inputs, penalty="neg_entropy", penalty_weight=0.3)
    lm = SharpnessLM(model, penalty="neg_entropy", top_k=5, loss=loss)
    output = lm(inputs["input_ids"], penalty_weight=0.3)
    torch.testing.assert_close(output.loss, truth.loss)
    expected = gradients(model, truth.loss)
    assert relative(gradients(model, output.loss), expected) < 1e-4


@pytest.mark.parametrize("make", [gpt2, lambda: llama(**GEMMA)])
def test_other_trainers_have_the_models_own_cap_or_another(make: Any) -> None:
    model, inputs = loud(make()).eval(), batch()
    own = softcap_of(model)
    own_BTV, own_head = model(**inputs).logits, type(model.get_output_embeddings())
    for cap in (None, 0.1, 0.2, None):
        use_sharpness_loss(model, logit_softcap=cap, penalty_weight=0.2, eval_logits=True)
        assert softcap_of(model) == (own if cap is None else cap)
        truth = dense_reference(model, inputs, penalty_weight=0.2)
        output = model(**inputs)
        torch.testing.assert_close(output.loss, truth.loss)
        unlabelled = model(**{k: v for k, v in inputs.items() if k != "labels"})
        torch.testing.assert_close(output.logits, unlabelled.logits)
        if cap is not None:
            assert 0.9 * cap < output.logits.abs().max() <= cap
    use_sharpness_loss(model, logit_softcap=0.1)
    restore(model)
    assert torch.equal(model(**inputs).logits, own_BTV)
    assert softcap_of(model) == own
    assert type(model.get_output_embeddings()) is own_head


def test_a_model_that_is_refused_is_left_without_the_cap() -> None:
    model = llama(model_type="granite", logits_scaling=8.0)
    with pytest.raises(ValueError, match="not a plain linear map"):
        use_sharpness_loss(model, logit_softcap=0.1)
    assert not hasattr(model.config, "final_logit_softcapping")
    assert type(model.lm_head) is nn.Linear
    with pytest.raises(ValueError, match="logit_softcap: given 0"):
        use_sharpness_loss(gpt2(), logit_softcap=0)
