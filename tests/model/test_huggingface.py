"""The sharpness loss in HuggingFace's Trainer: theirs at weight 0, the reference's otherwise."""

import copy
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from sharpgpt.model.build import create_gpt2_model
from sharpgpt.model.huggingface import restore, use_sharpness_loss
from sharpgpt.sharpness import reference

VOCABULARY = 127
LENGTH = 16


def gpt2(dropout: float = 0.0, vocab_size: int = VOCABULARY) -> Any:
    return create_gpt2_model(
        n_layer=2, n_head=2, n_embd=32, vocab_size=vocab_size, max_seq_length=64, dropout=dropout,
        end_of_text_id=None,
    )  # fmt: skip


def llama(model_type: str = "llama", **changes: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    torch.manual_seed(3)
    config = AutoConfig.for_model(model_type, **sizes | changes)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


both_models = pytest.mark.parametrize("make", [gpt2, llama])


def padded_examples(count: int = 8) -> list[dict[str, Tensor]]:
    """Sequences of 3 to 16 tokens, padded to 16, the first of the prompt not to be learned."""
    generator = torch.Generator().manual_seed(11)
    examples = []
    for index in range(count):
        input_ids_T = torch.randint(VOCABULARY, (LENGTH,), generator=generator)
        mask_T = torch.arange(LENGTH) < LENGTH - (index * 5) % 14
        labels_T = input_ids_T.masked_fill(~mask_T, -100)
        labels_T[: index % 3] = -100
        examples.append({"input_ids": input_ids_T, "attention_mask": mask_T, "labels": labels_T})
    return examples


def batch(count: int = 8) -> dict[str, Tensor]:
    examples = padded_examples(count)
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


def dense_reference(model: Any, inputs: dict[str, Tensor], **settings: Any) -> Any:
    logits_BTV = model(**{name: inputs[name] for name in inputs if name != "labels"}).logits
    return reference.sharpness_loss(
        logits_BTV[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten(), **settings
    )


def gradients(model: Any, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@torch.no_grad()
def relative(given: Tensor, truth: Tensor) -> float:
    return float((given - truth).norm() / truth.norm())


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[..., Any]:
    """TrainingArguments of a short run on the CPU."""

    def make(**changes: Any) -> Any:
        from transformers import TrainingArguments

        settings = {
            "output_dir": str(tmp_path / "trainer"), "report_to": "none", "use_cpu": True,
            "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1, "max_steps": 6,
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
            "learning_rate": 1e-2, "lr_scheduler_type": "constant", "seed": 4,
        }  # fmt: skip
        return TrainingArguments(**settings | changes)

    return make


def train(trainer: Any) -> list[dict[str, float]]:
    """The lines of the training loss."""
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line]


# In Trainer


@both_models
@pytest.mark.parametrize("accumulation", [1, 2])
def test_at_weight_zero_trainer_trains_as_without_us(
    make: Callable[..., Any], accumulation: int, arguments: Callable[..., Any]
) -> None:
    from transformers import Trainer

    from sharpgpt.model.huggingface import SharpnessTrainer

    settings = arguments(gradient_accumulation_steps=accumulation)
    kwargs = {"attention_dropout": 0.1} if make is llama else {"dropout": 0.1}
    plain, ours, patched = make(**kwargs), make(**kwargs), make(**kwargs)
    examples = padded_examples()
    theirs = train(Trainer(plain, settings, train_dataset=examples))
    # A Trainer draws its seeds when it is made, so each is made just before it trains.
    for model, make_trainer in [
        (ours, partial(SharpnessTrainer, ours, penalty_weight=0.0)),
        (patched, partial(Trainer, use_sharpness_loss(patched, penalty_weight=0.0))),
    ]:
        lines = train(make_trainer(args=settings, train_dataset=examples))
        assert len(lines) == len(theirs) == 6
        for line, their_line in zip(lines, theirs, strict=True):
            assert line["loss"] == pytest.approx(their_line["loss"], rel=1e-5)
            assert line["grad_norm"] == pytest.approx(their_line["grad_norm"], rel=1e-4)
        assert relative(model.lm_head.weight, plain.lm_head.weight) < 1e-4
    assert relative(plain.lm_head.weight, make(**kwargs).lm_head.weight) > 0.1  # it did train


def test_a_positive_weight_sharpens(arguments: Callable[..., Any]) -> None:
    from sharpgpt.model.huggingface import SharpnessTrainer

    entropies = []
    for penalty_weight in (0.0, 2.0):
        trainer = SharpnessTrainer(
            model_init=lambda: gpt2(), args=arguments(max_steps=16),
            train_dataset=padded_examples(), penalty="neg_entropy", penalty_weight=penalty_weight,
        )  # fmt: skip
        lines = train(trainer)
        entropies.append((lines[0]["entropy"], lines[-1]["entropy"]))
    assert entropies[0][0] == entropies[1][0]
    assert entropies[1][1] < 0.9 * entropies[0][1]


def test_the_logs_have_the_means_over_all_rows_since_the_line_before(
    arguments: Callable[..., Any],
) -> None:
    """At learning rate 0 every two steps of four sequences are the whole data set once."""
    from sharpgpt.model.huggingface import SharpnessTrainer

    model, penalty_weight = gpt2(), 0.3
    truth = dense_reference(model, batch(), penalty="top_k_mass", penalty_weight=penalty_weight)
    trainer = SharpnessTrainer(
        model, arguments(max_steps=4, logging_steps=2, learning_rate=0.0, eval_strategy="epoch",
                         per_device_eval_batch_size=3),
        train_dataset=padded_examples(), eval_dataset=padded_examples(),
        penalty="top_k_mass", penalty_weight=penalty_weight,
    )  # fmt: skip
    lines = train(trainer)
    evaluations = [line for line in trainer.state.log_history if "eval_loss" in line]
    assert len(lines) == len(evaluations) == 2
    expected = {
        "ce_loss": truth.ce,
        "penalty": truth.penalty,
        "avg_max_prob": truth.max_prob,
        "entropy": truth.entropy,
        "top_k_mass": truth.top_k_mass,
    }
    for name, value in expected.items():
        assert [line[name] for line in lines] == pytest.approx([value.item()] * 2, rel=1e-5), name
        given = [line["eval_" + name] for line in evaluations]
        assert given == pytest.approx([value.item()] * 2, rel=1e-5), name


def test_evaluation_makes_logits_only_for_metrics(arguments: Callable[..., Any]) -> None:
    from transformers import Trainer

    from sharpgpt.model.huggingface import SharpnessTrainer

    model, inputs = gpt2().eval(), batch(4)
    with torch.no_grad():
        expected = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    seen: list[Any] = []

    def metrics(prediction: Any) -> dict[str, float]:
        seen.append(torch.from_numpy(prediction.predictions))
        return {}

    given = [
        SharpnessTrainer(model, arguments(), compute_metrics=metrics),
        Trainer(use_sharpness_loss(model, eval_logits=True), arguments(), compute_metrics=metrics),
    ]
    for trainer in given:
        trainer.evaluate(padded_examples(4))
    assert len(seen) == 2
    for logits_BTV in seen:
        torch.testing.assert_close(logits_BTV, expected.logits, rtol=1e-5, atol=1e-6)
    SharpnessTrainer(model, arguments()).evaluate(padded_examples(4))
    assert model(**inputs).logits is None


def test_accelerates_autocast_can_lie_around_it_and_be_taken_off(
    arguments: Callable[..., Any],
) -> None:
    from sharpgpt.model.huggingface import SharpnessTrainer

    model = gpt2()
    trainer = SharpnessTrainer(model, arguments(bf16=True), train_dataset=padded_examples())
    lines = train(trainer)
    assert lines[-1]["ce_loss"] < lines[0]["ce_loss"]
    output = model(**batch())
    assert output.logits is None
    assert output.loss.item() == model.sharpness_output.loss.item()
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    assert model(**batch()).logits is None
    assert restore(model)(**batch()).logits.shape == (8, LENGTH, VOCABULARY)


def test_what_would_replace_the_loss_is_refused(arguments: Callable[..., Any]) -> None:
    from sharpgpt.model.huggingface import SharpnessTrainer

    with pytest.raises(ValueError, match="label_smoothing_factor"):
        SharpnessTrainer(gpt2(), arguments(label_smoothing_factor=0.1))
    with pytest.raises(ValueError, match="compute_loss_func"):
        SharpnessTrainer(gpt2(), arguments(), compute_loss_func=lambda *_, **__: torch.ones(()))


# The forward itself


@both_models
@pytest.mark.parametrize("penalty", ["non_max_sum", "neg_entropy"])
def test_the_gradient_is_the_references(make: Callable[..., Any], penalty: str) -> None:
    model, inputs = make().double(), batch()
    truth = dense_reference(model, inputs, penalty=penalty, penalty_weight=0.4, top_k=3)
    expected = gradients(model, truth.loss)
    use_sharpness_loss(model, penalty=penalty, penalty_weight=0.4, top_k=3, chunk_size=7)
    output = model(**inputs)
    assert output.logits is None
    assert output.loss.item() == pytest.approx(truth.loss.item(), rel=1e-10)
    assert relative(gradients(model, output.loss), expected) < 1e-9
    for name in ("ce", "penalty", "max_prob", "entropy", "top_k_mass", "accuracy", "num_rows"):
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
    with pytest.raises(ValueError, match="logits_to_keep"):
        model(**inputs, logits_to_keep=1)


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
    use_sharpness_loss(model, penalty_weight=0.0)
    assert model(**inputs).loss.item() == pytest.approx(every.ce.item(), rel=1e-5)


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
            {"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 30.0},
            "not a plain linear map",
        ),
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
