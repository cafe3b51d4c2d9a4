"""The forward with the sharpness loss in HuggingFace models: its gradient is the reference's."""

import copy
import inspect
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from sharpgpt.model.huggingface import restore, use_sharpness_loss
from sharpgpt.sharpness import SharpnessRows
from tests.model.causal_lms import (
    LENGTH,
    VOCABULARY,
    batch,
    both_models,
    dense_reference,
    gpt2,
    gradients,
    llama,
    relative,
)


@both_models
@pytest.mark.parametrize("penalty", ["non_max_sum", "neg_entropy"])
def test_the_gradient_is_the_references(make: Callable[..., Any], penalty: str) -> None:
    model, inputs = make().double(), batch()
    how = {"penalty": penalty, "penalty_weight": 0.4, "z_loss_weight": 0.1, "top_k": 3}
    how |= {"label_smoothing": 0.2}
    truth = dense_reference(model, inputs, **how)
    expected = gradients(model, truth.loss)
    use_sharpness_loss(model, chunk_size=7, **how)
    output = model(**inputs)
    assert output.logits is None
    assert output.loss.item() == pytest.approx(truth.loss.item(), rel=1e-10)
    assert relative(gradients(model, output.loss), expected) < 1e-9
    for name in (*SharpnessRows._fields, "num_rows"):
        given = getattr(model.sharpness_output, name)
        assert given.item() == pytest.approx(getattr(truth, name).item(), rel=1e-10), name
        assert not given.requires_grad
    assert not model.sharpness_output.loss.requires_grad


def test_gradient_checkpointing_changes_nothing() -> None:
    model, inputs = use_sharpness_loss(llama().train(), penalty_weight=0.4), batch()
    expected = gradients(model, model(**inputs).loss)
    model.activation_checkpointing_enable()
    assert relative(gradients(model, model(**inputs).loss), expected) < 1e-6


def test_autocast_is_no_worse_than_with_dense_logits() -> None:
    model, inputs = llama(), batch()
    truth = gradients(model, dense_reference(model, inputs, penalty_weight=0.4).loss)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dense = gradients(model, dense_reference(model, inputs, penalty_weight=0.4).loss)
        use_sharpness_loss(model, penalty_weight=0.4)
        ours = gradients(model, model(**inputs).loss)
    assert 0 < relative(ours, truth) < 1.1 * relative(dense, truth)


def test_it_compiles_in_one_piece_for_every_length() -> None:
    inputs = batch()
    model = use_sharpness_loss(llama(), penalty_weight=0.4, penalty_positions="N/2:N-2")
    torch._dynamo.reset()
    compiled: Any = torch.compile(model, backend="aot_eager", fullgraph=True)
    for length in (LENGTH, 12, 10):
        shorter = {name: tensor[:, :length] for name, tensor in inputs.items()}
        expected = gradients(model, model(**shorter).loss)
        entropy = model.sharpness_output.entropy.item()
        model.sharpness_output = None
        loss = compiled(shorter.pop("input_ids"), **shorter).loss
        assert relative(gradients(model, loss), expected) < 1e-6
        assert model.sharpness_output.entropy.item() == pytest.approx(entropy, rel=1e-6)


