"""Whole runs of a tiny model: their folder, metrics, resuming and interruption."""

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpgpt.config import TrainingConfig
from sharpgpt.core.errors import UserError
from sharpgpt.core.metrics import METRICS
from sharpgpt.data.load import load_text
from sharpgpt.report.page import write_report
from sharpgpt.runtime.device import peak_flops
from sharpgpt.training import loop
from sharpgpt.training.train import run_training, train

MakeConfig = Callable[..., TrainingConfig]
pytestmark = pytest.mark.usefixtures("quick_runs")
TIMES = ("time_s", "train/tokens_per_s", "train/mfu")


def events(run_folder: Path, *, without_times: bool = False) -> list[dict[str, Any]]:
    lines = (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    if without_times:
        found = [{k: v for k, v in event.items() if k not in TIMES} for event in found]
    return found


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(checkpoint / "model.safetensors") | load_file(
        checkpoint / "training_state.safetensors"
    )


def same_tensors(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_leaves_a_folder_that_explains_itself(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharpgpt.training.result.write_report", write_report)
    monkeypatch.setattr("sharpgpt.training.build.peak_flops", peak_flops)
    config = tiny_config(penalty_type="neg_entropy", penalty_weight=0.1, z_loss_weight=0.01,
                         label_smoothing=0.05)  # fmt: skip
    result = train(config)

    names = {path.name for path in result.run_folder.iterdir()}
    assert names == {
        "config.yaml", "environment.json", "metrics.jsonl", "samples.jsonl", "summary.json",
        "log.txt", "checkpoints", "report.html",
    }  # fmt: skip
    assert TrainingConfig.from_yaml(result.run_folder / "config.yaml") == config
    environment = json.loads((result.run_folder / "environment.json").read_text(encoding="utf-8"))
    assert environment["data"]["name"] == "shakespeare-standin"
    assert environment["data"]["is_stand_in"] is True
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["model"]["peak_flops"] > 1e8
    for name in ("startup_s", "val/ce_loss", "train/ce_loss"):
        assert name in json.loads((result.run_folder / "summary.json").read_text(encoding="utf-8"))

    logged = events(result.run_folder)
    train_events = [event for event in logged if "train/loss" in event]
    val_events = [event for event in logged if "val/loss" in event]
    assert [event["step"] for event in train_events] == [1, 5, 10, 15, 20]
    assert [event["step"] for event in val_events] == [10, 20]
    for metric in METRICS:
        for split, of_split in (("train", train_events), ("val", val_events)):
            name = f"{split}/{metric.name}"
            is_logged = split in metric.splits
            for event in of_split:
                assert (name in event) == is_logged, name
                assert not is_logged or math.isfinite(event[name]), name
    for event in logged:
        split = "train" if "train/loss" in event else "val"
        ce, penalty = event[f"{split}/ce_loss"], event[f"{split}/penalty"]
        z_loss = event[f"{split}/z_loss"]
        assert z_loss > 1
        loss = ce + 0.1 * penalty + 0.01 * z_loss + 0.05 * event[f"{split}/smoothing"]
        assert event[f"{split}/loss"] == pytest.approx(loss, rel=1e-6)
        assert event[f"{split}/perplexity"] == pytest.approx(math.exp(ce))
        assert penalty == pytest.approx(event[f"{split}/entropy"], rel=1e-6)
    rows = [4 * 8 * 31 if event["step"] == 5 else 5 * 8 * 31 for event in train_events[1:]]
    assert [sum(e["train/max_prob_histogram"]) for e in train_events] == [8 * 31, *rows]
    assert train_events[0]["train/ce_loss"] == pytest.approx(math.log(65), abs=0.15)
    assert result.metrics["val/ce_loss"] < 3.6
    sample = json.loads(result.samples.read_text(encoding="utf-8").splitlines()[-1])
    assert (sample["step"], sample["prompt"], len(sample["text"])) == (20, "\n", 12)


def test_a_checkpoint_is_a_huggingface_model(tiny_config: MakeConfig) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    result = train(tiny_config(max_steps=3))
    model = AutoModelForCausalLM.from_pretrained(result.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(result.checkpoint)
    text = "ROMEO:\nWhat, shall we  rest?"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert model.config.n_positions == tokenizer.model_max_length == 32
    generator = pipeline("text-generation", model=str(result.checkpoint))
    out = generator("ROMEO:", max_new_tokens=8, do_sample=False, return_full_text=True)
    assert out[0]["generated_text"].startswith("ROMEO:")
    assert len(out[0]["generated_text"]) == len("ROMEO:") + 8


def test_the_same_seed_gives_the_same_run(tiny_config: MakeConfig) -> None:
    runs = [
        train(tiny_config(run_name=name, seed=seed, dropout=0.1, num_workers=workers))
        for name, seed, workers in (("a", 1, 0), ("b", 1, 2), ("c", 2, 0))
    ]
    first, second, other = (events(run.run_folder, without_times=True) for run in runs)
    assert first == second
    assert first != other
    assert same_tensors(runs[0].checkpoint, runs[1].checkpoint)
    texts = [run.samples.read_text(encoding="utf-8") for run in runs]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_is_the_same_run(tiny_config: MakeConfig, optimizer: str) -> None:
    settings = {
        "optimizer": optimizer, "dropout": 0.1, "save_interval": 7, "keep_checkpoints": 5,
        "penalty_weight": 0.2, "penalty_warmup_steps": 5, "penalty_schedule": "cosine",
        "gradient_accumulation_steps": 2,
    }  # fmt: skip
    whole = train(tiny_config(run_name="whole", **settings))
    # Cut back to the checkpoint of step 7, as after a crash at step 20, and go on.
    cut = whole.run_folder.parent / "cut"
    whole.run_folder.rename(cut)
    whole = train(tiny_config(run_name="whole", **settings))
    for step in (14, 20):
        for path in (cut / "checkpoints" / f"step_{step:08d}").iterdir():
            path.unlink()
        (cut / "checkpoints" / f"step_{step:08d}").rmdir()
    resumed = train(tiny_config(run_name="cut", resume="auto", **settings))
    assert same_tensors(whole.checkpoint, resumed.checkpoint)
    assert events(cut, without_times=True) == events(whole.run_folder, without_times=True)
    assert resumed.samples.read_text("utf-8") == whole.samples.read_text("utf-8")


def test_resume_by_path_is_a_new_run_from_there(tiny_config: MakeConfig) -> None:
    first = train(tiny_config(run_name="first"))
    longer = {"resume": str(first.run_folder), "max_steps": 25}
    with pytest.raises(UserError, match="change the mathematics: max_steps 20 -> 25"):
        train(tiny_config(run_name="fork", **longer))
    assert not (first.run_folder.parent / "fork").exists()
    fork = train(tiny_config(run_name="fork", allow_config_change=True, **longer))
    assert fork.run_folder != first.run_folder
    assert [event["step"] for event in events(fork.run_folder)] == [25, 25]
    with pytest.raises(UserError, match="no checkpoint"):
        train(tiny_config(run_name="other", resume="nowhere"))
    for change in ({"n_embd": 48}, {"n_head": 4}, {"optimizer": "muon"}):
        with pytest.raises(UserError, match=r"cannot be continued with these settings: (n_|opt)"):
            train(tiny_config(run_name="x", allow_config_change=True, **longer, **change))


def test_resume_names_what_has_changed(
    tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first = train(tiny_config(run_name="first", max_steps=4))
    text = tmp_path / "other.txt"
    text.write_text(load_text("tinyshakespeare").text[:100_000], encoding="utf-8")
    resume = {"resume": str(first.run_folder), "allow_config_change": True}
    with pytest.raises(UserError, match="vocabulary"):
        train(tiny_config(run_name="second", dataset=str(text), **resume))
    train(tiny_config(run_name="third", seed=5, log_interval=2, save_interval=3, **resume))
    assert (
        f"NOTE: not as in the checkpoint {first.checkpoint}: max_steps 4 -> 20; seed 42 -> 5; "
        "log_interval 5 -> 2"
    ) in capsys.readouterr().out


def test_micro_batches_may_be_divided_otherwise(tiny_config: MakeConfig) -> None:
    """Out of memory, a user lowers batch_size by a factor: the same steps of the same blocks."""
    settings = {"save_interval": 10, "run_name": "whole", "warmup_steps": 10}
    whole = train(tiny_config(**settings))
    half = {"batch_size": 4, "gradient_accumulation_steps": 2}
    source = whole.run_folder / "checkpoints" / "step_00000010"
    fork = train(tiny_config(**settings | {"run_name": "fork", "resume": str(source)}, **half))
    assert fork.metrics["val/ce_loss"] == pytest.approx(whole.metrics["val/ce_loss"], rel=1e-5)
    with pytest.raises(UserError, match="blocks_per_step 8 -> 4"):
        train(tiny_config(**settings | {"run_name": "no", "resume": str(source)}, batch_size=4))


def test_a_finished_run_can_be_asked_for_again(tiny_config: MakeConfig) -> None:
    first = train(tiny_config())
    again = train(tiny_config(resume="auto"))
    assert again.checkpoint == first.checkpoint
    assert again.metrics["val/ce_loss"] == first.metrics["val/ce_loss"]
    assert all(isinstance(value, float) for value in again.metrics.values())


@pytest.mark.parametrize(
    "damage",
    [
        "", "[1, 2]", '{"step": 20}', '"step"', None,
        {"step": -4}, {"step": 1.5}, {"config": 3}, {"window": {"rows": {}}}, {"data_sha256": 5},
    ],
)  # fmt: skip
def test_a_damaged_state_is_one_message_and_nothing_is_lost(
    tiny_config: MakeConfig, damage: Any
) -> None:
    first = train(tiny_config(max_steps=2))
    metrics = (first.run_folder / "metrics.jsonl").read_bytes()
    state = first.checkpoint / "training_state.json"
    if damage is None:
        state.unlink()
    elif isinstance(damage, dict):
        whole = json.loads(state.read_text(encoding="utf-8"))
        state.write_text(json.dumps(whole | damage), encoding="utf-8")
    else:
        state.write_text(damage, encoding="utf-8")
    with pytest.raises(UserError, match=r"^every checkpoint in .* is damaged: step_00000002"):
        train(tiny_config(max_steps=4, resume="auto"))
    assert (first.run_folder / "metrics.jsonl").read_bytes() == metrics


def test_train_takes_a_configuration_only() -> None:
    with pytest.raises(TypeError, match="train: given str, expected a TrainingConfig"):
        train("configs/quick_test.yaml")  # type: ignore[arg-type]


def test_starting_over_keeps_the_earlier_records(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(tiny_config(max_steps=2))
    metrics = (first.run_folder / "metrics.jsonl").read_bytes()
    train(tiny_config(max_steps=3, resume="auto", checkpoint_dir=str(tmp_path / "elsewhere")))
    assert "there is no checkpoint in" in capsys.readouterr().out
    (kept,) = first.run_folder.glob("metrics.jsonl.before-*")
    assert kept.read_bytes() == metrics


def test_going_back_in_a_run_is_refused_since_it_would_lose_what_follows(
    tiny_config: MakeConfig,
) -> None:
    first = train(tiny_config(save_interval=5, keep_checkpoints=4))
    earlier = str(first.run_folder / "checkpoints" / "step_00000005")
    with pytest.raises(UserError, match="is not the newest checkpoint of its run"):
        train(tiny_config(resume=earlier))
    assert train(tiny_config(resume=earlier, run_name="fork")).step == 20


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_ones(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors import SafetensorError

    def full_disk(tensors: Any, path: Path) -> None:
        if "step_5_done" in written:
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        written.add("step_5_done")
        original(tensors, path)

    import safetensors.torch

    written: set[str] = set()
    original = safetensors.torch.save_file
    monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
    config = tiny_config(save_interval=5)
    with pytest.raises(UserError, match=r"step 20 could not be written: .* No space left"):
        train(config)
    checkpoints = Path(config.output_dir) / "tiny" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step_00000005"]
    printed = capsys.readouterr().out
    assert printed.count("Training continues, earlier checkpoints are whole") == 2
    assert (checkpoints.parent / "report.html").exists()


def test_only_the_newest_checkpoints_are_kept(tiny_config: MakeConfig) -> None:
    result = train(tiny_config(max_steps=10, save_interval=2, keep_checkpoints=3))
    kept = sorted(path.name for path in (result.run_folder / "checkpoints").iterdir())
    assert kept == ["step_00000006", "step_00000008", "step_00000010"]


def test_a_run_folder_is_not_written_over(tiny_config: MakeConfig) -> None:
    train(tiny_config(max_steps=2))
    with pytest.raises(UserError, match="already holds a run; use resume auto"):
        train(tiny_config(max_steps=2))


def test_runs_without_a_name_get_their_own_folders(tiny_config: MakeConfig) -> None:
    folders = {train(tiny_config(max_steps=1, run_name=None)).run_folder for _ in range(2)}
    assert len(folders) == 2
    assert all("shakespeare-standin_non_max_sum_0.01" in folder.name for folder in folders)


def test_checkpoints_may_live_elsewhere(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config(max_steps=2, checkpoint_dir=str(tmp_path / "scratch"))
    assert train(config).checkpoint == tmp_path / "scratch" / "tiny" / "step_00000002"
    with pytest.raises(UserError, match="holds the checkpoints of another run"):
        train(tiny_config(run_name="tiny", output_dir=str(tmp_path / "o2"),
                          checkpoint_dir=str(tmp_path / "scratch")))  # fmt: skip
    config = tiny_config(
        max_steps=4,
        checkpoint_dir=str(tmp_path / "scratch"),
        resume="auto",
        allow_config_change=True,
    )
    assert [event["step"] for event in events(train(config).run_folder)][-1] == 4


def test_accumulation_is_one_large_batch(tiny_config: MakeConfig) -> None:
    one = train(tiny_config(run_name="one", batch_size=8, max_steps=5))
    four = train(
        tiny_config(run_name="four", batch_size=2, gradient_accumulation_steps=4, max_steps=5)
    )
    for a, b in zip(events(one.run_folder), events(four.run_folder), strict=True):
        assert a["step"] == b["step"]
        for name in a.keys() - {*TIMES, "step", "train/max_prob_histogram"}:
            assert a[name] == pytest.approx(b[name], rel=1e-3), name


def test_an_interrupted_run_saves_and_continues(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny_config(run_name="whole"))
    original = loop.clip_gradients

    def interrupting(*args: Any) -> torch.Tensor:
        interrupting.calls += 1  # type: ignore[attr-defined]
        if interrupting.calls == 8:  # type: ignore[attr-defined]
            signal.raise_signal(signal.SIGTERM)
        return original(*args)

    interrupting.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(loop, "clip_gradients", interrupting)
    stopped = run_training(tiny_config(run_name="stopped"))
    assert stopped.interrupted_by == signal.SIGTERM
    assert stopped.step == 8
    assert stopped.checkpoint.name == "step_00000008"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resumed = train(tiny_config(run_name="stopped", resume="auto"))
    assert same_tensors(whole.checkpoint, resumed.checkpoint)
    assert events(resumed.run_folder, without_times=True) == events(
        whole.run_folder, without_times=True
    )


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_before_the_step(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    original = loop.accumulate_gradients

    def poisoned(run: loop.Training, *args: Any) -> torch.Tensor:
        loss = original(run, *args)
        if run.progress.step == 6:
            if what == "loss":
                return loss * torch.nan
            next(run.setup.causal_lm.parameters()).grad[3, 3] = torch.inf
        return loss

    monkeypatch.setattr(loop, "accumulate_gradients", poisoned)
    config = tiny_config()
    with pytest.raises(UserError, match=r"step 7: the loss is .* The step was not taken"):
        train(config)
    folder = Path(config.output_dir) / "tiny"
    assert (folder / "report.html").exists()
    saved = weights(folder / "checkpoints" / "step_00000006")
    assert all(tensor.isfinite().all() for tensor in saved.values() if tensor.is_floating_point())


def test_a_learning_rate_that_explodes_ends_in_the_same_message(tiny_config: MakeConfig) -> None:
    with pytest.raises(UserError, match="Try a lower learning_rate"):
        train(tiny_config(learning_rate=1e30, max_grad_norm=0, warmup_steps=0, betas=[0.0, 0.0]))


# torch's compiler imports its own deprecated parts (PyTorch 2.13).
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_gradient_checkpointing_and_compile_are_the_same_mathematics(
    tiny_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = train(tiny_config(run_name="plain", max_steps=5, penalty_weight=0.1))
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

    passes: list[int] = []
    original = GPT2MLP.forward
    short = {"max_steps": 1, "eval_interval": 0, "eval_max_blocks": 1}
    with monkeypatch.context() as patch:
        patch.setattr(GPT2MLP, "forward", lambda self, x: (passes.append(1), original(self, x))[1])
        train(tiny_config(run_name="counted", **short))
        once, _ = len(passes), passes.clear()
        train(tiny_config(run_name="twice", gradient_checkpointing=True, **short))
    assert len(passes) == once + 2  # two layers, entered again in the backward pass
    for setting in ("gradient_checkpointing", "compile"):
        other = train(
            tiny_config(
                run_name=setting, max_steps=5, penalty_weight=0.1, profile=1, **{setting: True}
            )
        )
        for name in ("train/loss", "val/loss", "val/entropy"):
            assert other.metrics[name] == pytest.approx(plain.metrics[name], rel=1e-4), setting
        profile = (other.run_folder / "profile" / "operations.txt").read_text(encoding="utf-8")
        for phase in ("forward", "loss", "backward"):
            assert f"\n{phase} " in profile, setting


def test_a_user_defined_penalty_by_import_path(tiny_config: MakeConfig) -> None:
    own = {"penalty_type": "docs.examples.tsallis:GINI", "penalty_weight": 0.5}
    fused = train(tiny_config(run_name=None, **own))
    assert fused.run_folder.name.endswith("docs-examples-tsallis-GINI_0.5")
    reference = train(tiny_config(run_name="reference", loss="reference", **own))
    assert fused.metrics["val/penalty"] == pytest.approx(reference.metrics["val/penalty"], rel=1e-4)
    assert 0.5 < fused.metrics["val/penalty"] < 1
    with pytest.raises(UserError, match=r"penalty_type: .* cannot be imported"):
        train(tiny_config(run_name="none", penalty_type="no_such_module:GINI"))


def test_bfloat16_trains_close_to_float32(tiny_config: MakeConfig) -> None:
    exact = train(tiny_config(run_name="f32"))
    rough = train(tiny_config(run_name="bf16", dtype="bfloat16"))
    assert rough.metrics["val/ce_loss"] == pytest.approx(exact.metrics["val/ce_loss"], abs=0.05)
    assert rough.metrics["val/ce_loss"] != exact.metrics["val/ce_loss"]


def test_a_failing_report_does_not_fail_the_run(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(folder: Path) -> Path:
        raise RuntimeError("no ink")

    monkeypatch.setattr("sharpgpt.training.result.write_report", broken)
    result = train(tiny_config(max_steps=2))
    assert result.report is None
    assert result.checkpoint.exists()
    assert "the report could not be written: RuntimeError: no ink" in capsys.readouterr().out


def test_num_epochs_sets_the_steps(tiny_config: MakeConfig, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a rose is a rose is a rose.\n" * 40, encoding="utf-8")  # 1008 to train on
    result = train(
        tiny_config(dataset=str(text), max_steps=None, num_epochs=2.5, eval_max_blocks=None)
    )
    num_blocks = (1008 - 31) // 31
    assert result.step == math.ceil(2.5 * num_blocks / 8)
