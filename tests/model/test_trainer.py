"""HuggingFace's Trainer with the sharpness loss: theirs at weight 0, the statistics in the logs."""

import json
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpgpt.model.huggingface import restore, use_sharpness_loss
from sharpgpt.model.trainer import SharpnessTrainer
from tests.model.causal_lms import (
    LENGTH,
    VOCABULARY,
    batch,
    both_models,
    dense_reference,
    gpt2,
    llama,
    padded_examples,
    relative,
)


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


@both_models
@pytest.mark.parametrize("accumulation", [1, 2])
def test_at_weight_zero_trainer_trains_as_without_us(
    make: Callable[..., Any], accumulation: int, arguments: Callable[..., Any]
) -> None:
    from transformers import Trainer

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
    model, penalty_weight = gpt2(), 0.3
    how = {"penalty": "top_k_mass", "penalty_weight": penalty_weight, "z_loss_weight": 0.1}
    how |= {"label_smoothing": 0.05}
    truth = dense_reference(model, batch(), **how)
    trainer = SharpnessTrainer(
        model, arguments(max_steps=4, logging_steps=2, learning_rate=0.0, eval_strategy="epoch",
                         per_device_eval_batch_size=3),
        train_dataset=padded_examples(), eval_dataset=padded_examples(), **how,
    )  # fmt: skip
    lines = train(trainer)
    evaluations = [line for line in trainer.state.log_history if "eval_loss" in line]
    assert len(lines) == len(evaluations) == 2
    expected = {
        "ce_loss": truth.ce,
        "penalty": truth.penalty,
        "z_loss": truth.z_loss,
        "smoothing": truth.smoothing,
        "avg_max_prob": truth.max_prob,
        "entropy": truth.entropy,
        "top_k_mass": truth.top_k_mass,
    }
    for name, value in expected.items():
        assert [line[name] for line in lines] == pytest.approx([value.item()] * 2, rel=1e-5), name
        given = [line["eval_" + name] for line in evaluations]
        assert given == pytest.approx([value.item()] * 2, rel=1e-5), name
    assert evaluations[0]["eval_loss"] == pytest.approx(truth.loss.item(), rel=1e-5)


def test_evaluation_makes_logits_only_for_metrics(arguments: Callable[..., Any]) -> None:
    from transformers import Trainer

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
    logits: list[Any] = []
    model.register_forward_hook(lambda _, _given, output: logits.append(output.logits))
    SharpnessTrainer(model, arguments()).evaluate(padded_examples(4))
    assert logits == [None]
    assert model.sharpness_settings.eval_logits  # as it was given before


def test_accelerates_autocast_can_wrap_it_and_be_removed(
    arguments: Callable[..., Any],
) -> None:
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


class StopError(Exception):
    pass


class BrokenData(list[Any]):
    """Raises in the middle."""

    def __getitem__(self, index: Any) -> Any:
        if index == 5:
            raise StopError
        return super().__getitem__(index)


def test_each_training_and_evaluation_begins_with_no_rows(
    arguments: Callable[..., Any],
) -> None:
    """Rows after the last line, or before an exception, were counted in the next."""
    examples = padded_examples()
    trainer = SharpnessTrainer(
        model_init=lambda: gpt2(), train_dataset=examples, eval_dataset=examples,
        args=arguments(max_steps=5, logging_steps=3, per_device_eval_batch_size=1),
        penalty_weight=0.3,
    )  # fmt: skip
    first = train(trainer)
    assert train(trainer) == first
    trainer.train_dataset = BrokenData(examples)
    with pytest.raises(StopError):
        trainer.train()
    trainer.train_dataset = examples
    assert train(trainer) == first

    expected = {name: value for name, value in trainer.evaluate().items() if "ce_loss" in name}
    with pytest.raises(StopError):
        trainer.evaluate(BrokenData(examples))
    after = trainer.evaluate({"a": examples, "b": examples[:4]})
    assert after["eval_a_ce_loss"] == expected["eval_ce_loss"]
    assert after["eval_b_ce_loss"] == trainer.predict(examples[:4]).metrics["test_ce_loss"]
    assert after["eval_b_ce_loss"] != after["eval_a_ce_loss"]
    without_labels = [{"input_ids": example["input_ids"]} for example in examples]
    assert "test_ce_loss" not in trainer.predict(without_labels).metrics