@both_models
def test_the_arguments_of_the_forward_go_where_they_went(make: Callable[..., Any]) -> None:
    model, inputs = make().eval(), batch()
    with torch.no_grad():  # at weights this small positions would hardly matter
        for weight in model.parameters():
            weight.mul_(5 if weight.ndim == 2 else 1)
    signature = inspect.signature(model.forward)
    embeds_BTD = model.get_input_embeddings()(inputs["input_ids"])
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((), {**inputs, "num_items_in_batch": torch.tensor(37)}),
        ((), {**inputs, "num_items_in_batch": 37}),
        ((), {**inputs, "position_ids": torch.arange(LENGTH).flip(0)[None].expand(8, -1)}),
        ((), {"inputs_embeds": embeds_BTD, "labels": inputs["labels"]}),
        ((), {**inputs, "shift_labels": inputs["labels"].roll(3, 1)}),
        ((inputs["input_ids"],), {"labels": inputs["labels"], "return_dict": False}),
        ((), {**inputs, "use_cache": True, "output_hidden_states": True}),
    ]
    expected = [model(*args, **kwargs) for args, kwargs in calls]
    use_sharpness_loss(model, penalty_weight=0.0)
    assert inspect.signature(model.forward) == signature
    for (args, kwargs), theirs in zip(calls, expected, strict=True):
        ours = model(*args, **kwargs)
        torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=0)
        assert isinstance(ours, tuple) == isinstance(theirs, tuple)
    # Each argument changed the loss but for the embeddings, which lack only the padding mask.
    plain = expected[-1].loss.item()
    for changed in (*expected[:3], expected[4]):
        assert abs(changed.loss.item() / plain - 1) > 1e-4
    assert ours.past_key_values.get_seq_length() == LENGTH
    torch.testing.assert_close(ours.hidden_states[-1], theirs.hidden_states[-1])
    model(**inputs, logits_to_keep=0)
    for name in ("logits_to_keep", "num_logits_to_keep"):
        with pytest.raises(ValueError, match="logits_to_keep"):
            model(**inputs, **{name: 1})


def test_penalty_positions_choose_the_rows() -> None:
    model, inputs = gpt2(), batch()
    every = dense_reference(model, inputs, per_row=True)
    rows_BS = every.rows.penalty.view(8, LENGTH - 1)
    use_sharpness_loss(model, penalty_weight=1.0, penalty_positions="2:N-6")
    loss = model(**inputs).loss
    penalty = rows_BS[:, 2 : LENGTH - 5].sum() / every.num_rows
    assert model.sharpness_output.penalty.item() == pytest.approx(penalty.item(), rel=1e-5)
    assert loss.item() == pytest.approx((every.ce + penalty).item(), rel=1e-5)
    model.sharpness_settings.penalty_positions = "N:N-2"
    with pytest.raises(ValueError, match="penalty_positions: given 'N:N-2'"):
        model(**inputs)
    use_sharpness_loss(model, penalty_weight=0.0, penalty_positions="0:N-2")
    assert model(**inputs).loss.item() == pytest.approx(every.ce.item(), rel=1e-5)
    with pytest.raises(ValueError, match="penalty_positions: given '0:N'"):
        use_sharpness_loss(model, penalty_positions="0:N")


def test_the_logits_are_never_held() -> None:
    """The largest single allocation of a forward and backward pass, as the profiler saw it."""
    vocab_size, num_rows = 4096, 8 * 63
    model = gpt2(vocab_size=vocab_size)
    input_ids_BT = torch.randint(vocab_size, (8, 64))

    def largest_allocation_bytes() -> int:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            model(input_ids=input_ids_BT, labels=input_ids_BT).loss.backward()
        return max(event.self_cpu_memory_usage for event in profiled.events())

    logits_bytes = 4 * num_rows * vocab_size
    assert largest_allocation_bytes() >= logits_bytes
    use_sharpness_loss(model, chunk_size=8)
    # The gradient of the weight is 1/16 of the logits here, two tiles of a chunk 1/32.
    assert largest_allocation_bytes() < logits_bytes / 10


@both_models
def test_generation_and_checkpoints_do_not_know_of_it(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model, prompt_BT = make().eval(), batch(2)["input_ids"][:, :4]
    name = type(model).__name__
    sampling = {"max_new_tokens": 6, "do_sample": False, "attention_mask": prompt_BT >= 0}
    expected = model.generate(prompt_BT, **sampling)
    logits = model(input_ids=prompt_BT).logits
    use_sharpness_loss(model)
    assert torch.equal(model.generate(prompt_BT, **sampling), expected)
    assert torch.equal(model(input_ids=prompt_BT).logits, logits)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == [name]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(loaded).__name__ == name
    torch.testing.assert_close(loaded(input_ids=prompt_BT).logits, logits, atol=1e-6, rtol=1e-5)
    assert loaded(input_ids=prompt_BT, labels=prompt_BT).logits is not None


def test_an_auxiliary_loss_asked_for_later_is_refused_then() -> None:
    model, inputs = use_sharpness_loss(llama("mixtral", num_local_experts=2)), batch()
    assert model(**inputs).loss > 0
    with pytest.raises(ValueError, match="output_router_logits"):
        model(**inputs, output_router_logits=True)
    model.config.output_router_logits = True
    with pytest.raises(ValueError, match="output_router_logits"):
        model(**inputs)


def test_restore_takes_it_back() -> None:
    model, inputs = llama(), batch()
    original, attributes, state = type(model), set(vars(model)), copy.deepcopy(model.state_dict())
    theirs = model(**inputs)
    assert use_sharpness_loss(model, penalty_weight=0.4) is model
    assert model(**inputs).loss.item() != pytest.approx(theirs.loss.item(), rel=1e-3)
    assert restore(model) is model
    assert type(model) is original
    assert set(vars(model)) == attributes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(**inputs).loss, theirs.loss)
    with pytest.raises(ValueError, match="without the sharpness loss"):
        restore(model)


def test_a_copy_has_its_own_weights_and_settings() -> None:
    """A function set on the instance would go on using the weights of the original."""
    model, inputs = use_sharpness_loss(gpt2()), batch()
    model(**inputs)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.zero_()
    twin.sharpness_settings.penalty_weight = 0.0
    assert twin(**inputs).loss.item() == pytest.approx(torch.tensor(float(VOCABULARY)).log().item())
    assert model.sharpness_settings.penalty_weight == 0.01


def test_a_wrapper_with_a_base_model_is_looked_into() -> None:
    """As PEFT's models are."""

    class Wrapper(nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.inner = model

        def get_base_model(self) -> Any:
            return self.inner

    wrapper: Any = Wrapper(gpt2())
    assert use_sharpness_loss(wrapper) is wrapper
    assert wrapper.inner(**batch()).logits is None
    restore(wrapper)
    assert wrapper.inner(**batch()).logits is not None


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "granite", "logits_scaling": 8.0}, "not a plain linear map"),
        (
            {"model_type": "mixtral", "num_local_experts": 2, "output_router_logits": True},
            "not the cross-entropy of its logits",
        ),
    ],
)
def test_a_model_with_another_loss_is_refused_and_left_as_it_was(
    changes: dict[str, Any], message: str
) -> None:
    model = llama(**changes).train()
    model.lm_head.eval()
    original, state = type(model), copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        use_sharpness_loss(model)
    assert type(model) is original
    assert (model.training, model.lm_head.training) == (True, False)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_what_is_no_causal_lm_with_a_linear_head_is_refused() -> None:
    with pytest.raises(ValueError, match="given a Linear, allowed are causal LMs"):
        use_sharpness_loss(nn.Linear(3, 4))
    model = llama()
    model.forward = model.forward
    with pytest.raises(ValueError, match="has been replaced already"):
        use_sharpness_loss(model)
    del model.forward
    use_sharpness_loss(model)
    # As an adapter put around it later would be.
    model.lm_head = nn.Sequential(model.lm_head)
    with pytest.raises(ValueError, match="Sequential, allowed is"):
        model(**batch())
    with pytest.raises(ValueError, match="given a OptimizedModule"):
        use_sharpness_loss(torch.compile(gpt2(), backend="eager"))
    with pytest.raises(ValueError, match="encoder-decoder"):
        use_sharpness_loss(bart())


def bart() -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    sizes = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 16, "vocab_size": VOCABULARY}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return BartForConditionalGeneration(BartConfig(**sizes, **heads, max_position_embeddings=32))