def test_the_loss_at_weight_zero_is_the_cross_entropy(arguments: Callable[..., Any]) -> None:
    """Trainer divides by one label too many per sequence in classes that it does not recognise."""
    model = gpt2()
    del model.loss_type
    trainer = SharpnessTrainer(
        model, arguments(), train_dataset=padded_examples(), penalty_weight=0.0
    )
    for line in train(trainer):
        assert line["loss"] == pytest.approx(line["ce_loss"], rel=1e-5)


def test_a_window_without_a_label_has_no_statistics(arguments: Callable[..., Any]) -> None:
    ignored = [e | {"labels": torch.full_like(e["labels"], -100)} for e in padded_examples()]
    model = gpt2()
    trainer = SharpnessTrainer(model, arguments(max_steps=2), train_dataset=ignored)
    before = model.lm_head.weight.clone()
    for line in (*train(trainer), trainer.evaluate(ignored)):
        assert not [name for name in line if name.endswith(("ce_loss", "penalty", "entropy"))]
        assert all(value == value for value in line.values())
    assert torch.equal(model.lm_head.weight, before)


def test_a_model_that_has_the_loss_keeps_its_settings(
    arguments: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = use_sharpness_loss(gpt2(), penalty="neg_entropy", penalty_weight=0.4, top_k=3)
    SharpnessTrainer(model, arguments())
    settings = model.sharpness_settings
    assert (settings.penalty, settings.penalty_weight, settings.top_k) == ("neg_entropy", 0.4, 3)
    assert "keeps its settings" in caplog.text
    SharpnessTrainer(model, arguments(), penalty_weight=0.1)
    settings = model.sharpness_settings
    assert (settings.penalty, settings.penalty_weight, settings.top_k) == ("neg_entropy", 0.1, 3)


def evaluate_in_a_process(rank: int, num_processes: int, count: int, results: Any) -> None:
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from transformers import TrainingArguments

    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes}
    os.environ |= {name: str(value) for name, value in ranks.items()}
    settings = TrainingArguments(
        results + f".{rank}", use_cpu=True, report_to="none", disable_tqdm=True,
        per_device_eval_batch_size=2, ddp_backend="gloo",
    )  # fmt: skip
    model = gpt2()
    trainer = SharpnessTrainer(model, settings, penalty_positions="2:N-2", penalty_weight=0.4)
    metrics = trainer.evaluate(padded_examples(count))
    if rank == 0:
        Path(results).write_text(json.dumps(metrics), encoding="utf-8")


@pytest.mark.parametrize("count", [5, 7])
def test_two_processes_count_each_sample_once(
    count: int, tmp_path: Path, arguments: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sampler repeats samples, so that both processes have equal batches."""
    trainer = SharpnessTrainer(
        gpt2(), arguments(per_device_eval_batch_size=3),
        penalty_positions="2:N-2", penalty_weight=torch.tensor(0.4),
    )  # fmt: skip
    expected = trainer.evaluate(padded_examples(count))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # or accelerate warns
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    # Forked, which takes no time for imports: an evaluation starts no threads of autograd.
    arguments_of_all = (2, count, str(tmp_path / "metrics.json"))
    torch.multiprocessing.start_processes(
        evaluate_in_a_process, arguments_of_all, nprocs=2, start_method="fork"
    )
    given = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    for name in ("loss", "ce_loss", "penalty", "avg_max_prob", "entropy", "top_k_mass"):
        assert given["eval_" + name] == pytest.approx(expected["eval_" + name], rel=1e-6), name


def test_what_would_replace_the_loss_is_refused(arguments: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="label_smoothing_factor"):
        SharpnessTrainer(gpt2(), arguments(label_smoothing_factor=0.1))
    with pytest.raises(ValueError, match="compute_loss_func"):
        SharpnessTrainer(gpt2(), arguments(), compute_loss_func=lambda *_, **__: torch.ones(()))
    model = gpt2()
    trainer = SharpnessTrainer(model, arguments(), train_dataset=padded_examples())
    # As use_liger_kernel does when training begins.
    model.forward = partial(type(model).__bases__[0].forward, model)
    with pytest.raises(ValueError, match="something has replaced its forward"):
        trainer.train()