@both_models
def test_a_hook_added_later_is_noticed_at_the_next_loss(
    make: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The loss uses the weight of the output layer without calling it, so no hook has an effect."""
    model, inputs = use_sharpness_loss(make()), batch()
    seen: list[Any] = []
    harmless = model.lm_head.register_forward_hook(lambda _, _given, result: seen.append(result))
    model(**inputs)
    model(**inputs)
    assert caplog.text.count("does not call them") == 1
    seen.clear()
    for hook in (
        model.lm_head.register_forward_hook(lambda _, _given, result: result / 2),
        model.lm_head.register_forward_pre_hook(lambda _, given: (given[0] + 1,)),
    ):
        with pytest.raises(ValueError, match="not a plain linear map"):
            model(**inputs)
        hook.remove()
    harmless.remove()
    model(**inputs)
    # A parametrization is no such change: the weight that the loss reads is its result.
    torch.nn.utils.parametrizations.weight_norm(model.lm_head)
    truth = dense_reference(model, inputs, penalty_weight=0.01)
    expected = gradients(model, truth.loss)
    assert relative(gradients(model, model(**inputs).loss), expected) < 1e-5


def test_a_model_from_the_meta_device_is_checked_when_it_has_values() -> None:
    with torch.device("meta"):
        model = llama("granite", logits_scaling=8.0)
    use_sharpness_loss(model)
    model.to_empty(device="cpu").init_weights()
    with pytest.raises(ValueError, match="not a plain linear map"):
        model(**batch())


@pytest.mark.parametrize("nothing", [0, 0.0, torch.tensor(0), torch.tensor(0.0)])
def test_a_step_without_any_label_changes_nothing(nothing: Any) -> None:
    """HuggingFace's own loss is NaN there, and so would be every parameter after the step."""
    model, inputs = use_sharpness_loss(gpt2(), penalty_weight=0.4), batch()
    labels = torch.full_like(inputs["labels"], -100)
    loss = model(**inputs | {"labels": labels}, num_items_in_batch=nothing).loss
    assert loss.item() == 0
    assert gradients(model, loss).abs().max() == 0


@pytest.mark.parametrize("positions", ["N/2:N-2", "3:N-2", "0:N-4", "40:50", "N-4:2"])
def test_a_batch_too_short_for_the_positions_has_no_penalty(
    positions: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, inputs = gpt2(), {name: tensor[:, :2] for name, tensor in batch().items()}
    expected = dense_reference(model, inputs)
    use_sharpness_loss(model, penalty_weight=0.4, penalty_positions=positions)
    for mode in (True, False, True):
        model.train(mode)
        output = model(**inputs)
        assert output.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
        assert model.sharpness_output.penalty.item() == 0
    assert caplog.text.count("not in a batch of 2 tokens") == 1
    assert model(**{name: tensor[:, :1] for name, tensor in inputs.items()}).loss.item() == 0


def test_called_again_it_changes_only_the_settings_that_are_given() -> None:
    model = use_sharpness_loss(gpt2(), penalty="neg_entropy", penalty_weight=0.4, chunk_size=7)
    settings = use_sharpness_loss(model, penalty_weight=0.2).sharpness_settings
    given = (settings.penalty, settings.penalty_weight, settings.chunk_size)
    assert given == ("neg_entropy", 0.2, 7)
    with pytest.raises(TypeError, match="penalty_wieght"):
        use_sharpness_loss(model, penalty_wieght=0.2)


def test_a_patched_model_can_be_pickled() -> None:
    model, inputs = use_sharpness_loss(gpt2(), penalty_weight=0.4), batch()
    expected = model(**inputs).loss.item()
    twin = pickle.loads(pickle.dumps(model))
    assert type(twin) is type(model)
    assert twin(**inputs).loss.item() == expected
    assert restore(twin)(**inputs).logits.shape == (8, LENGTH, VOCABULARY)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalty": "sharp"}, "penalty: given 'sharp'"),
        ({"top_k": VOCABULARY + 1}, "top_k: given 128"),
        ({"chunk_size": 0}, "chunk_size: given 0"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        use_sharpness_loss(gpt2(), **settings)


def test_importing_it_imports_nothing_of_transformers() -> None:
    code = (
        "import sys, sharpgpt.model.huggingface; "
        "print([*{'transformers', 'accelerate'} & {*sys.modules}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
